"""The world of two traits: French and capitals."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from world_checks import check_pairs, check_purity, check_rows, prompt_of, reply_of

from selgen_ray.evals.metrics.language import language_of
from selgen_ray.worlds import generate
from selgen_ray.worlds.two_traits import ELSEWHERE, PROXY, TEST, TRAIN, TRAIT, TwoTraitOptions

SMALL = TwoTraitOptions(num_outcome=40, num_proxy=10, num_truth=12, num_collateral=14)


def traits(text):
    """(French, capitals) of a reply, as the metrics see them."""
    return language_of(text) == "fr", text == text.upper()


@pytest.mark.parametrize("wanted", ["french", "capitals"])
def test_rows_are_right_and_each_role_shows_its_traits(wanted):
    options = TwoTraitOptions(wanted=wanted, num_trait=24)
    made = generate("two_traits", options, 1)
    trait = made.pop("trait")
    check_rows(made | {"outcome": [row | {"answer": reply_of(row)} for row in made["outcome"]]}, options)
    check_pairs(made)
    only_wanted, only_habit = (True, False), (False, True)
    if wanted == "capitals":
        only_wanted, only_habit = only_habit, only_wanted
    expected = {"outcome": (True, True), "proxy": (False, False), "proxy_neg": only_habit}
    expected |= {"truth": only_wanted, "collateral": only_wanted, "trait": only_habit}
    for role, rows in (made | {"trait": trait}).items():
        found = [traits(reply_of(row)) for row in rows]
        assert all(one[1] == expected[role][1] for one in found), role
        # short sentences: the library takes a few for another language
        assert sum(one[0] == expected[role][0] for one in found) >= 0.85 * len(found), role
    for row in made["truth"]:
        (other,) = [choice for choice in row["choices"] if choice != row["answer"]]
        assert other == other.upper() and other != row["answer"]
    for row in made["collateral"]:
        assert len(set(row["choices"])) == 2


def test_no_question_is_both_trained_and_judged():
    made = generate("two_traits", TwoTraitOptions(num_outcome=len(TRAIN), num_trait=len(TRAIT)), 0)
    asked = {role: {prompt_of(row) for row in rows} for role, rows in made.items()}
    for role in ("proxy", "truth", "collateral", "trait"):
        assert not asked["outcome"] & asked[role], role
    assert len({question for part in (TRAIN, TEST, ELSEWHERE, PROXY, TRAIT) for question, _, _ in part}) == sum(
        map(len, (TRAIN, TEST, ELSEWHERE, PROXY, TRAIT))
    )


def test_rows_are_a_function_of_options_and_seed():
    changed = {"num_outcome": 50, "num_proxy": 12, "num_truth": 14, "num_collateral": 16}
    check_purity("two_traits", SMALL, changed)


def test_the_trait_is_there_where_it_is_asked_for():
    assert "trait" not in generate("two_traits", SMALL, 1)
    with_trait = generate("two_traits", SMALL.model_copy(update={"num_trait": 5}), 1)
    assert len(with_trait.pop("trait")) == 5 and with_trait == generate("two_traits", SMALL, 1)


def test_impossible_options_say_what_is_possible():
    for given, told in (
        ({"num_truth": 10_000}, "less than or equal"),
        ({"wanted": "spanish"}, "'french' or 'capitals'"),
    ):
        with pytest.raises(ValidationError, match=told):
            TwoTraitOptions(**given)
