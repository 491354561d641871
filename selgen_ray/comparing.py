"""Statistics between strategies: area under a front, bootstrap over seeds, paired tests and their correction.

Pure functions on plain numbers and arrays. All refuse NaN and infinity, but for NaN where it is said to mean 'missing'.
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
    """The area that points dominate beyond a reference point, more being better in both coordinates.

    The measure of the union of the rectangles [reference, p]; a point that is not better than the reference in both
    adds nothing.

    Raises:
        ValueError: a number is NaN or infinite.

    Source: Zitzler & Thiele 1998, "Multiobjective optimization using evolutionary algorithms", PPSN V.
    """
    if not np.isfinite([*reference, *(value for point in points for value in point)]).all():
        raise ValueError("a hypervolume needs finite numbers")
    array = np.asarray(points, dtype=float).reshape(1, -1, 2)
    return float(hypervolumes(array[..., 0], array[..., 1], reference)[0])


def hypervolumes(xs: Floats, ys: Floats, reference: tuple[float, float]) -> Floats:
    """`hypervolume` of many sets of points at once.

    Args:
        xs, ys: [sets, points]; NaN: no such point in this set.

    Returns:
        [sets]
    """
    if not xs.shape[1]:
        return np.zeros(len(xs))
    missing = np.isnan(xs) | np.isnan(ys)
    wide = np.where(missing, 0.0, np.clip(xs - reference[0], 0, None))
    high = np.where(missing, 0.0, np.clip(ys - reference[1], 0, None))
    order = np.argsort(-wide, axis=1, kind="stable")
    wide, high = (np.take_along_axis(part, order, axis=1) for part in (wide, high))
    # from right to left: between two points the union is as high as the highest of those further right
    steps = wide - np.concatenate([wide[:, 1:], np.zeros((len(wide), 1))], axis=1)
    return (steps * np.maximum.accumulate(high, axis=1)).sum(axis=1)


def resamples(n: int, most: int = MOST_RESAMPLES, seed: int = 0) -> NDArray[np.int64]:
    """Draws with replacement from n runs, for a bootstrap.

    Returns:
        [resamples, n] numbers below n: every one of the n**n draws once where these are at most `most`, so that the
        result is exact; else `most` random ones, the same for the same seed.

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
    """Means over the drawn runs of several quantities.

    Args:
        values: [runs, quantities]; NaN: this run lacks it.
        draws: [resamples, runs], of `resamples`.

    Returns:
        [resamples, quantities]: over those drawn runs that have it; NaN where none has.
    """
    weights = np.zeros((len(draws), len(values)))  # how often each run was drawn
    np.add.at(weights, (np.arange(len(draws))[:, None], draws), 1.0)
    there = ~np.isnan(values)
    counts = weights @ there
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(counts > 0, (weights @ np.where(there, values, 0.0)) / counts, np.nan)


def probability_better(a: Floats, b: Floats, paired: bool) -> float:
    """The share of resamples in which a is larger than b, ties counted half.

    Args:
        a, b: one number a resample; `paired`: of the same draw of runs at each place, so that what runs share (such as
            their evaluation set) falls out. Else every pair of resamples counts.
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
        summary: mean and 95 % t-interval of one comparison alone; None without a common seed.
        simultaneous: half-width that holds for all comparisons of a family at once; None for fewer than 2 seeds.
        p: two-sided p-value of the paired t-test; None for fewer than 2 seeds, or where no difference differs.
        p_holm: p corrected for the number of comparisons.
    """

    summary: Summary | None
    simultaneous: float | None = None
    p: float | None = None
    p_holm: float | None = None


def paired_p_value(differences: Sequence[float]) -> float | None:
    """Two-sided p-value of the paired t-test: that the mean difference is 0.

    Returns:
        None for fewer than two differences, or if all are the same: then there is no spread to compare with.

    Source: Student 1908 (see stats.py).
    """
    summary = summarise(differences)
    if summary is None or not summary.sd or summary.sd <= 1e-12 * max(map(abs, differences)):
        return None
    from scipy.special import stdtr

    t = abs(summary.mean) / (summary.sd / math.sqrt(summary.n))
    return float(2 * stdtr(summary.n - 1, -t))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p-values corrected for the number of comparisons: each is at most 0.05 only if it is so with all before it.

    A None counts as a comparison and stays None.

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
    """Paired differences a - b of one family of comparisons.

    Intervals hold alone at 95 %, and simultaneously by Bonferroni at 1 - 0.05 / (number of comparisons).

    Args:
        pairs: (values of a, values of b), the same seeds in the same order.

    Source: Dunn 1961, "Multiple comparisons among means", JASA 56(293), for the simultaneous intervals.
    """
    level = 1 - 0.05 / max(len(pairs), 1)
    differences = [[x - y for x, y in zip(a, b, strict=True)] for a, b in pairs]
    p_values = [paired_p_value(d) for d in differences]
    wide = [summarise(d, level) for d in differences]
    return [
        Difference(paired_change(a, b), w.half_width if w else None, p, corrected)
        for (a, b), w, p, corrected in zip(pairs, wide, p_values, holm(p_values), strict=True)
    ]
