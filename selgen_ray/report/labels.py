"""Place short labels beside points, so that they cover neither a point nor each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

_RADII = (9, 15, 24, 36, 52, 70, 90)  # from the mark's middle to the label's nearest edge, in points (1/72 inch)
_NUM_ANGLES = 16
_LEADER_FROM = 14  # a label further away gets a line to its mark
_COVERING = 400  # cost, in points of distance, of lying wholly on a mark or another label, or outside the axes
_ROUNDS = 3  # of choosing a place for each label, given those of the others
_MARK = 5.5  # half the side of the square a mark covers, in points


@dataclass(frozen=True)
class Label:
    """A text beside the point `at`, which is in data coordinates."""

    text: str
    at: tuple[float, float]
    colour: Any


def place_labels(
    axes: Axes, labels: Sequence[Label], marks: Sequence[tuple[float, float]], fontsize: float = 8
) -> None:
    """Write each label at the free place nearest to its point; no randomness, so that the same data look the same.

    Args:
        axes: drawn once before, with its final limits.
        marks: all points, in data coordinates, that no label may cover.
        fontsize: in points.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    scale = figure.dpi / 72
    texts = [_write(axes, label, fontsize) for label in labels]
    points = [tuple(axes.transData.transform(label.at)) for label in labels]
    pixels = [axes.transData.transform(mark) for mark in marks]
    fixed = [_box(x, y, 2 * _MARK * scale, 2 * _MARK * scale) for x, y in pixels]
    thin = _line_boxes(axes)
    options = []
    for text, (x, y) in zip(texts, points, strict=True):
        extent = text.get_window_extent()
        places, radii = _places(x, y, extent.width + 2 * scale, extent.height, scale)
        options.append((places, _lonely_cost(places, radii, fixed, thin, axes.bbox), radii))
    for label, text, (x, y), i, (places, _, radii) in zip(
        labels, texts, points, _chosen([(places, costs) for places, costs, _ in options]), options, strict=True
    ):
        x0, y0, x1, y1 = places[i]
        text.set_position((((x0 + x1) / 2 - x) / scale, ((y0 + y1) / 2 - y) / scale))
        if radii[i] > _LEADER_FROM:
            _leader(axes, (x, y), Bbox.from_extents(*places[i]), label.colour)


def _write(axes: Axes, label: Label, fontsize: float) -> Annotation:
    return axes.annotate(
        label.text,
        label.at,
        xytext=(0, 0),
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=fontsize,
        color=label.colour,
        zorder=7,
        path_effects=[withStroke(linewidth=2, foreground="white")],
    )


def _places(x: float, y: float, width: float, height: float, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the possible places of a label, the preferred first: right of the mark, then around it, then further out.

    Returns:
        Boxes (x0, y0, x1, y1) in pixels, [places, 4], and their radii in points, [places].
    """
    turns = np.arange(_NUM_ANGLES)
    angles = math.tau * (turns // 2 + turns % 2) * np.where(turns % 2, 1, -1) / _NUM_ANGLES
    radii = np.repeat(np.asarray(_RADII, dtype=float), _NUM_ANGLES)
    angles = np.tile(angles, len(_RADII))
    xs = x + (radii * scale + width / 2) * np.cos(angles)
    ys = y + (radii * scale + height / 2) * np.sin(angles)
    return np.stack([xs - width / 2, ys - height / 2, xs + width / 2, ys + height / 2], axis=1), radii


def _lonely_cost(
    places: np.ndarray, radii: np.ndarray, fixed: Sequence[Bbox], thin: Sequence[Bbox], inside: Bbox
) -> np.ndarray:
    """Return the cost of each place apart from other labels, [places]: distance, marks and bars covered, overhang."""
    outside = 1 - _covered(places, [inside.extents])
    crossed = (_overlaps(places, [box.extents for box in thin]) > 0).sum(axis=1)
    return radii + _COVERING * (_covered(places, [box.extents for box in fixed]) + outside) + 5 * crossed


def _chosen(options: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[int]:
    """Choose a place for each label, by its index; each is chosen again once all the others have one."""
    chosen: dict[int, int] = {}
    for _ in range(_ROUNDS):
        for i, (places, costs) in enumerate(options):
            others = [options[j][0][k] for j, k in chosen.items() if j != i]
            chosen[i] = int(np.argmin(costs + _COVERING * _covered(places, others)))
    return [chosen[i] for i in range(len(options))]


def _covered(places: np.ndarray, others: Sequence[Any]) -> np.ndarray:
    """Return the share of each place that the others cover, [places]; an overlap of two others counts twice."""
    areas = (places[:, 2] - places[:, 0]) * (places[:, 3] - places[:, 1])
    return _overlaps(places, others).sum(axis=1) / areas


def _overlaps(places: np.ndarray, others: Sequence[Any]) -> np.ndarray:
    """Return the area of each place [P, 4] that each other box [N, 4] covers: [P, N]."""
    a, b = places[:, None, :], np.asarray(others, dtype=float).reshape(1, -1, 4)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    return np.clip(sides, 0, None).prod(axis=-1)


def _box(x: float, y: float, width: float, height: float) -> Bbox:
    return Bbox.from_bounds(x - width / 2, y - height / 2, width, height)


def _line_boxes(axes: Axes) -> list[Bbox]:
    """Return error bars and the front as thin boxes in pixels; all their parts are horizontal or vertical."""
    segments = [part for bars in axes.collections if isinstance(bars, LineCollection) for part in bars.get_segments()]
    for line in axes.lines:
        if line.get_linestyle() != "None":
            path = np.asarray(line.get_xydata())
            segments += [path[i : i + 2] for i in range(len(path) - 1)]
    ends = [axes.transData.transform(segment) for segment in segments]
    return [Bbox([end.min(axis=0) - 0.5, end.max(axis=0) + 0.5]) for end in ends]


def _leader(axes: Axes, point: tuple[float, float], box: Bbox, colour: Any) -> None:
    """Draw a thin line from the point to the nearest spot of the label's box, both in pixels."""
    end = (min(max(point[0], box.x0), box.x1), min(max(point[1], box.y0), box.y1))
    to_data = axes.transData.inverted()
    (x0, y0), (x1, y1) = to_data.transform(point), to_data.transform(end)
    axes.plot([x0, x1], [y0, y1], color=colour, linewidth=0.6, alpha=0.7, zorder=3)
