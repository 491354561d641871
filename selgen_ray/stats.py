"""The statistics of a sweep: mean and interval over seeds, change against the base model, Pareto front.

Pure functions on plain numbers. All refuse NaN and infinity: what has no value must be left out, and be said to be.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Summary:
    """What n independent runs say about a quantity.

    Attributes:
        n: number of values.
        mean: their mean.
        sd: sample standard deviation (n - 1 in the denominator); None for a single value.
        half_width: the interval is mean ± this; None for a single value, which says nothing about its spread.
    """

    n: int
    mean: float
    sd: float | None
    half_width: float | None

    @property
    def interval(self) -> tuple[float, float] | None:
        """(mean - half_width, mean + half_width), not cut to the range of the quantity; None without an interval."""
        return None if self.half_width is None else (self.mean - self.half_width, self.mean + self.half_width)

    @property
    def is_flat(self) -> bool:
        """Whether several values are all the same, but for rounding: no spread was seen, which is no certainty."""
        return self.n > 1 and self.sd is not None and self.sd <= 1e-12 * max(abs(self.mean), 1e-300)


def summarise(values: Sequence[float], confidence: float = 0.95) -> Summary | None:
    """Mean and two-sided t-interval of the mean.

    mean = Σ x_i / n,  sd = sqrt(Σ (x_i - mean)² / (n - 1)),  half_width = t((1 + confidence)/2, n - 1) · sd / sqrt(n),
    with t(q, k) the q-quantile of Student's distribution with k degrees of freedom.

    For a quantity in [0, 1] the interval may reach beyond the range, by much with two seeds. It is given as it is:
    a cut one would look more certain than the data are.

    Args:
        values: one number per run.
        confidence: coverage of the interval, if the runs are independent and about normal.

    Returns:
        None where there are no values.

    Raises:
        ValueError: a value is NaN or infinite.

    Source: Student 1908, "The probable error of a mean", Biometrika 6(1).
    """
    _check_finite(values)
    n = len(values)
    if n == 0:
        return None
    mean = statistics.fmean(values)
    if n == 1:
        return Summary(1, mean, None, None)
    sd = statistics.stdev(values)
    return Summary(n, mean, sd, t_quantile((1 + confidence) / 2, n - 1) * sd / math.sqrt(n))


def t_quantile(q: float, degrees: int) -> float:
    """The q-quantile of Student's t-distribution, the inverse of its cumulative distribution function."""
    from scipy.special import stdtrit  # what scipy.stats.t.ppf computes, without the import of all of scipy.stats

    return float(stdtrit(degrees, q))


def binomial_interval(share: float, items: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Clopper-Pearson interval of a share of items that were right, independently of each other.

    With k = share · items: from the (1 - confidence)/2 quantile of Beta(k, items - k + 1), 0 for k = 0, to the
    (1 + confidence)/2 quantile of Beta(k + 1, items - k), 1 for k = items.

    Args:
        share: in [0, 1]; share · items need not be whole, as of a mean of several classes.
        items: 1 or more.

    Source: Clopper & Pearson 1934, "The use of confidence or fiducial limits", Biometrika 26(4).
    """
    from scipy.special import betaincinv

    k, tail = share * items, (1 - confidence) / 2
    low = 0.0 if k <= 0 else float(betaincinv(k, items - k + 1, tail))
    high = 1.0 if k >= items else float(betaincinv(k + 1, items - k, 1 - tail))
    return low, high


def paired_change(after: Sequence[float], before: Sequence[float]) -> Summary | None:
    """Mean and t-interval of after_i - before_i: the change of each run against its own base model.

    Pairing takes out what a run's start and finish share, such as the draw of the evaluation set.

    Raises:
        ValueError: the two differ in length, or a value is NaN or infinite.

    Source: the paired t-test, Student 1908 (as above).
    """
    _check_finite([*after, *before])
    return summarise([a - b for a, b in zip(after, before, strict=True)])


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The points that no other dominates, more being better in both coordinates.

    p dominates q when p is at least as good in both and better in one. Equal points do not dominate each other, so
    ties on the front are all on it.

    Returns:
        Numbers of the points, by ascending first coordinate; in O(n log n).

    Raises:
        ValueError: a coordinate is NaN or infinite.

    Source: Kung, Luccio & Preparata 1975, "On finding the maxima of a set of vectors", J. ACM 22(4).
    """
    _check_finite([value for point in points for value in point])
    front: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: points[i], reverse=True):
        # everything before is at least as good in x, so only a new best y, or a tie with the last, is not dominated
        if not front or points[i][1] > points[front[-1]][1] or points[i] == points[front[-1]]:
            front.append(i)
    return front[::-1]


def _check_finite(values: Sequence[float]) -> None:
    if bad := [value for value in values if not math.isfinite(value)]:
        raise ValueError(f"{len(bad)} of {len(values)} values are not finite, the first is {bad[0]}")


def is_number(value: Any) -> bool:
    """Return whether a value is an int or a float, NaN and infinity too; True and False are no numbers."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_finite_number(value: Any) -> bool:
    """Return whether a value is an int or a float, but neither NaN nor infinite; True and False are no numbers."""
    return is_number(value) and math.isfinite(value)
