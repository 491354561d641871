"""The colour and the marker of each strategy and control, the same in every picture."""

from __future__ import annotations

import colorsys
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from selgen_ray.report.roles import TASK_ALONE, Kind, Role
from selgen_ray.report.settings import STRATEGIES

# found by a search that maximises the smallest difference between any two (CIE76, 15), for normal sight and for each
# of the three kinds of colour blindness; the marker tells strategies apart a second time
COLOURS = (
    *("#4D4D4D", "#0072B2", "#D55E00", "#33BBEE", "#EE3377", "#00429D"),
    *("#B66DFF", "#CCBB44", "#B15928", "#920000", "#EE8866", "#CC79A7"),
)
# the same hues for a dark background, found likewise (CIE76, 19), each with a contrast of at least 3.2 to it
DARK_COLOURS = (
    *("#BBBBBB", "#AFD0F3", "#FF9D09", "#0BB3F0", "#EF5781", "#0070D1"),
    *("#8B33FF", "#F7F3D2", "#B57F4E", "#D2290E", "#FABF92", "#C04B98"),
)
_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<", ">", "p", "h", "d")
_SYMBOLS = (
    *("circle", "square", "diamond", "triangle-up", "triangle-down", "cross"),
    *("x", "triangle-left", "triangle-right", "pentagon", "hexagon", "diamond-tall"),
)
_SHIFT = 5

# of controls: dark green for the task alone, violets for named ones (CIE76, 15 from each other and all above)
CONTROL_COLOURS = (("#1E5A32", "#32FA5A"), ("#7800F0", "#5A6E50"), ("#3C0050", "#BEAA50"), ("#783278", "#BEFA00"))
INK = "#222222"


def _path(*points: tuple[float, float]) -> Any:
    return [*points, points[0]]


_CONTROL_MARKS: tuple[tuple[Any, str], ...] = (
    (_path((-1, -1), (1, -1), (-1, 1), (1, 1)), "hourglass"),
    (_path((-1, -1), (-1, 1), (1, -1), (1, 1)), "bowtie"),
    ((6, 1, 0), "hexagram"),
    ((4, 1, 45), "star-square"),
)


@dataclass(frozen=True)
class Look:
    """How a role is drawn, the same in every picture.

    Attributes:
        colour, dark: on a light and on a dark background.
        marker: for matplotlib.
        symbol: the same for plotly.
        size: factor of a marker's size: the outline of some fills less of it.
    """

    colour: str
    dark: str
    marker: Any
    symbol: str
    size: float = 1.0


def looks(roles: Iterable[Role]) -> dict[str, Look]:
    """Return the look of each role, by its name; named controls are numbered by name."""
    roles = list(roles)
    controls = sorted({role.name for role in roles if role.kind is Kind.CONTROL})
    numbers = {TASK_ALONE: 0} | {name: 1 + i % (len(_CONTROL_MARKS) - 1) for i, name in enumerate(controls)}
    return {
        role.name: _control_look(numbers[role.name]) if role.is_control else look_of(role.name)
        for role in dict.fromkeys(roles)
    }


def _control_look(number: int) -> Look:
    return Look(*CONTROL_COLOURS[number], *_CONTROL_MARKS[number], size=1.25)


def look_of(strategy: str) -> Look:
    """Return the look of a strategy; one that is not shipped has one by the hash of its name."""
    return Look(colour_of(strategy), dark_colour_of(strategy), marker_of(strategy), symbol_of(strategy))


def colour_of(strategy: str) -> str:
    """Return a strategy's colour on a light background, '#0072B2'; an unknown name gets one by its hash."""
    known = strategy in STRATEGIES
    return COLOURS[STRATEGIES.index(strategy) % len(COLOURS)] if known else _hashed(strategy, 0.35, 0.2)


def dark_colour_of(strategy: str) -> str:
    """Return a strategy's colour on a dark background; an unknown name keeps the hue it has on a light one."""
    known = strategy in STRATEGIES
    return DARK_COLOURS[STRATEGIES.index(strategy) % len(COLOURS)] if known else _hashed(strategy, 0.6, 0.15)


def marker_of(strategy: str) -> str:
    """Return a strategy's marker for matplotlib; an unknown name gets one by its hash."""
    return _MARKERS[_number(strategy)]


def symbol_of(strategy: str) -> str:
    """Return a strategy's marker for plotly, the one of `marker_of`."""
    return _SYMBOLS[_number(strategy)]


def _number(strategy: str) -> int:
    if strategy in STRATEGIES:
        # more strategies than colours: the next round has each colour again, with another marker
        turn, number = divmod(STRATEGIES.index(strategy), len(COLOURS))
        return (number + _SHIFT * turn) % len(_MARKERS)
    return hashlib.sha256(strategy.encode()).digest()[2] % len(_MARKERS)


def _hashed(strategy: str, lightness: float, more: float) -> str:
    hashed = hashlib.sha256(strategy.encode()).digest()
    rgb = colorsys.hls_to_rgb(hashed[0] / 256, lightness + more * hashed[1] / 256, 0.65)
    return "#" + "".join(f"{round(255 * part):02X}" for part in rgb)
