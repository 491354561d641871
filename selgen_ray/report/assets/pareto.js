// The trade-off: means over seeds with intervals, single seeds faint, dominated means grey, the base model a star.
// The axes start where what was trained is; a base model beyond them stands at their edge.

function fillAxes() {
  for (const side of ["x", "y"]) {
    const select = byId(`axis-${side}`);
    select.replaceChildren(
      ...data.metrics.map(({ name, sign }) => new Option(sign < 0 ? `${name} (less is better)` : name, name)),
    );
    select.value = state[side];
    select.addEventListener("change", () => setAxes({ [side]: select.value }));
  }
  byId("axis-reset").addEventListener("click", () => setAxes({ x: data.x, y: data.y }));
  for (const name of ["seeds", "intervals", "dominated", "near", "base"]) {
    const box = byId(`show-${name}`);
    box.checked = state[name];
    box.addEventListener("change", () => {
      state[name] = box.checked;
      drawPareto();
      keep();
    });
  }
}

function setAxes(change) {
  Object.assign(state, change);
  byId("axis-x").value = state.x;
  byId("axis-y").value = state.y;
  redraw();
}

function fillChips() {
  const names = Object.keys(data.strategies);
  byId("chips").replaceChildren(
    ...names.map((name) =>
      element(
        "button",
        {
          class: "chip",
          type: "button",
          "aria-pressed": String(!state.hidden.includes(name)),
          title: "show or hide",
          onclick: () => {
            state.hidden = state.hidden.includes(name)
              ? state.hidden.filter((one) => one !== name)
              : [...state.hidden, name];
            fillChips();
            redraw();
          },
        },
        mark(name),
        name,
      ),
    ),
  );
}

function drawPareto() {
  const found = summaries();
  const [mx, my] = [state.x, state.y].map((name) => data.metrics[metricNumber.get(name)]);
  const shown = data.settings
    .map((setting, s) => s)
    .filter((s) => found[s].rows.length && !state.hidden.includes(data.settings[s].strategy));
  const controls = shown.filter((s) => data.settings[s].control);
  const ranges = [
    ["x", mx],
    ["y", my],
  ].map(([side, metric]) => rangeOf(metric, side, shown, found));
  const labelled = hasLabels(shown, found);
  const traces = [frontLine(found, mx, my)];
  for (const strategy of Object.keys(data.strategies)) {
    const own = shown.filter((s) => data.settings[s].strategy === strategy);
    if (state.seeds) traces.push(singleSeeds(strategy, own, found));
    if (state.dominated)
      traces.push(
        means(
          strategy,
          own.filter((s) => !found[s].front && !controls.includes(s)),
          found,
          mx,
          my,
          true,
          ranges,
          labelled,
        ),
      );
    traces.push(
      means(
        strategy,
        own.filter((s) => found[s].front || controls.includes(s)),
        found,
        mx,
        my,
        false,
        ranges,
        labelled,
      ),
    );
  }
  traces.push(
    rings(
      shown.filter((s) => data.settings[s].failures.length),
      found,
      "x-thin-open",
      `misses ${data.require}`,
      12,
    ),
  );
  traces.push(...stars(mx, my, ranges));
  const place = byId("pareto-plot");
  draw(
    place,
    traces.filter((trace) => trace && trace.x.length),
    {
      margin: { l: 58, r: 16, t: 14, b: 50 },
      xaxis: { ...axisTitle(mx), range: ranges[0] },
      yaxis: { ...axisTitle(my), range: ranges[1] },
    },
  ).then(() => {
    place.dataset.drawn = `${state.x} ${state.y}`;
  });
  if (!place.dataset.listens) {
    place.dataset.listens = "yes";
    place.on("plotly_click", ({ points }) => {
      const trial = points.map((point) => point.customdata).find((one) => Number.isInteger(one));
      if (trial !== undefined) location.hash = `#trial/${data.trials[trial].id}`;
    });
  }
  byId("pareto-note").textContent = paretoNote();
  paretoLegend(found, shown);
}

/** What is in the plot besides the strategies and controls, which the buttons show. */
function paretoLegend(found, shown) {
  const grey = css("--faint");
  const any = (test) => shown.some((s) => test(found[s], data.settings[s]));
  fillLegend(byId("pareto-legend"), [
    ["base model, untrained (hollow: beyond the edge)", { symbol: "star" }, "base model"],
    ...(any((one) => one.front) ? [["front of the means", { line: "dot", colour: grey }]] : []),
    ...(any((one, setting) => !one.front && !setting.control) && state.dominated
      ? [["dominated", { symbol: "circle", colour: grey, edge: css("--quiet") }]]
      : []),
    ...(any((one) => one.rows.length > 1) && state.intervals
      ? [["95 % t-interval over seeds", { symbol: "bar", colour: css("--quiet") }]]
      : []),
    ...(any((one) => one.rows.length > 1) && state.seeds
      ? [["a single seed", { symbol: "circle", size: 0.5, opacity: 0.5, colour: css("--quiet") }]]
      : []),
    ...(any((one) => one.rows.length === 1)
      ? [["one seed, no interval", { symbol: "circle", hollow: true, colour: css("--quiet") }]]
      : []),
    ...(any((one, setting) => setting.failures.length) ? [[`misses ${data.require}`, { symbol: "x-thin" }]] : []),
  ]);
}

const axisTitle = (metric) => titled(metric.sign < 0 ? `${metric.name} (less is better)` : metric.name);

const MANY = 8; // with more settings than this, their room matters more than whole bars

/**
 * The ends of an axis, its better end at the right or the top: all means and single seeds are inside, bars as far as they
 * do not squeeze them (as selgen_ray/report/scales.py says). On demand without the worst tenth, or up to the base model.
 */
function rangeOf(metric, side, shown, found) {
  const column = data.points.values[metricNumber.get(metric.name)];
  let means = shown.map((s) => found[s][side].mean);
  if (state.near && means.length > 3) {
    const ordered = [...means].sort((a, b) => metric.sign * (a - b));
    means = ordered.slice(Math.floor(0.13 * ordered.length));
  }
  const seeds = state.near || !state.seeds ? [] : shown.flatMap((s) => found[s].rows.map((row) => column[row]));
  const base = state.base ? data.points.base[metricNumber.get(metric.name)].filter((value) => value !== null) : [];
  const points = [...means, ...seeds, ...base];
  if (!points.length) return [0, 1];
  const smallest = points.reduce((a, b) => Math.min(a, b));
  const largest = points.reduce((a, b) => Math.max(a, b));
  const size = Math.max(largest - smallest, 0.1 * Math.max(Math.abs(smallest), Math.abs(largest)), 0.02);
  const reach = (shown.length > MANY ? 0.2 : 0.6) * size;
  const halves = state.intervals ? shown.filter((s) => found[s][side].half !== null) : [];
  const ends = halves.flatMap((s) => [1, -1].map((sign) => found[s][side].mean + sign * found[s][side].half));
  let low = Math.max(smallest - reach, Math.min(smallest, ...ends.slice(0, 5000)));
  let high = Math.min(largest + reach, Math.max(largest, ...ends.slice(0, 5000)));
  const room = 0.08 * (high - low) || 0.08 * Math.max(Math.abs(high), 0.5);
  [low, high] = [low - room, high + room];
  if (metric.share) [low, high] = [Math.max(low, -0.03), Math.min(high, 1.03)];
  return metric.sign > 0 ? [low, high] : [high, low];
}

function paretoNote() {
  const lost = data.trials.filter(({ status }) => status !== "completed").length;
  return [
    "Bars are cut at 0 and 1. ",
    lost ? `${lost} trials that diverged, failed or are not done are listed below and never plotted. ` : "",
    "Point at a mark for its setting, click for its trial.",
  ].join("");
}

function means(strategy, own, found, mx, my, dominated, ranges, labelled) {
  const hollow = own.map((s) => found[s].rows.length === 1);
  const colour = dominated ? css("--faint") : colourOf(strategy);
  const bars = (side, metric) => {
    const ends = own.map((s) => bar(found[s][side], metric));
    const faint = dominated
      ? { color: css("--bars"), thickness: 1, width: 2 }
      : { color: colour, thickness: 1.4, width: 4 };
    return {
      type: "data",
      symmetric: false,
      array: ends.map((e) => e[1]),
      arrayminus: ends.map((e) => e[0]),
      visible: state.intervals,
      ...faint,
    };
  };
  return {
    type: "scatter",
    mode: "markers+text",
    name: strategy,
    x: own.map((s) => found[s].x.mean),
    y: own.map((s) => found[s].y.mean),
    customdata: own.map((s) => data.points.trial[found[s].rows[0]]),
    text: own.map((s) => (dominated || !(labelled || data.settings[s].control) ? "" : shortLabel(data.settings[s]))),
    textposition: own.map((s) => `top ${isAtTheRight(found[s].x.mean, ranges[0]) ? "left" : "right"}`),
    textfont: { color: colour, size: 11 },
    hovertext: own.map((s) => hover(s, found[s])),
    hovertemplate: "%{hovertext}<extra></extra>",
    error_x: bars("x", mx),
    error_y: bars("y", my),
    opacity: dominated ? 0.85 : 1,
    marker: {
      symbol: own.map((s, i) => symbolOf(strategy) + (hollow[i] ? "-open" : "")),
      size: dominated ? 9 : 13,
      color: colour,
      line: {
        width: hollow.map((one) => (one ? 1.8 : dominated ? 1.6 : 1)),
        color: dominated ? colourOf(strategy) : css("--ground"),
      },
    },
  };
}

const MOST_LABELS = 6; // of the front: more of them would cover each other

/** Whether the settings on the front have their knobs beside them: where they are few, and there is room. */
const hasLabels = (shown, found) =>
  byId("pareto-plot").clientWidth > 600 && shown.filter((s) => found[s].front).length <= MOST_LABELS;

const isAtTheRight = (value, [left, right]) => (value - left) / (right - left || 1) > 0.75;

/** What stands beside a mark: the name of a control, the knobs of a setting on the front. */
function shortLabel({ control, label, strategy }) {
  const text = control ? label : label.slice(strategy.length + 1);
  return plain(text.length > 28 ? `${text.slice(0, 27)}…` : text);
}

function hover(s, one) {
  const setting = data.settings[s];
  const lines = [
    `<b>${plain(setting.label)}</b>`,
    `${plain(state.x)} ${withInterval(one.x)}`,
    `${plain(state.y)} ${withInterval(one.y)}`,
    one.rows.length === 1
      ? "one seed: no interval"
      : `${one.rows.length} seeds${one.rows.length < setting.numTrials ? ` of ${setting.numTrials}` : ""}`,
  ];
  if (setting.control) lines.push("a control: strategies are compared with it");
  if (setting.failures.length) lines.push(`kept off the front: ${plain(setting.failures.join(", "))}`);
  return lines.join("<br>");
}

function singleSeeds(strategy, own, found) {
  const rows = own
    .filter((s) => found[s].rows.length > 1 && (state.dominated || found[s].front))
    .flatMap((s) => found[s].rows.map((row) => [s, row]));
  const [i, j] = [metricNumber.get(state.x), metricNumber.get(state.y)];
  return {
    type: "scatter",
    mode: "markers",
    name: strategy,
    x: rows.map(([, row]) => data.points.values[i][row]),
    y: rows.map(([, row]) => data.points.values[j][row]),
    customdata: rows.map(([, row]) => data.points.trial[row]),
    hovertemplate: "%{text}<extra></extra>",
    text: rows.map(
      ([s, row]) =>
        `${plain(data.settings[s].label)}, seed ${data.points.seed[row]}<br>${plain(state.x)} ${number(data.points.values[i][row])}<br>${plain(state.y)} ${number(data.points.values[j][row])}`,
    ),
    marker: { symbol: symbolOf(strategy), size: 5, color: colourOf(strategy), opacity: 0.35 },
  };
}

function rings(own, found, symbol, name, size) {
  return {
    type: "scatter",
    mode: "markers",
    name,
    hoverinfo: "skip",
    x: own.map((s) => found[s].x.mean),
    y: own.map((s) => found[s].y.mean),
    marker: { symbol, size, color: css("--ink"), line: { width: 1.5, color: css("--ink") } },
  };
}
