"""Statistics between strategies against scipy, hand-computed numbers and brute force."""

import itertools
import random

import numpy as np
import pytest
import scipy.stats

from selgen_ray.comparing import (
    MOST_RESAMPLES,
    compare_family,
    holm,
    hypervolume,
    hypervolumes,
    paired_p_value,
    probability_better,
    resampled_means,
    resamples,
)


def test_areas_by_hand():
    assert hypervolume([], (0, 0)) == 0
    assert hypervolume([(0.5, 0.4)], (0, 0)) == pytest.approx(0.2)
    # two steps: 0.2 wide and 0.9 high, then 0.6 more of width at height 0.3
    assert hypervolume([(0.2, 0.9), (0.8, 0.3)], (0, 0)) == pytest.approx(0.2 * 0.9 + 0.6 * 0.3)
    assert hypervolume([(0.2, 0.9), (0.8, 0.3), (0.1, 0.1), (0.8, 0.3)], (0, 0)) == pytest.approx(0.36)
    assert hypervolume([(0.2, 0.9), (0.8, 0.3)], (0.5, 0.1)) == pytest.approx(0.3 * 0.2)
    assert hypervolume([(0.4, 0.9)], (0.4, 0.1)) == 0 == hypervolume([(0.3, 0.9)], (0.4, 0.1))
    assert hypervolume([(-0.3, -0.2)], (-1, -1)) == pytest.approx(0.7 * 0.8)  # turned losses
    with pytest.raises(ValueError, match="finite"):
        hypervolume([(float("nan"), 1.0)], (0, 0))


def test_areas_against_counting_cells():
    draw = random.Random(0)
    for _ in range(20):
        points = [(draw.randint(0, 12), draw.randint(0, 12)) for _ in range(draw.randint(1, 9))]
        origin = (draw.randint(0, 5), draw.randint(0, 5))
        cells = sum(any(x > i and y > j for x, y in points) for i in range(origin[0], 12) for j in range(origin[1], 12))
        assert hypervolume(points, origin) == cells


def test_a_missing_point_is_as_if_it_were_not_there():
    xs, ys = np.array([[0.2, 0.8], [np.nan, 0.8]]), np.array([[0.9, 0.3], [0.9, 0.3]])
    assert hypervolumes(xs, ys, (0, 0)) == pytest.approx([0.36, 0.24])
    assert list(hypervolumes(np.full((2, 1), np.nan), np.ones((2, 1)), (0, 0))) == [0, 0]


def test_few_runs_are_resampled_exactly_and_many_at_random():
    assert {tuple(row) for row in resamples(3)} == set(itertools.product(range(3), repeat=3))
    assert len(resamples(3)) == 27 and len(resamples(5)) == 3125
    many = resamples(8)
    assert many.shape == (MOST_RESAMPLES, 8) and many.min() == 0 and many.max() == 7
    assert (many == resamples(8)).all() and (many != resamples(8, seed=1)).any()


def test_resampled_means_by_hand():
    values = np.array([[1.0, np.nan], [3.0, 10.0]])
    means = resampled_means(values, resamples(2))  # draws 00, 01, 10, 11
    assert means[:, 0].tolist() == [1, 2, 2, 3]
    assert np.isnan(means[0, 1]) and means[1:, 1].tolist() == [10, 10, 10]


def test_the_bootstrap_is_scipys():
    draw = random.Random(3)
    values = [draw.gauss(0.5, 0.1) for _ in range(12)]
    mine = resampled_means(np.array(values)[:, None], resamples(12))[:, 0]
    other = scipy.stats.bootstrap((values,), np.mean, method="percentile", n_resamples=4000, rng=0).confidence_interval
    assert np.quantile(mine, [0.025, 0.975]) == pytest.approx([other.low, other.high], abs=0.01)


def test_probabilities_by_hand():
    a, b = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 1.0, 4.0, 5.0])
    assert probability_better(a, b, paired=True) == (0.5 + 1) / 4
    assert probability_better(b, a, paired=True) == pytest.approx(1 - 1.5 / 4)
    wins = [1.0 if p > q else 0.5 if p == q else 0.0 for p in a for q in b]
    assert probability_better(a, b, paired=False) == sum(wins) / 16
    assert probability_better(a + 9, b, paired=False) == 1.0


def test_p_values_are_scipys():
    draw = random.Random(1)
    for n in (2, 3, 7, 40):
        a, b = ([draw.gauss(mean, 0.2) for _ in range(n)] for mean in (0.5, 0.7))
        expected = scipy.stats.ttest_rel(a, b).pvalue
        assert paired_p_value([x - y for x, y in zip(a, b, strict=True)]) == pytest.approx(expected, rel=1e-9)
    assert paired_p_value([0.1]) is None and paired_p_value([]) is None
    assert paired_p_value([0.1, 0.1, 0.1]) is None  # without a spread there is nothing to compare with
    assert paired_p_value([0.1 + 0.2, 0.3]) is None  # nor with a spread of rounding


def test_holm_by_hand():
    # sorted .01 .02 .03 .04: times 4, 3, 2, 1 and never below the one before
    assert holm([0.01, 0.04, 0.03, 0.02]) == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert holm([0.4, None, 0.01]) == [pytest.approx(0.8), None, pytest.approx(0.03)]
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_a_family_of_comparisons():
    a, b, c = [0.9, 0.8, 0.85], [0.5, 0.45, 0.4], [0.9, 0.7]
    first, second = compare_family([(a, b), (c, [0.8, 0.7])])
    assert first.summary is not None and first.simultaneous is not None
    expected = scipy.stats.ttest_rel(a, b)
    assert (first.summary.mean, first.p) == (pytest.approx(0.4), pytest.approx(expected.pvalue))
    low, high = expected.confidence_interval(0.95)
    assert first.summary.interval == pytest.approx((low, high))
    low, high = expected.confidence_interval(1 - 0.05 / 2)  # Bonferroni for two
    assert first.simultaneous == pytest.approx((high - low) / 2)
    assert first.p_holm == pytest.approx(2 * expected.pvalue)
    assert second.p == second.p_holm == pytest.approx(scipy.stats.ttest_rel(c, [0.8, 0.7]).pvalue)


def test_fewer_than_two_seeds_have_no_interval():
    (one,) = compare_family([([0.9], [0.5])])
    assert one.summary is not None and one.summary.half_width is None
    assert one.simultaneous is None and one.p is None and one.p_holm is None
    (none,) = compare_family([([], [])])
    assert none.summary is None
