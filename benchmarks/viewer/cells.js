// Elements of a row. Texts of models are set as text content, never as markup.

/** An element with attributes and children; strings become text. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

const isRight = (score) => (score === undefined ? undefined : score >= 1);

const picturesOfSets = new Map();

/** Figures and layers of a test set, read when it is first shown. */
function picturesOf(set) {
  if (!picturesOfSets.has(set))
    picturesOfSets.set(set, JSON.parse(document.getElementById(`pictures-${set}`).textContent));
  return picturesOfSets.get(set);
}

function image(content, alt) {
  const made = element("img", { alt, decoding: "async" });
  made.src = `data:image/webp;base64,${content}`;
  return made;
}

/** A question's figure, with an edit laid over it. */
function figure(question, edit, alt, scale = 1) {
  const pictures = picturesOf(question.set), [width, height] = question.size;
  const shown = element("span", { class: "figure" }, image(pictures.figures[question.picture], alt));
  shown.style.width = `${width * scale}px`;
  shown.style.aspectRatio = `${width} / ${height}`;
  if (edit === null) return shown;
  const [left, top, wide, high, content] = pictures.layers[edit], layer = image(content, "");
  const share = { left: left / width, top: top / height, width: wide / width, height: high / height };
  for (const [side, value] of Object.entries(share)) layer.style[side] = `${100 * value}%`;
  shown.append(layer);
  return shown;
}

/** An answer with its sign: right and wrong differ in more than colour. */
function answer(text, score, what = "") {
  const right = isRight(score ?? undefined), sign = { true: "✓", false: "✗" }[right] ?? "?";
  const words = { true: "right", false: "wrong" }[right] ?? "not scored";
  return element("span", { class: `answer ${words}` },
    element("span", { class: "sign", role: "img", "aria-label": words }, sign),
    ` ${what}${text ?? "no answer"}`);
}

const STATUS = { none: "no call", malformed: "✗ malformed call", failed: "✗ call failed" };

/** The labels of an executed call against the annotated ones, as a sign. */
function labelSign(found) {
  const right = found.call_right === 1, words = `labels ${right ? "as" : "other than"} annotated`;
  return element("span", { class: `sign ${right ? "right" : "wrong"}`, role: "img", title: words, "aria-label": words },
    right ? "✓" : "✗");
}

/** The call in words, and what became of it where it was not carried out: the tool's reply. */
function call(found) {
  if (found.status === "executed")
    return element("p", { class: "call" }, labelSign(found), ` ${found.call}`, found.edit === null ? " · figure unchanged" : "");
  const reply = found.status === "none" ? null : element("span", { class: "reply" }, ` ${found.turns[1] ?? ""}`);
  return element("p", { class: "call" }, found.call === null ? null : `${found.call} `, element("strong", {}, STATUS[found.status]), reply);
}

/** The answers to the same question with the original figure in the edited one's place, and without tools. */
function controls(found) {
  const made = [];
  if (found.score_original !== null && found.status === "executed") made.push(answer(found.answer_original, found.score_original, "original: "));
  if (found.score_off !== null) made.push(answer(found.answer_off, found.score_off, "no tools: "));
  return element("p", { class: "controls" }, ...made.flatMap((each) => [each, " "]));
}

/** What the edited figure or the tools changed, in words. */
function badges(found) {
  const effects = { edit: found.score_original, tools: found.score_off };
  return element("p", { class: "badges" }, ...Object.entries(effects).flatMap(([what, without]) => {
    const how = effect(found.score ?? undefined, without ?? undefined);
    return how ? [element("span", { class: how }, `${how === "helped" ? "▲" : "▼"} ${what} ${how}`)] : [];
  }));
}

function cell(data, method, row, scale) {
  const question = data.questions[row.question], found = cellOf(data, method, row);
  const made = element("td", { "data-method": method });
  if (found === null) {
    made.append(element("p", { class: "missing" }, "not evaluated"));
    return made;
  }
  made.append(element("p", {}, answer(found.answer, found.score)));
  if (found.edit !== null) made.append(figure(question, found.edit, `edited by: ${found.call}`, scale));
  made.append(call(found), controls(found), badges(found));
  return made;
}

function questionCell(data, row, scale) {
  const question = data.questions[row.question];
  return element("th", { scope: "row" },
    figure(question, null, `figure of: ${question.request}`, scale),
    element("p", { class: "request" }, question.request),
    element("p", {}, "Right answer: ", element("strong", {}, question.gold)),
    question.labels.length ? element("p", { class: "call" }, `Annotated labels: ${question.labels.join(", ")}`) : null,
    element("p", { class: "id" }, `${question.id} · seed ${data.seeds[row.seed]}`));
}

/** Every turn as the model and the tools wrote it. */
function turns(found) {
  return element("ol", { class: "turns" }, ...found.turns.map((text) => element("li", {}, text)),
    found.truncated ? element("li", {}, "… a turn ended at the limit of its length") : null);
}

/** A method's name that may break after its underscores. */
function brokenName(method) {
  return method.split(/(?<=_)/).flatMap((part) => [part, element("wbr")]);
}

/** Fill a choice: value → words; `every` is the choice that filters nothing, null for none. */
function fillSelect(select, words, every) {
  const options = [[EVERY, every], ...Object.entries(words)].filter(([, text]) => text !== null);
  select.replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
}
