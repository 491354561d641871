// What every part of the page needs: the data, means over seeds, texts, colours, unpacking. Text from results goes into
// the page by textContent alone, and into pictures through `plain`: it is data of strangers and must stay text.
const data = JSON.parse(document.getElementById("data").textContent);
const metricNumber = new Map(data.metrics.map((metric, i) => [metric.name, i]));
const rowsOf = data.settings.map(() => []);
data.points.setting.forEach((setting, row) => rowsOf[setting].push(row));
const trialNumber = new Map(data.trials.map((trial, i) => [trial.id, i]));
const settingsOf = new Map();
data.points.trial.forEach((trial, row) => {
  if (!settingsOf.has(trial)) settingsOf.set(trial, []);
  settingsOf.get(trial).push(data.points.setting[row]);
});

const state = {
  x: data.x,
  y: data.y,
  hidden: [],
  filter: "",
  front: false,
  sort: null,
  family: null,
  course: "",
  set: null,
  seeds: true,
  intervals: true,
  dominated: true,
  near: false,
  base: false,
};
const memory = "selgen-report:" + location.pathname;
let kept = {};
try {
  kept = JSON.parse(sessionStorage.getItem(memory) || "{}");
  for (const key of Object.keys(state)) if (key in kept) state[key] = kept[key];
} catch {
  /* a browser that keeps nothing starts afresh */
}
if (!metricNumber.has(state.x)) state.x = data.x;
if (!metricNumber.has(state.y)) state.y = data.y;

function keep() {
  try {
    const seen = parts.filter((one) => one.seen).map(({ place }) => place.id);
    sessionStorage.setItem(memory, JSON.stringify({ ...state, scroll: window.scrollY, seen }));
  } catch {
    /* as above */
  }
}

// -- elements and texts

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const byId = (id) => document.getElementById(id);
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

function number(value, signed = false) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const text =
    size !== 0 && (size < 0.0001 || size >= 10000)
      ? value.toExponential(2)
      : value.toFixed(size >= 100 ? 1 : size < 0.001 && size ? 4 : 3);
  return (signed && value > 0 ? "+" : "") + text.replace("-", "−");
}

function withInterval(summary, signed = false) {
  if (!summary) return "–";
  if (summary.half === null) return number(summary.mean, signed);
  return number(summary.mean, signed) + (summary.flat ? ", no spread" : ` ±\u00a0${number(summary.half)}`);
}

function hours(value) {
  if (!value) return "–";
  return value >= 1
    ? `${value.toFixed(1)} h`
    : value >= 1 / 60
      ? `${(value * 60).toFixed(1)} min`
      : `${(value * 3600).toFixed(1)} s`;
}

function tokens(count) {
  if (!count) return "–";
  return count >= 1e9
    ? `${(count / 1e9).toFixed(2)} G`
    : count >= 1e6
      ? `${(count / 1e6).toFixed(2)} M`
      : count >= 1e3
        ? `${(count / 1e3).toFixed(1)} k`
        : `${count}`;
}

// -- means over seeds: as selgen_ray/stats/summaries.py says, with its quantiles of Student's t

function summarise(values) {
  const n = values.length;
  if (!n) return null;
  const mean = values.reduce((a, b) => a + b, 0) / n;
  if (n === 1) return { n, mean, half: null, flat: false };
  const variance = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (n - 1);
  const flat = Math.sqrt(variance) <= 1e-9 * Math.abs(mean); // all seeds are equal: no spread was seen
  return { n, mean, half: (data.t[n] * Math.sqrt(variance)) / Math.sqrt(n), flat };
}

const known = new Map();

/** What each setting reaches on two axes, over the completed trials that have both; and which means are on the front. */
function summaries(x = state.x, y = state.y) {
  const key = `${x}\n${y}`;
  if (known.has(key)) return known.get(key);
  const [i, j] = [metricNumber.get(x), metricNumber.get(y)];
  const [xs, ys, x0, y0] = [data.points.values[i], data.points.values[j], data.points.base[i], data.points.base[j]];
  const change = (rows, after, before) =>
    summarise(rows.filter((row) => after[row] !== null && before[row] !== null).map((row) => after[row] - before[row]));
  const values = (rows, column) => summarise(rows.map((row) => column[row]).filter((value) => value !== null));
  const found = data.settings.map((setting, s) => {
    const both = rowsOf[s].filter((row) => xs[row] !== null && ys[row] !== null);
    const rows = both.length ? both : rowsOf[s];
    return {
      x: values(rows, xs),
      y: values(rows, ys),
      dx: change(rows, xs, x0),
      dy: change(rows, ys, y0),
      rows: both,
      front: false,
    };
  });
  if (x === data.x && y === data.y) data.settings.forEach(({ onFront }, s) => (found[s].front = onFront));
  else markFront(found, data.metrics[i].sign, data.metrics[j].sign);
  known.set(key, found);
  return found;
}

/**
 * Mark the front; a setting that lacks one of its planned seeds, or is a named control, is never on it. Means are
 * compared as far as they are exact: seeds in another order, summed up, differ in the last digit.
 */
function markFront(found, signX, signY) {
  const exact = (summary) => (summary ? Number(summary.mean.toPrecision(12)) : null);
  const drawn = found
    .map((one, s) => ({ one, s, x: exact(one.x), y: exact(one.y) }))
    .filter(({ one, s }) => one.rows.length === data.settings[s].numTrials && !data.settings[s].failures.length)
    .filter(({ s }) => !data.settings[s].offFront)
    .sort((a, b) => signX * (b.x - a.x) || signY * (b.y - a.y));
  let best = null;
  for (const here of drawn) {
    if (best === null || signY * (here.y - best.y) > 0 || (here.x === best.x && here.y === best.y)) {
      here.one.front = true;
      best = here;
    }
  }
}

/** The interval as far as the quantity goes: shares end at 0 and 1 in pictures, though not in tables. */
function bar(summary, metric) {
  if (!summary || summary.half === null) return [0, 0];
  const low = metric.share ? Math.max(0, summary.mean - summary.half) : summary.mean - summary.half;
  const high = metric.share ? Math.min(1, summary.mean + summary.half) : summary.mean + summary.half;
  return [Math.max(0, summary.mean - low), Math.max(0, high - summary.mean)];
}

// -- details of trials, unpacked when somebody looks

const groups = new Map();

function group(n) {
  if (!groups.has(n)) groups.set(n, unpack(byId(`group-${n}`).textContent));
  return groups.get(n);
}

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

async function details(trial) {
  const { group: n, place } = data.trials[trial];
  return (await group(n))[place];
}

// -- parts of the page, drawn when they come into sight and again when what they show changes

const parts = [];

function part(id, drawIt, atOnce = false) {
  const one = { place: byId(id), draw: drawIt, seen: atOnce };
  parts.push(one);
  if (atOnce) one.draw();
  else sight.observe(one.place);
}

const sight = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      const one = parts.find(({ place }) => place === entry.target);
      if (entry.isIntersecting && one && !one.seen) {
        one.seen = true;
        one.draw();
      }
    }
  },
  { rootMargin: "400px" },
);

/** Draw what was drawn before a reload, so that the page is as high as it was, and go where the reader was. */
async function goBack() {
  const again = parts.filter(({ place, seen }) => !seen && (kept.seen || []).includes(place.id));
  await Promise.all(
    again.map((one) => {
      one.seen = true;
      return one.draw();
    }),
  );
  if (kept.scroll && !location.hash) window.scrollTo(0, kept.scroll);
}

function redraw() {
  keep();
  for (const one of parts) if (one.seen) one.draw();
}
