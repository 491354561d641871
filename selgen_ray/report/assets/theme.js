// The colour scheme, before anything is shown: what the reader chose, else what the system says.
const systemIsDark = matchMedia("(prefers-color-scheme: dark)");

function chosenTheme() {
  try {
    return localStorage.getItem("selgen-theme") || "";
  } catch {
    return ""; // a browser that keeps nothing
  }
}

function applyTheme(chosen) {
  document.documentElement.dataset.theme = chosen || (systemIsDark.matches ? "dark" : "light");
}

applyTheme(chosenTheme());
