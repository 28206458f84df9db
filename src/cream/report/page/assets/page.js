"use strict";
// The explorer: a filtered, virtual list of prompts and the records of the one that is chosen.
// Records are gzipped JSON in base64, in script elements of this page or in files beside it.
// Whatever a model wrote reaches the page through textContent only.
(() => {
  const byId = (id) => document.getElementById(id);
  const LONG = 4000; // characters of a text that are shown before a button asks for the rest
  const PIECE = 20000; // characters that the button adds
  const EXTRA = 8; // rows drawn beyond each edge of the list
  const MOST = 500000; // rows: browsers do not scroll much further than 30 million pixels
  const HELD = 12; // shards kept unpacked
  const SEARCHABLE = 150e6; // characters of texts kept for the next search

  // --- records ---------------------------------------------------------------------------------

  async function unpack(base64) {
    const binary = atob(base64);
    const bytes = new Uint8Array(binary.length);
    for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  const waiting = new Map(); // shard number -> function that takes its base64
  window.creamShard = (number, base64) => waiting.get(number)?.(base64);

  function packed(number) {
    const embedded = byId(`data-shard-${number}`);
    if (embedded) return Promise.resolve(embedded.textContent);
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      const done = (finish) => (value) => { waiting.delete(number); script.remove(); finish(value); };
      waiting.set(number, done(resolve));
      script.onerror = done(() => reject(new Error(`records/${name(number)} cannot be read`)));
      script.src = `records/${name(number)}`;
      document.head.append(script);
    });
  }
  const name = (number) => `${String(number).padStart(5, "0")}.js`;

  const unpacked = new Map(); // shard number -> promise of its records, the last used last
  function shard(number) {
    const found = unpacked.get(number) ?? packed(number).then(unpack);
    unpacked.delete(number);
    unpacked.set(number, found);
    if (unpacked.size > HELD) unpacked.delete(unpacked.keys().next().value);
    return found;
  }

  // --- texts -----------------------------------------------------------------------------------

  // Control characters, and those that reorder the text after them, are shown, not obeyed.
  const INVISIBLE = /[\u0000-\u0008\u000b-\u001f\u007f\u202a-\u202e\u2066-\u2069]/g;
  const picture = (c) => {
    const code = c.charCodeAt(0);
    return code < 32 ? String.fromCharCode(0x2400 + code)
      : `⟨U+${code.toString(16).toUpperCase().padStart(4, "0")}⟩`;
  };
  const visible = (text) => text.replace(INVISIBLE, picture);

  function element(kind, attributes, ...children) {
    const made = document.createElement(kind);
    for (const [key, value] of Object.entries(attributes ?? {})) made.setAttribute(key, value);
    made.append(...children.filter((child) => child !== null));
    return made;
  }
  const words = (kind, text, attributes) => {
    const made = element(kind, attributes);
    made.textContent = visible(String(text));
    return made;
  };

  // A text whose tokens have rewards: rust below 0, green above, the deeper the larger.
  function coloured(text, rewards) {
    const characters = [...text]; // ends count characters, a string's length does not
    if (characters.length > LONG) return passage(text);
    const most = Math.max(...rewards.map(([, reward]) => Math.abs(reward)));
    const box = element("pre", { dir: "auto" });
    let start = 0;
    for (const [end, reward] of rewards) {
      const depth = reward ? Math.ceil(3 * Math.abs(reward) / most) : 0;
      const kind = depth ? `${reward < 0 ? "blamed" : "praised"} depth${depth}` : "kept";
      if (end > start) box.append(words("span", characters.slice(start, end).join(""), { class: kind, title: number(reward) }));
      start = end;
    }
    return element("div", { class: "text" }, box);
  }

  // Long texts come in pieces: browsers need many seconds to break a megabyte into lines at once.
  function passage(text) {
    if (text === "") return words("p", "(empty)", { class: "note" });
    const box = element("div", { class: "text" }, words("pre", text.slice(0, LONG), { dir: "auto" }));
    let shown = LONG;
    if (text.length <= shown) return box;
    const more = words("button", "", { type: "button" });
    const label = () => {
      const size = (n) => n.toLocaleString("en");
      more.textContent = `Show ${size(Math.min(PIECE, text.length - shown))} more of ${size(text.length)} characters`;
    };
    more.onclick = () => {
      box.append(words("pre", text.slice(shown, shown + PIECE), { dir: "auto" }));
      box.tabIndex = 0; // it scrolls now, so keys must reach it
      shown += PIECE;
      if (shown < text.length) label(); else more.remove();
    };
    label();
    return element("div", null, box, more);
  }

  const number = (value, digits = 3) =>
    value === null || value === undefined ? "–" : value.toFixed(digits).replace("-", "−");

  // --- state -----------------------------------------------------------------------------------

  let about, rows, total;
  let matches = []; // numbers of the entries that pass the filters, in the order shown
  let active = -1; // place in matches
  let chosen = -1; // entry whose record is shown
  let search = 0; // number of the newest search; older ones stop
  let texts = []; // lower-case texts per entry, filled by the first search
  let textSize = 0;
  const grid = byId("grid"), spacer = byId("spacer"), detail = byId("detail");
  const status = byId("status"), query = byId("query");
  const filter = (key) => byId(`filter-${key}`).value;
  const RESULT = ["", "right", "wrong"], CHANGE = ["", "gained", "lost"];
  const setName = (code) => about.facts[about.sets[code]].name;

  // --- filters ---------------------------------------------------------------------------------

  function options(key, names, codes) {
    const select = byId(`filter-${key}`);
    select.append(words("option", "any", { value: "" }));
    names.forEach((text, place) => select.append(words("option", text, { value: codes?.[place] ?? place })));
  }

  function passes(i) {
    for (const key of ["run", "set", "task", "outcome"]) {
      const wanted = filter(key);
      if (key === "outcome" && wanted === "none") {
        if (!outcomeOf(i) || outcomeOf(i) === "paired") return false;
      } else if (wanted !== "" && rows[key][i] !== Number(wanted)) return false;
    }
    const result = filter("result");
    if (result === "reversed" ? !rows.reversed[i]
      : result && RESULT[rows.right[i]] !== result && CHANGE[rows.change[i]] !== result) return false;
    const c = rows.c[i], band = filter("c");
    if (band === "below") return c !== null && c < 0.5;
    if (band === "above") return c !== null && c >= 0.5;
    return band !== "absent" || c === null;
  }
  const outcomeOf = (i) => about.outcomes[rows.outcome[i]];

  function ordered(found) {
    const way = byId("order").value;
    if (way === "") return found;
    const sign = way === "up" ? 1 : -1;
    const key = (i) => (rows.c[i] === null ? Infinity : sign * rows.c[i]);
    return found.sort((a, b) => key(a) - key(b) || a - b);
  }

  async function refresh() {
    const mine = ++search;
    grid.setAttribute("aria-busy", "true");
    const wanted = query.value.trim().toLowerCase();
    let found = [];
    for (let i = 0; i < total; i++) if (passes(i)) found.push(i);
    if (wanted) found = await containing(wanted, found, mine);
    if (mine !== search) return;
    matches = ordered(found);
    const kept = chosen < 0 ? -1 : matches.indexOf(chosen);
    active = matches.length ? Math.max(kept, 0) : -1;
    spacer.style.height = `${Math.min(matches.length, MOST) * rowHeight()}px`;
    const capped = matches.length > MOST ? `; the list shows the first ${MOST.toLocaleString("en")}` : "";
    status.textContent = `${matches.length.toLocaleString("en")} of ${total.toLocaleString("en")} prompts${capped}`;
    if (kept < 0) grid.scrollTop = 0; else reveal();
    draw();
    if (kept < 0) show();
    grid.setAttribute("aria-busy", "false");
  }

  async function containing(wanted, found, mine) {
    const hits = [];
    let place = 0;
    for (let n = 0; n < about.shards.length && place < found.length; n++) {
      const first = about.shards[n], next = about.shards[n + 1] ?? total;
      if (found[place] >= next) continue;
      let records = null;
      for (; place < found.length && found[place] < next; place++) {
        const i = found[place];
        if (texts[i] === undefined) {
          records ??= await (unpacked.get(n) ?? packed(n).then(unpack));
          if (mine !== search) return [];
          const text = strings(records[i - first]).join("\n").toLowerCase();
          if (textSize + text.length < SEARCHABLE) { texts[i] = text; textSize += text.length; }
          if (text.includes(wanted)) hits.push(i);
        } else if (texts[i].includes(wanted)) hits.push(i);
      }
      if (records) status.textContent = `searching: ${Math.round(100 * next / total)} %`;
    }
    return hits;
  }

  function strings(record) {
    const found = [record.id, record.answer ?? "", ...record.messages.map((turn) => turn[1])];
    for (const completion of record.completions ?? []) found.push(completion.text);
    for (const given of Object.values(record.answers ?? {})) for (const answer of given) found.push(answer.text);
    return found;
  }

  // --- the list --------------------------------------------------------------------------------

  const rowHeight = () => parseFloat(getComputedStyle(document.documentElement).getPropertyValue("--row"));

  function draw() {
    const height = rowHeight(), count = Math.min(matches.length, MOST);
    const first = Math.max(0, Math.floor(grid.scrollTop / height) - EXTRA);
    const last = Math.min(count, Math.ceil((grid.scrollTop + grid.clientHeight) / height) + EXTRA);
    const drawn = [];
    for (let place = first; place < last; place++) drawn.push(row(place, height));
    spacer.replaceChildren(...drawn);
    if (active >= first && active < last) grid.setAttribute("aria-activedescendant", `row-${active}`);
    else grid.removeAttribute("aria-activedescendant");
  }

  function row(place, height) {
    const i = matches[place], right = RESULT[rows.right[i]], change = CHANGE[rows.change[i]];
    const made = element("div", {
      class: "row item", role: "option", id: `row-${place}`, "aria-selected": String(place === active),
      "aria-setsize": matches.length, "aria-posinset": place + 1,
    });
    made.style.transform = `translateY(${place * height}px)`;
    const set = about.runs.length > 1 ? `${about.runs[rows.run[i]]}, ${setName(rows.set[i])}` : setName(rows.set[i]);
    const outcome = outcomeOf(i);
    const said = rows.reversed[i] ? "✗ reversed" : right ? `${right === "right" ? "✓" : "✗"} ${change || right}`
      : outcome === "paired" ? "paired" : outcome.replaceAll("_", " ");
    const kind = right === "right" ? "good" : right === "wrong" ? "bad" : "plain";
    const c = rows.c[i] === null ? "" : number(rows.c[i], 2);
    made.append(words("bdi", rows.label[i] || "(no text)"), words("span", about.tasks[rows.task[i]]), words("span", set),
      words("span", c && matchMedia("(max-width: 44rem)").matches ? `C ${c}` : c), words("span", said, { class: kind }));
    made.onclick = () => { move(place); };
    return made;
  }

  function reveal() {
    const height = rowHeight(), top = active * height;
    if (top < grid.scrollTop) grid.scrollTop = top;
    else if (top + height > grid.scrollTop + grid.clientHeight) grid.scrollTop = top + height - grid.clientHeight;
  }

  function move(place) {
    if (!matches.length) return;
    active = Math.min(Math.max(place, 0), Math.min(matches.length, MOST) - 1);
    reveal();
    draw();
    show();
  }

  // --- one prompt ------------------------------------------------------------------------------

  async function show() {
    chosen = active < 0 ? -1 : matches[active];
    if (chosen < 0) { detail.replaceChildren(words("p", "No prompt passes these filters.", { class: "note" })); return; }
    const mine = chosen;
    let n = 0;
    while (n + 1 < about.shards.length && about.shards[n + 1] <= mine) n++;
    try {
      const record = (await shard(n))[mine - about.shards[n]];
      if (mine === chosen) detail.replaceChildren(...page(record, mine));
    } catch (error) {
      unpacked.delete(n);
      detail.replaceChildren(words("p", `This record cannot be read: ${error.message}`, { class: "warning" }));
    }
  }

  function page(record, i) {
    const run = about.runs.length > 1 ? `${about.runs[rows.run[i]]}, ` : "";
    const parts = [words("h3", `${run}${setName(rows.set[i])}: ${about.tasks[rows.task[i]]}, prompt ${record.id}`), steps()];
    for (const [role, text] of record.messages) {
      parts.push(element("div", { class: "asked" }, words("span", role, { class: "role" }), passage(text)));
    }
    if (record.answer !== null) parts.push(line("Reference answer", record.answer));
    parts.push(...(record.answers ? answers(record.answers) : completions(record)));
    const others = elsewhere(i);
    if (others) parts.push(others);
    return parts;
  }

  const line = (label, text) => element("p", null, words("strong", `${label}: `), words("bdi", text, { dir: "auto" }));

  function steps() {
    const button = (text, by) => {
      const made = words("button", text, { type: "button" });
      made.onclick = () => move(active + by);
      return made;
    };
    return element("div", { class: "steps" }, button("← Previous", -1), button("Next →", 1));
  }

  // The same prompt in other sets or runs of this page.
  function elsewhere(i) {
    const links = element("p", null, words("strong", "The same prompt: "));
    let count = 0;
    for (let k = 0; k < total; k++) {
      if (k === i || rows.id[k] !== rows.id[i]) continue;
      const run = about.runs.length > 1 ? `${about.runs[rows.run[k]]}, ` : "";
      const link = words("button", `${run}${setName(rows.set[k])}`, { type: "button" });
      link.onclick = () => jump(k);
      links.append(link, " ");
      count++;
    }
    return count ? links : null;
  }

  async function jump(i) {
    if (!matches.includes(i)) { byId("filters").reset(); await refresh(); }
    move(matches.indexOf(i));
    detail.focus();
  }

  function facts(pairs) {
    const list = element("dl");
    for (const [label, value] of pairs) {
      if (value === null || value === undefined || value === "") continue;
      list.append(words("dt", label), words("dd", value, { dir: "auto" }));
    }
    return list;
  }

  const extra = (one) => (one.extracted === one.text.trim() ? null : one.extracted); // says more than the text
  const verdict = (correct) => correct === null ? words("span", "not verified")
    : words("span", correct ? "✓ correct" : "✗ wrong", { class: correct ? "good" : "bad" });

  function completions(record) {
    const roles = record.completions.map(() => new Set());
    for (const [chosen, rejected] of record.pairs) { roles[chosen].add("chosen"); roles[rejected].add("rejected"); }
    const order = record.completions.map((_, k) => k);
    const rank = (k) => record.completions[k].ranks[0] ?? Infinity;
    order.sort((a, b) => rank(a) - rank(b) || a - b);
    const cards = order.map((k) => completion(record, record.completions[k], [...roles[k]]));
    const weighed = record.pairs.length && record.pairs[0][3] !== 1 ? ` Weight in the loss ${number(record.pairs[0][3])}.` : "";
    const several = record.pairs.length > 1 ? ` ${record.pairs.length} pairs of this prompt are trained on.` : "";
    const ordered = `Cards are ordered by ${record.quantities[0]}; ranks count distinct completions that may be paired.`;
    const said = [record.outcome, ...record.words].map((line) => words("li", line));
    const parts = [element("ul", { class: "words" }, ...said), element("div", { class: "cards" }, ...cards), words("p", `${ordered}${weighed}${several}`, { class: "note" })];
    return parts;
  }

  function completion(record, one, roles) {
    const head = element("header", null, ...roles.map((role) => words("span", role, { class: role === "chosen" ? "good" : "bad" })), verdict(one.correct));
    const measured = record.quantities.map((label, q) =>
      [label, one.ranks[q] ? `${number(one.values[q])}, rank ${one.ranks[q]}` : one.values[q] === null ? "not scored" : `${number(one.values[q])}, no rank`]);
    const list = facts([...measured, ["tokens", one.truncated ? `${one.tokens}, cut off` : one.tokens],
      ["copies", one.copies > 1 ? one.copies : null], ["extracted", extra(one)], ["from", one.origin]]);
    return element("div", { class: `card ${roles[0] ?? ""}` }, head, one.rewards ? coloured(one.text, one.rewards) : passage(one.text), list);
  }

  function answers(given) {
    const cards = Object.entries(given).map(([model, list]) => {
      const [greedy, ...samples] = list[0]?.greedy ? list : [null, ...list];
      const head = element("header", null, words("span", model), greedy && verdict(greedy.correct));
      const right = samples.filter((sample) => sample.correct).length;
      const card = element("div", { class: "card" }, head, greedy && passage(greedy.text),
        greedy && facts([["extracted", extra(greedy)], ["tokens", greedy.truncated ? `${greedy.tokens}, cut off` : greedy.tokens]]));
      if (samples.length) {
        const more = element("details", null, words("summary", `${right} of ${samples.length} samples right`));
        for (const sample of samples) more.append(element("div", null, verdict(sample.correct), passage(sample.text)));
        card.append(more);
      }
      return card;
    });
    return [words("h3", "Greedy answer of each model"), element("div", { class: "cards" }, ...cards)];
  }

  // --- keys ------------------------------------------------------------------------------------

  const inField = (target) => /^(INPUT|SELECT|TEXTAREA)$/.test(target.tagName);

  function pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { key, target } = event;
    if (key === "/" && !inField(target)) query.focus();
    else if (key === "Escape" && (target === query || detail.contains(target))) grid.focus();
    else if (key === "Enter" && target === query) grid.focus();
    else if (target === grid || detail.contains(target)) {
      const page = Math.max(1, Math.floor(grid.clientHeight / rowHeight()) - 1);
      const steps = { j: 1, k: -1, ...(target === grid && { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity }) };
      if (key in steps) move(active + steps[key]);
      else if (key === "Enter" && target === grid) detail.focus();
      else return;
    } else return;
    event.preventDefault();
  }

  // --- start -----------------------------------------------------------------------------------

  async function start() {
    about = await unpack(byId("data-index").textContent);
    rows = about.rows;
    total = rows.id.length;
    if (!total) { status.textContent = "There is no prompt to read yet."; return; }
    options("run", about.runs);
    options("set", about.sets.map((_, code) => setName(code)));
    options("task", about.tasks);
    const outcomes = about.outcomes.map((text, code) => [text, code]).filter(([text]) => text);
    options("outcome", ["none, any reason", ...outcomes.map(([text]) => text.replaceAll("_", " "))], ["none", ...outcomes.map(([, code]) => code)]);
    document.querySelector("[data-filter=run]").hidden = about.runs.length < 2;
    byId("filters").hidden = byId("browser").hidden = false;
    let typed, waitingFrame = 0;
    query.oninput = () => { grid.setAttribute("aria-busy", "true"); clearTimeout(typed); typed = setTimeout(refresh, 150); };
    byId("filters").onchange = (event) => { if (event.target !== query) refresh(); };
    byId("filters").onreset = () => setTimeout(refresh);
    byId("filters").onsubmit = (event) => event.preventDefault();
    grid.onscroll = () => { waitingFrame ||= requestAnimationFrame(() => { waitingFrame = 0; draw(); }); };
    addEventListener("resize", () => { spacer.style.height = `${Math.min(matches.length, MOST) * rowHeight()}px`; draw(); });
    document.addEventListener("keydown", pressed);
    await refresh();
    performance.mark("cream-ready"); // for the tests, which time it
  }

  start().catch((error) => { status.textContent = `The records cannot be read: ${error.message}`; });
})();
