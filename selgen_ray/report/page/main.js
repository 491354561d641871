// Starts the page: which part is shown, the colour scheme, and while a sweep is watched the look for a newer page.

let opened = null;

async function route() {
  const trial = location.hash.match(/^#trial\/(.+)$/);
  byId("overview").hidden = Boolean(trial);
  byId("trial").hidden = !trial;
  if (trial) {
    opened = decodeURIComponent(trial[1]);
    window.scrollTo(0, 0);
    await openTrial(opened);
  } else {
    opened = null;
    document.title = `${data.title}: report`;
    byId("trial").replaceChildren();
    const target = location.hash.length > 1 && byId(location.hash.slice(1));
    if (target) target.scrollIntoView();
  }
}

const THEMES = ["", "light", "dark"];

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  try { localStorage.setItem("selgen-theme", theme); } catch { /* kept for this page only */ }
}

function recolour() {
  fillChips();
  redraw();
  if (opened) openTrial(opened);
}

function startTheme() {
  try { setTheme(localStorage.getItem("selgen-theme") || ""); } catch { /* as the system */ }
  byId("theme").addEventListener("click", () => {
    setTheme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme || "") + 1) % THEMES.length]);
    recolour();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
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
  setInterval(() => { if (!document.hidden) look_(); }, 1000 * data.watch);
}

function start() {
  startTheme();
  fillAxes();
  fillChips();
  fillCourses();
  listenToTable();
  part("pareto", drawPareto);
  part("settings", drawSettings);
  part("strategies", () => { drawStandings(); drawFamily(); });
  part("strengths", drawStrengths);
  part("training", drawCourses);
  part("cost", drawCost);
  part("samples", drawSamples);
  window.addEventListener("hashchange", route);
  window.addEventListener("pagehide", keep);
  const kept = (() => { try { return JSON.parse(sessionStorage.getItem(memory) || "{}").scroll; } catch { return 0; } })();
  route().then(() => { if (kept && !location.hash) window.scrollTo(0, kept); });
  if (data.watch) watch();
}

start();
