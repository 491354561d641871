"""The limits of the Pareto figure's axes, and the place of a base model that lies beyond them."""

from __future__ import annotations

from collections.abc import Sequence

from selgen_ray.records.results import SUMMARIES
from selgen_ray.report.model import Base, Report
from selgen_ray.report.settings import Axis

Ends = tuple[float, float]
_CROWD = 8  # with more settings than this, room for their labels matters more than whole bars


def is_share(axis: Axis) -> bool:
    """Return whether the axis is a share, in [0, 1] by definition: a headline."""
    return axis.name in SUMMARIES


def cut(axis: Axis, interval: tuple[float, float]) -> tuple[float, float]:
    """Cut an interval to the range of its axis: [0, 1] of a share; any other is returned as it is."""
    return (max(interval[0], 0.0), min(interval[1], 1.0)) if is_share(axis) else interval


def is_crowded(report: Report) -> bool:
    """Return whether the figure has so many settings that their labels need the room."""
    return len(report.drawn) > _CROWD


def limits(axis: Axis, points: Sequence[float], bars: Sequence[Ends], reach: float = 0.6) -> Ends:
    """Return the limits of an axis: (left or lower, right or upper); an axis where less is better is turned round.

    All points are inside. So are bars, unless they are so long that the points would shrink to a heap: bars extend the
    axis by at most `reach` times the range of the points on each side, and are cut there.

    Args:
        points: means and single trials.
        bars: intervals around means.
        reach: see above.
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
    """Return the limits of axis x (i = 0) or y (1): those of what was trained.

    The base model does not count: it has learnt nothing, and would squeeze all others to one end. See `beyond`.
    """
    axis = (report.x, report.y)[i]
    shown = [pair for s in report.drawn if (pair := (s.x, s.y)[i])]
    points = [point[i] for s in report.drawn for point in s.points]
    reach = 0.2 if is_crowded(report) else 0.6
    return limits(axis, [*(s.mean for s in shown), *points], [s.interval for s in shown if s.interval], reach)


def beyond(base: Base, report: Report, ends: tuple[Ends, Ends]) -> list[str]:
    """Return a text such as '← capability 0.17' for each axis on which the base model is outside.

    Args:
        ends: limits of axis x and of axis y; the arrow points to the end that the base model is beyond.
    """
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
    """Return the mean, or the nearest place on the axis that is a little away from its end."""
    low, high = sorted(ends)
    room = 0.02 * (high - low)
    return mean if low <= mean <= high else min(max(mean, low + room), high - room)
