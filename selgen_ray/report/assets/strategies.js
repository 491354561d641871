// Strategies against each other: held-out scores, paired differences, costs.

function drawStandings() {
  const table = byId("standings-table");
  if (!table) return;
  const { standings } = data.standings;
  const summary = (one) => (one ? withInterval({ mean: one.mean, half: one.half_width, flat: isFlat(one) }) : "–");
  const head = [
    "",
    "strategy",
    right("score, held out"),
    right(data.x),
    right(data.y),
    right("seeds"),
    right("settings"),
    right("diverged"),
    "best setting",
    right("its score (flattering)"),
    right("hypervolume (flattering)"),
  ];
  fillTable(
    table,
    head,
    standings.map((one, i) => [
      right(one.is_control ? "control" : one.hypervolume === null ? "" : `${i + 1}`),
      { text: one.strategy, of: one.strategy },
      right(summary(one.score)),
      right(summary(one.x)),
      right(summary(one.y)),
      right(`${one.seeds.length}`),
      right(one.incomplete ? `${one.settings.length}, ${one.incomplete} incomplete` : `${one.settings.length}`),
      right(one.num_diverged ? `${one.num_diverged} of ${one.num_trials}` : "none"),
      {
        text:
          one.best === null
            ? "no complete setting"
            : data.settings[one.best].label.slice(one.strategy.length + 1) || "the only one",
        wrap: true,
      },
      right(number(one.flattering)),
      right(number(one.hypervolume)),
    ]),
  );
}

/** Whether all seeds are equal, but for rounding: no spread was seen. */
function isFlat({ n, mean, sd }) {
  return n > 1 && sd !== null && sd <= 1e-12 * Math.max(Math.abs(mean), 1e-300);
}

function drawFamily() {
  const select = byId("family");
  if (!select) return;
  const names = Object.keys(data.standings.families);
  if (!names.length) return;
  if (!names.includes(state.family)) state.family = names.includes(data.leader) ? data.leader : names[0];
  if (!select.options.length) {
    select.replaceChildren(
      ...names.map((name) => new Option(`${name}${name === data.leader ? " (the leader)" : ""}`, name)),
    );
    select.addEventListener("change", () => {
      state.family = select.value;
      drawFamily();
      keep();
    });
  }
  select.value = state.family;
  const family = data.standings.families[state.family];
  const cells = ({ summary, simultaneous, p, p_holm }) => [
    right(
      summary ? withInterval({ mean: summary.mean, half: summary.half_width, flat: isFlat(summary) }, true) : "–",
    ),
    right(simultaneous === null ? "no interval" : `± ${number(simultaneous)}`),
    right(pText(p)),
    right(pText(p_holm)),
  ];
  const titles = ["score", data.x, data.y].flatMap((name) => [
    right(`Δ ${name}`),
    right("all at once"),
    right("p"),
    right("p, Holm"),
  ]);
  fillTable(
    byId("family-table"),
    ["strategy", right("seeds"), "told apart", ...titles],
    family.map((one) => [
      { text: one.strategy, of: one.strategy },
      right(`${one.seeds.length}`),
      isApart(one) ? "yes" : "no",
      ...cells(one.score),
      ...cells(one.x),
      ...cells(one.y),
    ]),
  );
  const ink = css("--ink");
  fillLegend(byId("family-legend"), [
    ...family.map((one) => [one.strategy, groupLook(one.strategy), one.strategy]),
    ["95 % interval of one comparison alone", { line: "solid", colour: ink }],
    ["of all comparisons at once", { line: "solid", colour: ink, opacity: 0.4 }],
  ]);
  for (const side of ["x", "y"]) drawDifferences(side, family);
  byId("family-note").textContent =
    `Differences of the seeds that both have, each with the setting that is best on all other seeds; mean ± 95 % paired t-interval, widened because settings are chosen. Told apart: the scores differ with p < 0.05 on ${data.least} shared seeds or more. p: two-sided paired t-test, corrected by Holm's method over all ${data.standings.num_pairs} pairs (score), and over both axes of all pairs (the axes). Thin lines and “all at once”: intervals that hold for all of these at once (Bonferroni).`;
}

const pText = (p) => (p === null ? "–" : p < 0.001 ? "<\u00a00.001" : p.toPrecision(2));

function isApart({ seeds, score }) {
  return seeds.length >= data.least && score.p_holm !== null && score.p_holm < data.level;
}

function drawDifferences(side, family) {
  const shown = family.filter((one) => one[side].summary).reverse();
  const place = byId(`family-${side}`);
  place.style.height = `${90 + 26 * shown.length}px`;
  const bars = (width, thickness, of) => ({
    type: "scatter",
    mode: "markers",
    x: shown.map((one) => one[side].summary.mean),
    y: shown.map((one) => plain(one.strategy)),
    error_x: { type: "data", array: shown.map(of), thickness, width, color: css("--ink") },
    hoverinfo: "skip",
    marker: { size: 1, color: css("--ink") },
  });
  draw(
    place,
    [
      bars(0, 0.8, (one) => one[side].simultaneous || 0),
      bars(0, 3, (one) => one[side].summary.half_width || 0),
      {
        type: "scatter",
        mode: "markers",
        x: shown.map((one) => one[side].summary.mean),
        y: shown.map((one) => plain(one.strategy)),
        hovertemplate: "%{y}: %{x:+.3f}<extra></extra>",
        marker: {
          size: 10,
          symbol: shown.map((one) => symbolOf(one.strategy)),
          color: shown.map((one) => colourOf(one.strategy)),
        },
      },
    ],
    {
      margin: { l: 40, r: 12, t: 8, b: 40 },
      xaxis: { ...titled(`difference in ${data[side]}`), zeroline: true, zerolinecolor: css("--ink") },
      yaxis: { type: "category", tickfont: { size: 11 } },
    },
  );
}

function drawCost() {
  const plainRun = data.settings.findIndex(
    ({ outcomeOnly }, s) => outcomeOnly && summaries(data.x, data.y)[s].rows.length,
  );
  const found = summaries(data.x, data.y);
  const sign = data.metrics[metricNumber.get(data.y)].sign;
  const rows = data.standings.standings.map(({ strategy, cost, best }) => {
    const gained = best === null || plainRun < 0 ? null : 100 * sign * (found[best].y.mean - found[plainRun].y.mean);
    const own = best === null ? [] : rowsOf[best].map((row) => data.trials[data.points.trial[row]].hours || 0);
    const each = own.length ? own.reduce((a, b) => a + b, 0) / own.length : 0;
    const all = cost.gpu_hours || cost.cpu_hours;
    const perPoint = (spent) => (gained === null ? "–" : gained < 0.05 ? "nothing kept" : hours(spent / gained));
    return [
      { text: strategy, of: strategy },
      right(`${cost.num_trials}`),
      right(hours(cost.gpu_hours)),
      right(hours(cost.cpu_hours)),
      right(tokens(cost.tokens)),
      right(hours(all / Math.max(1, cost.num_trials))),
      right(gained === null ? "–" : `${gained > 0 ? "+" : ""}${gained.toFixed(1)}`.replace("-", "−")),
      right(perPoint(each)),
      right(perPoint(all)),
    ];
  });
  fillTable(
    byId("cost-table"),
    [
      "strategy",
      right("trials"),
      right("on GPUs"),
      right("on CPUs"),
      right("tokens"),
      right("time a trial"),
      right("points kept"),
      right("a point: one trial"),
      right("a point: all trials"),
    ],
    rows,
  );
}
