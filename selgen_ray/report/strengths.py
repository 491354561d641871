"""Strength curves: which settings show how the metrics of a strategy change with one knob, and on which scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from selgen_ray.report.settings import Setting
from selgen_ray.stats import is_number

Scale = Literal["linear", "log", "even"]
_FACTOR = 8  # from such a ratio of the largest to the smallest value on, the scale is not linear


@dataclass(frozen=True)
class Strength:
    """The strength curve of one knob of one strategy.

    Attributes:
        knob: short name, as in `Setting.knobs`.
        scale: 'linear'; 'log'; 'even': equally spaced, for names, and for values that span factors but are not all
            positive.
        values: the values of the knob, ascending; names come after numbers.
        lines: each line holds settings as indices into `Report.settings`, by ascending value; within a line all other
            knobs are the same.
    """

    strategy: str
    knob: str
    scale: Scale
    values: tuple[Any, ...]
    lines: tuple[tuple[int, ...], ...]


def strengths(settings: Sequence[Setting]) -> list[Strength]:
    """Return a curve for each knob with several values of each strategy.

    Of a strategy, knobs with numbers come first, then the knobs with the most values.
    """
    all_curves: list[Strength] = []
    for strategy in dict.fromkeys(s.strategy for s in settings):
        by_index = {i: s for i, s in enumerate(settings) if s.strategy == strategy and (s.x or s.y)}
        knobs = dict.fromkeys(name for s in by_index.values() for name in s.knobs)
        curves = [curve for knob in knobs if (curve := _strength(strategy, knob, by_index))]
        all_curves += sorted(curves, key=lambda c: (not _all_numbers(c.values), -len(c.values)))
    return all_curves


def _strength(strategy: str, knob: str, by_index: dict[int, Setting]) -> Strength | None:
    having = {i: s for i, s in by_index.items() if s.knobs.get(knob) is not None}
    values = list(dict.fromkeys(s.knobs[knob] for s in having.values() if _is_plain(s.knobs[knob])))
    if len(values) < 2:
        return None
    values.sort(key=lambda v: (not is_number(v), v if is_number(v) else 0, str(v)))
    lines: dict[str, list[int]] = {}
    for i, s in having.items():
        if s.knobs[knob] in values:
            other_knobs = repr({name: value for name, value in s.knobs.items() if name != knob})
            lines.setdefault(other_knobs, []).append(i)
    ordered = (sorted(line, key=lambda i: values.index(having[i].knobs[knob])) for line in lines.values())
    return Strength(strategy, knob, scale_of(values), tuple(values), tuple(tuple(line) for line in ordered))


def scale_of(values: Sequence[Any]) -> Scale:
    """Return the scale on which values are easily told apart."""
    if not _all_numbers(values):
        return "even"
    sizes = [abs(v) for v in values if v]
    wide = bool(sizes) and max(sizes) >= _FACTOR * min(sizes)
    if not wide:
        return "linear"
    return "log" if min(values) > 0 else "even"


def _all_numbers(values: Sequence[Any]) -> bool:
    return all(map(is_number, values))


def _is_plain(value: Any) -> bool:
    return isinstance(value, int | float | str)
