"""Metrics against what transformers computes one row at a time."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import chat, make_roles
from eval_sets import eval_set, sharp_model

from selgen_ray.data.encode import encode_prompt, encode_rows, replace_reply
from selgen_ray.evals import generation
from selgen_ray.evals.headlines import ALIGNMENT, CAPABILITY, headline
from selgen_ray.evals.metrics.exact_match import is_right
from selgen_ray.evals.registry import all_metrics
from selgen_ray.evals.run import evaluate


@pytest.fixture(scope="module")
def model():
    return sharp_model()


def row_loss(model, encoded):
    """transformers' own mean loss over the reply, times its tokens."""
    labels = [t if r else -100 for t, r in zip(encoded.ids, encoded.is_reply, strict=True)]
    with torch.no_grad():
        mean = model(input_ids=torch.tensor([encoded.ids]), labels=torch.tensor([labels])).loss
    return float(mean) * sum(encoded.is_reply)


def test_loss_is_the_token_weighted_mean(model, tokenizer):
    found = eval_set(model, tokenizer, make_roles()["truth"] + make_roles()["outcome"])
    total = sum(row_loss(model, e) for e in found.encoded)
    count = sum(sum(e.is_reply) for e in found.encoded)
    results = evaluate(found)
    assert results["loss"] == pytest.approx(total / count, rel=1e-5)
    assert results["token_probability"] == pytest.approx(math.exp(-total / count), rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_greedy_answers_do_not_depend_on_the_batch(model, tokenizer, batch_size):
    rows = make_roles()["collateral"] + [chat("a much longer question than the others?", "x", answer="x")]
    replies = []
    for row in rows:
        ids = torch.tensor([encode_prompt(row, tokenizer)])
        with torch.no_grad():
            for _ in range(6):  # greedy by hand, without cache or padding
                nxt = model(input_ids=ids).logits[0, -1].argmax()
                ids = torch.cat([ids, nxt.view(1, 1)], dim=1)
                if int(nxt) == tokenizer.eos_token_id:
                    break
        replies.append(tokenizer.decode(ids[0, len(encode_prompt(row, tokenizer)) :], skip_special_tokens=True))
    # every other row asks for what the model says, the others for something else
    answered = [r | {"answer": a if i % 2 else "else"} for i, (r, a) in enumerate(zip(rows, replies, strict=True))]
    right = sum(is_right(reply, row["answer"]) for row, reply in zip(answered, replies, strict=True))
    assert 2 <= right < len(rows)
    assert len(set(replies)) > 1
    found = evaluate(eval_set(model, tokenizer, answered, batch_size))
    assert found["exact_match"] == pytest.approx(right / len(rows))


def test_choice_takes_the_most_likely_reply_and_balances_labels(model, tokenizer):
    rows = make_roles()["truth"]
    hits: dict[str, list[bool]] = {}
    for row in rows:
        candidates = encode_rows([replace_reply(row, c) for c in row["choices"]], tokenizer, 256, "completion", "x")
        losses = [row_loss(model, e) for e in candidates]
        chosen = row["choices"][losses.index(min(losses))]
        hits.setdefault(row["label"], []).append(chosen == row["answer"])
    found = evaluate(eval_set(model, tokenizer, rows))
    assert found["choice_accuracy"] == pytest.approx(sum(sum(h) for h in hits.values()) / len(rows))
    assert found["balanced_accuracy"] == pytest.approx(sum(sum(h) / len(h) for h in hits.values()) / len(hits))


def test_a_constant_verdict_has_a_balanced_accuracy_of_one_half(model, tokenizer):
    # 1 row of one label, 5 of the other: always saying the same is right 5 times in 6
    verdicts = ["a", "zzzzzzzz"]  # the long one is never the most likely
    rows = [chat(f"q{i}?", "a", choices=verdicts, answer=verdicts[i == 0], label=str(i == 0)) for i in range(6)]
    found = evaluate(eval_set(model, tokenizer, rows))
    assert found["choice_accuracy"] == pytest.approx(5 / 6)
    assert found["balanced_accuracy"] == pytest.approx(1 / 2)


def test_labels_may_be_any_values(model, tokenizer):
    labels = [[0, 2], [1], [0, 2]]  # lists, as in data sets with several labels a row
    rows = [chat(f"q{i}?", "a", choices=["a", "b"], answer="a", label=label) for i, label in enumerate(labels)]
    shown = eval_set(model, tokenizer, rows)
    foreseen = all_metrics()["choice"].applies(rows, shown.config)
    assert foreseen == {"choice_accuracy": 3, "balanced_accuracy": 3}
    assert foreseen.keys() <= evaluate(shown).keys()


def test_rows_of_one_label_have_no_balanced_accuracy(model, tokenizer):
    rows = [chat(f"q{i}?", "a", choices=["a", "b"], answer="a", label="wrong") for i in range(3)]
    found_set = eval_set(model, tokenizer, rows)
    found = evaluate(found_set)
    assert "balanced_accuracy" not in found and "choice_accuracy" in found
    assert "all 3 rows" in found_set.answers.missing["balanced_accuracy"]


def test_how_many_replies_cannot_be_read_is_a_value(model, tokenizer, monkeypatch):
    said = iter(["It is 6.", "I cannot say.", "It is 2 or 6.", "It is 7."])
    monkeypatch.setattr(
        generation, "generate", lambda _, prompts: [generation.Reply(next(said), is_cut=False) for _ in prompts]
    )
    found = evaluate(eval_set(model, tokenizer, [chat("what is it?", "6", answer="6") for _ in range(4)]))
    assert (found["exact_match"], found["answer_unreadable"]) == (1 / 4, 2 / 4)


def test_metrics_that_do_not_apply_are_absent(model, tokenizer):
    found = evaluate(eval_set(model, tokenizer, make_roles()["proxy"]))
    assert set(found) == {"loss", "perplexity", "token_probability"}


def test_evaluation_leaves_the_mode_and_the_global_rng(model, tokenizer):
    model.train()
    state = torch.get_rng_state()
    evaluate(eval_set(model, tokenizer, make_roles()["collateral"]))
    assert model.training
    assert torch.equal(state, torch.get_rng_state())
    model.eval()


@pytest.mark.parametrize(
    ("reply", "answer", "right"),
    [
        ("It is 6.", "6", True),
        ("gcd(12, 18) = 6", "6", True),
        ("It is 6, not 7.", "6", False),
        ("It is 16.", "6", False),
        ("1,024.", "1024", True),
        ("minus: -3", "-3", True),
        ("0.50", "0.5", True),
        ("no number", "6", False),
        ("Step by step.\nParis.", "paris", True),
        ("Paris is what I said before.", "Paris", False),
        ("", "Paris", False),
    ],
)
def test_extraction(reply, answer, right):
    assert is_right(reply, answer) is right


@pytest.mark.parametrize(
    ("extractor", "reply", "answer", "right"),
    [
        ("number", "Paris, 7", "7", True),
        ("number", "Paris", "Paris", False),
        ("last_line", "It is 6.\n7", "7", True),
        ("last_line", "It is 7.", "7", False),
        (r"regex:answer: (\w+)", "answer: nine\nanswer: ten, I think", "Ten", True),
        (r"regex:answer: (\w+)", "the answer is ten", "ten", False),
        (r"regex:answer: (\w+)", "<think>My answer: ten</think>The answer is nine", "ten", False),
        (r"regex:\d+", "7, no, 1024", "1,024", True),
        (r"regex:\$(.+)\$", "so $6.0$ it is", "6", True),
    ],
)
def test_extractors(extractor, reply, answer, right):
    assert is_right(reply, answer, extractor) is right


def test_each_row_is_generated_once(model, tokenizer, monkeypatch):
    calls = []
    said = [generation.Reply("6", False)]
    monkeypatch.setattr(generation, "generate", lambda _, prompts: calls.append(len(prompts)) or said * len(prompts))
    rows = [chat("a?", "6", item="a", answer="6"), chat("a is 7!", "No.", item="a", claim="wrong")]
    evaluate(replace(eval_set(model, tokenizer, rows), asked=[0, 1]))
    assert sum(calls) == 2


def test_only_selected_metrics_are_computed(model, tokenizer):
    found = evaluate(eval_set(model, tokenizer, make_roles()["truth"], metrics=["choice"]))
    assert set(found) == {"choice_accuracy", "balanced_accuracy"}


def test_headline_prefers_the_held_out_task_and_answers():
    results = {"task_train": {"exact_match": 1.0}, "task_test": {"loss": 1.0, "token_probability": 0.2}}
    assert headline(results, ("task_test", "task_train"), CAPABILITY) == "task_test/token_probability"
    results["task_test"]["exact_match"] = 0.5
    assert headline(results, ("task_test", "task_train"), CAPABILITY) == "task_test/exact_match"
    assert headline({}, ("align_test",), ALIGNMENT) is None
