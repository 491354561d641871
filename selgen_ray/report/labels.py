"""Short labels beside points, where they cover neither a point nor each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

_RADII = (9, 15, 24, 36)  # points from the mark's middle to the label's nearest edge
_NUM_ANGLES = 16
_LEADER_FROM = 14  # a label further away gets a line to its mark
_MARK = 5.5  # half the side of the square a mark covers, in points


@dataclass(frozen=True)
class Label:
    """A text that belongs to the point `at`, in data coordinates."""

    text: str
    at: tuple[float, float]
    colour: Any


def place_labels(
    axes: Axes, labels: Sequence[Label], marks: Sequence[tuple[float, float]], fontsize: float = 8
) -> None:
    """Write each label at the free place nearest to its point; one after the other, so the same data look the same.

    Args:
        axes: drawn once, with its final limits.
        marks: all points, in data coordinates, that no label may cover.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    scale = figure.dpi / 72
    pixels = [tuple(axes.transData.transform(mark)) for mark in marks]
    taken = [_box(x, y, 2 * _MARK * scale, 2 * _MARK * scale) for x, y in pixels]
    thin = _line_boxes(axes)
    for label in labels:
        text = axes.annotate(
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
        extent = text.get_window_extent()
        x, y = axes.transData.transform(label.at)
        places = _places(x, y, extent.width + 2 * scale, extent.height, scale)
        _, _, box, radius = min(
            (_cost(box, radius, taken, thin, axes.bbox, scale), i, box, radius)
            for i, (box, radius) in enumerate(places)
        )
        middle = ((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2)
        text.set_position(((middle[0] - x) / scale, (middle[1] - y) / scale))
        if radius > _LEADER_FROM:
            _leader(axes, (x, y), box, label.colour)
        taken.append(box)


def _places(x: float, y: float, width: float, height: float, scale: float) -> list[tuple[Bbox, float]]:
    """Boxes around a point, the best liked first: right, then all the way round, then further out."""
    places = []
    for radius in _RADII:
        for turn in range(_NUM_ANGLES):
            angle = math.tau * (turn // 2 + turn % 2) * (1 if turn % 2 else -1) / _NUM_ANGLES
            dx = radius * scale + width / 2
            dy = radius * scale + height / 2
            places.append((_box(x + dx * math.cos(angle), y + dy * math.sin(angle), width, height), radius))
    return places


def _cost(box: Bbox, radius: float, taken: Sequence[Bbox], thin: Sequence[Bbox], inside: Bbox, scale: float) -> float:
    """Distance in points, plus what is covered: another label or mark weighs most, then leaving the axes, then bars."""
    area = box.width * box.height
    covered = sum(_overlap(box, other) for other in taken) / area
    outside = 1 - _overlap(box, inside) / area
    crossed = sum(_overlap(box, other) > 0 for other in thin)
    return radius + 200 * covered + 400 * outside + 5 * crossed


def _overlap(a: Bbox, b: Bbox) -> float:
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return width * height if width > 0 and height > 0 else 0.0


def _box(x: float, y: float, width: float, height: float) -> Bbox:
    return Bbox.from_bounds(x - width / 2, y - height / 2, width, height)


def _line_boxes(axes: Axes) -> list[Bbox]:
    """Error bars and the front, whose parts are all level or upright, as thin boxes in pixels."""
    segments = [part for bars in axes.collections if isinstance(bars, LineCollection) for part in bars.get_segments()]
    for line in axes.lines:
        if line.get_linestyle() != "None":
            path = np.asarray(line.get_xydata())
            segments += [path[i : i + 2] for i in range(len(path) - 1)]
    ends = [axes.transData.transform(segment) for segment in segments]
    return [Bbox([end.min(axis=0) - 0.5, end.max(axis=0) + 0.5]) for end in ends]


def _leader(axes: Axes, point: tuple[float, float], box: Bbox, colour: Any) -> None:
    """A thin line from the point to the nearest spot of the label's box."""
    end = (min(max(point[0], box.x0), box.x1), min(max(point[1], box.y0), box.y1))
    back = axes.transData.inverted()
    (x0, y0), (x1, y1) = back.transform(point), back.transform(end)
    axes.plot([x0, x1], [y0, y1], color=colour, linewidth=0.6, alpha=0.7, zorder=3)
