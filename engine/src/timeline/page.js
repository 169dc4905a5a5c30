"use strict";
// The page works without this: it adds a filter, and opens a step that a link leads to.
const steps = [...document.querySelectorAll("details.step")];
const show = () => {
  const step = document.getElementById(location.hash.slice(1));
  if (step instanceof HTMLDetailsElement) {
    step.hidden = false;
    step.open = true;
    step.scrollIntoView({ block: "start" });
    step.querySelector("summary").focus({ preventScroll: true });
  }
};
addEventListener("hashchange", show);
document.querySelector(".lanes").addEventListener("click", () => setTimeout(show));
const filter = document.getElementById("filter");
const count = document.getElementById("count");
filter.addEventListener("input", () => {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const step of steps) {
    const text = step.textContent.toLowerCase();
    step.hidden = !words.every((word) => text.includes(word));
    shown += step.hidden ? 0 : 1;
  }
  count.textContent = words.length ? `${shown} of ${steps.length}` : "";
});
const all = (open) => () => steps.filter((step) => !step.hidden).forEach((step) => { step.open = open; });
document.getElementById("open").addEventListener("click", all(true));
document.getElementById("close").addEventListener("click", all(false));
// What went wrong mostly stands at the end.
for (const log of document.querySelectorAll("details[open] > .body > pre")) {
  log.scrollTop = log.scrollHeight;
}
document.querySelector(".tools").hidden = false;
show();
