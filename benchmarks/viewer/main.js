// The page: from the address to the rows, and from keys and controls to the address.

const PAGE = 20;
const form = $("#filters"), detail = $("#detail");
let state, rows, cursor;

function fillForm() {
  const named = (names) => Object.fromEntries(names.map((name) => [name, name]));
  fillSelect(form.elements.set, named(data.sets), "all");
  fillSelect(form.elements.seed, named(data.seeds), "all");
  fillSelect(form.elements.of, named(data.methods), null);
  fillSelect(form.elements.differs, named(data.methods), "–");
  for (const [key, words] of Object.entries(CHOICES)) fillSelect(form.elements[key], words, "any");
  $("#methods").append(...data.methods.map((name) =>
    element("label", {}, element("input", { type: "checkbox", name: "method", value: name }), ` ${name}`)));
}

function showForm() {
  for (const key of ["set", "seed", "differs", "text", ...Object.keys(CHOICES)])
    if (form.elements[key] !== document.activeElement || key !== "text") form.elements[key].value = state[key];
  form.elements.of.value = subject(state);
  for (const box of form.querySelectorAll("[name=method]")) box.checked = state.methods.includes(box.value);
}

/** The state that the form asks for; the cursor stays on its question. */
function formState() {
  const asked = { ...state };
  for (const key of ["set", "seed", "of", "differs", "text", ...Object.keys(CHOICES)]) asked[key] = form.elements[key].value;
  const checked = [...form.querySelectorAll("[name=method]:checked")].map((box) => box.value);
  // Columns keep the address's order; new ones come last.
  const kept = state.methods.filter((name) => checked.includes(name));
  const added = checked.filter((name) => !kept.includes(name));
  const methods = state.methods.length < kept.length + added.length ? inOrder([...kept, ...added]) : kept;
  asked.methods = methods.length ? methods : data.methods;
  if (asked.of === asked.methods[0]) asked.of = EVERY;
  return asked;
}

function inOrder(names) {
  return data.methods.filter((name) => names.includes(name));
}

function heads() {
  return state.methods.map((method) => {
    const { asked, right } = tally(data, method, rows);
    const share = asked ? `${(100 * right / asked).toFixed(1)} %` : "–";
    return element("th", { scope: "col", "data-method": method }, element("span", { class: "name" }, ...brokenName(method)), " ",
      element("span", { class: "share" }, `✓ ${share} of ${asked}`));
  });
}

function rowElement(row, index) {
  const cells = state.methods.map((method) => cell(data, method, row));
  return element("tr", { tabindex: "-1", "data-row": index, "aria-current": index === cursor },
    questionCell(data, row), ...cells);
}

const firstOfPage = () => Math.floor(cursor / PAGE) * PAGE;

function showRows() {
  const first = firstOfPage(), shown = rows.slice(first, first + PAGE);
  $("#rows thead").replaceChildren(element("tr", {}, element("th", { scope: "col" }, "Question"), ...heads()));
  $("#rows tbody").replaceChildren(...shown.map((row, i) => rowElement(row, first + i)));
  $("#rows").style.setProperty("--columns", state.methods.length);
  $("#pages").hidden = rows.length <= PAGE;
  $("#pages span").textContent = `${first + 1}–${first + shown.length} of ${rows.length}`;
  $("#pages [data-turn='-1']").disabled = first === 0;
  $("#pages [data-turn='1']").disabled = first + PAGE >= rows.length;
}

function showCount() {
  const questions = new Set(rows.map((row) => row.question)).size, seeds = new Set(rows.map((row) => row.seed)).size;
  $("#count").textContent = rows.length
    ? `${rows.length} rows: ${questions} questions, ${seeds} ${seeds === 1 ? "seed" : "seeds"}`
    : "No question passes these filters.";
  const asked = [...new URLSearchParams(writeAddress({ ...state, at: EVERY }, data).slice(1))];
  $("#panel summary").textContent = `Filters: ${asked.map(([key, value]) => `${key} ${value}`).join(" · ") || "none"}`;
}

/** Show what the address asks for. */
function show() {
  const read = readAddress(location.hash, data);
  state = read.state;
  $("#note").hidden = !read.unknown.length;
  $("#note").textContent = `Not in this file, and left out: ${read.unknown.join(", ")}`;
  rows = rowsOf(data, state);
  cursor = Math.max(0, rows.findIndex((row) => rowName(data, row) === state.at));
  showForm();
  showCount();
  showRows();
}

function go(asked) {
  history.replaceState(null, "", writeAddress(asked, data));
  show();
}

/** Move the cursor to a row, turning the page where needed. */
function moveTo(index) {
  if (!rows.length) return;
  const before = firstOfPage();
  cursor = Math.min(rows.length - 1, Math.max(0, index));
  state.at = rowName(data, rows[cursor]);
  history.replaceState(null, "", writeAddress(state, data));
  if (firstOfPage() !== before) showRows();
  for (const each of document.querySelectorAll("#rows tbody tr"))
    each.setAttribute("aria-current", Number(each.dataset.row) === cursor);
  $(`[data-row="${cursor}"]`).focus({ preventScroll: true });
  $(`[data-row="${cursor}"]`).scrollIntoView({ block: "nearest" });
  if (detail.open) showDetail();
}

function showDetail() {
  const row = rows[cursor], scale = data.questions[row.question].size[0] > 400 ? 1 : 2;
  const cells = state.methods.map((method) => {
    const made = cell(data, method, row, scale), found = cellOf(data, method, row);
    made.prepend(element("h2", {}, method));
    if (found !== null) made.append(turns(found));
    return element("section", {}, ...made.childNodes);
  });
  const question = questionCell(data, row, scale);
  detail.querySelector("div").replaceChildren(element("section", {}, ...question.childNodes), ...cells);
  if (!detail.open) detail.showModal();
}

const KEYS = {
  j: () => moveTo(cursor + 1), ArrowDown: () => moveTo(cursor + 1),
  k: () => moveTo(cursor - 1), ArrowUp: () => moveTo(cursor - 1),
  Enter: () => rows.length && showDetail(),
  "/": () => { detail.close(); $("#panel").open = true; form.elements.text.focus(); },
};

fillForm();
$("#panel").open = window.innerWidth > 700;
form.addEventListener("input", () => go(formState()));
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", (event) => { event.preventDefault(); go(readAddress("", data).state); });
listenTo(KEYS);
form.elements.text.addEventListener("keydown", (event) => {
  if (["Escape", "Enter"].includes(event.key)) { event.preventDefault(); moveTo(cursor); }
});
$("#rows tbody").addEventListener("click", (event) => {
  const row = event.target.closest("tr");
  moveTo(Number(row.dataset.row));
  if (event.target.closest(".figure")) showDetail();
});
$("#pages").addEventListener("click", (event) => {
  const turn = Number(event.target.dataset.turn);
  if (turn) moveTo(firstOfPage() + turn * PAGE);
});
window.addEventListener("hashchange", show);
show();
