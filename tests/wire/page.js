// Runs the script of the live page outside a browser: page.js SCRIPT URL QUEUE.
//
// Prints the row of QUEUE when it is first shown, clicks its button, and prints the row again.
"use strict";

const fs = require("fs");
const vm = require("vm");

const [script, url, queue] = process.argv.slice(2);

class Element {
  constructor() {
    this.children = [];
    this.textContent = "";
    this.listeners = {};
  }
  insertCell() {
    const cell = new Element();
    this.children.push(cell);
    return cell;
  }
  append(child) {
    this.children.push(child);
  }
  insertBefore(child) {
    this.children = this.children.filter((each) => each !== child);
    this.children.push(child);
  }
  addEventListener(name, listener) {
    this.listeners[name] = listener;
  }
  remove() {}
  get text() {
    return [this.textContent, ...this.children.map((child) => child.text)].join(" ").trim();
  }
}

const table = new Element();
const summary = new Element();
const document = {
  hidden: false,
  createElement: () => new Element(),
  getElementById: (id) => (id === "queues" ? table : summary),
  addEventListener: () => {},
};

function row() {
  return table.children.find((each) => each.text.startsWith(queue + " "));
}

async function until(seen) {
  const deadline = Date.now() + 20000;
  while (!seen()) {
    if (Date.now() > deadline) {
      console.error("never seen; the page says: " + summary.text);
      process.exit(1);
    }
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  console.log(row().text.replace(/\s+/g, " "));
}

vm.runInNewContext(fs.readFileSync(script, "utf8"), {
  document,
  setTimeout,
  URLSearchParams,
  fetch: (path, options) => fetch(new URL(path, url + "/static/index.html"), options),
});

(async () => {
  await until(() => row() !== undefined);
  const button = row().children.at(-1).children[0];
  await button.listeners.click();
  await until(() => row().text.includes("stopped"));
  process.exit(0);
})();
