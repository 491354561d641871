// Printing: light colours, every part drawn and no wider than the paper.

let beforePrint = null;

function startPrint() {
  window.addEventListener("beforeprint", () => {
    if (beforePrint !== null) return;
    beforePrint = document.documentElement.dataset.theme;
    document.documentElement.dataset.theme = "light";
    document.documentElement.classList.add("printing");
    drawAgain();
  });
  window.addEventListener("afterprint", () => {
    if (beforePrint === null) return;
    document.documentElement.dataset.theme = beforePrint;
    document.documentElement.classList.remove("printing");
    beforePrint = null;
    drawAgain();
  });
}

/** Draw all parts, also those that were not in sight yet, at the width that there is now. */
function drawAgain() {
  if (opened !== null) {
    openTrial(opened);
    return;
  }
  fillTop();
  fillChips();
  for (const one of parts) {
    one.seen = true;
    one.draw();
  }
  for (const place of document.querySelectorAll(".plot.js-plotly-plot")) Plotly.Plots.resize(place);
}
