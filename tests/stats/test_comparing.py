"""Statistics between strategies against scipy, hand-computed numbers and brute force."""

import random

import numpy as np
import pytest
import scipy.stats
from benchmarks.coverage import KINDS, Kind, alike, measure

from selgen_ray.stats.comparing import (
    choice_widening,
    compare_family,
    detectable_difference,
    held_out_choices,
    held_out_scores,
    holm,
    hypervolume,
    hypervolumes,
    mirror,
    seeds_to_settle,
    t_p_values,
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


def test_each_seed_is_judged_on_the_setting_that_is_best_on_the_others():
    scores = np.array([[0.9, 0.1, 0.2], [0.3, 0.4, 0.5]])
    assert held_out_choices(scores).tolist() == [1, 0, 0]  # without seed 1: .15 < .45; without 2: .55 > .4; without 3
    assert held_out_scores(scores).tolist() == [0.3, 0.1, 0.2]  # where the naive best, 0.4 on average, flatters
    lacking = np.array([[0.9, np.nan, 0.2], [0.3, 0.4, np.nan]])
    # without seed 2 the first has .55 and the second .3, so the first is chosen, which has no seed 2
    assert held_out_choices(lacking).tolist() == [1, -1, 0]
    assert np.isnan(held_out_scores(lacking)).tolist() == [False, True, False]
    assert held_out_choices(np.array([[0.9, 0.8], [np.nan, np.nan]])).tolist() == [0, 0]
    lucky = np.array([[0.3, 0.4, 0.5], [np.nan, np.nan, 0.9]])  # a lucky run alone can be judged nowhere
    assert held_out_choices(lucky).tolist() == [0, 0, 0]
    assert held_out_choices(np.array([[0.5]])).tolist() == [0]  # no choice
    assert held_out_choices(np.array([[0.5], [0.6]])).tolist() == [-1]
    assert np.isnan(held_out_scores(np.array([[0.5], [0.6]]))).all()
    many = np.random.default_rng(0).random((5, 4, 3))
    assert held_out_choices(many).tolist() == [held_out_choices(one).tolist() for one in many]


def test_equal_scores_are_chosen_between_by_the_ties_on_the_other_seeds():
    scores, sums = np.zeros((3, 4)), np.array([[1.0, 1, 1, 1], [2, 2, 2, 9], [3, 3, 3, 0]])
    assert held_out_choices(scores, sums).tolist() == [1, 1, 1, 2]  # without seed 4: 1, 2, 3; else 1, 13 / 3, 2
    scores[0] = 0.1  # a score decides before any sum
    assert held_out_choices(scores, sums).tolist() == [0, 0, 0, 0]


def test_a_choice_widens_intervals_the_more_the_more_there_is_to_choose():
    assert choice_widening(1, 5) == 1 == choice_widening(7, 1)
    factors = [choice_widening(k, 5) for k in (2, 5, 20)]
    assert factors == sorted(factors) and factors == pytest.approx([1.29, 1.5, 1.61], abs=0.06)


def test_the_difference_that_would_be_found_is_found_in_80_percent():
    n, sd = 5, 0.3
    true = detectable_difference(sd, n)
    found = t_p_values(np.random.default_rng(1).normal(true, sd, (20_000, n))) < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.01)
    assert detectable_difference(sd, n, level=0.005) > true > detectable_difference(sd, 2 * n)
    needed = seeds_to_settle(0.2, sd)
    assert needed is not None and detectable_difference(sd, needed) <= 0.2 < detectable_difference(sd, needed - 1)
    assert seeds_to_settle(1e-6, sd) is None


def test_p_values_are_scipys():
    draw = random.Random(1)
    for n in (2, 3, 7, 40):
        a, b = ([draw.gauss(mean, 0.2) for _ in range(n)] for mean in (0.5, 0.7))
        expected = scipy.stats.ttest_rel(a, b).pvalue
        assert float(t_p_values(np.array(a) - np.array(b))) == pytest.approx(expected, rel=1e-9)
    assert np.isnan(t_p_values(np.array([0.1]))) and np.isnan(t_p_values(np.array([])))
    assert np.isnan(t_p_values(np.array([0.1, 0.1, 0.1])))  # without a spread there is nothing to compare with
    assert np.isnan(t_p_values(np.array([0.1 + 0.2, 0.3])))  # nor with a spread of rounding


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
    (wider,) = compare_family([(a, b)], [2.0])
    assert wider.summary is not None and wider.summary.half_width == pytest.approx(2 * first.summary.half_width)
    assert wider.p is not None and wider.p > first.p and mirror(wider).summary.mean == -wider.summary.mean
    assert first.p_holm == pytest.approx(2 * expected.pvalue)
    assert second.p == second.p_holm == pytest.approx(scipy.stats.ttest_rel(c, [0.8, 0.7]).pvalue)


def test_fewer_than_two_seeds_have_no_interval():
    (one,) = compare_family([([0.9], [0.5])])
    assert one.summary is not None and one.summary.half_width is None
    assert one.simultaneous is None and one.p is None and one.p_holm is None
    (none,) = compare_family([([], [])])
    assert none.summary is None


@pytest.mark.parametrize("num_seeds", [3, 5, 10])
def test_in_simulated_sweeps_intervals_hold_and_alike_strategies_are_seldom_told_apart(num_seeds):
    draws, sweeps = np.random.default_rng(num_seeds), 1500
    for kind in (kind for kind in KINDS if kind.name in ("alike", "shared noise", "settings differ")):
        shares = measure(kind, num_seeds, sweeps, draws)
        noise = 2.5 * (0.05 * 0.95 / sweeps) ** 0.5
        assert min(shares[name] for name in ("row", "score", "pair")) >= 0.93 - noise, (kind, shares)
        assert max(shares["apart"], shares["leader"]) <= 0.06 + noise, (kind, shares)
    flattering = measure(Kind("alike", alike, 20), num_seeds, sweeps, draws)["naive"]
    assert flattering < 0.9  # the simulation sees what choosing and judging on the same seeds does
