// Colours, marks, plots and tables.

const dark = () => document.documentElement.dataset.theme === "dark";
const colourOf = (strategy) =>
  (data.strategies[strategy] || { light: "#666666", dark: "#aaaaaa" })[dark() ? "dark" : "light"];
const symbolOf = (strategy) => (data.strategies[strategy] || { symbol: "circle" }).symbol;
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function look(layout = {}) {
  const axis = {
    gridcolor: css("--grid"),
    zerolinecolor: css("--grid"),
    linecolor: css("--faint"),
    automargin: true,
    title: { standoff: 6 },
  };
  const base = {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    showlegend: false,
    modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--faint"), activecolor: css("--ink") },
    hovermode: "closest",
    font: { color: css("--ink"), family: 'system-ui, "DejaVu Sans", sans-serif', size: 12 },
    margin: { l: 50, r: 14, t: 26, b: 44 },
    hoverlabel: {
      bgcolor: css("--raised"),
      bordercolor: css("--line"),
      font: { color: css("--ink"), size: 12 },
      align: "left",
      namelength: -1,
    },
  };
  const { xaxis, yaxis, ...rest } = layout;
  return { ...base, ...rest, xaxis: merged(axis, xaxis), yaxis: merged(axis, yaxis) };
}

const merged = (axis, own = {}) => ({ ...axis, ...own, title: { ...axis.title, ...(own.title || {}) } });
const titled = (text) => ({ title: { text: plain(text) } });

function draw(place, traces, layout) {
  const options = {
    displaylogo: false,
    responsive: true,
    modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]], // nothing that asks anybody
  };
  return Plotly.react(place, traces, look(layout), options);
}

/** The mark of a strategy or a control as a small picture, for lists and tables. */
function mark(strategy) {
  const look = strategy === "base model" ? { symbol: "star" } : groupLook(strategy);
  const place = element("span", { class: "mark", "data-strategy": strategy }, swatch(look));
  place.style.display = "inline-block";
  return place;
}

const shapes = {
  circle: "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0z",
  square: "M-5 -5h10v10h-10z",
  diamond: "M0 -6.5L6.5 0L0 6.5L-6.5 0z",
  "triangle-up": "M0 -6L6 5H-6z",
  "triangle-down": "M0 6L6 -5H-6z",
  "triangle-left": "M-6 0L5 -6V6z",
  "triangle-right": "M6 0L-5 -6V6z",
  cross: "M-2 -6h4v4h4v4h-4v4h-4v-4h-4v-4h4z",
  x: "M-6 -3.4L-3.4 -6L0 -2.6L3.4 -6L6 -3.4L2.6 0L6 3.4L3.4 6L0 2.6L-3.4 6L-6 3.4L-2.6 0z",
  pentagon: "M0 -6L5.7 -1.8L3.5 4.9H-3.5L-5.7 -1.8z",
  hexagon: "M0 -6L5.2 -3V3L0 6L-5.2 3V-3z",
  "diamond-tall": "M0 -6.5L4 0L0 6.5L-4 0z",
  hourglass: "M-5.5 -6H5.5L-5.5 6H5.5z",
  bowtie: "M-6 -5.5V5.5L6 -5.5V5.5z",
  hexagram: "M0 -6.5L1.9 -3.2H5.6L3.8 0L5.6 3.2H1.9L0 6.5L-1.9 3.2H-5.6L-3.8 0L-5.6 -3.2H-1.9z",
  "star-square": "M-5.5 -5.5L0 -2.5L5.5 -5.5L2.5 0L5.5 5.5L0 2.5L-5.5 5.5L-2.5 0z",
  star: "M0 -6.8L1.6 -2.2H6.5L2.6 0.8L4 5.5L0 2.7L-4 5.5L-2.6 0.8L-6.5 -2.2H-1.6z",
  "x-thin": "M-5 -5L5 5M-5 5L5 -5",
  bar: "M0 -5V5M-3 -5H3M-3 5H3",
};

function small(grid, name, count) {
  while (grid.children.length > count) {
    Plotly.purge(grid.lastChild);
    grid.lastChild.remove();
  }
  while (grid.children.length < count) grid.append(element("div", { class: "plot" }));
  return [...grid.children];
}

// -- a simple table

/** A name that a narrow column breaks after '/', '_' or '.' rather than anywhere. */
const breakable = (text) => text.split(/(?<=[/_]|\.(?!\d))/).flatMap((part, n) => (n ? [element("wbr"), part] : [part]));

function fillTable(table, head, rows) {
  const cell = (tag) => (one) => {
    const { text, right, wrap, of } =
      one !== null && typeof one === "object" && !(one instanceof Node) ? one : { text: one };
    const content = of ? [element("span", { class: "named" }, mark(of), element("span", {}, ...breakable(text)))] : [text ?? ""];
    const shown = wrap && typeof text === "string" ? breakable(text) : content;
    return element(tag, { class: [right ? "number" : "", wrap ? "wrap" : ""].join(" ").trim() || null }, ...shown);
  };
  const body = element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map(cell("td")))));
  table.replaceChildren(element("thead", {}, element("tr", {}, ...head.map(cell("th")))), body);
}

const right = (text) => ({ text, right: true });
