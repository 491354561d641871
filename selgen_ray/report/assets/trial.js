// A trial's own page, at #trial/<id>; and sample answers side by side.

function values(pairs) {
  return element(
    "dl",
    {},
    ...pairs.flatMap(([name, text]) => [
      element("dt", {}, name),
      element("dd", {}, typeof text === "string" ? text : JSON.stringify(text)),
    ]),
  );
}

const shown = (value) =>
  value === undefined || value === null ? "–" : typeof value === "string" ? value : JSON.stringify(value);

async function openTrial(id) {
  const place = byId("trial");
  const number_ = trialNumber.get(id);
  const back = element("p", {}, element("a", { href: "#" }, "← all trials"));
  if (number_ === undefined) {
    place.replaceChildren(back, element("p", {}, `There is no trial ${id} in this report.`));
    return;
  }
  const trial = data.trials[number_];
  const found = await details(number_);
  const siblings = data.trials.filter((other) => other.setting === trial.setting);
  const seeds = element(
    "p",
    { class: "controls" },
    "seeds of this setting: ",
    ...siblings.map((other) =>
      other === trial
        ? element("b", {}, `${other.seed}`)
        : element("a", { href: `#trial/${other.id}` }, `${other.seed}`),
    ),
  );
  const diff = element("table");
  fillTable(
    diff,
    ["key", "the sweep's base", "this trial"],
    found.diff.map(([key, base, own]) => [
      { text: key, wrap: true },
      { text: shown(base), wrap: true },
      { text: shown(own), wrap: true },
    ]),
  );
  const grids = ["losses", "metrics", "evals"].map((kind) => element("div", { class: "grid", id: `trial-${kind}` }));
  const doubts = [...found.flags, ...Object.entries(found.missing).map(([name, why]) => `${name} is missing: ${why}`)];
  place.replaceChildren(
    back,
    element("h1", {}, mark(trial.strategy), " ", data.settings[trial.setting].label, `, seed ${trial.seed}`),
    element(
      "p",
      { class: "counts" },
      element("span", { class: `count ${trial.status}` }, trial.status),
      element("span", { class: "quiet" }, trial.name),
    ),
    found.error ? element("pre", {}, found.error) : "",
    siblings.length > 1 ? seeds : "",
    doubts.length ? element("ul", {}, ...doubts.map((text) => element("li", { class: "bad" }, text))) : "",
    element("h2", {}, "Results"),
    trialTable(number_, found),
    element("h2", {}, "Config, where it differs from the sweep's base"),
    found.diff.length ? element("div", { class: "scroll" }, diff) : element("p", {}, "It differs in nothing."),
    element("details", {}, element("summary", {}, "the whole config"), values(wholeConfig(found))),
    element("h2", {}, "Losses"),
    ownLegend(trial),
    grids[0],
    element("h2", {}, "What the strategy logged"),
    ownLegend(trial),
    grids[1],
    element("h2", {}, "Evaluations"),
    ownLegend(trial),
    grids[2],
    element("h2", {}, "Checkpoints, time, data"),
    values(Object.entries(found.facts).filter(([, text]) => text !== "")),
    element("h2", {}, "Made with"),
    values([...Object.entries(found.hardware), ...Object.entries(found.versions)]),
    element("h2", {}, "Events"),
    eventTable(found.events),
    element("h2", {}, "Answers"),
    element("div", {}, ...trialSamples(found)),
  );
  document.title = `${data.settings[trial.setting].label}, seed ${trial.seed}`;
  drawTrial(trial, found, grids);
  place.dataset.trial = id;
}

function ownLegend(trial) {
  const place = element("ul", { class: "legend" });
  const label = `${data.settings[trial.setting].label}, seed ${trial.seed}`;
  fillLegend(place, [[label, { ...groupLook(trial.strategy), line: "solid" }, trial.strategy]]);
  return place;
}

/** Every key with its value: what the sweep's trials share, less what this one has no such key for, and its own. */
function wholeConfig(found) {
  const own = { ...data.base, ...Object.fromEntries(found.diff.map(([key, , value]) => [key, value])) };
  for (const key of found.lacks) delete own[key];
  return Object.entries(own).sort(([a], [b]) => (a < b ? -1 : 1));
}

function trialTable(n, found) {
  const table = element("table");
  const last = (name) => found.evals.of[name]?.at(-1);
  const headlines = Object.values(data.trials[n].headlines);
  const names = Object.keys(found.evals.of);
  const inOrder = [...names.filter((one) => headlines.includes(one)), ...names.filter((one) => !headlines.includes(one))];
  fillTable(
    table,
    ["metric", right("before training"), right("at the end")],
    inOrder.map((name) => {
      const headline = Object.entries(data.trials[n].headlines).find(([, own]) => own === name);
      return [
        { text: headline ? `${headline[0]}: ${name}` : name, wrap: true },
        right(number(found.evals.of[name][0])),
        right(found.evals.epochs.length > 1 ? number(last(name)) : "–"),
      ];
    }),
  );
  return element("div", { class: "scroll" }, table);
}

function eventTable(events) {
  if (!events.length) return element("p", { class: "quiet" }, "none is known");
  const table = element("table");
  fillTable(
    table,
    ["at (UTC)", "event", ""],
    events.map(({ at, event, trial, ...rest }) => [
      at || "",
      event || "",
      {
        text: Object.entries(rest)
          .map(([name, value]) => `${name}: ${shown(value)}`)
          .join(", "),
        wrap: true,
      },
    ]),
  );
  return element("div", { class: "scroll" }, table);
}

function drawTrial(trial, found, [losses, metrics, evals]) {
  const setting = data.settings[trial.setting];
  const course = { setting, dash: "solid", seeds: [{ found }] };
  drawTerms(losses, [course], "losses", false);
  drawTerms(metrics, [course], "metrics", false);
  const names = Object.keys(found.evals.of);
  const own = found.evals.versions.map((version, i) => i).filter((i) => found.evals.versions[i] === "");
  small(evals, "evals", names.length).forEach((place, k) => {
    const series = found.evals.of[names[k]];
    draw(
      place,
      [
        {
          type: "scatter",
          mode: "lines+markers",
          x: own.map((i) => found.evals.epochs[i]),
          y: own.map((i) => series[i]),
          line: { color: colourOf(trial.strategy) },
          marker: { color: colourOf(trial.strategy), symbol: symbolOf(trial.strategy) },
          hovertemplate: "after %{x} epochs: %{y:.4g}<extra></extra>",
        },
      ],
      {
        title: { text: plain(names[k]), font: { size: 12 }, x: 0.02 },
        margin: { l: 50, r: 10, t: 32, b: 40 },
        xaxis: titled("epochs"),
      },
    );
  });
}

function trialSamples(found) {
  if (found.samples === null)
    return [
      element("p", { class: "quiet" }, "Left out to keep this page small; they are in the trial's results.json."),
    ];
  const sets = Object.entries(found.samples);
  if (!sets.length) return [element("p", { class: "quiet" }, "none were kept")];
  return sets.map(([name, samples]) =>
    element(
      "details",
      {},
      element("summary", {}, `${name} (${samples.length})`),
      ...samples.map((one) =>
        sampleCard(one, [
          ["base model", one.base_reply],
          ["this trial", one.reply],
        ]),
      ),
    ),
  );
}

function sampleCard(sample, replies) {
  const scores = Object.entries(sample).filter(([name]) => !["prompt", "reply", "base_reply", "answer"].includes(name));
  return element(
    "div",
    { class: "sample" },
    element(
      "div",
      { class: "ask" },
      element("div", { class: "text" }, shown(sample.prompt)),
      sample.answer === undefined ? null : element("div", { class: "quiet" }, `right: ${sample.answer}`),
      scores.length
        ? element("div", { class: "quiet" }, scores.map(([name, value]) => `${name}: ${shown(value)}`).join(", "))
        : null,
    ),
    element(
      "div",
      { class: "replies" },
      ...replies.map(([who, text]) =>
        element(
          "div",
          {},
          element("h4", {}, who),
          element("div", { class: "text" }, text === null || text === undefined ? "–" : String(text)),
        ),
      ),
    ),
  );
}

// -- side by side

async function drawSamples() {
  const list = byId("sample-list");
  const chosen = await Promise.all(
    data.sample_trials.map(async (one) => ({ ...one, samples: (await details(one.trial)).samples || {} })),
  );
  const sets = [...new Set(chosen.flatMap(({ samples }) => Object.keys(samples)))];
  const select = byId("sample-set");
  if (!sets.length) {
    select.parentElement.hidden = true;
    list.replaceChildren(element("p", { class: "quiet" }, "No trial kept answers."));
    return;
  }
  if (!sets.includes(state.set)) state.set = sets.find((name) => name.startsWith("align_test")) || sets[0];
  if (!select.options.length) {
    select.replaceChildren(...sets.map((name) => new Option(name, name)));
    select.addEventListener("change", () => {
      state.set = select.value;
      keep();
      drawSamples();
    });
  }
  select.value = state.set;
  byId("sample-who").textContent = chosen.map(({ label, seed }) => `${label}, seed ${seed}`).join("; ");
  const byPrompt = new Map();
  for (const { label, samples } of chosen) {
    for (const sample of samples[state.set] || []) {
      if (!byPrompt.has(sample.prompt))
        byPrompt.set(sample.prompt, { sample, replies: [["base model", sample.base_reply]] });
      byPrompt.get(sample.prompt).replies.push([label, sample.reply]);
    }
  }
  const most = [...byPrompt.values()].sort((a, b) => b.replies.length - a.replies.length).slice(0, 12);
  list.replaceChildren(
    ...most.map(({ sample, replies }) => sampleCard({ prompt: sample.prompt, answer: sample.answer }, replies)),
  );
  list.dataset.drawn = state.set;
}
