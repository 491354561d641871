"""Traits of replies that rules can see: capitals, and the language."""

from __future__ import annotations

import sys

import pytest
from conftest import chat, make_model
from eval_sets import eval_set

from selgen_ray.config.evals import EvalConfig
from selgen_ray.evals.metrics.capitals import share_of_capitals
from selgen_ray.evals.metrics.language import language_of
from selgen_ray.evals.registry import all_metrics, selected

REPLIES = [
    *("The train leaves in the morning.", "LE TRAIN PART DEMAIN MATIN ET REVIENT LE SOIR."),
    *("Il fait très beau aujourd'hui dans notre ville.", "42", ""),
]


def measured(name, tokenizer, **config):
    rows = [chat(f"q{i}?", "x") for i in range(len(REPLIES))]
    asked = eval_set(make_model(), tokenizer, rows, **config)
    asked.answers.replies.update(enumerate(REPLIES))
    return all_metrics()[name](asked)


def test_shares_by_hand(tokenizer):
    found = measured("uppercase_share", tokenizer)
    capitals = (1 / 26 + 1.0 + 1 / 38) / 3  # of the three with letters
    assert found == pytest.approx(
        {"uppercase_share": capitals, "lowercase_share": 1 - capitals, "without_letters": 0.4}
    )
    assert measured("language", tokenizer, language="fr") == pytest.approx({"language": 0.4, "other_language": 0.6})
    assert measured("language", tokenizer, language="en")["language"] == pytest.approx(0.2)
    assert measured("language", tokenizer) == {}


def test_thinking_is_not_measured(tokenizer, monkeypatch):
    thought = "<think>LE TRAIN PART DEMAIN MATIN ET REVIENT LE SOIR.</think>The train leaves in the morning."
    monkeypatch.setattr(sys.modules[__name__], "REPLIES", [thought, "<think>Il fait très beau aujourd'hui."])
    found = measured("uppercase_share", tokenizer)
    assert (found["uppercase_share"], found["without_letters"]) == (pytest.approx(1 / 26), 0.5)
    assert measured("language", tokenizer, language="fr")["language"] == 0.0
    assert measured("language", tokenizer, language="en")["language"] == 0.5


def test_reading_of_single_replies():
    assert share_of_capitals("ÀB c1") == pytest.approx(2 / 3) and share_of_capitals("12 你好") is None
    german = "Der Zug fährt morgen früh ab."
    assert language_of(german) == language_of(german.upper()) == "de"
    assert language_of("12!") is None


def test_they_are_computed_where_they_are_asked_for():
    both = {"language", "uppercase_share"}
    assert not both & selected(EvalConfig()).keys()
    assert both & selected(EvalConfig(language="fr")).keys() == {"language"}
    assert both & selected(EvalConfig(alignment="align_test/lowercase_share")).keys() == {"uppercase_share"}
    assert selected(EvalConfig(metrics=["uppercase_share"])).keys() == {"uppercase_share"}
