// The page of index.html: a consumer and a producer of one queue.
"use strict";

const asked = new URLSearchParams(location.search);
const broker = asked.get("broker") || "http://localhost:8888";
const queue = asked.get("queue") || "greetings";
const seen = asked.get("seen");

// A form's type needs no leave of the broker beforehand; "no-cors": we may send, not read the reply.
function post(name, value) {
  const body = new URLSearchParams({ value });
  return fetch(`${broker}/q/${encodeURIComponent(name)}`, { method: "POST", body, mode: "no-cors" });
}

function show(message) {
  const item = document.createElement("li");
  item.textContent = `${message.key}  ${message.value}`; // as text: a message is never HTML
  document.getElementById("messages").append(item);
  if (seen) post(seen, item.textContent);
}

function listen(pauseSeconds) {
  const state = document.getElementById("state");
  const socket = new WebSocket(`${broker.replace(/^http/, "ws")}/ws/${encodeURIComponent(queue)}`);
  socket.onopen = () => {
    state.textContent = `listening to ${queue}`;
    pauseSeconds = 1;
  };
  socket.onmessage = (event) => show(JSON.parse(event.data));
  socket.onclose = () => {
    state.textContent = `no connection, trying again in ${pauseSeconds} s`;
    setTimeout(listen, pauseSeconds * 1000, Math.min(2 * pauseSeconds, 30));
  };
}

document.querySelector("form").onsubmit = (event) => {
  event.preventDefault();
  const field = event.target.elements.value;
  post(queue, field.value);
  field.value = "";
};

listen(1);
