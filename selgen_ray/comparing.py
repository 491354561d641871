"""Statistics between strategies: area under a front, bootstrap over seeds, paired tests and their correction.

Pure functions on plain numbers and arrays. They expect finite numbers; where NaN means 'missing', the
docstring says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from selgen_ray.stats import Summary, paired_change, summarise

Floats = NDArray[np.float64]
MOST_RESAMPLES = 4000


def hypervolume(points: Sequence[tuple[float, float]], reference: tuple[float, float]) -> float:
    """Return the area that `points` dominate beyond a reference point, if more is better in both coordinates.

    This is the area of the union of the rectangles [reference, p]. A point that is not better than the reference in
    both coordinates adds nothing.

    Raises:
        ValueError: a number is NaN or infinite.

    Source: Zitzler & Thiele 1998, "Multiobjective optimization using evolutionary algorithms", PPSN V.
    """
    if not np.isfinite([*reference, *(value for point in points for value in point)]).all():
        raise ValueError("a hypervolume needs finite numbers")
    array = np.asarray(points, dtype=float).reshape(1, -1, 2)
    return float(hypervolumes(array[..., 0], array[..., 1], reference)[0])


def hypervolumes(xs: Floats, ys: Floats, reference: tuple[float, float]) -> Floats:
    """Return the `hypervolume` of many sets of points at once.

    Args:
        xs, ys: coordinates, [sets, points]; NaN in either one: the set has no such point.

    Returns:
        Areas, [sets].
    """
    if not xs.shape[1]:
        return np.zeros(len(xs))
    missing = np.isnan(xs) | np.isnan(ys)
    widths = np.where(missing, 0.0, np.clip(xs - reference[0], 0, None))
    heights = np.where(missing, 0.0, np.clip(ys - reference[1], 0, None))
    order = np.argsort(-widths, axis=1, kind="stable")
    widths, heights = (np.take_along_axis(part, order, axis=1) for part in (widths, heights))
    # sorted from right to left: between two neighbours the union is as high as the highest point further right
    steps = widths - np.concatenate([widths[:, 1:], np.zeros((len(widths), 1))], axis=1)
    return (steps * np.maximum.accumulate(heights, axis=1)).sum(axis=1)


def resamples(n: int, most: int = MOST_RESAMPLES, seed: int = 0) -> NDArray[np.int64]:
    """Draw resamples of n runs with replacement, for a bootstrap.

    Returns:
        Indices of runs, [resamples, n]. If there are at most `most` different draws (n**n), each of them once, so that
        the bootstrap is exact; else `most` random draws, the same for the same seed.

    Source: Efron 1979, "Bootstrap methods: another look at the jackknife", Ann. Statist. 7(1).
    """
    if n**n <= most:
        return (
            np.stack(np.meshgrid(*[np.arange(n)] * n, indexing="ij"), axis=-1).reshape(-1, n)
            if n
            else np.zeros((1, 0), dtype=np.int64)
        )
    return np.random.default_rng(seed).integers(0, n, size=(most, n))


def resampled_means(values: Floats, draws: NDArray[np.int64]) -> Floats:
    """Return the mean of each quantity over the runs of each resample.

    Args:
        values: [runs, quantities]; NaN: the run lacks this quantity.
        draws: indices of runs, [resamples, runs], from `resamples`.

    Returns:
        Means over those drawn runs that have the quantity, [resamples, quantities]; NaN if none of them has it.
    """
    weights = np.zeros((len(draws), len(values)))  # how often each run was drawn
    np.add.at(weights, (np.arange(len(draws))[:, None], draws), 1.0)
    present = ~np.isnan(values)
    counts = weights @ present
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(counts > 0, (weights @ np.where(present, values, 0.0)) / counts, np.nan)


def probability_better(a: Floats, b: Floats, paired: bool) -> float:
    """Return the share of resamples in which a is larger than b; ties count half.

    Args:
        a, b: one number for each resample, [resamples].
        paired: a[i] and b[i] come from the same draw of runs, and only such pairs are compared: variance that the runs
            share (such as that of their evaluation set) cancels. Otherwise every a is compared with every b.
    """
    if paired:
        return float(np.mean((a > b) + 0.5 * (a == b)))
    others = np.sort(b)
    below, upto = np.searchsorted(others, a, "left"), np.searchsorted(others, a, "right")
    return float(np.mean(below + upto) / (2 * len(others)))


@dataclass(frozen=True)
class Difference:
    """A paired difference over the seeds that two settings have in common.

    Attributes:
        summary: mean and 95 % t-interval of this comparison alone; None without a common seed.
        simultaneous: half-width of an interval that holds for all comparisons of a family at once; None for fewer than
            2 seeds.
        p: two-sided p-value of the paired t-test; None for fewer than 2 seeds, or if all differences are equal.
        p_holm: p corrected for the number of comparisons by Holm's method.
    """

    summary: Summary | None
    simultaneous: float | None = None
    p: float | None = None
    p_holm: float | None = None


def paired_p_value(differences: Sequence[float]) -> float | None:
    """Return the two-sided p-value of the paired t-test of the hypothesis that the mean difference is 0.

    p = 2 · F(-|t|, n - 1) with t = mean / (sd / sqrt(n)), F(·, k) the cumulative distribution function of Student's
    distribution with k degrees of freedom.

    Returns:
        None for fewer than two differences, or if all are equal: then sd is 0.

    Raises:
        ValueError: a difference is NaN or infinite.

    Source: Student 1908 (see stats.py).
    """
    summary = summarise(differences)
    if summary is None or not summary.sd or summary.sd <= 1e-12 * max(map(abs, differences)):
        return None
    from scipy.special import stdtr

    t = abs(summary.mean) / (summary.sd / math.sqrt(summary.n))
    return float(2 * stdtr(summary.n - 1, -t))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values corrected for the number of comparisons by Holm's step-down method, in the order given.

    With the m p-values in ascending order p_1 <= p_2 <= ..., the corrected one is
    max over j <= i of min(1, (m - j + 1) · p_j). A None counts as a comparison and stays None.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6(2).
    """
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p))
        corrected[i] = largest
    return corrected


def compare_family(pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> list[Difference]:
    """Return the paired difference a - b of each comparison of a family.

    The interval of one comparison alone has level 95 %; the simultaneous one has level
    1 - 0.05 / (number of comparisons), by Bonferroni.

    Args:
        pairs: (values of a, values of b) of each comparison, both of the same seeds in the same order.

    Raises:
        ValueError: two values of a pair differ in length, or a value is NaN or infinite.

    Source: Dunn 1961, "Multiple comparisons among means", JASA 56(293), for the simultaneous intervals.
    """
    level = 1 - 0.05 / max(len(pairs), 1)
    differences = [[x - y for x, y in zip(a, b, strict=True)] for a, b in pairs]
    p_values = [paired_p_value(d) for d in differences]
    wide_intervals = [summarise(d, level) for d in differences]
    return [
        Difference(paired_change(a, b), interval.half_width if interval else None, p, corrected)
        for (a, b), interval, p, corrected in zip(pairs, wide_intervals, p_values, holm(p_values), strict=True)
    ]
