"""Where the axes of the figure end, and what is beyond them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from selgen_ray.records.results import HEADLINES
from selgen_ray.report.settings import Axis
from selgen_ray.stats import Summary

if TYPE_CHECKING:
    from selgen_ray.report.model import Base, Report

Ends = tuple[float, float]
_CROWD = 8  # from more settings than this on, room for their labels matters more than the way from the base model
_MOST = 2.0  # times as long as the settings need: what the base model may then add to an axis


def is_share(axis: Axis) -> bool:
    """Whether the quantity lies in [0, 1] by definition."""
    return axis.name in HEADLINES


def cut(axis: Axis, interval: tuple[float, float]) -> tuple[float, float]:
    """The interval as far as the quantity goes."""
    return (max(interval[0], 0.0), min(interval[1], 1.0)) if is_share(axis) else interval


def is_crowded(report: Report) -> bool:
    """Whether the figure has more settings than find room easily."""
    return len(report.drawn) > _CROWD


def limits(axis: Axis, points: Sequence[float], bars: Sequence[Ends], reach: float = 0.6) -> Ends:
    """(left or lower, right or upper) end of an axis; less-is-better axes are turned round.

    All points are inside. Bars are too, unless they are so long that the points would shrink to a heap: they add at
    most `reach` of the points' range on each side and are cut there.
    """
    low, high = min(points), max(points)
    most = reach * max(high - low, 0.1 * max(abs(low), abs(high)), 0.02)
    ends = [end for bar in bars for end in bar]
    new_low, new_high = max(low - most, min([low, *ends])), min(high + most, max([high, *ends]))
    margin = 0.08 * (new_high - new_low) or 0.08 * max(abs(high), 0.5)  # one number alone gets some room too
    new_low, new_high = new_low - margin, new_high + margin
    if is_share(axis):
        new_low, new_high = max(new_low, -0.03), min(new_high, 1.03)
    return (new_low, new_high) if axis.sign > 0 else (new_high, new_low)


def axis_limits(report: Report, i: int) -> Ends:
    """The ends of axis x (0) or y (1): with the base models, unless a crowd of settings would shrink to a heap."""
    axis = (report.x, report.y)[i]
    means = [pair for s in report.drawn if (pair := (s.x, s.y)[i])]
    bases = [pair for base in report.bases if base.x and base.y and (pair := (base.x, base.y)[i])]
    points = [point[i] for s in report.drawn for point in s.points]
    reach = 0.2 if is_crowded(report) else 0.6
    near, far = (_of(axis, shown, points, reach) for shown in (means, means + bases))
    squeezed = abs(far[1] - far[0]) > _MOST * abs(near[1] - near[0])
    return near if is_crowded(report) and squeezed else far


def _of(axis: Axis, shown: Sequence[Summary], points: Sequence[float], reach: float) -> Ends:
    return limits(axis, [*(s.mean for s in shown), *points], [s.interval for s in shown if s.interval], reach)


def beyond(base: Base, report: Report, ends: tuple[Ends, Ends]) -> list[str]:
    """'← capability 0.17' for each axis on which the base model is outside; the arrow says on which side."""
    assert base.x and base.y
    texts: list[str] = []
    for axis, summary, (first, last), arrows in zip(
        (report.x, report.y), (base.x, base.y), ends, ("←→", "↓↑"), strict=True
    ):
        if not min(first, last) <= summary.mean <= max(first, last):
            nearer_first = abs(summary.mean - first) < abs(summary.mean - last)
            texts.append(f"{arrows[0 if nearer_first else 1]} {axis.name} {summary.mean:.2f}")
    return texts


def inside(mean: float, ends: Ends) -> float:
    """The nearest value on the axis, a little away from its end."""
    low, high = sorted(ends)
    room = 0.02 * (high - low)
    return mean if low <= mean <= high else min(max(mean, low + room), high - room)
