"""The figures beside the Pareto figure: strength curves, hypervolumes, paths over epochs. Light, for papers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from selgen_ray.records.results import TrialResult
from selgen_ray.records.status import TrialStatus
from selgen_ray.report.colours import INK, Look
from selgen_ray.report.figures import DPI, GREY, Drawn, literal, pareto_figure
from selgen_ray.report.knob_names import SIGNS
from selgen_ray.report.model import Report, Standings
from selgen_ray.report.scales import cut
from selgen_ray.report.settings import Axis, Setting
from selgen_ray.report.strengths import Strength, strengths

_WIDE = 4  # small plots in a row
_MOST_CURVES = 24
_MOST_BARS = 60  # a small plot of more settings shows means without intervals


def figures(report: Report, standings: Standings) -> Iterable[tuple[str, Callable[[], Figure]]]:
    """Yield (name, function that draws it) for each figure that the report has data for."""
    if not report.drawn:
        return
    yield "pareto", lambda: pareto_figure(report)
    first = {curve.strategy: curve for curve in reversed(strengths(report.settings))}
    if first:
        yield "strengths", lambda: strength_figure(report, list(first.values())[::-1][:_MOST_CURVES])
    if standings.leader:
        yield "hypervolumes", lambda: hypervolume_figure(report)
    best = [report.settings[s.best] for s in standings.standings if s.best is not None]
    if any(len(path(s.trials, report.x, report.y)) > 1 for s in best):
        yield "paths", lambda: path_figure(report, best)


def strength_figure(report: Report, curves: Sequence[Strength]) -> Figure:
    """Draw a small plot for each curve: the metrics of both axes against a knob, with intervals over seeds.

    Only numbers are joined by lines: between two booleans or names there is nothing.
    """
    rows = math.ceil(len(curves) / _WIDE)
    height = 2.5 * rows + 0.5
    figure = _figure(10.0, height)
    up: tuple[Axis, dict[str, Any]] = report.y, {"linestyle": "-"}
    across: tuple[Axis, dict[str, Any]] = report.x, {"linestyle": ":", "markerfacecolor": "white"}
    for n, curve in enumerate(curves):
        axes = figure.add_subplot(rows, min(_WIDE, len(curves)), n + 1)
        places = {value: value if curve.scale != "even" else float(i) for i, value in enumerate(curve.values)}
        for axis, style in (up, across):
            for line in curve.lines:
                _strength_line(axes, axis, report, [report.settings[i] for i in line], curve, places, style)
        if curve.scale == "log":
            axes.set_xscale("log")
        elif curve.scale == "even":
            axes.set_xticks(list(places.values()), list(map(literal, curve.texts)))
            axes.set_xlim(-0.5, len(places) - 0.5)
        axes.set_title(literal(curve.strategy), fontsize=8.5, color=INK)
        axes.set_xlabel(literal(SIGNS.get(curve.knob, curve.knob)), fontsize=8, color=INK)
        _plain(axes)
    handles = [
        Line2D([], [], label=literal(axis.name), color=GREY, marker="o", markersize=5, **style)
        for axis, style in (up, across)
    ]
    handles.append(Line2D([], [], label="95 % t-interval over seeds", color=GREY, marker="|", linewidth=0.8))
    figure.legend(handles=handles, loc="upper center", ncols=3, frameon=False, fontsize=8.5)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.3 / height))
    return figure


def _strength_line(
    axes: Axes,
    axis: Axis,
    report: Report,
    line: Sequence[Setting],
    curve: Strength,
    places: dict[Any, float],
    style: dict[str, Any],
) -> None:
    pairs = [(s, s.y if axis is report.y else s.x) for s in line]
    known = [(s, summary) for s, summary in pairs if summary]
    if not known:
        return
    positions = [places[s.knobs[curve.knob]] for s, _ in known]
    means = [summary.mean for _, summary in known]
    ends = [cut(axis, summary.interval) if summary.interval else (summary.mean,) * 2 for _, summary in known]
    bars = [[m - low for m, (low, _) in zip(means, ends, strict=True)]]
    bars.append([high - m for m, (_, high) in zip(means, ends, strict=True)])
    look: dict[str, Any] = {**_style(report.looks[curve.strategy]), "markersize": 5, **style}
    if sum(map(len, curve.lines)) > _MOST_BARS:
        look |= {"linestyle": "none", "alpha": 0.5}
        axes.plot(positions, means, **look)
        return
    look |= {} if curve.joined else {"linestyle": "none"}
    axes.errorbar(positions, means, yerr=bars, linewidth=1.3, elinewidth=0.8, capsize=2, **look)


def _style(look: Look) -> dict[str, Any]:
    return {"color": look.colour, "marker": look.marker}


def hypervolume_figure(report: Report) -> Figure:
    """Draw a bar for each strategy's held-out score with its interval; a hollow mark where its best setting seems."""
    standings = report.standings
    shown = [s for s in standings.standings if s.hypervolume is not None][::-1]
    height = 0.36 * len(shown) + 1.5
    figure = _figure(8.0, height)
    axes = figure.add_subplot()
    interval: dict[str, Any] = {"color": INK, "linewidth": 1.3, "marker": "|", "markersize": 7}
    flattering: dict[str, Any] = {"color": INK, "marker": "D", "markerfacecolor": "none", "markersize": 6}
    flattering |= {"linestyle": "none"}
    for i, s in enumerate(shown):
        if s.score:
            axes.barh(i, s.score.mean, color=report.looks[s.strategy].colour, height=0.62)
        if s.score and s.score.interval and not s.score.is_flat:
            axes.plot(s.score.interval, (i, i), **interval)
        if s.flattering is not None:
            axes.plot(s.flattering, i, **flattering)
    axes.set_yticks(range(len(shown)), [literal(s.strategy) for s in shown])
    assert standings.reference is not None
    point = f"({standings.reference.x:.3f}, {standings.reference.y:.3f})"
    axes.set_xlabel(f"score: area of held-out runs beyond {point}", fontsize=9, color=INK)
    handles: list[Any] = [
        Patch(color=GREY, label="score, held out"),
        Line2D([], [], label="95 % t-interval over seeds", **interval),
        Line2D([], [], label="its best setting, on the seeds that chose it (flattering)", **flattering),
    ]
    figure.legend(handles=handles, loc="upper center", ncols=3, frameon=False, fontsize=8)
    _plain(axes)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.32 / height))
    return figure


def path_figure(report: Report, best: Sequence[Setting]) -> Figure:
    """Draw the path of each strategy's best setting from epoch to epoch, means over seeds."""
    figure = _figure(10.0, 5.5)
    axes = figure.add_axes((0.075, 0.11, 0.6, 0.8))
    for s in best:
        points = path(s.trials, report.x, report.y)
        if len(points) < 2:
            continue
        style = _style(report.looks[s.group])
        xs, ys = zip(*points, strict=True)
        axes.plot(xs, ys, linewidth=1.3, markersize=4, label=literal(s.label), **style)
        axes.plot(xs[-1:], ys[-1:], markeredgecolor=INK, markersize=9, zorder=4, **style)
    for side, axis in (("x", report.x), ("y", report.y)):
        axes.set(**{f"{side}label": literal(axis.name)})
        if axis.sign < 0:
            getattr(axes, f"invert_{side}axis")()
    axes.set_title("epoch by epoch, means over seeds; large: the end", fontsize=9, color=GREY)
    axes.legend(loc="upper left", bbox_to_anchor=(1.03, 1.0), fontsize=8, frameon=False, borderaxespad=0)
    _plain(axes)
    return figure


def path(trials: Sequence[TrialResult], x: Axis, y: Axis) -> list[tuple[float, float]]:
    """Return the path of a setting: (x, y) at each epoch that all its completed trials evaluated, mean over trials.

    The first point is before training. Evaluations of edited weights do not count.
    """
    points_of_trials: list[dict[float, tuple[float, float]]] = []
    for r in (r for r in trials if r.status == TrialStatus.COMPLETED):
        points: dict[float, tuple[float, float]] = {}  # epoch -> (x, y)
        for i, version in enumerate(r.eval_versions):
            a, b = r.metric(x.metric(r), i), r.metric(y.metric(r), i)
            if version == "" and a is not None and b is not None:
                points[r.eval_epochs[i]] = (a, b)
        points_of_trials.append(points)
    num_trials = len(points_of_trials)
    epochs = sorted(set.intersection(*(set(points) for points in points_of_trials))) if points_of_trials else []
    return [
        (
            sum(points[epoch][0] for points in points_of_trials) / num_trials,
            sum(points[epoch][1] for points in points_of_trials) / num_trials,
        )
        for epoch in epochs
    ]


def _figure(width: float, height: float) -> Figure:
    figure = Drawn(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, colors=INK, length=3)
    axes.grid(color="#EEEEEE", linewidth=0.8)
    axes.set_axisbelow(True)
