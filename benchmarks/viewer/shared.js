"use strict";
// What both pages share: their data, and keys that do not get in the way of typing.

/** The value of a filter that filters nothing. */
const EVERY = "";
const $ = (selector) => document.querySelector(selector);
const data = JSON.parse($("#rollouts").textContent);

/** Call `keys[key]()` for a pressed key, except where it is typed into a field or presses a button. */
function listenTo(keys) {
  document.addEventListener("keydown", (event) => {
    const { target, key } = event;
    if (event.ctrlKey || event.metaKey || event.altKey || !(key in keys)) return;
    if (target.closest("select, [type=search]")) return;
    if (key.startsWith("Arrow") && target.closest("[type=range]")) return;
    if (key === "Enter" && target.closest("button, summary, input")) return;
    event.preventDefault();
    keys[key]();
  });
}
