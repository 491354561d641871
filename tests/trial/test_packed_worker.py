"""A worker that runs several trials over one base: each has reports, a result and an end of its own."""

from __future__ import annotations

import gc

import pytest

from selgen_ray.records.results import TrialResult
from selgen_ray.records.status import TrialStatus
from selgen_ray.storage import Folder
from selgen_ray.trainers import build_config
from selgen_ray.trainers.naive import StandardTrainer
from selgen_ray.trial.task import TrialTask
from selgen_ray.trial.worker import run_pack_in_worker


class Breaks(StandardTrainer):
    """Raises in its second step."""

    proxy_strategy_name = "test_breaks"

    def after_optimizer_step(self, parameters, learning_rate, step):
        if step == 1:
            raise ArithmeticError("of this trial alone")


class Shown:
    def update(self, progress):
        pass

    def finish(self, status, result=None):
        pass


@pytest.fixture
def tasks(make_config, tmp_path):
    def make(*strategies, **finetune):
        knobs = {"max_steps": 3, "max_to_eval": 1, "max_new_tokens": 1} | finetune
        return [
            TrialTask(
                build_config(make_config(strategy, seed=n, **knobs)).model_dump(mode="json"),
                f"{n:016d}",
                f"{strategy}_{n}",
                Folder(str(tmp_path / str(n))),
                cache=Folder(str(tmp_path / "cache")),
            )
            for n, strategy in enumerate(strategies)
        ]

    return make


def run(tasks, tmp_path, width=2, **options):
    reports = []
    try:
        run_pack_in_worker(tasks, Folder(str(tmp_path)), 1, width, reports.append, lambda _: Shown(), **options)
    finally:
        gc.unfreeze()
    lines = [line for report in reports for line in report["reports"]]
    return {task.trial_id: [line for line in lines if line["member"] == task.trial_id] for task in tasks}


def result_of(task):
    return TrialResult.model_validate_json(task.folder.read("results.json"))


def test_each_trial_reports_for_itself_and_one_that_raises_is_a_crash_of_its_own(tasks, tmp_path):
    chosen = tasks("naive", "test_breaks", "kl_divergence", "naive")
    by_trial = run(chosen, tmp_path)
    for lines in by_trial.values():
        assert "started" in lines[0] and [("status" in line) for line in lines].count(True) == 1
    ends = {name: lines[-1] for name, lines in by_trial.items()}
    assert [ends[t.trial_id]["status"] for t in chosen[:3]] == ["completed", TrialStatus.CRASHED, "completed"]
    assert "of this trial alone" in ends[chosen[1].trial_id]["error"]
    first, broken = result_of(chosen[0]), result_of(chosen[1])
    assert first.status == "completed" and broken.status == "failed"
    assert first.packed_with == sorted(task.name for task in chosen[1:])


def test_a_base_that_cannot_be_loaded_fails_each_trial_with_the_cause(tasks, tmp_path):
    chosen = tasks("naive", "naive", model=str(tmp_path / "no_model"))
    by_trial = run(chosen, tmp_path)
    assert all(lines[-1]["status"] == "failed" and "no_model" in lines[-1]["error"] for lines in by_trial.values())


def test_a_worker_that_finds_its_own_width_says_so(tasks, tmp_path):
    class Large:
        """A device with room for more trials than there are."""

        def held(self):
            return 10

        def watch(self):
            pass

        def peak(self):
            return 20

        def sizes(self):
            return 10**12, 10**12

    by_trial = run(tasks(*["naive"] * 4, max_steps=8), tmp_path, width=None, memory=Large())
    events = [event for lines in by_trial.values() for line in lines for event in line.get("events", ())]
    assert [event["event"] for event in events] == ["pack_width"], events
    assert events[0]["why"].startswith("32 trials at a time: a trial takes")
    assert {lines[-1]["status"] for lines in by_trial.values()} == {"completed"}


def test_without_a_gpu_trials_run_alone_and_the_log_says_why(tasks, tmp_path):
    by_trial = run(tasks("naive", "naive"), tmp_path, width=None)
    for lines in by_trial.values():
        assert lines[-1]["status"] == "completed"
        (event,) = [event for line in lines for event in line.get("events", ())]
        assert event["event"] == "not_packed" and "resources.pack auto: this process has no CUDA device" in event["why"]
