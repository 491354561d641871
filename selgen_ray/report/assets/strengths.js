// Metrics against the strength of each strategy.

const knobChosen = {};

function drawStrengths() {
  const strategies = Object.keys(data.strategies).filter(
    (name) => !state.hidden.includes(name) && data.strengths.some((one) => one.strategy === name),
  );
  const several = strategies.filter((name) => data.strengths.filter((one) => one.strategy === name).length > 1);
  byId("strength-controls").replaceChildren(
    ...several.map((name) => {
      const curves = data.strengths.filter((one) => one.strategy === name);
      const select = element(
        "select",
        {
          onchange: (event) => {
            knobChosen[name] = event.target.value;
            drawStrengths();
          },
        },
        ...curves.map(({ knob }) => new Option(knob, knob)),
      );
      select.value = knobChosen[name] || curves[0].knob;
      return element("label", {}, `${name} by `, select);
    }),
  );
  const grey = css("--quiet");
  fillLegend(byId("strength-legend"), [
    [data.metrics[metricNumber.get(state.y)].name, { symbol: "circle", line: "solid", colour: grey }],
    [data.metrics[metricNumber.get(state.x)].name, { symbol: "circle", hollow: true, line: "dot", colour: grey }],
    ["95 % t-interval over seeds", { symbol: "bar", colour: grey }],
    ...strategies.map((name) => [name, groupLook(name), name]),
  ]);
  const places = small(byId("strength-plots"), "strength", strategies.length);
  strategies.forEach((name, i) =>
    drawStrength(
      places[i],
      data.strengths.find((one) => one.strategy === name && one.knob === (knobChosen[name] || one.knob)),
    ),
  );
}

function drawStrength(place, curve) {
  const found = summaries();
  const even = curve.scale === "even";
  const several = curve.lines.length > 1 && curve.lines.length <= 4; // then each says at its end what it holds apart
  const traces = [
    ["x", true],
    ["y", false],
  ].flatMap(([side, hollow]) =>
    curve.lines.map((line, n) => {
      const own = line.map((s, k) => [s, curve.at[n][k]]).filter(([s]) => found[s][side]);
      const metric = data.metrics[metricNumber.get(state[side])];
      const ends = own.map(([s]) => bar(found[s][side], metric));
      const marks = curve.lines.length > 12 || !curve.joined ? "markers" : "lines+markers";
      return {
        type: "scatter",
        mode: several && !hollow ? `${marks}+text` : marks,
        name: `${curve.strategy} ${metric.name}`,
        x: own.map(([, at]) => (even ? at : curve.values[at])),
        y: own.map(([s]) => found[s][side].mean),
        customdata: own.map(([s]) => data.points.trial[rowsOf[s][0]]),
        text: own.map((_, k) => (k === own.length - 1 ? plain(curve.others[n]) : "")),
        textposition: "top left",
        textfont: { size: 10 },
        hovertemplate: "%{hovertext}<extra></extra>",
        hovertext: own.map(
          ([s]) =>
            `<b>${plain(data.settings[s].label)}</b><br>${plain(state[side])} ${withInterval(found[s][side])}<br>${found[s][side].n === 1 ? "one seed: no interval" : `${found[s][side].n} seeds`}`,
        ),
        line: { color: colourOf(curve.strategy), width: 1.6, dash: hollow ? "dot" : "solid" },
        marker: {
          color: colourOf(curve.strategy),
          symbol: symbolOf(curve.strategy) + (hollow ? "-open" : ""),
          size: 8,
        },
        error_y: {
          type: "data",
          symmetric: false,
          array: ends.map((e) => e[1]),
          arrayminus: ends.map((e) => e[0]),
          thickness: 1,
          width: 3,
          color: colourOf(curve.strategy),
        },
      };
    }),
  );
  const share = ["x", "y"].every((side) => data.metrics[metricNumber.get(state[side])].share); // then all have one scale
  const range = even ? { range: [-0.5, curve.values.length - 0.5] } : {};
  const most = even ? curve.values.length : 12;
  const ticks =
    curve.scale === "linear" || curve.values.length > 12
      ? {}
      : {
          tickvals: (even ? curve.values.map((_, i) => i) : curve.values).slice(0, most),
          ticktext: curve.texts.slice(0, most).map(plain),
        };
  const sign =
    data.settings[curve.lines[0][0]].signs.find((one) => one === curve.knob || one.endsWith(`: ${curve.knob}`)) ||
    curve.knob;
  draw(place, traces, {
    title: { text: plain(curve.strategy), font: { size: 13 }, x: 0.02 },
    margin: { l: 46, r: 10, t: 32, b: 44 },
    xaxis: { ...titled(sign), type: curve.scale === "log" ? "log" : "linear", ...ticks, ...range },
    yaxis: share ? { range: [-0.02, 1.04] } : {},
  });
}
