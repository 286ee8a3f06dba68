// The address says what is shown: #set=charxiv&method=iapo,vtool_r1&of=iapo&answer=wrong&differs=vtool_r1
// What is absent is not filtered by. `at` is the question under the cursor: <seed>.<id>.

/** Choices of each filter of one method's answer: value in the address → words on the page. */
const CHOICES = {
  answer: { right: "✓ right", wrong: "✗ wrong" },
  call: { executed: "executed", failed: "failed", malformed: "malformed", none: "no call" },
  labels: { right: "✓ as annotated", other: "✗ other" },
  edit: { helped: "▲ right only with it", harmed: "▼ right only with the original" },
  tool: { helped: "▲ right only with tools", harmed: "▼ right only without" },
};

/** Values that a key of the address may have; null where any text may stand. */
function allowed(data) {
  const choices = Object.fromEntries(Object.entries(CHOICES).map(([key, each]) => [key, Object.keys(each)]));
  return {
    set: data.sets, seed: data.seeds.map(String), of: data.methods, differs: data.methods, ...choices,
    text: null, at: null,
  };
}

/** The state that an address asks for, and what of it is unknown here. */
function readAddress(hash, data) {
  const asked = new URLSearchParams(hash.replace(/^#/, ""));
  const state = { methods: data.methods }, unknown = [];
  for (const [key, values] of Object.entries(allowed(data))) {
    const value = asked.get(key) ?? EVERY;
    const known = value === EVERY || values === null || values.includes(value);
    state[key] = known ? value : EVERY;
    if (!known) unknown.push(`${key}=${value}`);
  }
  const methods = (asked.get("method") ?? "").split(",").filter((name) => name !== "");
  const known = methods.filter((name) => data.methods.includes(name));
  unknown.push(...methods.filter((name) => !known.includes(name)).map((name) => `method=${name}`));
  if (known.length) state.methods = [...new Set(known)];
  for (const key of asked.keys()) if (!(key in state) && key !== "method") unknown.push(key);
  return { state, unknown };
}

/** The method that the filters are about: the chosen one, else the first column. */
function subject(state) {
  return state.of || state.methods[0];
}

/** The address of a state. */
function writeAddress(state, data) {
  const asked = new URLSearchParams();
  for (const key of ["set", "seed", "of", ...Object.keys(CHOICES), "differs", "text", "at"])
    if (state[key] !== EVERY) asked.set(key, state[key]);
  if (state.methods.join() !== data.methods.join()) asked.set("method", state.methods.join());
  return `#${asked.toString().replaceAll("%2C", ",")}`;
}
