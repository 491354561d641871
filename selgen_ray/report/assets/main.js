// Starts the page: which part is shown, the colour scheme, and while a sweep is watched the look for a newer page.

let opened = null;
let leftAt = 0; // where the reader was in the overview
let stale = false; // whether the overview was to be drawn while it could not be seen

async function route() {
  const trial = location.hash.match(/^#trial\/(.+)$/);
  const returning = opened !== null && !trial;
  if (trial && opened === null) leftAt = window.scrollY;
  opened = trial ? decodeURIComponent(trial[1]) : null;
  byId("overview").hidden = Boolean(trial);
  byId("trial").hidden = !trial;
  if (trial) {
    window.scrollTo(0, 0);
    await openTrial(opened);
    return;
  }
  document.title = `${data.title}: report`;
  byId("trial").replaceChildren();
  byId("trial").removeAttribute("data-trial");
  if (stale) redraw();
  stale = false;
  const target = location.hash.length > 1 && byId(location.hash.slice(1));
  if (target) target.scrollIntoView();
  else if (returning) window.scrollTo(0, leftAt);
}

const THEMES = ["", "light", "dark"];

/** The table at the top: marks in the colours of the scheme, names that break where a word ends. */
function fillTop() {
  for (const place of document.querySelectorAll("#top-table [data-mark]"))
    place.replaceChildren(mark(place.dataset.mark));
  for (const place of document.querySelectorAll("#top-table .what, #sentence, #next span"))
    place.replaceChildren(...breakable(place.textContent));
}

function recolour() {
  fillTop();
  fillChips();
  if (opened === null) redraw();
  else openTrial(opened);
  stale = opened !== null;
}

function startTheme() {
  let chosen = chosenTheme();
  const show = () => {
    applyTheme(chosen);
    byId("theme").title = `Colours: ${chosen || "as the system"}`;
  };
  show();
  byId("theme").addEventListener("click", () => {
    chosen = THEMES[(THEMES.indexOf(chosen) + 1) % THEMES.length];
    try {
      localStorage.setItem("selgen-theme", chosen);
    } catch {
      /* kept for this page only */
    }
    show();
    recolour();
  });
  systemIsDark.addEventListener("change", () => {
    show();
    recolour();
  });
}

// A page that is being watched asks a file beside it, by a script element, for its number: that works for file:// too.
window.selgenVersion = (version) => {
  if (version === data.version) return;
  keep();
  location.reload();
};

function watch() {
  const look_ = () => {
    document.getElementById("version")?.remove();
    document.body.append(element("script", { id: "version", src: `version.js?${Date.now()}` }));
  };
  setInterval(() => {
    if (!document.hidden) look_();
  }, 1000 * data.watch);
}

function start() {
  startTheme();
  startPrint();
  fillTop();
  fillAxes();
  fillChips();
  fillCourses();
  listenToTable();
  part("pareto", drawPareto, true);
  part("settings", drawSettings, true);
  part("strategies", () => {
    drawStandings();
    drawFamily();
  });
  part("strengths", drawStrengths);
  part("training", drawCourses);
  part("cost", drawCost);
  part("samples", drawSamples);
  window.addEventListener("hashchange", route);
  window.addEventListener("pagehide", keep);
  route().then(goBack);
  if (data.watch) watch();
  if (data.trials.length <= FEW) whenIdle(drawTheRest);
}

const FEW = 500; // trials; with so few, all parts are drawn once the reader rests, so that printing has them

const whenIdle = (then) => ("requestIdleCallback" in window ? requestIdleCallback(then) : setTimeout(then, 2000));

/** Draw one part after the other that was not in sight yet. */
async function drawTheRest() {
  const one = parts.find(({ seen }) => !seen);
  if (!one || opened !== null) return;
  one.seen = true;
  await one.draw();
  whenIdle(drawTheRest);
}

start();
