// What stands in the trade-off besides the settings: the base models and the front.

/** The base models, each seed once however many trials evaluated it; at the edge where they lie beyond the axes. */
function stars(mx, my, ranges) {
  const [i, j] = [metricNumber.get(mx.name), metricNumber.get(my.name)];
  const bySeed = new Map();
  data.points.trial.forEach((trial, row) => {
    const [x, y] = [data.points.base[i][row], data.points.base[j][row]];
    if (x === null || y === null) return;
    const seed = `${data.trials[trial].model}\n${data.points.seed[row]}`;
    if (!bySeed.has(seed)) bySeed.set(seed, { model: data.trials[trial].model, xs: [], ys: [] });
    bySeed.get(seed).xs.push(x);
    bySeed.get(seed).ys.push(y);
  });
  const average = (values) => values.reduce((a, b) => a + b, 0) / values.length;
  return [...new Set([...bySeed.values()].map(({ model }) => model))].map((model) => {
    const seeds = [...bySeed.values()].filter((one) => one.model === model);
    const [x, y] = [summarise(seeds.map(({ xs }) => average(xs))), summarise(seeds.map(({ ys }) => average(ys)))];
    const [atX, atY] = [inside(x.mean, ranges[0]), inside(y.mean, ranges[1])];
    const outside = [
      ...(atX === x.mean ? [] : [`${x.mean < atX === mx.sign > 0 ? "←" : "→"} ${mx.name} ${number(x.mean)}`]),
      ...(atY === y.mean ? [] : [`${y.mean < atY === my.sign > 0 ? "↓" : "↑"} ${my.name} ${number(y.mean)}`]),
    ];
    const bars = (summary, metric) => ({
      type: "data",
      symmetric: false,
      array: [bar(summary, metric)[1]],
      arrayminus: [bar(summary, metric)[0]],
      color: css("--ink"),
      thickness: 1.1,
      width: 3,
      visible: state.intervals && !outside.length,
    });
    return {
      type: "scatter",
      mode: "markers+text",
      name: "base model",
      x: [atX],
      y: [atY],
      error_x: bars(x, mx),
      error_y: bars(y, my),
      customdata: [null],
      text: [`\u00a0\u00a0${plain(["base model", ...outside].join(" "))}\u00a0\u00a0`],
      textposition: atX === x.mean ? "top center" : x.mean < atX === mx.sign > 0 ? "middle right" : "middle left",
      textfont: { color: css("--ink") },
      hovertext: [
        `<b>base model</b> ${plain(model)}<br>${plain(mx.name)} ${withInterval(x)}<br>${plain(my.name)} ${withInterval(y)}`,
      ],
      hovertemplate: "%{hovertext}<extra></extra>",
      cliponaxis: false,
      marker: {
        symbol: outside.length ? "star-open" : "star",
        size: 16,
        color: css("--ink"),
        line: { width: outside.length ? 1.6 : 1, color: outside.length ? css("--ink") : css("--ground") },
      },
    };
  });
}

/** The value, or the nearest place on the axis that is a little away from its end. */
function inside(value, range) {
  const [low, high] = [Math.min(...range), Math.max(...range)];
  if (value >= low && value <= high) return value;
  const room = 0.02 * (high - low);
  return Math.min(Math.max(value, low + room), high - room);
}

/** The border of what is dominated: no setting is known between two of its corners. */
function frontLine(found, mx, my) {
  const corners = found.filter((one) => one.front).sort((a, b) => mx.sign * (a.x.mean - b.x.mean));
  const [xs, ys] = [[], []];
  corners.forEach((one, i) => {
    if (i) {
      xs.push(corners[i - 1].x.mean);
      ys.push(one.y.mean);
    }
    xs.push(one.x.mean);
    ys.push(one.y.mean);
  });
  return {
    type: "scatter",
    mode: "lines",
    name: "front",
    x: xs,
    y: ys,
    hoverinfo: "skip",
    line: { color: css("--faint"), width: 2, dash: "dot" },
  };
}
