// Sorting, filters, runs in a dialog, downloads, and the decision. Text is set as text, never as HTML.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("payload").textContent);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const one = (selector, root = document) => root.querySelector(selector);

  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  // ---- table: sort and filter
  const table = one("#cells");
  const body = table.tBodies[0];
  const original = [...body.rows];
  const heads = all("thead th", table);

  function sortValue(row, column) {
    const cell = row.cells[column];
    if (cell.dataset.v === undefined) return cell.textContent.trim();
    return cell.dataset.v === "" ? null : Number(cell.dataset.v);
  }

  function compare(a, b) {
    return typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true });
  }

  function sortBy(head) {
    const column = heads.indexOf(head);
    const numeric = original.some((row) => typeof sortValue(row, column) === "number");
    const before = head.getAttribute("aria-sort");
    const first = numeric && !head.hasAttribute("data-up") ? "descending" : "ascending";
    const other = first === "descending" ? "ascending" : "descending";
    const direction = before === first ? other : first;
    for (const each of heads) each.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", direction);
    const sign = direction === "ascending" ? 1 : -1;
    const keyed = original.map((row) => [sortValue(row, column), row]);
    keyed.sort(([a], [b]) => (a === null) - (b === null) || (a === null ? 0 : sign * compare(a, b)));
    body.append(...keyed.map(([, row]) => row));
    table.classList.add("sorted");
  }
  for (const head of heads) one("button", head).addEventListener("click", () => sortBy(head));

  const filters = one("[data-filters]");
  const plain = (text) => text.toLowerCase().replace(/\s+/g, " ").trim();
  const texts = new Map(original.map((row) => [row, plain(row.textContent)]));

  function matches(row, wanted, text, level) {
    if (!texts.get(row).includes(text)) return false;
    if (level && !one("i", row)) return false;
    return wanted.every(([name, value]) => value === name(row));
  }

  function filter() {
    const wanted = all("select", filters).filter((select) => select.value).map((select) => {
      const column = select.dataset.column;
      const cell = column === "method" ? "th" : `[data-c="${column}"]`;
      return [(row) => one(cell, row).textContent.trim(), select.value];
    });
    const text = plain(one("[data-text]", filters).value);
    const level = one("[data-level]", filters).checked;
    let shown = 0;
    for (const row of original) {
      row.hidden = !matches(row, wanted, text, level);
      shown += !row.hidden;
    }
    one("[data-count]").value = `${shown} of ${original.length} rows`;
  }
  filters.addEventListener("input", filter);
  filters.addEventListener("reset", () => setTimeout(filter));
  filters.addEventListener("submit", (event) => event.preventDefault());
  filter();

  // ---- the runs of a cell in a dialog
  const dialog = one("dialog");
  let home = null;
  function open(id) {
    home = document.getElementById(id);
    const inside = one(".inside", home);
    one("#dialog-title").textContent = home.dataset.title;
    one(".body", dialog).replaceChildren(inside);
    dialog.showModal();
    one(".body", dialog).scrollTop = 0;
  }
  dialog.addEventListener("close", () => {
    home.append(...one(".body", dialog).childNodes);
  });
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  body.addEventListener("click", (event) => {
    const button = event.target.closest("[data-open]");
    if (button) open(button.dataset.open);
  });

  // ---- downloads
  function save(name, type, text) {
    const url = URL.createObjectURL(new Blob([text], { type }));
    const link = element("a", { href: url, download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  }
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-download]");
    if (!button) return;
    const { download: name, type } = button.dataset;
    if (type === "csv") {
      save(`${name}.csv`, "text/csv", data.csv[name]);
      return;
    }
    const drawn = one("svg", button.closest("figure"));
    save(`${name}.svg`, "image/svg+xml", drawn.outerHTML);
  });

  // ---- the decision: report/recommend compared all candidates, this filters them by the limits
  const form = one("[data-decide]");
  const answer = one("[data-decision]");

  // The share of joint draws in which each has the first place of these; equal ones share it.
  function probabilities(cells) {
    const wins = cells.map(() => 0);
    for (let draw = 0; draw < cells[0].ranks.length; draw += 1) {
      const least = Math.min(...cells.map((cell) => cell.ranks[draw]));
      const first = cells.flatMap((cell, at) => (cell.ranks[draw] === least ? [at] : []));
      for (const at of first) wins[at] += 1 / first.length;
    }
    return wins.map((won) => won / cells[0].ranks.length);
  }

  // Either { lacking: why } or { options: [...] }, the leader first.
  function decide({ cells, beside, labels: span, lacking }, { labels, minutes, kilobytes }) {
    if (![labels, minutes, kilobytes].every((limit) => limit > 0)) {
      return { lacking: "give the three limits, each above 0" };
    }
    if (!span || labels < span[0] || labels > span[1]) return { lacking };
    const largest = new Map(); // of several measurements of a method the last fitting one counts
    const [, compared] = beside.filter(([least]) => least <= labels).at(-1);
    for (const place of compared) {
      const cell = cells[place];
      const fits = cell.bytes !== null && cell.bytes <= 1000 * kilobytes;
      if (fits && cell.seconds <= 60 * minutes) largest.set(cell.method, { ...cell, place });
    }
    if (!largest.size) return { lacking: "nothing measured fits" };
    const learned = [...largest.values()].filter((cell) => cell.learned);
    if (!learned.length) return { lacking: data.unlearned };
    learned.sort((a, b) => a.order - b.order);
    const [first] = learned;
    if (learned.length < 2 || !first.positive) {
      return { lacking: `only ${first.method} fits and learned anything, so there is no choice` };
    }
    const shares = probabilities(learned);
    const options = learned.map((cell, at) => ({
      ...cell, probability: shares[at], leads: cell === first,
      front: !learned.some((other) => cell.outdone[other.place] === "1"),
      level: cell !== first && first.above[cell.place] === "0",
    }));
    return { options: options.sort((a, b) => b.leads - a.leads || b.level - a.level) };
  }

  const percent = (share) =>
    share > 0.99 ? ">\u00a099\u00a0%" : share < 0.01 ? "<\u00a01\u00a0%" : `${Math.round(100 * share)}\u00a0%`;

  function optionRow(option) {
    const share = element("span", { class: "share" });
    share.style.setProperty("--s", (100 * option.probability).toFixed(1));
    const cell = (text, kind = "n") => element("td", { class: kind }, text);
    const chance = element("td", {}, share, percent(option.probability));
    return element("tr", {}, element("th", { scope: "row" }, option.method), chance,
      ...option.shown.map((text) => cell(text)), cell(option.front ? "yes" : "", ""));
  }

  function optionTable(options) {
    const names = ["Method", "Probability of being best", "Score", "Data", "Budget", "Training, stored", "On the front"];
    const kinds = ["", "", "n", "n", "n", "n", ""];
    const head = element("tr", {}, ...names.map((name, at) => element("th", { scope: "col", class: kinds[at] }, name)));
    const rows = element("tbody", {}, ...options.map(optionRow));
    const made = element("table", { class: "small" }, element("thead", {}, head), rows);
    return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Options" }, made);
  }

  function sentence(options) {
    const name = element("b", {}, options[0].method);
    const level = options.filter((option) => option.level).map((option) => option.method);
    if (!level.length) return ["Use ", name, "."];
    const more = level.length > 8 ? ` and ${level.length - 8} more` : "";
    return ["No method is clearly the best. ", name,
      ` leads, not told apart from ${level.slice(0, 8).join(", ")}${more}.`];
  }

  function show() {
    const task = data.tasks[Number(form.elements.task.value)];
    if (!task) return;
    const limits = Object.fromEntries(
      ["labels", "minutes", "kilobytes"].map((name) => [name, Number(form.elements[name].value)]));
    const decision = decide(task, limits);
    if (decision.lacking) {
      answer.replaceChildren(element("p", { class: "choice" }, `Not enough evidence: ${decision.lacking}.`));
      return;
    }
    const likely = decision.options.filter((option) => option.leads || option.level);
    const cheaper = decision.options.filter((option) => !likely.includes(option) && option.front);
    const rest = decision.options.length - likely.length - cheaper.length;
    const parts = [element("p", { class: "choice" }, ...sentence(decision.options)), optionTable(likely)];
    if (cheaper.length) {
      const summary = element("summary", {}, `Below the leader, but on the front for what they cost (${cheaper.length})`);
      parts.push(element("details", {}, summary, optionTable(cheaper)));
    }
    if (rest) parts.push(element("p", { class: "reading" }, `${rest} more fit, below the leader and off the front.`));
    answer.replaceChildren(...parts);
  }

  function limitsOf({ largest: [rows, seconds, bytes] }) {
    form.elements.labels.value = Math.round(rows);
    form.elements.minutes.value = Math.max(1, Math.ceil(seconds / 60));
    form.elements.kilobytes.value = Math.max(1, Math.ceil(bytes / 1000));
  }

  data.tasks.forEach((task, at) => {
    form.elements.task.append(element("option", { value: at }, task.label));
  });
  form.elements.task.addEventListener("change", () => limitsOf(data.tasks[Number(form.elements.task.value)]));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", show);
  if (data.tasks.length) {
    limitsOf(data.tasks[0]);
    show();
  } else {
    answer.append(element("p", {}, "Not enough evidence: no run has a score."));
  }

  // ---- print: everything open, as it was afterwards
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = all("details:not([open])");
    for (const details of closed) details.open = true;
  });
  addEventListener("afterprint", () => {
    for (const details of closed) details.open = false;
  });
})();
