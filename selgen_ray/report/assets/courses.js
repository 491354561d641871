// The course of training: losses by term, what else was logged, the path of the trade-off over epochs.

function fillCourses() {
  const select = byId("course-of");
  select.replaceChildren(
    new Option("the best setting of each strategy", ""),
    ...Object.keys(data.strategies).map((name) => new Option(`all settings of ${name}`, name)),
  );
  if (!(state.course in data.strategies)) state.course = "";
  select.value = state.course;
  select.addEventListener("change", () => {
    state.course = select.value;
    keep();
    drawCourses();
  });
  for (const id of ["course-log", "course-seeds"]) byId(id).addEventListener("change", drawCourses);
}

const MOST_COURSES = 24;
const dashes = ["solid", "dot", "dash", "dashdot", "longdash", "longdashdot"];

function coursesShown() {
  const best = data.standings.standings
    .filter(({ best: s, strategy }) => s !== null && !state.hidden.includes(strategy))
    .map(({ best: s }) => s);
  const all = data.settings
    .map((_, s) => s)
    .filter((s) => data.settings[s].strategy === state.course && rowsOf[s].length);
  return (state.course ? all : best).slice(0, MOST_COURSES);
}

let courseAsked = 0;

async function drawCourses() {
  const asked = ++courseAsked;
  const shown = coursesShown();
  const courses = await Promise.all(
    shown.map(async (s, i) => ({
      s,
      setting: data.settings[s],
      dash: state.course ? dashes[i % dashes.length] : "solid",
      seeds: await Promise.all(
        rowsOf[s].map(async (row) => ({
          trial: data.points.trial[row],
          row,
          seed: data.points.seed[row],
          found: await details(data.points.trial[row]),
        })),
      ),
    })),
  );
  if (asked !== courseAsked) return; // somebody chose something else meanwhile
  for (const id of ["path-legend", "loss-legend", "metric-legend"]) courseLegend(byId(id), courses, id === "path-legend");
  drawPaths(courses);
  drawTerms(byId("loss-plots"), courses, "losses", byId("course-log").checked);
  drawTerms(byId("metric-plots"), courses, "metrics", false);
  byId("training").dataset.drawn = state.course || "best";
}

/** A line, or where there are too few points a mark, for each setting that is drawn. */
function courseLegend(place, courses, isPath) {
  const faint = byId("course-seeds").checked && courses.some(({ seeds }) => seeds.length > 1);
  fillLegend(place, [
    ...courses.map(({ setting, dash }) => [
      setting.label,
      { ...groupLook(setting.strategy), line: dash },
      setting.strategy,
    ]),
    ...(isPath ? [["the end of training", { symbol: "circle", size: 1.1, colour: css("--quiet") }]] : []),
    ...(faint ? [["a single seed", { line: "solid", opacity: 0.35, colour: css("--quiet") }]] : []),
  ]);
}

/** Step -> mean over the seeds that have it, at the steps that all of them have. */
function meanCurve(curves) {
  const steps = curves[0][0].filter((step) => curves.every(([own]) => own.includes(step)));
  const at = curves.map(([own, values]) => new Map(own.map((step, i) => [step, values[i]])));
  const rows = steps.map((step) =>
    at.map((one) => one.get(step)).filter((value) => value !== null && value !== undefined),
  );
  return [steps, rows.map((values) => (values.length ? values.reduce((a, b) => a + b, 0) / values.length : null))];
}

function drawTerms(grid, courses, kind, logarithmic) {
  const names = [...new Set(courses.flatMap(({ seeds }) => seeds.flatMap(({ found }) => Object.keys(found[kind].of))))];
  const single = (name) =>
    courses.every(({ seeds }) =>
      seeds.every(({ found }) => (found[kind].of[name] || []).filter((value) => value !== null).length < 2),
    );
  const families = [...new Set(names.filter(single).map((name) => name.split("/")[0]))];
  const terms = names.filter((name) => !single(name)).slice(0, 30);
  const places = small(grid, kind, terms.length + families.length);
  if (!names.length) {
    grid.replaceChildren(element("p", { class: "quiet" }, "none"));
    if (grid.previousElementSibling?.matches(".legend")) grid.previousElementSibling.replaceChildren();
  }
  families.forEach((family, i) =>
    drawAtOnce(
      places[terms.length + i],
      courses,
      kind,
      family,
      names.filter((name) => single(name) && name.split("/")[0] === family),
    ),
  );
  terms.forEach((term, i) => {
    const place = places[i];
    const traces = courses.flatMap(({ setting, seeds, dash }) => {
      const curves = seeds
        .filter(({ found }) => found[kind].of[term])
        .map(({ found }) => [found[kind].steps, found[kind].of[term]]);
      return curves.length ? lines(setting, seeds, curves, dash) : [];
    });
    draw(place, traces, {
      title: { text: plain(term), font: { size: 13 }, x: 0.02 },
      margin: { l: 50, r: 10, t: 32, b: 40 },
      xaxis: titled("optimizer step"),
      yaxis: { type: logarithmic ? "log" : "linear", exponentformat: "power", tickformat: logarithmic ? "" : ".4~g" },
    });
  });
}

/** Numbers that were read once, as at the end of training: one place for each, in the order they were logged. */
function drawAtOnce(place, courses, kind, family, names) {
  const traces = courses.flatMap(({ setting, seeds }) => {
    const rows = names
      .flatMap((name, i) =>
        seeds.map(({ found }) => [i, (found[kind].of[name] || []).find((value) => value !== null), name]),
      )
      .filter(([, value]) => value !== undefined);
    return rows.length
      ? [
          {
            type: "scatter",
            mode: "markers",
            x: rows.map(([i]) => i + 1),
            y: rows.map(([, value]) => value),
            text: rows.map(([, , name]) => plain(name)),
            hovertemplate: `${plain(setting.label)}<br>%{text}: %{y:.4g}<extra></extra>`,
            marker: { color: colourOf(setting.strategy), symbol: symbolOf(setting.strategy), size: 6, opacity: 0.7 },
          },
        ]
      : [];
  });
  draw(place, traces, {
    title: { text: plain(family), font: { size: 13 }, x: 0.02 },
    margin: { l: 50, r: 10, t: 32, b: 40 },
    xaxis: { ...titled(names.length > 1 ? `each of ${names.length}, in order` : ""), showticklabels: names.length > 1 },
  });
}

function lines(setting, seeds, curves, dash) {
  const colour = colourOf(setting.strategy);
  const faint =
    byId("course-seeds").checked && curves.length > 1
      ? curves.map(([x, y]) => ({
          type: "scatter",
          mode: "lines",
          x,
          y,
          hoverinfo: "skip",
          opacity: 0.25,
          line: { color: colour, width: 1, dash },
        }))
      : [];
  const [x, y] = meanCurve(curves);
  const mode = x.length < 3 ? "markers" : "lines";
  return [
    ...faint,
    {
      type: "scatter",
      mode,
      x,
      y,
      name: plain(setting.label),
      line: { color: colour, width: 1.8, dash },
      marker: { color: colour, symbol: symbolOf(setting.strategy), size: 7 },
      hovertemplate: `${plain(setting.label)}<br>step %{x}: %{y:.4g}<extra></extra>`,
    },
  ];
}

/** [epoch, x, y] of a trial's own weights, and of its result where that is an edit of them; models on the way are not. */
function tradeOff({ trial, row, found }) {
  const series = [state.x, state.y].map((name) => found.evals.of[data.trials[trial].headlines[name] || name]);
  if (series.some((one) => !one)) return [];
  const path = found.evals.epochs
    .map((epoch, i) => [epoch, series[0][i], series[1][i]])
    .filter(([, x, y], i) => found.evals.versions[i] === "" && x !== null && y !== null);
  const end = [state.x, state.y].map((name) => data.points.values[metricNumber.get(name)][row]);
  const edited = found.evals.versions.some((version) => version !== "") && end.every((value) => value !== null);
  return edited ? [...path, ["edited", ...end]] : path;
}

function drawPaths(courses) {
  const traces = courses.flatMap(({ setting, seeds, dash }) => {
    const own = seeds.map(tradeOff).filter((path) => path.length);
    if (!own.length) return [];
    const [epochs, xs] = meanCurve(own.map((path) => [path.map((one) => one[0]), path.map((one) => one[1])]));
    const [, ys] = meanCurve(own.map((path) => [path.map((one) => one[0]), path.map((one) => one[2])]));
    const colour = colourOf(setting.strategy);
    const faint =
      byId("course-seeds").checked && own.length > 1
        ? own.map((path) => ({
            type: "scatter",
            mode: "lines",
            x: path.map((one) => one[1]),
            y: path.map((one) => one[2]),
            hoverinfo: "skip",
            opacity: 0.2,
            line: { color: colour, width: 1, dash },
          }))
        : [];
    return [
      ...faint,
      {
        type: "scatter",
        mode: "lines+markers",
        x: xs,
        y: ys,
        text: epochs.map(
          (epoch) =>
            `<b>${plain(setting.label)}</b><br>${epoch === "edited" ? "after the edit" : `after ${+epoch.toFixed(2)} epochs`}`,
        ),
        hovertemplate: `%{text}<br>${plain(state.x)} %{x:.3f}<br>${plain(state.y)} %{y:.3f}<extra></extra>`,
        line: { color: colour, width: 1.8, dash },
        marker: {
          color: colour,
          symbol: symbolOf(setting.strategy),
          size: xs.map((_, i) => (i === xs.length - 1 ? 12 : 5)),
          line: { color: css("--ground"), width: 1 },
        },
      },
    ];
  });
  const [mx, my] = [state.x, state.y].map((name) => data.metrics[metricNumber.get(name)]);
  draw(byId("path-plot"), traces, {
    margin: { l: 58, r: 16, t: 14, b: 50 },
    xaxis: { ...titled(mx.name), autorange: mx.sign < 0 ? "reversed" : true },
    yaxis: { ...titled(my.name), autorange: my.sign < 0 ? "reversed" : true },
  });
}
