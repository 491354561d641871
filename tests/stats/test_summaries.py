"""Statistics against hand-computed numbers, scipy.stats and brute force."""

import math
import random

import pytest
import scipy.stats

from selgen_ray.stats import binomial_interval, paired_change, pareto_front, summarise, t_quantile


def test_three_values_by_hand():
    found = summarise([0.2, 0.4, 0.9])
    assert found is not None
    assert found.n == 3
    assert found.mean == pytest.approx(0.5, abs=1e-15)
    assert found.sd == pytest.approx(math.sqrt((0.09 + 0.01 + 0.16) / 2), abs=1e-15)
    # t(0.975, 2) = 4.302652729749462 (any table); half-width = t sd / sqrt(3)
    assert found.half_width == pytest.approx(4.302652729749462 * 0.36055512754639896 / math.sqrt(3), rel=1e-12)
    # beyond [0, 1] and left so: a cut interval would look more certain than three values are
    low, high = found.interval or (0, 0)
    assert low < 0 and high > 1 and low + high == pytest.approx(1.0)


@pytest.mark.parametrize("n", [2, 3, 5, 30])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_interval_is_scipys(n, confidence):
    draw = random.Random(n)
    values = [draw.gauss(0.6, 0.2) for _ in range(n)]
    found = summarise(values, confidence)
    assert found is not None
    expected = scipy.stats.t.interval(confidence, n - 1, loc=found.mean, scale=scipy.stats.sem(values))
    assert found.interval == pytest.approx(expected, rel=1e-12)


def test_t_quantile_is_scipys():
    for degrees in (1, 2, 7, 200):
        assert t_quantile(0.975, degrees) == pytest.approx(scipy.stats.t.ppf(0.975, degrees), rel=1e-12)


def test_the_interval_covers_as_often_as_it_says():
    draw = random.Random(0)
    trials = 4000
    hits = 0
    for _ in range(trials):
        found = summarise([draw.gauss(0.3, 0.1) for _ in range(3)])
        assert found and found.interval
        hits += found.interval[0] <= 0.3 <= found.interval[1]
    assert abs(hits / trials - 0.95) < 4 * math.sqrt(0.95 * 0.05 / trials)


def test_one_value_has_no_interval_and_none_no_mean():
    found = summarise([0.7])
    assert found is not None
    assert (found.n, found.mean, found.sd, found.half_width, found.interval) == (1, 0.7, None, None, None)
    assert summarise([]) is None
    same = summarise([0.25, 0.25, 0.25])
    assert same is not None and (same.mean, same.sd, same.half_width) == (0.25, 0.0, 0.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(bad):
    with pytest.raises(ValueError, match="1 of 3 values are not finite"):
        summarise([0.1, bad, 0.2])
    with pytest.raises(ValueError, match="not finite"):
        paired_change([0.1], [bad])
    with pytest.raises(ValueError, match="not finite"):
        pareto_front([(0.1, 0.2), (bad, 0.3)])


def test_change_is_paired():
    # each run rose by 0.2, 0.3 or 0.4 from bases that differ far more than that
    found = paired_change([0.3, 0.8, 0.5], [0.1, 0.5, 0.1])
    assert found is not None
    assert found.mean == pytest.approx(0.3)
    assert found.sd == pytest.approx(0.1)
    expected = scipy.stats.ttest_rel([0.3, 0.8, 0.5], [0.1, 0.5, 0.1]).confidence_interval(0.95)
    assert found.interval == pytest.approx((expected.low, expected.high), rel=1e-9)
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        paired_change([0.1, 0.2], [0.1])


def dominates(p, q):
    return p[0] >= q[0] and p[1] >= q[1] and p != q


def test_the_front_is_what_nothing_dominates():
    for seed in range(500):
        draw = random.Random(seed)
        steps = draw.choice([2, 4, 1000])  # few steps: many ties and equal points
        points = [(draw.randint(0, steps) / steps, draw.randint(0, steps) / steps) for _ in range(draw.randint(0, 25))]
        front = pareto_front(points)
        expected = [i for i, p in enumerate(points) if not any(dominates(q, p) for q in points)]
        assert sorted(front) == expected, f"seed {seed}"
        along = [points[i] for i in front]
        assert along == sorted(along)
        assert [y for _, y in along] == sorted((y for _, y in along), reverse=True)


def test_ties_on_the_front():
    points = [(1.0, 0.5), (0.5, 1.0), (1.0, 0.5), (1.0, 0.4), (0.4, 1.0), (0.4, 0.4)]
    assert sorted(pareto_front(points)) == [0, 1, 2]
    assert pareto_front([]) == []
    assert pareto_front([(0.0, 0.0)]) == [0]


def test_equal_shares_have_the_interval_of_their_items():
    expected = scipy.stats.binomtest(49, 50).proportion_ci(0.95, "exact")
    assert binomial_interval(0.98, 50) == pytest.approx((expected.low, expected.high))
    assert binomial_interval(1.0, 50)[1] == 1.0 and binomial_interval(0.0, 50)[0] == 0.0
    flat, spread = summarise([0.98] * 3), summarise([0.98, 0.98, 0.96])
    assert flat is not None and flat.is_flat and spread is not None and not spread.is_flat
    assert not summarise([0.98]).is_flat  # type: ignore[union-attr]
