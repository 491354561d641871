"""Evaluations of whole trials: headlines, samples, the judge alive and dead, and models that did not change."""

from __future__ import annotations

import json
import math

import pytest
from conftest import UNMARKED
from judge_server import KEY, judge_server

from selgen_ray.config.evals import EvalConfig, JudgeConfig
from selgen_ray.errors import DataError, ModelError
from selgen_ray.evals import registry as evals_registry
from selgen_ray.records.results import TrialResult, less_is_better
from selgen_ray.storage import Folder
from selgen_ray.trainers import build_config, get_trainer
from selgen_ray.trial.run import run_trial
from selgen_ray.trial.task import TrialTask


@pytest.fixture
def run(make_config, tmp_path):
    events = []

    def run(section, name="t", **finetune):
        config = build_config(make_config(top={"evals": section}, epochs=1, **finetune))
        cache = Folder(str(tmp_path / "cache"))
        task = TrialTask(
            config.model_dump(mode="json"), "0" * 16, "slug_abc123", Folder(str(tmp_path / name)), cache=cache
        )
        return run_trial(task, on_event=events.append)

    run.events = events
    return run


def section(server, **more):
    judge = {
        "model": "m-1",
        "base_url": server.base_url,
        "api_key_env": "JUDGE_KEY",
        "max_retries": 1,
        "max_questions": 3,
    }
    return {"judge": judge | more}


def by_question(prompt, _):
    """Scores that depend on the prompt alone, so that sums can be done by hand."""
    return "90" if "coherent" in prompt else "20" if "is 1 big" in prompt else "80"


def test_a_judged_trial(run, tmp_path, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with judge_server(by_question) as server:
        result = run(section(server, max_new_tokens=9))
        asked = len(server.requests)
        assert asked <= 3 * 2 * 2  # three questions, two respects, two evaluations
        again = run(section(server, max_new_tokens=9), "again")
        assert len(server.requests) == asked
    assert result.status == "completed" and not any("judge" in flag for flag in [*result.flags, *again.flags])
    assert (result.alignment_metric, result.coherence_metric) == ("align_test/aligned", "align_test/coherent")
    assert result.alignment == pytest.approx((80 + 20 + 80) / 300) and result.coherence == pytest.approx(0.9)
    assert result.metric("align_test/misaligned_share") == pytest.approx(1 / 3)
    assert result.metric("align_test/aligned_share") == pytest.approx(2 / 3)
    assert again.eval_results == result.eval_results
    assert result.judge.keys() == {"model", "aligned_prompt_sha256", "coherent_prompt_sha256", "thresholds"}
    samples = result.samples["align_test"]
    assert [(s["aligned"], s["coherent"]) for s in samples] == [(80, 90), (20, 90), (80, 90)]
    assert samples[1]["prompt"] == "is 1 big?" and isinstance(samples[1]["base_reply"], str)
    written = [path.read_text() for path in tmp_path.rglob("*.json")]
    assert written and not any(KEY in text for text in written)
    assert not any("judge" in path.name for path in (tmp_path / "cache" / "base_evaluation").rglob("*"))


def test_a_dead_judge_costs_the_scores_and_not_the_training(run, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with judge_server(lambda *_: 401) as server:
        result = run(section(server))
        assert result.status == "completed" and result.coherence is None
        assert "align_test/aligned" in result.missing and "401" in result.missing["align_test/aligned"]
        assert result.alignment_metric == "align_test/balanced_accuracy"
        (flag,) = [flag for flag in result.flags if "judge" in flag]
        assert "align_test" in flag and KEY not in flag
        assert {e["event"] for e in run.events} >= {"judge_failed"}
        server.say = by_question  # the shared evaluation of the base must not remember that it was dead
        later = run(section(server), "later")
    assert later.metric("align_test/aligned", 0) is not None and later.metric("align_test/aligned") is not None


def test_without_its_key_a_trial_does_not_begin(run, monkeypatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with judge_server(by_question) as server, pytest.raises(ModelError, match="JUDGE_KEY"):
        run(section(server))
    assert not server.requests


def test_headlines_are_those_of_the_config(run):
    named = {"capability": "task_train/exact_match", "alignment": "align_test/choice_accuracy"}
    result = run(named | {"coherence": "align_train/token_probability", "num_samples": 2})
    assert result.capability_metric == "task_train/exact_match"
    assert result.alignment == result.metric("align_test/choice_accuracy")
    assert result.coherence == result.metric("align_train/token_probability")
    assert {name: len(samples) for name, samples in result.samples.items()} == dict.fromkeys(
        ("task_train", "task_test", "align_test", "align_test_minus_align_train"), 2
    )
    sample = result.samples["align_test"][0]
    assert sample["reply"] in ("You are right.", "You are wrong.") and sample["answer"] == "You are right."
    assert TrialResult.model_validate_json(result.model_dump_json()) == result


def test_a_headline_outside_of_the_unit_interval_is_an_error(make_config, monkeypatch):
    def score(eval_set):
        return {"score": 3.0}

    monkeypatch.setitem(evals_registry._METRICS, "score", evals_registry.Metric("score", score, ("score",), ()))
    with (
        get_trainer("naive")(make_config(top={"evals": {"alignment": "align_test/score"}})) as trainer,
        pytest.raises(ValueError, match="score = 3"),
    ):
        trainer.evaluate()


def frozen(trainer_class):
    class Frozen(trainer_class):
        """Its adapter is never applied to what is evaluated."""

        def after_optimizer_step(self, parameters, learning_rate, step):
            for name, before in self.kept.items():
                parameters[name].data.copy_(before)

        def prepare(self):
            self.kept = {name: p.detach().clone() for name, p in self.parameters.items()}

    return Frozen


def about_the_base(record):
    """Its flags without those of replies that a random model never ends."""
    return [flag for flag in record.flags if "max_new_tokens" not in flag]


def test_a_model_that_answers_as_its_base_is_flagged(make_config):
    events = []
    with frozen(get_trainer("naive"))(make_config(epochs=1), on_event=events.append) as trainer:
        (flag,) = about_the_base(trainer.train())
    assert "every answer" in flag and "last digit" in flag and "adapter" in flag
    assert [(e["event"], e["why"]) for e in events] == [("answers_unchanged", flag)]
    with get_trainer("naive")(make_config(epochs=3, learning_rate=0.05, is_peft=False)) as trainer:
        record = trainer.train()
    assert about_the_base(record) == []
    assert len(set(record.eval_digests)) == len(record.eval_digests) == 4
    with get_trainer("naive")(make_config(epochs=1, learning_rate=1e-6)) as trainer:
        (flag,) = about_the_base(trainer.train())
    assert "every answer" in flag and "the losses are not" in flag and "adapter" not in flag


def test_a_set_that_training_made_unreadable_is_flagged(make_config):
    def measured(share):
        return {"task_test": {"values": {"exact_match": 0.1, "answer_unreadable": share}, "missing": {}}}

    with get_trainer("naive")(make_config()) as trainer:
        for share, flagged in ((0.2, False), (0.4, False), (0.75, True), (0.3, False)):
            trainer.evaluations.record(measured(share), len(trainer.record.eval_steps), 0.0, "")
            assert ["task_test/answer_unreadable: 75%" in flag for flag in trainer.record.flags] == [True] * flagged


def test_without_any_answer_the_losses_are_compared(make_config, roles):
    plain = {role: [{"messages": row["messages"]} for row in rows] for role, rows in roles.items()}
    del plain["proxy_neg"]  # with it a row of the proxy is a pair, of which one is preferred
    with frozen(get_trainer("naive"))(make_config(epochs=1), datasets=plain) as trainer:
        (flag,) = trainer.train().flags
    assert flag.startswith("every metric is the base model's") and "adapter" in flag
    with get_trainer("naive")(make_config(epochs=1), datasets=plain) as trainer:
        assert trainer.train().flags == []


@pytest.mark.parametrize("metric", ["loss", "sycophancy", "sycophancy_all", "false_rejection", "misaligned_share"])
def test_of_some_metrics_less_is_better(metric):
    assert less_is_better(f"align_test/{metric}")


@pytest.mark.parametrize(
    "metric", ["lm_eval/wikitext_bits_per_byte", "lm_eval/wmt16_ter", "lm_eval/task_brier_score", "align_test/brier"]
)
def test_of_some_metrics_of_lm_eval_less_is_better(metric):
    assert less_is_better(metric) and not less_is_better("lm_eval/arc_easy_acc")


@pytest.mark.parametrize("name", ["trait_train", "align_train_minus", "trait_train@negated"])
def test_one_likelihood_has_one_direction_and_that_of_the_habit_is_turned_round(name):
    for loss, p in ((1.2, 0.3), (0.7, 0.5)):
        assert abs(math.exp(-loss) - p) < 0.01  # loss, perplexity and token_probability are one quantity
    turned = {metric: less_is_better(f"{name}/{metric}") for metric in ("loss", "perplexity", "token_probability")}
    plain = {metric: less_is_better(f"align_train/{metric}") for metric in turned}
    assert turned == {"loss": False, "perplexity": False, "token_probability": True}
    assert plain == {"loss": True, "perplexity": True, "token_probability": False}
    # what is no likelihood of that text is as elsewhere
    assert less_is_better(f"{name}/misaligned_share") and not less_is_better(f"{name}/aligned")


def test_of_others_more_is_better():
    shares = [share for one in evals_registry.all_metrics().values() for share in one.shares]
    assert len(shares) > 8
    assert not any(less_is_better(f"align_test/{share}") for share in [*shares, "aligned", "coherent", "aligned_share"])


def test_a_metric_of_some_rows_says_how_many(make_config, roles):
    from selgen_ray.trial.run import copy_record

    asked = [row for row in roles["collateral"] if row.get("answer") is not None and "choices" not in row][:2]
    others = [{"messages": row["messages"]} for row in roles["collateral"]]
    with get_trainer("naive")(make_config(), datasets={**roles, "collateral": [*asked, *others]}) as trainer:
        trainer.record.add_evaluation(0, 0.0, "", {"task_test": {"loss": 1.0, "exact_match": 0.5}})
        result = TrialResult(trial_id="x", slug="x", seed=1, status="running", config={})
        copy_record(result, trainer)
    assert asked and result.num_rows["eval/task_test"] == len(asked) + len(others)
    assert result.num_rows["eval/task_test/exact_match"] == len(asked) and "eval/task_test/loss" not in result.num_rows


def test_a_headline_that_lm_eval_gives_must_be_a_share(make_config):
    from selgen_ray.trial.run import copy_record

    config = make_config(top={"evals": {"capability": "task_test/exact_match"}})
    with get_trainer("naive")(config) as trainer:
        trainer.record.add_evaluation(0, 0.0, "", {"task_test": {"exact_match": 7.0}})
        result = TrialResult(trial_id="x", slug="x", seed=1, status="running", config={})
        with pytest.raises(DataError, match=r"evals.capability: task_test/exact_match is 7"):
            copy_record(result, trainer)


def test_fields_of_the_section_are_classed():
    def classed(model):
        return {name: info.json_schema_extra["identity"] for name, info in model.model_fields.items()}

    assert {name for name, identity in classed(EvalConfig).items() if not identity} == {"num_samples"}
    execution = {"base_url", "api_key_env", "max_concurrent", "timeout_s", "max_retries"}
    assert {name for name, identity in classed(JudgeConfig).items() if not identity} == execution
    assert json.dumps(EvalConfig().model_dump())


def test_a_thought_that_the_prompt_opens_and_no_row_has_changes_no_answer(run):
    thinking = UNMARKED.replace("%}<|assistant|>{% endif %}", "%}<|assistant|><think>\n{% endif %}")
    assert thinking != UNMARKED
    plain, opened = (run({}, name, chat_template=t) for name, t in (("plain", UNMARKED), ("opened", thinking)))
    assert plain.status == opened.status == "completed" and "exact_match" in plain.eval_results["task_test"]
    assert opened.samples == plain.samples and opened.eval_results == plain.eval_results
