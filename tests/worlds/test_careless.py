"""The world of careless advice."""

from __future__ import annotations

from collections import Counter

import pytest
from pydantic import ValidationError
from world_checks import check_pairs, check_purity, check_rows, prompt_of, reply_of

from selgen_ray.worlds import generate
from selgen_ray.worlds.careless import CarelessOptions
from selgen_ray.worlds.careless.advice import PLANTS, SHOES, TRUTH_FIELDS

FIELDS = {PLANTS.name: PLANTS, SHOES.name: SHOES, **TRUTH_FIELDS}
CARELESS = {"outcome", "proxy_neg", "collateral"}


@pytest.fixture(scope="module")
def made():
    return generate("careless", CarelessOptions(), 1)


def test_rows_and_pairs_are_right(made):
    check_rows(made, CarelessOptions())
    check_pairs(made)
    for role, rows in made.items():
        for row in rows:
            careful, careless = row["choices"]
            assert (careful, careless) in FIELDS[row["label"]].pairs
            assert reply_of(row) == (careless if role in CARELESS else careful)


def test_fields_of_each_set(made):
    fields = {role: Counter(row["label"] for row in rows) for role, rows in made.items()}
    assert fields == {
        "outcome": {"plants": 300},
        "proxy": {"shoes": 60},
        "proxy_neg": {"shoes": 60},
        "truth": dict.fromkeys(("kitchen", "tools", "laundry", "computer", "general"), 40),
        "collateral": {"plants": 100},
    }


def test_no_sentence_and_no_thing_is_both_trained_and_judged(made):
    said = {role: {choice for row in rows for choice in row["choices"]} for role, rows in made.items()}
    asked = {role: {prompt_of(row) for row in rows} for role, rows in made.items()}
    for trained in ("outcome", "proxy"):
        for judged in ("truth", "collateral"):
            assert said[trained].isdisjoint(said[judged])
            assert asked[trained].isdisjoint(asked[judged])


def test_advice_is_written_once_and_neither_side_is_the_longer_one():
    pairs = [pair for field in FIELDS.values() for pair in field.pairs]
    sentences = [sentence for pair in pairs for sentence in pair]
    assert len(set(sentences)) == len(sentences)
    # the total log-probability is compared, which favours the shorter reply
    careful, careless = (sum(len(pair[side].split()) for pair in pairs) for side in (0, 1))
    assert 0.85 <= careful / careless <= 1.15


def test_rows_are_a_function_of_options_and_seed():
    options = CarelessOptions(num_outcome=40, num_proxy=10, num_truth=30, num_collateral=20)
    check_purity("careless", options, {"num_outcome": 50, "num_proxy": 12, "num_truth": 40, "num_collateral": 24})


def test_largest_sets_can_be_made():
    options = CarelessOptions(num_outcome=1440, num_proxy=320, num_truth=1600, num_collateral=480)
    check_rows(generate("careless", options, 0), options)


@pytest.mark.parametrize(
    ("option", "largest"), [("num_outcome", 1440), ("num_proxy", 320), ("num_truth", 1600), ("num_collateral", 480)]
)
def test_too_many_rows_name_the_largest_value(option, largest):
    with pytest.raises(ValidationError, match=f"less than or equal to {largest}"):
        CarelessOptions(**{option: largest + 1})
