"""What a sweep will measure is told before it runs, and a headline that can never have a value is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import chat
from fake_sweep import fake_result, publish
from running import in_process

from selgen_ray.config.evals import EvalConfig
from selgen_ray.data.encode import encode_rows
from selgen_ray.evals import registry as evals_registry
from selgen_ray.evals.foresight import expected_metrics, half_width
from selgen_ray.evals.run import evaluate
from selgen_ray.reading import read_trials
from selgen_ray.report import text
from selgen_ray.report.build import make_report
from selgen_ray.report.settings import Axis
from selgen_ray.storage import Folder
from selgen_ray.trainers import build_config, get_trainer

TASK = [chat(f"what is {i} + {i}?", f"It is {2 * i}.", answer=str(2 * i)) for i in range(40)]
PLAIN = [chat(f"tell me about {i}", "No.") for i in range(10)]


def write(path: Path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path.name


@pytest.fixture
def said(tmp_path, monkeypatch):
    """What the command says of a sweep of these rows, as (status, text)."""
    monkeypatch.chdir(tmp_path)

    def said(roles, evals_section="", more="", finetune=""):
        data = "".join(f"    {role}: {write(tmp_path / f'{role}.jsonl', rows)}\n" for role, rows in roles.items())
        text = f"name: x\nbase:\n  finetune_config: {{model: toy{finetune}}}\n  data:\n{data}{evals_section}{more}"
        (tmp_path / "space.yaml").write_text(text)
        status, out, err = in_process(Path("space.yaml"), "--dry-run")
        return status, out + err

    return said


def test_the_plan_says_what_will_be_measured(said):
    status, text = said({"outcome": TASK, "collateral": TASK[:39] + PLAIN[:1], "truth": PLAIN[:3]})
    assert status == 0
    assert "  capability: task_test/exact_match on 39 rows of data.collateral (collateral.jsonl), ± 0.16" in text
    assert "  alignment: align_test/token_probability on 3 rows of data.truth (truth.jsonl), ± 0.57 at 95 %" in text
    assert "note: align_test has 3 rows for alignment: a share of so few is known to ± 0.57 at best" in text
    assert "note: 39 of 40 prompts of data.collateral are also in data.outcome, which trains on them" in text
    assert "generalisation" not in text


def test_held_out_rows_are_called_so(said):
    _, text = said({"outcome": TASK})
    line = "capability: task_train/exact_match on 4 rows of data.outcome (outcome.jsonl), ± 0.49 at 95 %"
    assert f"{line}: held out of the rows that are trained on, so no test of generalisation" in text
    assert "alignment: nothing, for want of rows that evals.metrics can measure in data.truth or data.proxy" in text
    _, text = said({"outcome": TASK}, finetune=", train_split: 1.0")
    assert "the very rows that are trained on, so no test of generalisation" in text


def test_the_world_is_the_source(said):
    _, text = said({}, more="    world: toy\n")
    assert "on 200 rows of data.collateral (world toy)" in text


IMPOSSIBLE = {
    "no answer": (
        "capability: task_test/exact_match",
        "space.yaml:9: base.evals.capability: found 'task_test/exact_match', but no row of "
        "data.collateral (collateral.jsonl) has what exact_match needs: 'answer', and no 'choices', 'options' or "
        "'claim'. Allowed: task_test/token_probability.",
    ),
    "nothing rejected": (
        "alignment: align_train/preference_accuracy",
        "space.yaml:9: base.evals.alignment: found 'align_train/preference_accuracy', but no row of "
        "data.proxy (proxy.jsonl) has what preference_accuracy needs: 'rejected', or a row of data.proxy_neg for each",
    ),
    "no such set": (
        "alignment: align_test/exact_match",
        "space.yaml:9: base.evals.alignment: names align_test, but the trial has no data.truth. It has rows for "
        "task_train, task_test, align_train.",
    ),
    "not selected": ("capability: task_test/exact_match\n    metrics: [loss]", "'exact_match' is no metric here"),
    "no row of it": (
        "coherence: align_train_minus/token_probability",
        "evals.coherence: names align_train_minus, but the trial has no data.proxy_neg",
    ),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_a_headline_without_rows_for_it_is_refused(said, name):
    section, expected = IMPOSSIBLE[name]
    status, text = said(
        {"outcome": TASK, "collateral": PLAIN, "proxy": PLAIN}, evals_section=f"  evals:\n    {section}\n"
    )
    assert status == 2 and expected in text, text


def test_an_axis_that_no_trial_has_is_refused(said):
    status, text = said({"outcome": TASK, "truth": PLAIN}, more="pareto:\n  y: align_test/verdict_accuracy\n")
    assert status == 2
    assert "space.yaml:8: pareto.y: found 'align_test/verdict_accuracy', of which no trial can have a value" in text
    assert "align_test/token_probability" in text
    assert said({"outcome": TASK, "truth": PLAIN}, more="pareto:\n  y: align_test/token_probability\n")[0] == 0


def test_half_of_the_interval():
    # 95 % of a binomial share at one half: 1.96 * sqrt(0.25 / n)
    assert [round(half_width(n), 3) for n in (3, 100, 400)] == [0.566, 0.098, 0.049]


ROWS = {
    "answers": TASK[:3],
    "text": [{"text": "abc"}],
    "choices": [chat("q", "a", choices=["a", "b"], answer="a")],
    "labels": [chat("q", "a", choices=["a", "b"], answer="a", label="x")],
    "options": [chat("q", "a", options=["a", "b"], answer="a")],
    "rejected": [chat("q", "a", rejected="b"), chat("r", "a")],
    "claims": [chat("q!", "No.", item=1, claim="wrong"), chat("q?", "a", item=1, answer="a"), chat("x", "y")],
}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("pairs", [False, True])
def test_what_is_foreseen_is_what_is_measured(make_config, name, pairs):
    rows = ROWS[name]
    with get_trainer("naive")(make_config(max_new_tokens=1)) as trainer:
        config = EvalConfig(mcq_from_pairs=pairs)
        encoded = encode_rows(rows, trainer.tokenizer, 64, "completion", "x")
        measured = evaluate(evals_registry.EvalSet(trainer.model, trainer.tokenizer, rows, encoded, 4, 1, 64, config))
    counts: dict[str, int] = {}
    for metric in evals_registry.selected(config).values():
        counts |= metric.applies(rows, config)
    assert counts.keys() - {"sycophancy"} == measured.keys() - {"sycophancy"}  # which what is known may leave empty
    assert counts["loss"] == len(rows)


def test_rows_are_counted_as_the_trial_shows_them(make_config, roles):
    config = build_config(make_config(max_to_eval=5))
    with get_trainer("naive")(config) as trainer:
        sets = {name: rows.rows for name, rows in trainer.sets.evals.items()}
    expected = expected_metrics(config, roles)
    assert {name: counts["loss"] for name, counts in expected.items()} == {n: len(rows) for n, rows in sets.items()}
    assert expected["task_test"]["exact_match"] == 5 and "exact_match" not in expected["align_test"]
    held_out = sum("rejected" in row for row in sets["align_train"])
    assert expected["align_train"]["preference_accuracy"] == held_out == len(sets["align_train"])


def report_text(sweep: Path) -> str:
    """On one line."""
    found = read_trials(Folder(str(sweep)))
    report = make_report(found, str(sweep), "x", Axis("capability"), Axis("alignment"))
    return " ".join(text.report_text(report).split())


def test_the_report_says_what_compares_nothing(tmp_path):
    one = [1.0, 1.0]
    for seed in (1, 2):
        publish(tmp_path, fake_result("naive", seed, x=1.0, base=(1.0, 0.5)))
        publish(tmp_path, fake_result("dpo", seed, x=1.0, y=0.9, base=(1.0, 0.5), evals={"task_train": {"x": one}}))
    shown = report_text(tmp_path)
    told = "note: capability (task_test/exact_match) is 1 for the base model and in every trial: it compares nothing"
    assert told in shown
    assert "alignment (align_test" not in shown
    publish(tmp_path, fake_result("dpo", 3, x=0.9, base=(1.0, 0.5)))
    assert "compares nothing" not in report_text(tmp_path)


def test_the_report_repeats_what_is_noted_of_the_base(tmp_path):
    note = "task_test: 5 of 5 replies reached max_new_tokens 3, where they are cut off"
    for seed in (1, 2):
        publish(tmp_path, fake_result("naive", seed, changes={"notes": [note], "flags": [note]}))
    shown = report_text(tmp_path)
    assert shown.count(f"note: before training, toy: {note}") == 1 and shown.count(note) == 3
