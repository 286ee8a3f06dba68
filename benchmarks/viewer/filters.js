// What is in the data, and which rows pass the filters. A row is a question and a seed.

/** One policy's answer to one question; null where it was not evaluated. */
function cellOf(data, method, row) {
  const column = data.columns[data.runs[method][row.seed]];
  if (!column || column.status[row.question] === null) return null;
  const cell = {};
  for (const [name, values] of Object.entries(column)) cell[name] = values[row.question];
  for (const name of ["answer", "answer_original", "answer_off", "call"])
    cell[name] = cell[name] === null ? null : data.texts[cell[name]];
  cell.turns = cell.turns.map((number) => data.texts[number]);
  return cell;
}

/** One value of one policy's record of a question; undefined where it was not evaluated. */
function valueOf(data, method, row, name) {
  return data.columns[data.runs[method][row.seed]]?.[name][row.question] ?? undefined;
}

/** helped: right with and wrong without; harmed: the reverse; else nothing. */
function effect(withIt, without) {
  if (withIt === undefined || without === undefined || isRight(withIt) === isRight(without)) return "";
  return isRight(withIt) ? "helped" : "harmed";
}

/** What each filter of one method's answer reads, as the address names it. */
const FACTS = {
  answer: (value) => ({ true: "right", false: "wrong" })[isRight(value("score"))],
  call: (value) => value("status"),
  labels: (value) => (value("status") !== "executed" ? undefined : value("call_right") ? "right" : "other"),
  edit: (value) => effect(value("score"), value("score_original")),
  tool: (value) => effect(value("score"), value("score_off")),
};

function differs(data, row, one, other) {
  const scores = [one, other].map((method) => isRight(valueOf(data, method, row, "score")));
  return !scores.includes(undefined) && scores[0] !== scores[1];
}

function hasWords(question, text) {
  const where = `${question.id} ${question.request}`.toLowerCase();
  return text.toLowerCase().split(/\s+/).every((word) => where.includes(word));
}

/** Whether a row passes every filter of the state. */
function passes(data, state, row) {
  const question = data.questions[row.question], method = subject(state);
  if (state.set && question.set !== state.set) return false;
  if (state.seed && String(data.seeds[row.seed]) !== state.seed) return false;
  if (state.text && !hasWords(question, state.text)) return false;
  const value = (name) => valueOf(data, method, row, name);
  if (Object.keys(FACTS).some((key) => state[key] && FACTS[key](value) !== state[key])) return false;
  return !state.differs || differs(data, row, method, state.differs);
}

/** The rows that pass, question by question and seed by seed. */
function rowsOf(data, state) {
  return data.questions.flatMap((_, question) => data.seeds.map((_, seed) => ({ question, seed })))
    .filter((row) => passes(data, state, row));
}

/** How many of the rows a method was asked and got right; a start that several seeds share counts once. */
function tally(data, method, rows) {
  const asked = new Set();
  let right = 0;
  for (const row of rows) {
    const score = valueOf(data, method, row, "score"), key = `${data.runs[method][row.seed]}/${row.question}`;
    if (score === undefined || asked.has(key)) continue;
    asked.add(key);
    right += score;
  }
  return { asked: asked.size, right };
}

/** A row's name in the address. */
const rowName = (data, row) => `${data.seeds[row.seed]}.${data.questions[row.question].id}`;
