"""ASHA and the median rule over settings: against rungs and medians computed by hand, and across a restart."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest

from selgen_ray.cluster.schedulers import make_judge
from selgen_ray.driver.early_stopping import EarlyStopping
from selgen_ray.records.results import TrialResult
from selgen_ray.space.spec import StoppingRule

METRIC = "align_test/balanced_accuracy"


@dataclass(frozen=True)
class Task:
    trial_id: str
    slug: str
    config: dict[str, Any]


def tasks(
    settings: Iterable[str], seeds: int = 1, strategy: str = "dpo", epochs: int = 9, **finetune: Any
) -> list[Task]:
    """One trial a setting and seed, '<setting>/<seed>'."""
    config = {"proxy_strategy": strategy, "finetune_config": {"epochs": epochs, "max_steps": None, **finetune}}
    return [Task(f"{slug}/{seed}", slug, config) for slug in settings for seed in range(seeds)]


def asha(trials: list[Task], **rule: Any) -> EarlyStopping:
    return EarlyStopping(StoppingRule(scheduler="asha", **rule), make_judge, trials)


def by_median(trials: list[Task], **rule: Any) -> EarlyStopping:
    return EarlyStopping(StoppingRule(scheduler="median", **rule), make_judge, trials)


def tell(
    judge: EarlyStopping, trial_id: str, epoch: float, value: float | None, metric: str = "alignment"
) -> str | None:
    return judge.report(trial_id, {"epoch": epoch, "step": round(10 * epoch), metric: value})


# asha: rungs at 1, 3 and 9 epochs; a setting goes on from the 66.7th percentile of those before it ------------------


def test_asha_lets_the_best_third_go_on() -> None:
    judge = asha(tasks("abcdef"))
    assert tell(judge, "a/0", 1, 0.5) is None, "the first has nobody to be compared with"
    assert tell(judge, "b/0", 1, 0.4), "below 0.5, the percentile of one value"
    assert tell(judge, "c/0", 1, 0.6) is None
    # 0.4, 0.5, 0.6: two thirds of the way is 0.5 + 0.1 / 3 = 0.533
    assert tell(judge, "d/0", 1, 0.533)
    # 0.4, 0.5, 0.533, 0.6: exactly the third, 0.533; equal is enough
    assert tell(judge, "e/0", 1, 0.533) is None
    assert tell(judge, "f/0", 1, 0.5329)


def test_asha_judges_at_its_rungs_only() -> None:
    judge = asha(tasks("ab"))
    assert tell(judge, "a/0", 1, 0.5) is tell(judge, "b/0", 1, 0.6) is None
    for epoch in (2, 4, 5, 6, 7, 8):
        assert tell(judge, "b/0", epoch, 0.9) is None
        if epoch == 2:
            assert tell(judge, "b/0", 3, 0.9) is None
    assert tell(judge, "a/0", 2, 0.0) is None, "no rung"
    assert tell(judge, "a/0", 3, 0.89)


def test_rungs_follow_the_grace_and_the_factor() -> None:
    judge = asha(tasks("ab"), grace_epochs=2, reduction_factor=2)
    stopped = []
    for epoch in range(1, 9):
        assert tell(judge, "b/0", epoch, 0.9) is None
    for epoch in range(1, 9):
        value = 1.0 if epoch in (2, 4) else 0.0  # the rungs are 2, 4 and 8
        stopped.append(bool(tell(judge, "a/0", epoch, value)))
    assert stopped == [False] * 7 + [True]


def test_less_is_better_of_a_loss() -> None:
    judge = asha(tasks("abc"), metric="align_test/loss")
    assert tell(judge, "a/0", 1, 2.0, "align_test/loss") is None
    assert tell(judge, "b/0", 1, 2.1, "align_test/loss")
    assert tell(judge, "c/0", 1, 1.9, "align_test/loss") is None
    turned = asha(tasks("ab"), metric="align_test/loss", mode="max")
    assert tell(turned, "a/0", 1, 2.0, "align_test/loss") is None
    assert tell(turned, "b/0", 1, 2.1, "align_test/loss") is None


def test_the_reason_is_in_words() -> None:
    judge = asha(tasks("abc", seeds=2))
    for trial, value in (("a/0", 0.5), ("a/1", 0.7), ("b/0", 0.8), ("b/1", 0.8), ("c/0", 0.1)):
        assert tell(judge, trial, 1, value) is None
    why = tell(judge, "c/1", 1, 0.2)
    assert why == (
        "early stopping (asha): alignment is 0.15 after epoch 1, the mean over 2 seeds; "
        "of 2 other settings there the best has 0.8, the median 0.7"
    )


# median -------------------------------------------------------------------------------------------------------------


def test_the_median_rule_compares_the_best_with_running_means() -> None:
    judge = by_median(tasks("abcd"))
    for epoch in (1, 2):
        for slug, value in (("a", 0.5), ("b", 0.6), ("c", 0.7 if epoch == 1 else 0.9)):
            assert tell(judge, f"{slug}/0", epoch, value) is None
    assert tell(judge, "d/0", 1, 0.61) is None, "above 0.6, the median of 0.5, 0.6 and 0.7"
    assert tell(judge, "d/0", 2, 0.0) is None, "its best, 0.61, is above the median of 0.5, 0.6 and 0.8"
    late = by_median(tasks("abcd"))
    for slug, value in (("a", 0.5), ("b", 0.6), ("c", 0.7)):
        assert tell(late, f"{slug}/0", 1, value) is None
    assert tell(late, "d/0", 1, 0.59)


def test_the_median_rule_waits_for_enough_settings_and_for_the_grace() -> None:
    judge = by_median(tasks("abcd"), min_settings=4)
    for slug, value in (("a", 0.5), ("b", 0.6), ("c", 0.7), ("d", 0.0)):
        assert tell(judge, f"{slug}/0", 1, value) is None, "there are three others"
    patient = by_median(tasks("abcd"), grace_epochs=2)
    for epoch in (1, 2):
        for slug, value in (("a", 0.5), ("b", 0.6), ("c", 0.7)):
            assert tell(patient, f"{slug}/0", epoch, value) is None
    assert tell(patient, "d/0", 1, 0.0) is None
    assert tell(patient, "d/0", 2, 0.0)


def test_a_kept_setting_is_an_example_for_the_others_in_all_its_epochs() -> None:
    """Ray's rule would hear no more of a trial that it has told to stop."""
    trials = [*tasks("abc"), *tasks(["kept"], strategy="naive"), *tasks("d")]
    judge = by_median(trials, keep=["naive"], min_settings=4)
    for epoch in (1, 2):
        for slug, value in (("a", 0.5), ("b", 0.6), ("c", 0.7)):
            assert tell(judge, f"{slug}/0", epoch, value) is None
        assert tell(judge, "kept/0", epoch, 0.1) is None, "the worst of all"
    assert tell(judge, "d/0", 1, 0.56) is None, "the median of 0.1, 0.5, 0.6 and 0.7 is 0.55"
    assert tell(judge, "d/0", 2, 0.0) is None


# seeds --------------------------------------------------------------------------------------------------------------

JUDGES = [asha, lambda trials, **rule: by_median(trials, min_settings=1, **rule)]


@pytest.fixture(params=JUDGES, ids=["asha", "median"])
def judge_of(request: pytest.FixtureRequest) -> Callable[..., EarlyStopping]:
    return request.param


def test_seeds_are_judged_together_and_stop_together(judge_of: Callable[..., EarlyStopping]) -> None:
    judge = judge_of(tasks(["good", "bad"], seeds=3))
    for seed, value in enumerate((0.1, 0.8, 0.6)):  # mean 0.5, though one seed is the worst of all
        assert tell(judge, f"good/{seed}", 1, value) is None
    assert tell(judge, "bad/2", 1, 0.0) is None, "two seeds are to come"
    assert tell(judge, "bad/0", 1, 0.9) is None
    assert tell(judge, "bad/1", 1, 0.59), "the mean is 0.497"
    assert tell(judge, "bad/0", 2, 0.0) is None, "told once"
    assert tell(judge, "good/0", 2, 0.0) is None


def test_a_fast_seed_waits_for_the_slow_ones(judge_of: Callable[..., EarlyStopping]) -> None:
    judge = judge_of(tasks("ab", seeds=2))
    for epoch in range(1, 9):
        assert tell(judge, "a/0", epoch, 0.9) is tell(judge, "a/1", epoch, 0.9) is None
        assert tell(judge, "b/0", epoch, 0.0) is None
    assert "after epoch 1," in (tell(judge, "b/1", 1, 0.0) or "")


@pytest.mark.parametrize("status", ["diverged", "failed", "stopped"])
def test_a_seed_that_has_ended_is_waited_for_no_more(judge_of: Callable[..., EarlyStopping], status: str) -> None:
    judge = judge_of(tasks("ab", seeds=2))
    for trial in ("a/0", "a/1"):
        assert tell(judge, trial, 1, 0.5) is None
    assert tell(judge, "b/0", 1, 0.4) is None
    assert judge.ended("b/1", "preempted") is None, "it goes on later"
    why = judge.ended("b/1", status)
    assert why and "its one seed" in why
    lucky = judge_of(tasks("ab", seeds=2))
    for trial in ("a/0", "a/1"):
        assert tell(lucky, trial, 1, 0.5) is None
    assert tell(lucky, "b/0", 1, 0.6) is None
    assert lucky.ended("b/1", status) is None, "the seed that is left is good enough"


def test_nobody_is_left_to_stop(judge_of: Callable[..., EarlyStopping]) -> None:
    judge = judge_of(tasks("ab", seeds=2))
    for trial in ("a/0", "a/1"):
        assert tell(judge, trial, 1, 0.5) is None
    assert tell(judge, "b/0", 1, 0.1) is None
    assert judge.ended("b/0", "failed") is judge.ended("b/1", "failed") is None


# ends and oddities --------------------------------------------------------------------------------------------------


def test_a_setting_is_not_stopped_at_its_end(judge_of: Callable[..., EarlyStopping]) -> None:
    judge = judge_of([*tasks("a"), *tasks("b", epochs=1), *tasks("c", max_steps=10), *tasks("d", max_steps=11)])
    assert tell(judge, "a/0", 1, 0.5) is None
    assert tell(judge, "b/0", 1, 0.1) is None, "it has one epoch"
    assert tell(judge, "c/0", 1, 0.1) is None, "it has ten steps, which are one epoch"
    assert tell(judge, "d/0", 1, 0.05), "it has one more"


def test_a_strategy_that_is_kept_runs_to_its_end(judge_of: Callable[..., EarlyStopping]) -> None:
    judge = judge_of([*tasks("a"), *tasks("b", strategy="naive"), *tasks("c")], keep=["naive"])
    for epoch in range(1, 9):
        assert tell(judge, "a/0", epoch, 0.5) is None
        assert tell(judge, "b/0", epoch, 0.1) is None
    assert tell(judge, "c/0", 1, 0.01)


def test_what_is_told_twice_counts_once(judge_of: Callable[..., EarlyStopping]) -> None:
    """A resumed trial repeats the evaluations after its checkpoint; edits repeat the last one."""
    judge = judge_of(tasks("ab", seeds=2))
    for trial in ("a/0", "a/0", "a/1"):
        assert tell(judge, trial, 1, 0.5) is None
    assert tell(judge, "b/0", 1, 0.4) is tell(judge, "b/0", 1, 0.4) is None, "the other seed has not reported"
    assert tell(judge, "b/0", 0, 0.0) is None
    assert tell(judge, "b/1", 1, 0.4)
    assert tell(judge, "nobody", 1, 0.0) is judge.ended("nobody", "failed") is None


def test_a_metric_that_nobody_reports_stops_nothing_and_is_told_once(
    judge_of: Callable[..., EarlyStopping], caplog: pytest.LogCaptureFixture
) -> None:
    judge = judge_of(tasks("ab"), metric="align_test/nothing")
    for epoch in (1, 2, 3):
        assert tell(judge, "a/0", epoch, 0.5) is tell(judge, "b/0", epoch, 0.1) is None
    assert [record.getMessage() for record in caplog.records] == [
        "early stopping: no evaluation of epoch 1 reports 'align_test/nothing'"
    ]


def test_settings_may_join_later_and_a_retried_one_is_left_alone(judge_of: Callable[..., EarlyStopping]) -> None:
    judge = judge_of(tasks("a"))
    assert tell(judge, "a/0", 1, 0.5) is None
    judge.add(tasks("b", seeds=2))
    assert tell(judge, "b/0", 1, 0.1) is None
    assert tell(judge, "b/1", 1, 0.1)
    assert judge.ended("b/0", "stopped") is judge.ended("b/1", "stopped") is None
    judge.add(tasks("b", seeds=2))
    for epoch in range(2, 9):
        assert tell(judge, "a/0", epoch, 0.5) is None
        assert tell(judge, "b/0", epoch, 0.1) is tell(judge, "b/1", epoch, 0.1) is None


# a restart ----------------------------------------------------------------------------------------------------------


def start(trials: list[Task]) -> dict[str, TrialResult]:
    """The results of trials that have just begun."""
    return {
        t.trial_id: TrialResult(
            trial_id=t.trial_id,
            slug=t.slug,
            seed=int(t.trial_id[-1]),
            status="running",
            config=t.config,
            alignment_metric=METRIC,
        )
        for t in trials
    }


class Sweep:
    """Settings of two seeds whose epochs arrive in a random order; one seed diverges."""

    def __init__(self, order: int):
        self.trials = tasks([f"s{i}" for i in range(8)], seeds=2, epochs=9)
        rng = random.Random(order)
        left = [task for task in self.trials for _ in range(9)]
        rng.shuffle(left)
        self.arrivals = [task.trial_id for task in left]
        self.curves = {t.trial_id: [rng.random() + 0.05 * e for e in range(9)] for t in self.trials}
        self.diverges = ("s3/1", 4)

    def start(self) -> dict[str, TrialResult]:
        return start(self.trials)

    def go_on(
        self, judge: EarlyStopping, results: dict[str, TrialResult], arrivals: list[str]
    ) -> list[tuple[str, str]]:
        """Let the epochs arrive; returns (trial that reported, why its setting was stopped)."""
        told = []
        for trial_id in arrivals:
            result = results[trial_id]
            if result.status != "running":
                continue
            epoch = len(result.eval_epochs) + 1
            if (trial_id, epoch) == self.diverges:
                result.status = "diverged"
                why = judge.ended(trial_id, "diverged")
            else:
                value = {METRIC.split("/")[0]: {METRIC.split("/")[1]: self.curves[trial_id][epoch - 1]}}
                result.add_evaluation(10 * epoch, epoch, "", value)
                why = judge.report(trial_id, result.readings()[-1])
                if epoch == 9:
                    result.status = "completed"
                    why = judge.ended(trial_id, "completed") or why
            if why:
                told.append((trial_id, why))
                for other in (r for r in results.values() if r.slug == result.slug and r.status == "running"):
                    other.status, other.error = "stopped", why
                    judge.ended(other.trial_id, "stopped")
        return told


@pytest.mark.parametrize("order", range(4))
def test_after_a_restart_the_decisions_are_those_of_a_sweep_that_went_on(
    judge_of: Callable[..., EarlyStopping], order: int
) -> None:
    sweep = Sweep(order)
    whole = sweep.go_on(judge_of(sweep.trials), sweep.start(), sweep.arrivals)
    assert 2 <= len(whole) <= 7
    for cut in (1, 20, 40, 60, 100):
        results = sweep.start()
        before = sweep.go_on(judge_of(sweep.trials), results, sweep.arrivals[:cut])
        read = [TrialResult.model_validate_json(result.model_dump_json()) for result in results.values()]
        random.Random(cut).shuffle(read)
        judge = judge_of(sweep.trials)
        judge.restore(result for result in read if result.eval_epochs or result.status != "running")
        after = sweep.go_on(judge, {result.trial_id: result for result in read}, sweep.arrivals[cut:])
        assert before + after == whole


def test_a_seed_that_was_stopped_while_the_sweep_died_adds_nothing() -> None:
    """Its setting was stopped after epoch 1, when the fast seed had three; the slow one could not say so any more."""
    trials = tasks("abc", seeds=2)
    results = start(trials)
    for trial_id, epochs in (("a/0", 1), ("a/1", 1), ("b/0", 3), ("b/1", 1)):
        for epoch in range(1, epochs + 1):
            value = 0.9 if trial_id == "b/0" and epoch > 1 else 0.5
            results[trial_id].add_evaluation(10 * epoch, epoch, "", {"align_test": {"balanced_accuracy": value}})
    results["b/0"].status, results["b/0"].error = "stopped", "early stopping (asha): ..."
    judge = asha(trials)
    judge.restore(results.values())
    assert judge.ended("b/1", "stopped") is None, "there is a mark"
    for epoch, value in ((1, 0.6), (2, 0.6), (3, 0.6)):
        assert tell(judge, "c/0", epoch, value) is tell(judge, "c/1", epoch, value) is None, "first at epoch 3"


def test_a_setting_that_was_stopped_and_retried_is_left_alone_after_a_restart() -> None:
    sweep = Sweep(0)
    results = sweep.start()
    (trial_id, _), *_ = sweep.go_on(asha(sweep.trials), results, sweep.arrivals)
    stopped = results[trial_id]
    assert stopped.status == "stopped"
    slug = stopped.slug
    stopped.status = "running"
    judge = asha(sweep.trials)
    judge.restore(results.values())
    for epoch in range(len(stopped.eval_epochs) + 1, 10):
        assert tell(judge, trial_id, epoch, -1.0) is None, slug
