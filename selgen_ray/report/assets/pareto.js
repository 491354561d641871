// The trade-off: means over seeds with intervals, single seeds faint, dominated means grey, the base model a star.

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
  for (const name of ["seeds", "intervals", "dominated", "near"]) {
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
  const traces = [frontLine(found, mx, my)];
  for (const strategy of Object.keys(data.strategies)) {
    const own = shown.filter((s) => data.settings[s].strategy === strategy);
    if (state.seeds) traces.push(singleSeeds(strategy, own, found));
    if (state.dominated)
      traces.push(
        means(
          strategy,
          own.filter((s) => !found[s].front),
          found,
          mx,
          my,
          true,
        ),
      );
    traces.push(
      means(
        strategy,
        own.filter((s) => found[s].front),
        found,
        mx,
        my,
        false,
      ),
    );
  }
  traces.push(
    rings(
      shown.filter((s) => data.settings[s].outcomeOnly),
      found,
      "circle-open",
      "outcome only",
      17,
    ),
  );
  traces.push(
    rings(
      shown.filter((s) => data.settings[s].failures.length),
      found,
      "x-thin-open",
      `misses ${data.require}`,
      12,
    ),
  );
  traces.push(...stars(mx, my));
  const place = byId("pareto-plot");
  draw(
    place,
    traces.filter((trace) => trace && trace.x.length),
    {
      margin: { l: 58, r: 16, t: 14, b: 50 },
      xaxis: axisOf(
        mx,
        shown.map((s) => found[s].x.mean),
      ),
      yaxis: axisOf(
        my,
        shown.map((s) => found[s].y.mean),
      ),
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
  byId("pareto-note").textContent = paretoNote(found, shown);
}

/** An axis with its better end at the right or the top; on demand without the worst tenth, which may be far off. */
function axisOf(metric, values) {
  const title = titled(metric.sign < 0 ? `${metric.name} (less is better)` : metric.name);
  if (!state.near || values.length < 4) return { ...title, autorange: metric.sign < 0 ? "reversed" : true };
  const ordered = [...values].sort((a, b) => metric.sign * (a - b));
  const [worst, best] = [ordered[Math.floor(0.13 * ordered.length)], ordered.at(-1)];
  const room = 0.08 * (best - worst || 0.02);
  return { ...title, autorange: false, range: [worst - room, best + room] };
}

function paretoNote(found, shown) {
  const single = shown.filter((s) => found[s].rows.length === 1).length;
  const lost = data.trials.filter(({ status }) => status !== "completed").length;
  return [
    "Large: means over seeds with 95 % t-intervals, cut at 0 and 1; small and faint: single seeds; grey: dominated; the line: the front of the means. ",
    "★ base model, ring: trained on the outcome alone, without a proxy. ",
    single ? `${single} settings have one seed and no interval. ` : "",
    lost ? `${lost} trials that diverged, failed or are not done are listed below and never plotted. ` : "",
    "Point at a mark for its setting, click for its trial.",
  ].join("");
}

function means(strategy, own, found, mx, my, dominated) {
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
    mode: "markers",
    name: strategy,
    x: own.map((s) => found[s].x.mean),
    y: own.map((s) => found[s].y.mean),
    customdata: own.map((s) => data.points.trial[found[s].rows[0]]),
    text: own.map((s) => hover(s, found[s])),
    hovertemplate: "%{text}<extra></extra>",
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
  if (setting.outcomeOnly) lines.push("outcome only, no proxy");
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
