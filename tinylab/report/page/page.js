"use strict";
// Draws the charts of a page, builds the tables beside them when they are opened, and keeps both at what is chosen.
// What comes from results is only ever set as text.
(() => {
  const page = JSON.parse(document.getElementById("page-data").textContent);
  const state = page.state, views = {}, datasets = {};

  // Vega reads the CSV: each column as the page says, not as it looks. What Vega adds to rows is left out; no word is "".
  async function load() {
    const data = Object.entries(page.datasets).map(([name, { csv, parse }]) => ({ name, values: csv, format: { type: "csv", parse } }));
    const { view } = await vegaEmbed(document.createElement("div"), { data }, { mode: "vega", actions: false });
    for (const { name, format: { parse } } of data) {
      const plain = ([key, value]) => [key, value === null && parse[key] === "string" ? "" : value];
      datasets[name] = view.data(name).map((row) => Object.fromEntries(Object.entries(row).map(plain)));
    }
    view.finalize();
  }

  const same = (a, b) => String(a ?? "") === String(b ?? "");
  const chosen = (dataset, where) => datasets[dataset].filter((row) => where.every((name) => same(row[name], state[name])));
  const copies = (rows) => rows.map((row) => ({ ...row }));
  const MADE = { pairs: pairs };

  // The rows of a chart: of a dataset, or made of one.
  function rowsOf(chart) {
    return MADE[chart.name] ? MADE[chart.name](chart) : chosen(chart.dataset, chart.where);
  }

  // Two conditions against each other: a row for each component that both have.
  function pairs(chart) {
    const of = (condition) => datasets[chart.dataset].filter((row) => same(row.group, state.group) && same(row.condition, condition));
    const others = new Map(of(state.second).map((row) => [row.name, row]));
    return of(state.first).filter((row) => others.has(row.name)).map((row) => {
      const other = others.get(row.name);
      return { name: row.name, x: row.effect, x_low: row.ci_low, x_high: row.ci_high, x_label: row.label,
        y: other.effect, y_low: other.ci_low, y_high: other.ci_high, y_label: other.label };
    });
  }

  function largest(rows, field) {
    let found = 0;
    for (const row of rows) found = Math.max(found, Math.abs(row[field] ?? 0));
    return found || 1;
  }

  // Where colours end, and as many rows as there are: high ones where they are few.
  function sized(chart, rows, view) {
    if (chart.limit) view.signal("limit", largest(rows, chart.limit));
    if (!chart.rise) return;
    const count = Math.max(1, new Set(rows.map((row) => row[chart.rise])).size);
    view.height(count * (count <= 8 ? 26 : count <= 60 ? 18 : 9));
  }

  function fitted(spec, element) { // small multiples: as many beside each other as there is room for
    if (spec.facet && spec.usermeta && spec.usermeta.room) {
      spec.columns = Math.max(1, Math.floor(element.clientWidth / spec.usermeta.room));
    }
    return spec;
  }

  async function draw(chart) {
    const element = document.getElementById(`chart-${chart.name}`);
    const rows = rowsOf(chart);
    const spec = fitted(chart.spec, element);
    spec.data = { name: "table", values: copies(rows) };
    const { view } = await vegaEmbed(element, spec, { renderer: "canvas", actions: false, logLevel: 1 });
    views[chart.name] = view;
    sized(chart, rows, view);
    await view.runAsync();
    if (chart.name === "map") view.addSignalListener("picked", (_, value) => {
      if (value && value.cell && value.cell.length) choose("cell", String(value.cell[0]));
    });
    nothing(chart, rows);
  }

  function nothing(chart, rows) {
    document.getElementById(`nothing-${chart.name}`).hidden = rows.length > 0;
    document.getElementById(`chart-${chart.name}`).hidden = rows.length === 0;
  }

  async function redraw(chart) {
    const rows = rowsOf(chart), view = views[chart.name];
    if (!view) return;
    view.data("table", copies(rows));
    sized(chart, rows, view);
    nothing(chart, rows);
    await view.resize().runAsync();
  }

  const depends = (one, name) => one.where.includes(name) || (one.name === "pairs" && ["first", "second", "group"].includes(name));

  async function choose(name, value) {
    if (same(state[name], value)) return;
    state[name] = value;
    for (const select of document.querySelectorAll(`select[data-control="${name}"]`)) {
      select.value = value; // none of the options where the page does not hold it
    }
    if (name === "cell") showPrompts();
    tables.forEach((table, place) => {
      const { where, only } = page.tables[place];
      if (table.open && [...where, ...only].includes(name)) build(place);
    });
    window.tinylab.ready = Promise.all(page.charts.filter((chart) => depends(chart, name)).map(redraw)).then(() => true);
    await window.tinylab.ready;
  }

  // Tables

  const tables = [...document.querySelectorAll("details.beside")];
  const shown = (value, digits) => {
    if (value === null || value === undefined || value === "") return "–";
    return digits === null || typeof value !== "number" ? String(value) : value.toFixed(digits).replace(/^-(0(\.0*)?)$/, "$1");
  };
  function cell(row, kind, text, numeric) {
    const made = document.createElement(kind);
    made.textContent = text;
    if (numeric) made.className = "number";
    row.append(made);
    return made;
  }

  function build(place) {
    const { dataset, where, across, only, columns } = page.tables[place];
    const element = tables[place].querySelector("table");
    let rows = chosen(dataset, where), told = columns;
    if (only.length) rows = rows.filter((row) => only.some((name) => same(row.condition, state[name])));
    if (across) [rows, told] = wide(rows, across, columns);
    const head = document.createElement("tr"), body = document.createDocumentFragment();
    for (const [, title, digits] of told) cell(head, "th", title, digits !== null).scope = "col";
    for (const one of rows) {
      const row = document.createElement("tr");
      told.forEach(([field, , digits], number) => {
        const made = cell(row, number ? "td" : "th", shown(one[field], digits), digits !== null);
        if (!number) made.scope = "row";
      });
      body.append(row);
    }
    element.tHead.replaceChildren(head);
    element.tBodies[0].replaceChildren(body);
  }

  // A column for each value of one column, holding the last of the others.
  function wide(rows, across, columns) {
    const keys = columns.slice(0, -1), [field, , digits] = columns[columns.length - 1];
    const found = new Map(), names = [...new Set(rows.map((row) => row[across]))];
    for (const row of rows) {
      const key = keys.map(([name]) => row[name]).join("\u0000");
      if (!found.has(key)) found.set(key, Object.fromEntries(keys.map(([name]) => [name, row[name]])));
      found.get(key)[`in ${row[across]}`] = row[field];
    }
    return [[...found.values()], [...keys, ...names.map((name) => [`in ${name}`, String(name), digits])]];
  }

  // Prompts

  function line(which, tokens, differ, after) {
    const made = document.createElement("p"), label = document.createElement("span");
    label.className = "which";
    label.textContent = which;
    made.append(label, " ");
    tokens.forEach((token, place) => {
      const text = token.replaceAll("␣", " ").replaceAll("⏎", "⏎\n");
      if (!differ.includes(place)) return made.append(text);
      const marked = document.createElement("mark");
      marked.textContent = text;
      made.append(marked);
    });
    const told = document.createElement("em");
    told.textContent = ` → ${after}`;
    made.append(told);
    return made;
  }

  function showPrompts() {
    const element = document.getElementById("prompts");
    if (!element) return;
    const made = document.createDocumentFragment();
    const rows = chosen("examples", ["cell"]).sort((a, b) => a.change - b.change);
    for (const row of rows) {
      const prompt = page.prompts.rows[String(row.example)];
      if (!prompt) continue;
      const one = document.createElement("article"), title = document.createElement("p");
      one.className = "prompt";
      title.textContent = `row ${row.example}${row.template ? `, ${row.template}` : ""}: ${row.baseline.toFixed(3)} → ` +
        `${row.value.toFixed(3)}, change ${row.change.toFixed(3)}`;
      const answers = prompt.right.map((right, place) => `${right ? "right" : "wrong"}, p ${prompt.p[place].toFixed(3)}`);
      one.append(title, line("clean", prompt.clean, prompt.differ[0], `${prompt.target} (${answers[0]})`),
        line("corrupt", prompt.corrupt, prompt.differ[1], `${prompt.foil} (${answers[1]})`));
      made.append(one);
    }
    element.replaceChildren(made);
    element.hidden = !element.childElementCount;
  }

  tables.forEach((table, place) => table.addEventListener("toggle", () => { if (table.open) build(place); }));
  for (const select of document.querySelectorAll("select[data-control]")) {
    select.addEventListener("change", () => choose(select.dataset.control, select.value));
  }
  const begun = load().then(() => {
    showPrompts();
    return Promise.all(page.charts.map(draw));
  });
  window.tinylab = { state, views, datasets, choose, ready: begun.then(() => true) };
})();
