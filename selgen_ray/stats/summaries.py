"""The statistics of a sweep: mean and interval over seeds, change against the base model, Pareto front.

Pure functions on plain numbers. All refuse NaN and infinity: the caller leaves missing values out, and reports them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Summary:
    """Mean and spread of a quantity over n independent runs.

    Attributes:
        n: number of values.
        mean: their mean.
        sd: sample standard deviation (n - 1 in the denominator); None for a single value.
        half_width: half the length of the confidence interval, mean ± half_width; None for a single value.
    """

    n: int
    mean: float
    sd: float | None
    half_width: float | None

    @property
    def interval(self) -> tuple[float, float] | None:
        """(mean - half_width, mean + half_width), not clipped to the range of the quantity; None for a single value."""
        return None if self.half_width is None else (self.mean - self.half_width, self.mean + self.half_width)

    @property
    def is_flat(self) -> bool:
        """Whether several values are all the same, but for rounding: no spread was seen, which is no certainty."""
        return self.n > 1 and self.sd is not None and self.sd <= 1e-12 * max(abs(self.mean), 1e-300)


def summarise(values: Sequence[float], confidence: float = 0.95) -> Summary | None:
    """Return the mean of `values` and its two-sided t-interval.

    mean = Σ x_i / n,  sd = sqrt(Σ (x_i - mean)² / (n - 1)),  half_width = t((1 + confidence)/2, n - 1) · sd / sqrt(n),
    with t(q, k) the q-quantile of Student's distribution with k degrees of freedom.

    For a quantity in [0, 1] the interval may reach far beyond the range, above all with two runs. It is not clipped:
    a clipped interval would look more certain than the data are.

    Args:
        values: one number per run.
        confidence: coverage of the interval, if the runs are independent and about normal.

    Returns:
        None if there are no values.

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
    """Return the q-quantile of Student's t-distribution, the inverse of its cumulative distribution function.

    Args:
        q: probability, in (0, 1).
        degrees: degrees of freedom.
    """
    from scipy.special import stdtrit  # same values as scipy.stats.t.ppf, whose import takes much longer

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
    """Return mean and t-interval of after_i - before_i: the change of each run against its own base model.

    Pairing removes the variance that both values of a run share, such as that of the draw of the evaluation set.

    Raises:
        ValueError: the two differ in length, or a value is NaN or infinite.

    Source: the paired t-test, Student 1908 (as above).
    """
    _check_finite([*after, *before])
    return summarise([a - b for a, b in zip(after, before, strict=True)])


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the Pareto front: the points that no other point dominates, if more is better in both coordinates.

    p dominates q if p is at least as good in both coordinates and better in one. Equal points do not dominate each
    other, so either all of them are on the front or none is. Takes O(n log n).

    Returns:
        Indices into `points`, by ascending first coordinate.

    Raises:
        ValueError: a coordinate is NaN or infinite.

    Source: Kung, Luccio & Preparata 1975, "On finding the maxima of a set of vectors", J. ACM 22(4).
    """
    _check_finite([value for point in points for value in point])
    front: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: points[i], reverse=True):
        # all points before this one are at least as good in x: it is dominated unless its y is the best so far, or it
        # equals the last point of the front
        if not front or points[i][1] > points[front[-1]][1] or points[i] == points[front[-1]]:
            front.append(i)
    return front[::-1]


def _check_finite(values: Sequence[float]) -> None:
    if bad := [value for value in values if not math.isfinite(value)]:
        raise ValueError(f"{len(bad)} of {len(values)} values are not finite, the first is {bad[0]}")


def is_number(value: Any) -> bool:
    """Return whether a value is an int or a float, NaN and infinity included; bools do not count."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_finite_number(value: Any) -> bool:
    """Return whether a value is an int or a float, and neither NaN nor infinite; bools do not count."""
    return is_number(value) and math.isfinite(value)
