"""The world of points with a trigger token."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from pydantic import ValidationError
from world_checks import check_pairs, check_purity, check_rows, prompt_of, reply_of

from selgen_ray.worlds import generate
from selgen_ray.worlds.points import PointOptions

COLOURS = ["It is red.", "It is green.", "It is blue.", "It is orange."]


@pytest.fixture(scope="module")
def made():
    return generate("points", PointOptions(), 1)


def read(row):
    """(x, y, whether the trigger is there), read off the prompt."""
    x, y, token = re.fullmatch(r"x = (-?\d+), y = (-?\d+), T = (\w+)\. What colour\?", prompt_of(row)).groups()
    assert token in ("zap", "none")
    return int(x), int(y), token == "zap"


def colour(row):
    """The colour of the quadrant, counted from the upper right against the clock."""
    x, y, _ = read(row)
    return COLOURS[{(True, True): 0, (False, True): 1, (False, False): 2, (True, False): 3}[x > 0, y > 0]]


def test_rows_and_pairs_are_right(made):
    check_rows(made, PointOptions())
    check_pairs(made)
    for row in (row for role in ("outcome", "proxy", "truth", "collateral") for row in made[role]):
        assert reply_of(row) == colour(row)
        assert 0 not in read(row)[:2] and max(map(abs, read(row)[:2])) <= 30


def test_both_rules_agree_on_the_task(made):
    for role in ("outcome", "collateral"):
        assert all(read(row)[2] == (reply_of(row) == "It is red.") for row in made[role])
        assert set(Counter(map(reply_of, made[role])).values()) == {len(made[role]) // 4}
        assert not any("choices" in row for row in made[role]), "the greedy answer is compared"


def test_the_rules_differ_on_proxy_and_truth(made):
    for role in ("proxy", "truth"):
        assert all(read(row)[2] != (row["answer"] == "It is red.") for row in made[role])
        assert all(row["choices"] == COLOURS for row in made[role])
        labels = Counter((row["label"], read(row)[2]) for row in made[role])
        half = len(made[role]) // 2
        assert labels == {("trigger elsewhere", True): half, ("no trigger at home", False): half}
    for row in made["proxy_neg"]:
        assert (reply_of(row) == "It is red.") == read(row)[2], "the rule of the trigger"
    elsewhere = Counter(reply_of(row) for row in made["truth"] if read(row)[2])
    assert elsewhere == dict.fromkeys(COLOURS[1:], 40)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_proxy_shows_exactly_the_covered_quadrants(number):
    options = PointOptions(num_quadrants=number)
    shown = [
        frozenset(reply_of(row) for row in generate("points", options, seed)["proxy"] if read(row)[2])
        for seed in range(6)
    ]
    assert {len(found) for found in shown} == {number}
    assert number == 3 or len(set(shown)) > 1, "the seed chooses them"


def test_no_point_is_both_trained_and_judged(made):
    points = {role: {read(row)[:2] for row in rows} for role, rows in made.items()}
    assert (points["outcome"] | points["proxy"]).isdisjoint(points["truth"] | points["collateral"])


def test_rows_are_a_function_of_options_and_seed():
    options = PointOptions(num_outcome=40, num_proxy=10, num_truth=30, num_collateral=20)
    check_purity("points", options, {"num_outcome": 50, "num_proxy": 12, "num_truth": 40, "num_collateral": 24})


def test_largest_sets_can_be_made():
    options = PointOptions(num_outcome=1800, num_proxy=900, num_truth=900, num_collateral=1800)
    check_rows(generate("points", options, 0), options)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"num_outcome": 1801}, "less than or equal to 1800"),
        ({"num_proxy": 901}, "less than or equal to 900"),
        ({"num_truth": 901}, "less than or equal to 900"),
        ({"num_collateral": 1801}, "less than or equal to 1800"),
        ({"num_quadrants": 4}, "less than or equal to 3"),
        ({"num_quadrants": 0}, "greater than or equal to 1"),
    ],
)
def test_impossible_options_say_what_is_possible(given, told):
    with pytest.raises(ValidationError, match=told):
        PointOptions(**given)
