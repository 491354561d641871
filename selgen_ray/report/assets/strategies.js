// Strategies against each other: hypervolumes, probabilities, paired differences, costs.

function drawStandings() {
  const table = byId("standings-table");
  if (!table) return;
  const { standings, reference } = data.standings;
  const head = [
    "",
    "strategy",
    right("hypervolume"),
    right("95 %"),
    right("of the possible"),
    right("seeds"),
    right("settings"),
    "best setting",
    right(data.x),
    right(data.y),
  ];
  fillTable(
    table,
    head,
    standings.map((one, i) => {
      const best = one.best === null ? null : summaries(data.x, data.y)[one.best];
      const interval = one.interval
        ? `${number(one.interval[0])} to ${number(one.interval[1])}`
        : one.hypervolume === null
          ? "–"
          : "no interval";
      return [
        right(one.hypervolume === null ? "" : `${i + 1}`),
        { text: one.strategy, of: one.strategy },
        right(number(one.hypervolume)),
        right(interval),
        right(one.share === null ? "–" : `${(100 * one.share).toFixed(1)} %`),
        right(`${one.seeds.length}`),
        right(`${one.settings.length}`),
        {
          text: best ? data.settings[one.best].label.slice(one.strategy.length + 1) || "the only one" : "no point",
          wrap: true,
        },
        right(best ? withInterval(best.x) : "–"),
        right(best ? withInterval(best.y) : "–"),
      ];
    }),
  );
  if (reference) drawBeats();
}

function chance(p) {
  return p === null || p === undefined ? "" : p > 0.99 ? ">.99" : p < 0.01 ? "<.01" : p.toFixed(2).slice(1);
}

function drawBeats() {
  const names = data.standings.standings
    .filter(({ hypervolume }) => hypervolume !== null)
    .map(({ strategy }) => strategy);
  const head = element(
    "tr",
    {},
    element("th"),
    ...names.map((name) => element("th", {}, element("span", { class: "upright" }, name))),
  );
  const body = names.map((a) =>
    element(
      "tr",
      {},
      element("th", {}, element("span", { class: "named" }, mark(a), element("span", {}, a))),
      ...names.map((b) => {
        const p = a === b ? null : data.standings.beats[a][b];
        const cell = element(
          "td",
          { title: a === b || p === null ? null : `P(${a} > ${b}) = ${p.toFixed(3)}` },
          a === b ? "·" : chance(p),
        );
        if (a !== b && p !== null)
          cell.style.background = `color-mix(in srgb, ${p > 0.5 ? "#0072B2" : "#D55E00"} ${Math.round(70 * Math.abs(p - 0.5))}%, transparent)`;
        return cell;
      }),
    ),
  );
  byId("beats-table").replaceChildren(element("thead", {}, head), element("tbody", {}, ...body));
}

function drawFamily() {
  const select = byId("family");
  if (!select) return;
  const names = Object.keys(data.standings.families);
  if (!names.length) return;
  if (!names.includes(state.family)) state.family = names[0];
  if (!select.options.length) {
    select.replaceChildren(
      ...names.map((name) => new Option(`${name}${name === names[0] ? " (the leader)" : ""}`, name)),
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
    right(summary ? withInterval({ mean: summary.mean, half: summary.half_width }, true) : "–"),
    right(simultaneous === null ? "no interval" : `± ${number(simultaneous)}`),
    right(p === null ? "–" : p.toPrecision(2)),
    right(p_holm === null ? "–" : p_holm.toPrecision(2)),
  ];
  const titles = [data.x, data.y].flatMap((name) => [
    right(`Δ ${name}`),
    right("all at once"),
    right("p"),
    right("p, Holm"),
  ]);
  fillTable(
    byId("family-table"),
    ["strategy", right("seeds"), ...titles],
    family.map((one) => [
      { text: one.strategy, of: one.strategy },
      right(`${one.seeds.length}`),
      ...cells(one.x),
      ...cells(one.y),
    ]),
  );
  for (const side of ["x", "y"]) drawDifferences(side, family);
  byId("family-note").textContent =
    `Differences of the seeds that both have; mean ± 95 % paired t-interval. Thin lines and “all at once”: intervals that hold for all ${2 * family.length} comparisons of this table at once (Bonferroni); p: two-sided paired t-test, corrected by Holm's method for ${2 * family.length} comparisons. Fewer than 2 seeds in common: no interval. Looking at several choices above is not corrected for.`;
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
