"""Strength curves: how the metrics of a strategy change with its knobs, on a fitting scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from selgen_ray.report.settings import Setting
from selgen_ray.stats import is_number

Scale = Literal["linear", "log", "even"]
_FACTOR = 8  # from a span of this factor on, factors matter rather than differences


@dataclass(frozen=True)
class Strength:
    """One knob of one strategy.

    Attributes:
        knob: short name, as in Setting.knobs.
        scale: 'linear'; 'log', by factors; 'even', one place after the other, as for names and for factors around 0.
        values: what the knob has, in order; numbers but for names.
        lines: settings (numbers in the report), by ascending value; of one line all other knobs are the same.
    """

    strategy: str
    knob: str
    scale: Scale
    values: tuple[Any, ...]
    lines: tuple[tuple[int, ...], ...]


def strengths(settings: Sequence[Setting]) -> list[Strength]:
    """For each strategy with several settings one curve for each of its knobs, the one with the most values first."""
    found: list[Strength] = []
    for strategy in dict.fromkeys(s.strategy for s in settings):
        own = {i: s for i, s in enumerate(settings) if s.strategy == strategy and (s.x or s.y)}
        knobs = dict.fromkeys(name for s in own.values() for name in s.knobs)
        curves = [curve for knob in knobs if (curve := _strength(strategy, knob, own))]
        found += sorted(curves, key=lambda c: (not _all_numbers(c.values), -len(c.values)))
    return found


def _strength(strategy: str, knob: str, own: dict[int, Setting]) -> Strength | None:
    having = {i: s for i, s in own.items() if s.knobs.get(knob) is not None}
    values = list(dict.fromkeys(s.knobs[knob] for s in having.values() if _is_plain(s.knobs[knob])))
    if len(values) < 2:
        return None
    values.sort(key=lambda v: (not is_number(v), v if is_number(v) else 0, str(v)))
    lines: dict[str, list[int]] = {}
    for i, s in having.items():
        if s.knobs[knob] in values:
            rest = repr({name: value for name, value in s.knobs.items() if name != knob})
            lines.setdefault(rest, []).append(i)
    ordered = (sorted(line, key=lambda i: values.index(having[i].knobs[knob])) for line in lines.values())
    return Strength(strategy, knob, scale_of(values), tuple(values), tuple(tuple(line) for line in ordered))


def scale_of(values: Sequence[Any]) -> Scale:
    """The scale on which values lie apart."""
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
