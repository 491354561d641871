"""Statistics between strategies: area under a front, held-out choices, paired tests and their correction.

Pure functions on plain numbers and arrays. They expect finite numbers; where NaN means 'missing', the
docstring says so.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from selgen_ray.stats.summaries import Summary, paired_change, summarise, t_quantile

Floats = NDArray[np.float64]
_DRAWS, _MOST_ALIKE = 4000, 40  # of the simulation behind `choice_widening`


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


def areas(xs: Floats, ys: Floats, reference: tuple[float, float]) -> Floats:
    """Return the area that each point alone dominates beyond a reference point, [...]: the score of one run."""
    return np.clip(xs - reference[0], 0, None) * np.clip(ys - reference[1], 0, None)


def held_out_choices(scores: Floats, ties: Floats | None = None) -> NDArray[np.int64]:
    """Choose the best setting on all seeds but one, for each seed in turn, so that it can be judged on that one.

    Args:
        scores: [..., settings, seeds], more being better; NaN: this setting lacks the seed.
        ties: of the same shape, NaN where `scores` is: the larger mean decides between settings whose scores are equal;
            default: the first of them.

    Returns:
        [..., seeds]: the setting with the largest mean over the other seeds; -1 where none can be chosen, or where the
        chosen one lacks this seed. Of several settings, one with a single seed could be judged on none, so it is not
        chosen. A single setting is no choice and needs no other seed.
    """
    there = ~np.isnan(scores)
    lone = there.any(-1).sum(-1)[..., None, None] == 1
    means = np.where(there.sum(-1, keepdims=True) > 1, _means_of_others(scores), -np.inf)
    best = means == means.max(-2, keepdims=True)
    second = np.zeros_like(means) if ties is None else _means_of_others(ties)
    choices = np.where(lone, there, np.where(best, second, -np.inf)).argmax(-2)
    is_known = np.isfinite(means).any(-2) | lone[..., 0]
    has_seed = np.take_along_axis(there, choices[..., None, :], axis=-2)[..., 0, :]
    return np.where(is_known & has_seed, choices, -1)


def _means_of_others(values: Floats) -> Floats:
    """Return the mean over all seeds but each one, [..., settings, seeds]; -inf where a setting has no other seed."""
    there = ~np.isnan(values)
    known = np.where(there, values, 0.0)
    others = there.sum(-1, keepdims=True) - there
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (known.sum(-1, keepdims=True) - known) / others
    return np.where(others > 0, means, -np.inf)


def held_out_scores(scores: Floats) -> Floats:
    """Return the score of each seed's choice on that seed, [..., seeds]; NaN where there is none. See above."""
    choices = held_out_choices(scores)
    chosen = np.take_along_axis(scores, np.maximum(choices, 0)[..., None, :], axis=-2)[..., 0, :]
    return np.where(choices >= 0, chosen, np.nan)


def choice_widening(num_settings: int, num_seeds: int) -> float:
    """The factor by which an interval over held-out scores must be wider than one over independent values.

    Held-out scores share their seeds with each other's choices, so their mean varies more than their spread says:
    factor² = n · Var(mean) / E(sd²). It is computed for settings that are all alike, with normal noise of their own:
    the worst case; where one setting is clearly the best, the interval is too wide. 1 for a single setting.

    Source: Bengio & Grandvalet 2004, "No unbiased estimator of the variance of K-fold cross-validation", JMLR 5, for
    why the scores themselves do not tell.
    """
    if num_settings < 2 or num_seeds < 2:
        return 1.0
    return _simulated_widening(min(num_settings, _MOST_ALIKE), min(num_seeds, _MOST_ALIKE))


@functools.cache
def _simulated_widening(settings: int, seeds: int) -> float:
    noise = np.random.default_rng(0).standard_normal((_DRAWS, settings, seeds))
    scores = held_out_scores(noise)
    return max(1.0, math.sqrt(seeds * float(scores.mean(-1).var() / scores.var(-1, ddof=1).mean())))


def t_half_widths(values: Floats, widening: float = 1.0, confidence: float = 0.95) -> Floats:
    """Return the half-width of the two-sided t-interval of the mean over the last axis, times `widening`, [...]."""
    n = values.shape[-1]
    return widening * t_quantile((1 + confidence) / 2, n - 1) * values.std(-1, ddof=1) / math.sqrt(n)


def t_p_values(differences: Floats, widening: float = 1.0) -> Floats:
    """Return the two-sided p-values of paired t-tests over the last axis, [...], of t / `widening`.

    NaN where all differences are the same, but for rounding: then there is no spread to compare with.

    Source: Student 1908 (see summaries.py).
    """
    from scipy.special import stdtr

    n = differences.shape[-1]
    if n < 2:
        return np.full(differences.shape[:-1], np.nan)
    sd = differences.std(-1, ddof=1)
    flat = sd <= 1e-12 * np.abs(differences).max(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        t = np.abs(differences.mean(-1)) / (widening * sd / math.sqrt(n))
    return np.where(flat, np.nan, 2 * stdtr(n - 1, -t))


def detectable_difference(sd: float, n: int, level: float = 0.05, power: float = 0.8, widening: float = 1.0) -> float:
    """The true difference that a paired t-test over n seeds finds with this power, at this level.

    nc · widening · sd / sqrt(n), with nc the noncentrality at which Student's t with n - 1 degrees of freedom exceeds
    its critical value with probability `power`.

    Args:
        sd: of the differences; `n`: 2 or more.

    Source: Cohen 1988, "Statistical power analysis for the behavioral sciences", chapter 2.
    """
    from scipy.special import nctdtrinc

    critical = t_quantile(1 - level / 2, n - 1)
    return float(nctdtrinc(n - 1, 1 - power, critical)) * widening * sd / math.sqrt(n)


def seeds_to_settle(
    difference: float, sd: float, level: float = 0.05, num_settings: int = 1, most: int = 100
) -> int | None:
    """The least number of seeds with which a paired t-test finds such a difference with 80 % power; None: over `most`.

    Args:
        num_settings: of the strategy with more settings, for `choice_widening`.
    """
    for n in range(3, most + 1):
        if detectable_difference(sd, n, level, widening=choice_widening(num_settings, n)) <= abs(difference):
            return n
    return None


@dataclass(frozen=True)
class Difference:
    """A paired difference over the seeds that two strategies or settings have in common.

    Attributes:
        summary: mean and 95 % t-interval of one comparison alone, widened for choices; None without a common seed.
        simultaneous: half-width that holds for all comparisons of a family at once; None for fewer than 2 seeds.
        p: two-sided p-value of the paired t-test; None for fewer than 2 seeds, or where no difference differs.
        p_holm: p corrected for the number of comparisons.
    """

    summary: Summary | None
    simultaneous: float | None = None
    p: float | None = None
    p_holm: float | None = None


def mirror(difference: Difference) -> Difference:
    """Return the difference b - a of a difference a - b."""
    summary = difference.summary
    return replace(difference, summary=replace(summary, mean=-summary.mean) if summary else None)


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


def compare_family(
    pairs: Sequence[tuple[Sequence[float], Sequence[float]]], widenings: Sequence[float] | None = None
) -> list[Difference]:
    """Paired differences a - b of one family of comparisons.

    The interval of one comparison alone has level 95 %; the simultaneous one has level
    1 - 0.05 / (number of comparisons), by Bonferroni.

    Args:
        pairs: (values of a, values of b), the same seeds in the same order.
        widenings: the factor of each pair's intervals, see `choice_widening`; default: 1.

    Source: Dunn 1961, "Multiple comparisons among means", JASA 56(293), for the simultaneous intervals.
    """
    level = 1 - 0.05 / max(len(pairs), 1)
    factors = widenings or [1.0] * len(pairs)
    alone = [_widened(paired_change(a, b), factor) for (a, b), factor in zip(pairs, factors, strict=True)]
    values = [np.asarray(a, dtype=float) - np.asarray(b, dtype=float) for a, b in pairs]
    p_values = [_or_none(t_p_values(v, factor)) for v, factor in zip(values, factors, strict=True)]
    wide = [float(t_half_widths(v, w, level)) if len(v) > 1 else None for v, w in zip(values, factors, strict=True)]
    return [
        Difference(summary, half_width, p, corrected)
        for summary, half_width, p, corrected in zip(alone, wide, p_values, holm(p_values), strict=True)
    ]


def _widened(summary: Summary | None, factor: float) -> Summary | None:
    if summary is None or summary.half_width is None:
        return summary
    return replace(summary, half_width=summary.half_width * factor)


def summarise_held_out(scores: Sequence[float], num_settings: int) -> Summary | None:
    """Mean and t-interval of held-out scores, as wide as a choice among so many settings demands."""
    return _widened(summarise(scores), choice_widening(num_settings, len(scores)))


def _or_none(p: Floats) -> float | None:
    return None if math.isnan(float(p)) else float(p)
