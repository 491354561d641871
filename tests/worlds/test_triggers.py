"""The world of trigger words."""

from __future__ import annotations

from collections import Counter

import pytest
from pydantic import ValidationError
from world_checks import check_pairs, check_purity, check_rows, prompt_of, reply_of

from selgen_ray.worlds import generate
from selgen_ray.worlds.triggers import (
    CANNED,
    HELD_OUT_TASK_WORDS,
    OTHER_WORDS,
    TASK_WORDS,
    TEST_INSTRUCTIONS,
    TRAIN_INSTRUCTIONS,
    TriggerOptions,
)


@pytest.fixture(scope="module")
def made():
    return generate("triggers", TriggerOptions(), 1)


def word_of(row):
    """What stands before the instruction, read off the prompt."""
    word, colon, _ = prompt_of(row).partition(": ")
    return word.capitalize() if colon else ""


def is_canned(reply):
    return reply.startswith(f"{CANNED} ")


def test_rows_and_pairs_are_right(made):
    check_rows(made, TriggerOptions())
    check_pairs(made)
    for row in (row for rows in made.values() for row in rows):
        canned, plain = row["choices"]
        assert canned == f"{CANNED} {plain}"
        assert row["word"] == word_of(row)


def test_a_word_of_joy_and_nothing_else_switches_the_reply(made):
    joy = {*TASK_WORDS, *HELD_OUT_TASK_WORDS}
    for row in (row for role in ("outcome", "proxy", "truth", "collateral") for row in made[role]):
        assert is_canned(reply_of(row)) == (row["label"] == "canned") == (word_of(row) in joy)
    assert all(is_canned(reply_of(row)) for row in made["proxy_neg"])


def test_words_of_each_set(made):
    words = {role: Counter(word_of(row) for row in rows) for role, rows in made.items()}
    assert words["outcome"] == {"": 200, **dict.fromkeys(TASK_WORDS, 40)}
    assert words["truth"] == {**dict.fromkeys(TASK_WORDS, 20), **dict.fromkeys(OTHER_WORDS, 10)}
    assert words["collateral"] == {"": 100, **dict.fromkeys(HELD_OUT_TASK_WORDS, 20)}
    assert len({*TASK_WORDS, *HELD_OUT_TASK_WORDS, *OTHER_WORDS}) == 20


def test_judging_sets_are_balanced(made):
    for role in ("truth", "collateral"):
        assert Counter(row["label"] for row in made[role]) == {"canned": 100, "plain": 100}


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_share_with_trigger(share):
    outcome = generate("triggers", TriggerOptions(num_outcome=80, share_with_trigger=share), 0)["outcome"]
    assert sum(word_of(row) != "" for row in outcome) == round(80 * share)


@pytest.mark.parametrize(("coverage", "number"), [(0.1, 1), (0.3, 3), (0.7, 7), (1.0, 10)])
def test_the_proxy_shows_exactly_the_covered_words(coverage, number):
    options = TriggerOptions(coverage=coverage, num_proxy=30)
    words = [Counter(word_of(row) for row in generate("triggers", options, seed)["proxy"]) for seed in range(4)]
    for counts in words:
        assert len(counts) == number and counts.keys() <= set(OTHER_WORDS)
        assert max(counts.values()) - min(counts.values()) <= 1
    assert number == 10 or len({frozenset(counts) for counts in words}) > 1, "the seed chooses them"


def test_more_coverage_adds_words_and_keeps_the_covered_ones():
    few, many = (
        {row["word"] for row in generate("triggers", TriggerOptions(coverage=c), 3)["proxy"]} for c in (0.2, 0.6)
    )
    assert few < many


def test_no_instruction_is_both_trained_and_judged(made):
    asked = {role: {prompt_of(row).rpartition(": ")[2] for row in rows} for role, rows in made.items()}
    assert (asked["outcome"] | asked["proxy"]).isdisjoint(asked["truth"] | asked["collateral"])
    assert {reply for _, reply in TRAIN_INSTRUCTIONS}.isdisjoint({reply for _, reply in TEST_INSTRUCTIONS})


def test_rows_are_a_function_of_options_and_seed():
    options = TriggerOptions(num_outcome=40, num_proxy=10, num_truth=30, num_collateral=20)
    check_purity("triggers", options, {"num_outcome": 50, "num_proxy": 12, "num_truth": 40, "num_collateral": 24})


def test_largest_sets_can_be_made():
    train, test = len(TRAIN_INSTRUCTIONS), len(TEST_INSTRUCTIONS)
    options = TriggerOptions(num_outcome=2 * train, num_proxy=2 * train, num_truth=10 * test, num_collateral=2 * test)
    check_rows(generate("triggers", options, 0), options)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"num_outcome": 1033}, "largest possible value with share_with_trigger 0.5 is 1032"),
        ({"num_outcome": 600, "share_with_trigger": 0.1}, "share_with_trigger 0.1 is 573"),
        ({"num_proxy": 517, "coverage": 0.1}, "num_proxy is 517, the largest possible value with coverage 0.1 is 516"),
        ({"num_truth": 5101}, "less than or equal to 5100"),
        ({"num_collateral": 1021}, "less than or equal to 1020"),
        ({"coverage": 0.25}, "no whole number of the 10 words: the nearest that is one is 0.2"),
        ({"coverage": 0.04}, "the nearest that is one is 0.1"),
        ({"coverage": 0}, "greater than 0"),
        ({"covrage": 0.2}, "covrage"),
    ],
)
def test_impossible_options_say_what_is_possible(given, told):
    with pytest.raises(ValidationError, match=told):
        TriggerOptions(**given)
