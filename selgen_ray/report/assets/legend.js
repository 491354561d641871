// Legends: what each colour, mark and line of a plot stands for. They are text of the page, so that they fit any width,
// print, and are read aloud.

/** A small picture of a mark or a line. Every part may be missing: symbol, colour, hollow, size, opacity, line, edge. */
function swatch({ symbol, colour = css("--ink"), hollow = false, size = 1, opacity = 1, line, edge }) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const wide = line ? 13 : 7;
  svg.setAttribute("viewBox", `${-wide} -7 ${2 * wide} 14`);
  svg.setAttribute("class", line ? "swatch line" : "swatch");
  svg.setAttribute("aria-hidden", "true");
  const part = (d, attributes) => {
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", d);
    for (const [name, value] of Object.entries(attributes)) path.setAttribute(name, value);
    svg.append(path);
  };
  if (line) {
    const dash = { dot: "2 2", dash: "6 3", dashdot: "6 2 2 2", longdash: "9 3", longdashdot: "9 2 2 2" }[line] || "none";
    part("M-13 0H13", { stroke: colour, "stroke-width": 1.6, "stroke-dasharray": dash, opacity });
  }
  if (symbol) {
    const thin = ["x-thin", "bar"].includes(symbol);
    part(shapes[symbol] || shapes.circle, {
      fill: hollow || thin ? "none" : colour,
      stroke: edge || (hollow || thin ? colour : "none"),
      "stroke-width": 1.5,
      opacity,
      transform: `scale(${size})`,
    });
  }
  return svg;
}

/** Fill a legend with entries: [text, swatch] or [text, swatch, group], the group for tests and styles. */
function fillLegend(place, entries) {
  place.replaceChildren(
    ...entries.map(([text, look, group]) =>
      element("li", { "data-group": group || null }, swatch(look), element("span", {}, text)),
    ),
  );
}

const groupLook = (group) => ({ symbol: symbolOf(group), colour: colourOf(group) });
