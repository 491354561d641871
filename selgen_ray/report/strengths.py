"""Strength curves: which settings show how the metrics of a strategy change with one knob, and on which scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from selgen_ray.report.knob_names import knob_texts, word_of
from selgen_ray.report.settings import Setting
from selgen_ray.stats import is_number

Scale = Literal["linear", "log", "even"]
_FACTOR = 8  # from such a ratio of the largest to the smallest value on, the scale is not linear


@dataclass(frozen=True)
class Strength:
    """The strength curve of one knob of one strategy.

    Attributes:
        knob: short name, as in `Setting.knobs`.
        scale: 'linear'; 'log'; 'even': equally spaced, for categories, and for values that span factors but are not all
            positive.
        joined: whether a line may join its settings: all values are numbers. Booleans and names are categories, and
            between two of them there is nothing.
        values: the values of the knob, ascending; names come after numbers.
        texts: how each value is written at the axis: '10', 'proxy mixed in'.
        lines: each line holds settings as indices into `Report.settings`, by ascending value; within a line all other
            knobs are the same.
        at: of each setting of each line the index of its value in `values`.
        others: the other knobs of each line, 'r=8, lr=0.001'; '' where there are none.
    """

    strategy: str
    knob: str
    scale: Scale
    joined: bool
    values: tuple[Any, ...]
    texts: tuple[str, ...]
    lines: tuple[tuple[int, ...], ...]
    at: tuple[tuple[int, ...], ...]
    others: tuple[str, ...]


def strengths(settings: Sequence[Setting]) -> list[Strength]:
    """Return a curve for each knob with several values of each strategy; controls have no strength.

    Of a strategy, knobs with numbers come first, then the knobs with the most values.
    """
    all_curves: list[Strength] = []
    for strategy in dict.fromkeys(s.strategy for s in settings if not s.role.is_control):
        by_index = {i: s for i, s in enumerate(settings) if s.group == strategy and (s.x or s.y)}
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
            lines.setdefault(repr(_without(s, knob)), []).append(i)
    ordered = [sorted(line, key=lambda i: values.index(having[i].knobs[knob])) for line in lines.values()]
    return Strength(
        strategy=strategy,
        knob=knob,
        scale=scale_of(values),
        joined=_all_numbers(values),
        values=tuple(values),
        texts=tuple(word_of(knob, value) for value in values),
        lines=tuple(tuple(line) for line in ordered),
        at=tuple(tuple(values.index(having[i].knobs[knob]) for i in line) for line in ordered),
        others=tuple(", ".join(knob_texts(_without(having[line[0]], knob))) for line in ordered),
    )


def _without(setting: Setting, knob: str) -> dict[str, Any]:
    return {name: value for name, value in setting.knobs.items() if name != knob}


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
