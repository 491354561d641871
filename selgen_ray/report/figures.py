"""The Pareto figure, drawn without pyplot: its global state would keep threads from drawing at once."""

from __future__ import annotations

import io
import textwrap
from collections import Counter
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from selgen_ray.records.status import TrialStatus
from selgen_ray.report.colours import INK, Look
from selgen_ray.report.knob_names import explained, knob_texts
from selgen_ray.report.labels import Label, place_labels
from selgen_ray.report.model import Base, Report
from selgen_ray.report.roles import BASE
from selgen_ray.report.scales import axis_limits, beyond, cut, inside, is_crowded
from selgen_ray.report.settings import Axis, Setting, mean_point
from selgen_ray.stats import Summary

SIZE_INCHES = (10.0, 6.0)
DPI = 160
GREY = "#666666"
_FRONT: dict[str, Any] = {"color": "#B4B4B4", "linewidth": 1.8, "solid_joinstyle": "miter"}
_CROSS: dict[str, Any] = {"marker": "x", "color": INK, "markersize": 10, "markeredgewidth": 1.6, "linestyle": "none"}
_LABEL_LENGTH = 28
_MOST_LABELS = 100  # more cannot be read, and to place them takes minutes
_LINE = 112  # characters of a line of the footnote, which must not reach under the legend
_MULTITUDE = 80  # with more settings than this, only those on the front have bars and labels


def as_png(figure: Figure) -> bytes:
    """Return a figure as the content of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=figure.dpi)
    return buffer.getvalue()


def as_svg(figure: Figure) -> bytes:
    """Return a figure as the content of an SVG file: letters are outlines, and the same data give the same bytes."""
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "selgen"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


class Drawn(Figure):
    """A figure drawn without pyplot that a notebook shows all the same."""

    def _repr_png_(self) -> bytes:
        return as_png(self)


def pareto_figure(report: Report) -> Figure:
    """Draw the trade-off between the two axes, usually alignment against capability.

    It shows means over seeds with their t-intervals, single trials faint behind them, the base model as a star,
    controls by marks of their own, and the front as the border of the dominated area: a staircase, since no setting is
    known between two of its corners. The axes start where what was trained is: a base model beyond them stands at their
    edge. Bars and axes of a share end at 0 and 1; the table has the intervals uncut.
    """
    figure = Drawn(figsize=SIZE_INCHES, dpi=DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0.075, 0.165, 0.6, 0.715))
    _frame(axes, report)
    _front(axes, report)
    for setting in _large(report):
        _setting(axes, setting, report)
    if is_multitude(report):
        _multitude(axes, report)
    bases = [_base(axes, base, report) for base in report.bases if base.x and base.y]
    _words(figure, axes, report)
    canvas.draw()
    place_labels(axes, [*bases, *_labels(report)], [*(b.at for b in bases), *_obstacles(report)])
    return figure


def _frame(axes: Axes, report: Report) -> None:
    for i, axis in enumerate((report.x, report.y)):
        (axes.set_ylim if i else axes.set_xlim)(axis_limits(report, i))
        label = axis.name if axis.sign > 0 else f"{axis.name} (less is better)"
        (axes.set_ylabel if i else axes.set_xlabel)(literal(label), fontsize=11, color=INK, labelpad=6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=INK, labelsize=9, length=3, color=GREY)
    axes.grid(color="#EEEEEE", linewidth=0.8)
    axes.set_axisbelow(True)


def _front(axes: Axes, report: Report) -> None:
    corners = sorted(mean_point(s, report.x, report.y) for s in report.settings if s.on_front)
    if not corners:  # every setting misses a condition of `require`
        return
    path = [(report.x.sign * axes.get_xlim()[0], corners[0][1])]
    for x, y in corners:  # down to this point's height, then along it
        path += [(path[-1][0], y), (x, y)]
    path.append((path[-1][0], report.y.sign * axes.get_ylim()[0]))
    xs, ys = [report.x.sign * x for x, _ in path], [report.y.sign * y for _, y in path]
    axes.fill_between(xs, ys, axes.get_ylim()[0], color="#F7F7F7", linewidth=0, zorder=0.1)
    axes.plot(xs, ys, **_FRONT, zorder=2)


def _setting(axes: Axes, setting: Setting, report: Report) -> None:
    look = report.looks[setting.group]
    colour, marker = look.colour, look.marker
    assert setting.x and setting.y
    if setting.failures:
        axes.plot(setting.x.mean, setting.y.mean, **_CROSS, zorder=5.5)
    if setting.x.n == 1:
        faint = tuple(0.65 * part + 0.35 for part in to_rgb(colour))
        style: dict[str, Any] = {"color": faint, "markerfacecolor": "white", "markeredgewidth": 1.4}
        style["markersize"] = 7.5 * look.size
        _point(axes, setting.x, setting.y, report, marker=marker, zorder=5, **style)
        return
    singles: dict[str, Any] = {"markersize": 4, "alpha": 0.35, "linestyle": "none", "markeredgewidth": 0, "zorder": 3}
    axes.plot(*zip(*setting.points, strict=True), color=colour, marker=marker, **singles)
    style = {"color": colour, "markeredgecolor": "white", "markeredgewidth": 0.8}
    _point(axes, setting.x, setting.y, report, marker=marker, markersize=9 * look.size, zorder=5, **style)


def is_multitude(report: Report) -> bool:
    """Return whether there are too many settings to draw each with bars and a label."""
    return len(report.drawn) > _MULTITUDE


def _large(report: Report) -> list[Setting]:
    return [s for s in report.drawn if s.on_front or s.role.is_control or not is_multitude(report)]


def _multitude(axes: Axes, report: Report) -> None:
    """Draw the settings of strategies that are not on the front, small and without bars."""
    large = _large(report)
    for group in dict.fromkeys(s.group for s in report.drawn):
        means = [(s.x.mean, s.y.mean) for s in report.drawn if s.group == group and s not in large and s.x and s.y]
        if means:
            style: dict[str, Any] = {**_style(report.looks[group]), "markersize": 5, "alpha": 0.6}
            axes.plot(*zip(*means, strict=True), linestyle="none", markeredgewidth=0, zorder=4, **style)


def _style(look: Look) -> dict[str, Any]:
    return {"color": look.colour, "marker": look.marker}


def _base(axes: Axes, base: Base, report: Report) -> Label:
    """Draw the base model's star, or, if its place is outside the axes, a hollow one at the edge; return its label."""
    assert base.x and base.y
    ends = axes.get_xlim(), axes.get_ylim()
    style: dict[str, Any] = {"color": INK, "marker": "*", "zorder": 4.5}
    outside = beyond(base, report, ends)
    place = inside(base.x.mean, ends[0]), inside(base.y.mean, ends[1])
    if outside:
        axes.plot(*place, markerfacecolor="white", markersize=13, **style)
    else:
        _point(axes, base.x, base.y, report, markersize=17, markeredgecolor="white", **style)
    return Label(literal(" ".join([BASE, ", ".join(outside)]).strip()), place, INK)


def _point(axes: Axes, x: Summary, y: Summary, report: Report, **style: object) -> None:
    xerr, yerr = _bar(report.x, x), _bar(report.y, y)
    bars = {"elinewidth": 1.1, "capsize": 2.2, "capthick": 1.1}
    parts = axes.errorbar(x.mean, y.mean, xerr=xerr, yerr=yerr, **bars, **style)  # type: ignore[arg-type]
    for bar in (*parts[1], *parts[2]):
        bar.set_alpha(0.35 if is_crowded(report) else 0.6)  # labels must stay legible on them
        bar.set_zorder(4)


def _bar(axis: Axis, summary: Summary) -> list[list[float]] | None:
    if summary.interval is None:
        return None
    low, high = cut(axis, summary.interval)
    return [[summary.mean - low], [high - summary.mean]]


def _words(figure: Figure, axes: Axes, report: Report) -> None:
    size = min(14.0, 14 * 60 / max(len(report.title), 1))
    figure.text(0.075, 0.945, literal(report.title), fontsize=size, fontweight="bold", color=INK, va="center")
    subtitle = f"{report.y.name} against {report.x.name}: what each strategy gains, and what it costs"
    figure.text(0.075, 0.903, literal(subtitle), fontsize=9.5, color=GREY, va="center")
    figure.text(0.075, 0.07, literal(footnote(report)), fontsize=8, color=GREY, va="top")
    handles: list[Line2D] = []
    if any(base.x and base.y for base in report.bases):
        ends = axes.get_xlim(), axes.get_ylim()
        outside = any(base.x and base.y and beyond(base, report, ends) for base in report.bases)
        style: dict[str, Any] = {"markerfacecolor": "white"} if outside else {}
        text = f"{BASE}, untrained{' (beyond the edge)' if outside else ''}"
        handles.append(_line(text, color=INK, marker="*", markersize=12, linestyle="none", **style))
    handles += [_handle(report, group) for group in dict.fromkeys(s.group for s in report.drawn)]
    if any(s.failures for s in report.drawn):
        handles.append(_line("\n".join(textwrap.wrap(literal(f"crossed out: not {report.require}"), 42)), **_CROSS))
    if any(s.on_front for s in report.drawn):
        handles.append(_line("Pareto front of the means", **_FRONT))
    lines = "\n".join(str(handle.get_label()) for handle in handles).split("\n")
    size = min(8.5, 8.5 * 25 / len(lines), 8.5 * 42 / max(map(len, lines)))
    style = {"fontsize": size, "frameon": False, "labelspacing": 0.75, "handletextpad": 0.7, "borderaxespad": 0}
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.03, 1.0), labelcolor=INK, **style)


def _handle(report: Report, group: str) -> Line2D:
    settings = [s for s in report.drawn if s.group == group]
    knobs = settings[0].knobs
    text = group
    if len(settings) == 1:
        text = "\n".join([group, *textwrap.wrap(", ".join(knob_texts(knobs)), 42)])
    elif knobs:
        text = "\n".join([group, *textwrap.wrap(", ".join(explained(knobs)), 42)])
    look = report.looks[group]
    return _line(literal(text), **_style(look), linestyle="none", markersize=7.5 * look.size)


def _line(label: str, **style: object) -> Line2D:
    return Line2D([], [], label=label, **style)  # type: ignore[arg-type]


def footnote(report: Report) -> str:
    """Return the note under the figure: how many seeds, what the bars mean, what is not drawn."""
    counts = sorted({s.x.n for s in report.drawn if s.x})
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]}–{counts[-1]}"
    parts = [f"{seeds} seed{'s' * (counts[-1] > 1)} per setting"]
    if counts[-1] > 1:
        all_barred = "bars: 95 % t-interval over seeds, small marks: single seeds"
        front_barred = "bars: 95 % t-interval over seeds, of the front alone; small: the other means"
        parts.append(front_barred if is_multitude(report) else all_barred)
    if counts[0] == 1:
        parts.append("hollow: one seed, no interval")
    lost = {status: n for status, n in report.counts.items() if n and status != TrialStatus.COMPLETED}
    lost |= {"without a value": n} if (n := sum(t.status == "no point" for t in report.left_out)) else {}
    if lost:
        parts.append(f"not drawn: {', '.join(f'{n} {status}' for status, n in lost.items())}")
    if any(s and s.interval and cut(axis, s.interval) != s.interval for axis, s in _means(report)):
        parts.append("bars are cut at 0 and 1")
    lines = [""]
    for part in parts:
        longer = f"{lines[-1]}  ·  {part}" if lines[-1] else part
        lines = [*lines[:-1], longer] if len(longer) < _LINE else [*lines, part]
    return "\n".join(lines)


def _means(report: Report) -> list[tuple[Axis, Summary | None]]:
    shown = [(s.x, s.y) for s in report.drawn] + [(base.x, base.y) for base in report.bases]
    return [pair for x, y in shown for pair in ((report.x, x), (report.y, y))]


def _labels(report: Report) -> list[Label]:
    """Return labels with the knobs' values for strategies with several settings; the legend names the knobs.

    A control has its name in its label. Of very many points on the front only the first have one.
    """
    in_group = Counter(s.group for s in report.drawn)
    labels: list[Label] = []
    for s in _large(report):
        if len(labels) == _MOST_LABELS:
            break
        if s.x and s.y and (s.role.is_control or (s.knobs and in_group[s.group] > 1)):
            dark = tuple(0.72 * part for part in to_rgb(report.looks[s.group].colour))
            words = s.label if s.role.is_control else ", ".join(knob_texts(s.knobs))
            text = textwrap.shorten(words, _LABEL_LENGTH, placeholder=" …")
            labels.append(Label(literal(text), (s.x.mean, s.y.mean), dark))
    return labels


def _obstacles(report: Report) -> list[tuple[float, float]]:
    return [(s.x.mean, s.y.mean) for s in report.drawn if s.x and s.y]


def literal(text: str) -> str:
    """Escape a text for matplotlib, which takes what stands between two '$' for mathematics."""
    return text.replace("$", r"\$")
