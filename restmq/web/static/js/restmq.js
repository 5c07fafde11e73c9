// The page of all queues: asks /stats/ every two seconds while somebody looks at it.
"use strict";

const SECONDS = 2;
const POLICIES = { 1: "broadcast", 2: "round robin", "": "broadcast" };
const table = document.getElementById("queues");
const summary = document.getElementById("summary");
const rows = new Map();

function cell(row, className) {
  const made = row.insertCell();
  made.className = className;
  return made;
}

function makeRow(name) {
  const row = document.createElement("tr");
  const link = document.createElement("a");
  link.textContent = name === "" ? "(the queue without a name)" : name;
  link.href = "../j/" + encodeURIComponent(name);
  cell(row, "name").append(link);
  const made = { row, length: cell(row, "number"), status: cell(row, ""), policy: cell(row, "") };
  made.button = document.createElement("button");
  made.button.addEventListener("click", () => control(name, made));
  cell(row, "").append(made.button);
  return made;
}

function show(made, queue) {
  made.started = queue.status === 1;
  made.length.textContent = queue.len;
  made.status.textContent = made.started ? "started" : "stopped";
  made.status.className = made.started ? "" : "stopped";
  made.policy.textContent = POLICIES[queue.policy];
  made.button.textContent = made.started ? "stop" : "start";
}

function showAll(stats) {
  const names = Object.keys(stats.queues);
  for (const name of rows.keys()) {
    if (!Object.hasOwn(stats.queues, name)) {
      rows.get(name).row.remove();
      rows.delete(name);
    }
  }
  names.sort();
  names.forEach((name, place) => {
    if (!rows.has(name)) {
      rows.set(name, makeRow(name));
    }
    const made = rows.get(name);
    show(made, stats.queues[name]);
    if (table.children[place] !== made.row) {
      table.insertBefore(made.row, table.children[place] || null);
    }
  });
  say(stats.count === 1 ? "1 queue" : stats.count + " queues", "quiet");
}

function say(text, className) {
  summary.textContent = text;
  summary.className = className;
}

async function ask(url, options) {
  const reply = await fetch(url, options);
  if (!reply.ok) {
    throw new Error(reply.status + " " + reply.statusText);
  }
  return reply.json();
}

async function control(name, made) {
  const body = new URLSearchParams({ status: made.started ? "stop" : "start" });
  made.button.disabled = true;
  try {
    await ask("../control/" + encodeURIComponent(name), { method: "POST", body });
    await look();
  } catch (error) {
    say("not done: " + error.message, "trouble");
  } finally {
    made.button.disabled = false;
  }
}

async function look() {
  showAll(await ask("../stats/"));
}

async function watch() {
  try {
    if (!document.hidden) {
      await look();
    }
  } catch (error) {
    say("no answer from the broker: " + error.message, "trouble");
  } finally {
    setTimeout(watch, SECONDS * 1000);
  }
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) {
    look().catch(() => {});
  }
});
watch();
