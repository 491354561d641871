// The table of settings, which sorts and filters.

const columns = [
  {
    name: "",
    key: (row) => (row.one.front ? 2 : row.setting.failures.length ? 0 : 1),
    text: (row) => (row.one.front ? "●" : row.setting.failures.length ? "✕" : ""),
  },
  { name: "setting", label: true, key: (row) => row.s },
  { name: "seeds", key: (row) => row.one.rows.length, text: (row) => seedsText(row), right: true },
  { name: "items", key: (row) => row.setting.items.x, text: (row) => itemsText(row), right: true },
  { name: () => state.x, key: (row) => row.one.x?.mean, text: (row) => withRange(row, "x"), right: true },
  { name: "change", key: (row) => row.one.dx?.mean, text: (row) => withInterval(row.one.dx, true), right: true },
  { name: () => state.y, key: (row) => row.one.y?.mean, text: (row) => withRange(row, "y"), right: true },
  { name: "change", key: (row) => row.one.dy?.mean, text: (row) => withInterval(row.one.dy, true), right: true },
  { name: "time a trial", key: (row) => row.hours, text: (row) => hours(row.hours), right: true },
  { name: "tokens a trial", key: (row) => row.tokens, text: (row) => tokens(row.tokens), right: true },
];
const FIRST = 200;
let showAll = false;

function seedsText({ one, setting }) {
  const count =
    one.rows.length === setting.numTrials ? `${one.rows.length}` : `${one.rows.length}/${setting.numTrials}`;
  const lost = setting.lost ? `; ${setting.lost}` : "";
  return (one.rows.length === 1 ? `${count}, no interval` : count) + lost;
}

/** Items behind each seed's value, on the axes that the sweep names; results of other metrics do not say. */
function itemsText({ setting: { items } }) {
  if (state.x !== data.x || state.y !== data.y) return "";
  return [...new Set([items.x, items.y].filter(Boolean))].join(", ");
}

/** Without a spread the range is the binomial interval of the items, where it is known. */
function withRange({ one, setting }, side) {
  const range = one[side]?.flat && state[side] === data[side] ? setting.ranges[side] : null;
  return withInterval(one[side]) + (range ? `, ${number(range[0])} to ${number(range[1])} by its items` : "");
}

function settingRows() {
  const found = summaries();
  const average = (rows, of) =>
    rows.length
      ? rows.reduce((sum, row) => sum + (of(data.trials[data.points.trial[row]]) || 0), 0) / rows.length
      : null;
  return data.settings.map((setting, s) => ({
    s,
    setting,
    one: found[s],
    hours: average(rowsOf[s], (trial) => trial.hours),
    tokens: average(rowsOf[s], (trial) => trial.tokens),
  }));
}

function wanted(row) {
  const words = state.filter.toLowerCase().split(/\s+/).filter(Boolean);
  const text = [
    row.setting.label,
    ...row.setting.signs,
    row.one.front ? "front" : "dominated",
    row.setting.control ? "control" : "",
    row.one.rows.length === 1 ? "single seed" : "",
    row.setting.failures.join(" "),
  ]
    .join(" ")
    .toLowerCase();
  return (
    words.every((word) => text.includes(word)) &&
    (!state.front || row.one.front) &&
    !state.hidden.includes(row.setting.strategy)
  );
}

function sorted(rows) {
  if (!state.sort) return rows;
  const { column, down } = state.sort;
  const key = columns[column].key;
  const missing = (value) => value === null || value === undefined;
  return [...rows].sort((a, b) => {
    const [p, q] = [key(a), key(b)];
    if (missing(p) || missing(q)) return missing(p) - missing(q); // what has no value is last, either way
    return (down ? -1 : 1) * (p - q);
  });
}

function drawSettings() {
  const table = byId("settings-table");
  const rows = sorted(settingRows().filter(wanted));
  const head = element(
    "tr",
    {},
    ...columns.map((column, i) => {
      const name = typeof column.name === "function" ? column.name() : column.name;
      const order = state.sort?.column === i ? (state.sort.down ? "descending" : "ascending") : "none";
      const sort = () => {
        state.sort = { column: i, down: state.sort?.column === i ? !state.sort.down : i !== 1 };
        drawSettings();
        keep();
      };
      return element(
        "th",
        { "aria-sort": order, class: column.right ? "number" : null },
        element("button", { type: "button", onclick: sort, title: "sort" }, name || "front"),
      );
    }),
  );
  table.tHead.replaceChildren(head);
  table.tBodies[0].replaceChildren(...rows.slice(0, showAll ? rows.length : FIRST).map(settingRow));
  byId("table-count").textContent = `${rows.length} of ${data.settings.length} settings`;
  const more = byId("table-more");
  more.hidden = showAll || rows.length <= FIRST;
  more.textContent = `show all ${rows.length}`;
}

function settingRow(row) {
  const trial = rowsOf[row.s].length
    ? data.trials[data.points.trial[rowsOf[row.s][0]]]
    : data.trials.find(({ setting }) => setting === row.s);
  return element(
    "tr",
    { "data-setting": row.s },
    ...columns.map((column) => {
      if (!column.label) return element("td", { class: column.right ? "number" : null }, column.text(row));
      const name = trial ? element("a", { href: `#trial/${trial.id}` }, ...breakable(row.setting.label)) : row.setting.label;
      return element("td", { class: "label" }, element("span", { class: "named" }, mark(row.setting.strategy), name));
    }),
  );
}

function listenToTable() {
  const filter = byId("table-filter");
  filter.value = state.filter;
  filter.addEventListener("input", () => {
    state.filter = filter.value;
    drawSettings();
    keep();
  });
  const front = byId("table-front");
  front.checked = state.front;
  front.addEventListener("change", () => {
    state.front = front.checked;
    drawSettings();
    keep();
  });
  byId("table-more").addEventListener("click", () => {
    showAll = true;
    drawSettings();
  });
}
