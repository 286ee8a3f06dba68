// Training's rollouts: a run, a step, and its groups whole. The address: #method=iapo&seed=0&step=40&hit=exact&at=2

const BLOCKS = ["P", "R", "I", "T"];
const BLOCK_NAMES = ["plain text", "request", "image", "tools"];
const HITS = {
  exact: "exact",
  same_tool: "same tool",
  nearest: "nearest",
  no_teacher_call: "the teacher made no call",
  missing: "missing",
};
const GROUPS = { flat: "all zero (flat)", varied: "not all zero" };
const form = $("#filters");
let state, run, step;

const runOf = (method, seed) => data.runs.find((each) => each.method === method && String(each.seed) === seed);

/** The state that an address asks for; what the file lacks falls back to the first that it has. */
function readState(hash) {
  const asked = new URLSearchParams(hash.replace(/^#/, "")), unknown = [];
  const chosen = (key, values, otherwise) => {
    const value = asked.get(key) ?? otherwise;
    if (values.includes(value)) return value;
    unknown.push(`${key}=${value}`);
    return otherwise;
  };
  const method = chosen("method", data.methods, data.methods[0]);
  const seeds = data.runs.filter((each) => each.method === method).map((each) => String(each.seed));
  const seed = chosen("seed", seeds, seeds[0]);
  const steps = runOf(method, seed).steps.map((each) => String(each.step));
  const filters = { groups: chosen("groups", [EVERY, ...Object.keys(GROUPS)], EVERY), hit: chosen("hit", [EVERY, ...Object.keys(HITS)], EVERY) };
  return { state: { method, seed, step: chosen("step", steps, steps.at(-1)), ...filters, at: Number(asked.get("at") ?? 0) || 0 }, unknown };
}

function writeState(asked) {
  const entries = Object.entries(asked).filter(([, value]) => value !== EVERY && value !== 0);
  return `#${new URLSearchParams(entries)}`;
}

/** A bar of shares that add up to 1, its parts named by letters. */
function sharesBar(who, shares) {
  const name = (i) => BLOCKS[i] ?? `${i + 1}`, percent = (share) => `${Math.round(100 * share)} %`;
  const words = shares.map((share, i) => `${BLOCK_NAMES[i] ?? name(i)} ${percent(share)}`).join(", ");
  const parts = shares.map((share, i) => {
    const part = element("span", { class: `part block${i}` }, share > 0.08 ? name(i) : "");
    part.style.width = `${100 * share}%`;
    return part;
  });
  return element("div", { class: "bar", role: "img", "aria-label": `${who}: ${words}`, title: `${who}: ${words}` }, ...parts);
}

/** The student's shares over the teacher's. */
function shares(rollout) {
  const both = [["student", rollout.student], ["teacher", rollout.teacher]].filter(([, each]) => each !== null);
  const hit = rollout.hit === null ? null : element("p", { class: "controls" }, `cache: ${HITS[rollout.hit]}`);
  return element("td", { "data-label": "student over teacher" }, ...both.map(([who, each]) => sharesBar(who, each)), hit);
}

const number = (value) => (value === null ? "–" : value.toFixed(3).replace("-", "−"));

/** An advantage with a bar to the right of the middle where it is positive, to the left where it is negative. */
function advantage(value, largest) {
  const bar = element("span", { class: `push ${value < 0 ? "less" : "more"}` });
  bar.style.width = `${largest > 0 ? 50 * Math.abs(value) / largest : 0}%`;
  return element("td", { "data-label": "advantage" }, `${value > 0 ? "▲ " : value < 0 ? "▼ " : ""}${number(value)}`,
    element("span", { class: "pushes" }, bar));
}

const isCompared = (rollout) => rollout.student !== null || rollout.teacher !== null;

function rolloutRow(rollout, question, names, largest, compared) {
  const found = { ...rollout, turns: rollout.turns.map((each) => data.texts[each]), call: rollout.call === null ? null : data.texts[rollout.call] };
  const outcome = rollout.rewards[names.indexOf("outcome_reward")];
  const said = element("td", { "data-label": "answer" }, answer(found.turns.at(-1), outcome ?? null), call(found),
    element("details", {}, element("summary", {}, "every turn"), turns(found)));
  const edited = element("td", { "data-label": "edited figure" },
    rollout.edit === null ? "–" : figure(question, rollout.edit, `edited by: ${found.call}`));
  const terms = names.map((name, i) => element("td", { "data-label": name }, number(rollout.rewards[i])));
  return element("tr", {}, said, edited, compared ? shares(rollout) : null, ...terms, advantage(rollout.advantage, largest));
}

function heads(compared) {
  const terms = Object.entries(step.terms).map(([name, weight]) =>
    element("th", { scope: "col" }, ...brokenName(name), ` × ${Number(weight.toPrecision(3))}`, name === "alignment_reward" ? " (minus the penalty)" : ""));
  const fixed = ["Answer and call", "Edited figure", ...(compared ? ["Shares: student over teacher"] : [])].map((text) => element("th", { scope: "col" }, text));
  return element("thead", {}, element("tr", {}, ...fixed, ...terms, element("th", { scope: "col" }, "Advantage")));
}

function groupElement(group, index) {
  const question = data.questions[group.question], names = Object.keys(step.terms);
  const largest = Math.max(...group.rollouts.map((each) => Math.abs(each.advantage)));
  const compared = group.rollouts.some(isCompared);
  const mark = group.flat ? element("p", { class: "flat" }, "⚠ flat: every advantage is 0, so nothing is learned from this group") : null;
  const about = element("div", { class: "about" }, figure(question, null, `figure of: ${question.request}`), element("div", {},
    element("p", { class: "request" }, question.request), element("p", {}, "Right answer: ", element("strong", {}, question.gold)),
    element("p", { class: "call" }, `Annotated labels: ${question.labels.join(", ")}`), element("p", { class: "id" }, question.id), mark));
  const table = element("table", {}, heads(compared),
    element("tbody", {}, ...group.rollouts.map((each) => rolloutRow(each, question, names, largest, compared))));
  table.style.setProperty("--columns", names.length + 2 + compared);
  return element("section", { class: "group", tabindex: "-1", "data-group": index, "aria-label": question.request }, about, table);
}

const passes = (group) => (state.groups === EVERY || group.flat === (state.groups === "flat"))
  && (state.hit === EVERY || group.rollouts.some((each) => each.hit === state.hit));

function showForm() {
  const named = (values) => Object.fromEntries(values.map((value) => [value, value]));
  fillSelect(form.elements.method, named(data.methods), null);
  fillSelect(form.elements.seed, named(data.runs.filter((each) => each.method === state.method).map((each) => String(each.seed))), null);
  fillSelect(form.elements.groups, GROUPS, "any");
  fillSelect(form.elements.hit, HITS, "any");
  for (const key of ["method", "seed", "groups", "hit"]) form.elements[key].value = state[key];
  form.elements.step.max = run.steps.length - 1;
  form.elements.step.value = run.steps.indexOf(step);
  form.querySelector("output").textContent = `${step.step} (${run.steps.indexOf(step) + 1} of ${run.steps.length} kept)`;
}

function show() {
  const read = readState(location.hash);
  state = read.state;
  $("#note").hidden = !read.unknown.length;
  $("#note").textContent = `Not in this file: ${read.unknown.join(", ")}`;
  run = runOf(state.method, state.seed);
  step = run.steps.find((each) => String(each.step) === state.step);
  const groups = step.groups.filter(passes), flat = groups.filter((group) => group.flat).length;
  showForm();
  $("#count").textContent = `${groups.length} of ${step.groups.length} groups kept, ${flat} flat`;
  $("#groups").replaceChildren(...groups.map(groupElement));
}

function go(changes) {
  history.replaceState(null, "", writeState({ ...state, ...changes }));
  show();
}

/** Move the focus to a group. */
function moveTo(index) {
  const shown = document.querySelectorAll(".group");
  if (!shown.length) return;
  state.at = Math.min(shown.length - 1, Math.max(0, index));
  history.replaceState(null, "", writeState(state));
  shown[state.at].focus({ preventScroll: true });
  shown[state.at].scrollIntoView({ block: "start" });
}

function stepBy(change) {
  const next = run.steps[run.steps.indexOf(step) + change];
  if (next) go({ step: String(next.step) });
}

function onInput(event) {
  const { name, value } = event.target;
  if (name === "step") go({ step: String(run.steps[Number(value)].step) });
  else if (name === "method") go({ method: value, seed: runOf(value, state.seed) ? state.seed : String(data.runs.find((each) => each.method === value).seed) });
  else go({ [name]: value });
}

const focused = () => Number(document.activeElement?.closest(".group")?.dataset.group ?? -1);

if (data.runs.length) {
  form.addEventListener("input", onInput);
  window.addEventListener("hashchange", show);
  listenTo({
    j: () => moveTo(focused() + 1), ArrowDown: () => moveTo(focused() + 1),
    k: () => moveTo(focused() - 1), ArrowUp: () => moveTo(focused() - 1),
    ArrowRight: () => stepBy(1), ArrowLeft: () => stepBy(-1),
    "/": () => form.elements.method.focus(),
  });
  show();
} else {
  form.hidden = true;
  $("#count").textContent = "No rollouts of training were kept with these results.";
}
