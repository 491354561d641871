"""A strategy's colour and mark, the same in every picture."""

from __future__ import annotations

import colorsys
import hashlib

from selgen_ray.report.settings import STRATEGIES

# searched for the largest smallest difference (CIE76 15) between any two, with normal sight and without red, green
# or blue cones; the marker is a second sign
COLOURS = (
    *("#4D4D4D", "#0072B2", "#D55E00", "#33BBEE", "#EE3377", "#00429D"),
    *("#B66DFF", "#CCBB44", "#B15928", "#920000", "#EE8866", "#CC79A7"),
)
# of the same hues, searched likewise (CIE76 19) for a dark ground, each with a contrast of at least 3.2 to it
DARK_COLOURS = (
    *("#BBBBBB", "#AFD0F3", "#FF9D09", "#0BB3F0", "#EF5781", "#0070D1"),
    *("#8B33FF", "#F7F3D2", "#B57F4E", "#D2290E", "#FABF92", "#C04B98"),
)
_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<", ">", "p", "h", "d")
_SYMBOLS = (
    *("circle", "square", "diamond", "triangle-up", "triangle-down", "cross"),
    *("x", "triangle-left", "triangle-right", "pentagon", "hexagon", "diamond-tall"),
)


def colour_of(strategy: str) -> str:
    """On a light ground; of an unknown name by its hash."""
    return COLOURS[STRATEGIES.index(strategy)] if strategy in STRATEGIES else _hashed(strategy, 0.35, 0.2)


def dark_colour_of(strategy: str) -> str:
    """On a dark ground; of an unknown name by its hash, of the hue that it has on a light one."""
    return DARK_COLOURS[STRATEGIES.index(strategy)] if strategy in STRATEGIES else _hashed(strategy, 0.6, 0.15)


def marker_of(strategy: str) -> str:
    """For matplotlib; of an unknown name by its hash."""
    return _MARKERS[_number(strategy)]


def symbol_of(strategy: str) -> str:
    """The same marker for plotly."""
    return _SYMBOLS[_number(strategy)]


def _number(strategy: str) -> int:
    if strategy in STRATEGIES:
        return STRATEGIES.index(strategy)
    return hashlib.sha256(strategy.encode()).digest()[2] % len(_MARKERS)


def _hashed(strategy: str, lightness: float, more: float) -> str:
    hashed = hashlib.sha256(strategy.encode()).digest()
    rgb = colorsys.hls_to_rgb(hashed[0] / 256, lightness + more * hashed[1] / 256, 0.65)
    return "#" + "".join(f"{round(255 * part):02X}" for part in rgb)
