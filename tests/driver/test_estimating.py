"""`--estimate`: kinds of trial, the arithmetic, the words, and estimate and truth of trials that run."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_sweep import fake_result
from running import in_process, run_without_ray, sweep_on, write_space

from selgen_ray.driver.driver import claim
from selgen_ray.driver.estimate_lines import estimate_lines
from selgen_ray.driver.estimating import Kind, Measured, estimate, kinds_of, schedule
from selgen_ray.driver.plan import make_plan
from selgen_ray.records.control import LIVE, Control
from selgen_ray.records.estimate import FILE_NAME, Estimate, KindEstimate, Span, read_estimate
from selgen_ray.records.results import now
from selgen_ray.report import report_text, write_report
from selgen_ray.space import load_space
from selgen_ray.storage import Folder
from selgen_ray.trainers import plugins
from selgen_ray.trainers.catalogue import build_config
from selgen_ray.trial import measuring
from selgen_ray.trial.measuring import measure_trial
from selgen_ray.trial.run import run_trial
from selgen_ray.trial.task import TrialTask

TOO_LARGE = """\
import torch
from selgen_ray.trainers.base import BaseTrainer


class TooLarge(BaseTrainer):
    proxy_strategy_name = "too_large"

    def terms(self):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 40.00 GiB. GPU 0 has 23.6 GiB in all.")
"""


def planned(space: Path) -> list[TrialTask]:
    return [one.task for one in make_plan(load_space(space)).planned]


def found(**changes: Any) -> dict[str, Any]:
    """A measurement: 10 steps an epoch of 2 s, an evaluation of 100 rows of which 10 took 1 s."""
    plain = {"device": "cuda", "memory": 2**30, "device_memory": 2**31, "open_s": 1.0, "load_s": 5.0, "start_s": 2.0}
    rows = {"names": ["task_test"], "rows": 100, "sampled": 10, "seconds": [1.0, 1.0], "tokens": 5.0, "limit": 32}
    plain |= {"steps": {"per_epoch": 10, "strata": [{"share": 1.0, "seconds": [2.0, 2.0, 2.0]}]}, "evaluation": [rows]}
    plain |= {"checkpoint_s": 0.0, "versions": 0, "edits": 0, "edits_s": 0.0, "prepare_s": 0.0}
    return plain | {"shared": [], "trainings": [], "events": []} | changes


def tasks_of(make_config: Any, *configs: dict[str, Any]) -> list[TrialTask]:
    plain = [build_config(config).model_dump(mode="json") for config in configs]
    return [TrialTask(config, f"{i:016x}", f"slug{i}", Folder("nowhere")) for i, config in enumerate(plain)]


def test_trials_that_cost_alike_are_one_kind(make_config) -> None:
    def kl(**changes: Any) -> dict[str, Any]:
        return make_config("kl_divergence", **{"beta_kl": 3.0, **changes})

    alike = [kl(), kl(beta_kl=10.0), kl(learning_rate=1e-4), kl(epochs=9), make_config("kl_divergence", 2, beta_kl=1.0)]
    others = [kl(beta_kl=0.0), kl(r=8), make_config("naive"), kl(kl_on="outcome"), make_config("naive", 7)]
    tasks = tasks_of(make_config, *alike, *others)
    numbers = [[int(task.trial_id, 16) for task in kind.tasks] for kind in kinds_of(tasks)]
    assert [sorted(one) for one in numbers] == [[0, 1, 2, 3, 4], [5], [6], [7, 9], [8]]
    assert numbers[0][-1] == 4  # the smallest seed is measured
    labels = [kind.label for kind in kinds_of(tasks)]
    assert len(set(labels)) == len(labels) and labels[3] == "naive"
    assert labels[1].startswith("kl_divergence, ") and "beta_kl zero" in labels[1] and "r 8" in labels[2]


def test_a_shared_value_is_computed_once_and_the_others_wait_for_it() -> None:
    trials = [("a", 10.0, {"base": 4.0}), ("b", 10.0, {"base": 4.0}), ("c", 1.0, {"base": 4.0}), ("d", 2.0, {})]
    assert schedule(trials, 1) == ({"a": 14.0, "b": 10.0, "c": 1.0, "d": 2.0}, 27.0)
    # on two places b waits 4 s for what a computes
    assert schedule(trials, 2) == ({"a": 14.0, "b": 14.0, "c": 1.0, "d": 2.0}, 16.0)


@pytest.mark.parametrize("gpus", [0.5, 2.0])
def test_hours_and_price_follow_from_steps_evaluations_and_places(make_config, tmp_path, gpus: float) -> None:
    top = {"evals": {"during": {"every": "5 steps", "max_rows": 20}}}
    configs = [make_config("naive", seed, top, epochs=epochs) for seed in (1, 2) for epochs in (1, 3)]
    tasks = tasks_of(make_config, *configs)
    base = {"kind": "base_evaluation", "key": "k", "seconds": 0.0, "follows": []}
    values = [Measured.of(found(shared=[base]))]
    whole = estimate(tasks, kinds_of(tasks), values, 2, gpus, 1.0, price_per_gpu_hour=2.5, ray_s=3.0)
    # by hand: 2 s a step; 10 s an evaluation of all rows, 2 s of 20; one at the end, some of 20 rows during training;
    # 1 s to open. The start model is evaluated for 10 s for each data_seed, which a split by the seed gives other rows:
    # on two places the trial beside the first one waits for that
    short, long = 1 + 10 * 2 + 10 + 1 * 2, 1 + 30 * 2 + 10 + 5 * 2
    trials_s = (10 + short) + (10 + long) + (10 + short) + long
    wall_s = (10 + short) + (10 + short) + long
    assert whole.trial_seconds.value == pytest.approx(trials_s)
    assert whole.gpu_hours.value == pytest.approx(trials_s * gpus / 3600)
    assert whole.price is not None and whole.price.value == pytest.approx(trials_s * gpus / 3600 * 2.5)
    assert whole.once == {"base_evaluation": (2, 10.0)}
    assert whole.wall_seconds.value == pytest.approx(wall_s)
    assert whole.wall_seconds.low < whole.wall_seconds.value < whole.wall_seconds.high
    paid = whole.price_of_all_places
    assert paid is not None and paid.value == pytest.approx(wall_s / 3600 * gpus * 2 * 2.5)
    assert whole.start_seconds == 3.0 + 2.0 + 5.0
    whole.publish(sweep := Folder(str(tmp_path)))
    assert read_estimate(sweep) == whole and read_estimate(sweep / "other") is None


def test_the_words_name_what_would_not_fit_and_what_is_left_out(make_config, tiny_model_dir, data_files, tmp_path):
    space = load_space(write_space(tmp_path, tiny_model_dir, data_files, resources={"gpus": 0.5, "pack": 2}))
    tasks = tasks_of(make_config, make_config("naive"), make_config("dpo"))
    kinds = kinds_of(tasks)
    measured = [Measured.of(found(memory=2**31 - 1)), Measured.of({"problem": "CUDA out of memory.", "fits": False})]
    lines = list(estimate_lines(estimate(tasks, kinds, measured, 4, 0.5, 1.0, 2.0), kinds, measured, space))
    text = "\n".join(lines)
    assert "would not fit: dpo (1 trial, not counted below): CUDA out of memory." in text
    assert "would not fit: 2 trials share a GPU (resources.gpus 0.5) and take 4 GiB of its 2 GiB" in text
    assert "price: " in text and " at 2 a GPU-hour; " in text and "if the 2 GPUs are paid for" in text
    assert "note: resources.pack 2: " in text and "has 5 tokens here, and may have 32" in text
    measured = measured[1:] * 2
    nothing = list(estimate_lines(estimate(tasks, kinds, measured, 4, 0.5, 1.0), kinds, measured, space))
    assert len(nothing) == 3 and "GPU-hours" not in "\n".join(nothing)


def test_options_that_do_not_go_together_are_refused_in_words(tmp_path, tiny_model_dir, data_files, capsys) -> None:
    space = write_space(tmp_path, tiny_model_dir, data_files)
    for options, words in [
        (["--price-per-gpu-hour", "2"], "--estimate is not"),
        (["--estimate", "--dry-run"], "leave --dry-run out"),
        (["--estimate", "--time-budget", "8h"], "leave one out"),
    ]:
        status, _, err = in_process(space, *options)
        assert status == 2 and words in err
    for price in ("0", "-1", "nan", "inf", "two"):
        with pytest.raises(SystemExit):
            in_process(space, "--estimate", f"--price-per-gpu-hour={price}")


@pytest.fixture
def by_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count the seconds that this process computes, which no other process of the machine makes longer."""
    monkeypatch.setattr(measuring, "clock", time.process_time)


@pytest.mark.parametrize(
    ("strategy", "knobs"),
    [("hf_trainer", {}), ("safe_lora", {"proxy_epochs": 10})],
)
def test_the_estimate_of_a_trial_is_near_the_truth(strategy, knobs, tiny_model_dir, data_files, tmp_path, by_cpu):
    fixed = {f"finetune_config.{key}": value for key, value in knobs.items()}
    space = write_space(
        tmp_path,
        tiny_model_dir,
        data_files,
        {"epochs": 12, "save_model_locally": False, "save_steps": 500},
        storage_path=str(tmp_path / "sweeps"),
        seeds=[1],
        strategies={strategy: {"fixed": fixed}},
        base={
            "finetune_config": {"model": tiny_model_dir, "per_device_train_batch_size": 4, "epochs": 12} | knobs,
            "data": data_files,
            "evals": {"during": {"every": "20 steps"}},
        },
    )
    (task,) = planned(space)
    measured = Measured.of(measure_trial(task))
    assert measured.problem == ""
    whole = estimate([task], [Kind(strategy, (task,))], [measured], 1, 0, 1)
    start = time.process_time()
    result = run_trial(task)
    truth = time.process_time() - start
    assert truth / 3 < whole.trial_seconds.value < truth * 3, (truth, measured)
    steps = measured.num_steps(task.config)
    before = [step for step in result.eval_steps if step == 0]
    assert steps == result.eval_steps[-1]
    assert 1 + sum(measured.evaluations(task.config)) == len(result.eval_steps)
    assert measured.found["versions"] == len(before) - 1
    assert len(measured.found["trainings"]) == {"hf_trainer": 0, "safe_lora": 1}[strategy]


def test_a_trial_that_does_not_fit_is_said_and_not_raised(make_config, tmp_path) -> None:
    (tmp_path / "large.py").write_text(TOO_LARGE)
    plugin = plugins.Plugin.read(tmp_path / "large.py")
    try:
        plugins.register_exactly((plugin,))
        (task,) = tasks_of(make_config, make_config("too_large"))
        assert measure_trial(replace(task, plugins=(plugin,))) == {
            "problem": "CUDA out of memory. Tried to allocate 40.00 GiB. GPU 0 has 23.6 GiB in all.",
            "fits": False,
        }
    finally:
        plugins.register_exactly(())
    wrong = tasks_of(make_config, make_config())[0]
    wrong.config["data"]["outcome"] = "gone.jsonl"
    problem = measure_trial(wrong)
    assert problem["fits"] is True and "gone.jsonl" in problem["problem"]


def test_the_report_puts_estimate_and_truth_side_by_side(tmp_path) -> None:
    sweep = Folder(str(tmp_path / "mine"))
    results = [fake_result("naive", seed, changes={"timings": {"total_s": 30.0}}) for seed in (1, 2)]
    results.append(fake_result("dpo", 1, status="failed"))
    for result in results:
        result.publish(sweep / result.slug / f"seed_{result.seed}" / "results" / result.trial_id)
    ids = [result.trial_id for result in results]
    kinds = [
        KindEstimate("naive", "naive", dict.fromkeys(ids[:2], 20.0), Span(20.0, 18.0, 22.0), num_trials=2),
        KindEstimate("dpo", "dpo", {ids[2]: 50.0}, Span(50.0, 40.0, 60.0), num_trials=1),
    ]
    kept = Estimate("2026-01-01T00:00:00+00:00", kinds, 2, 1.0, 4.0, Span(90.0, 80.0, 100.0), Span(60.0, 50.0, 70.0))
    kept.publish(sweep)
    report = write_report(sweep)
    assert report.foreseen is not None
    assert report.foreseen.rows == (
        ("naive", "2", "20 s a trial", "30 s a trial", "1.50"),
        ("all of them", "2", "0.0111 GPU-hours", "0.0167 GPU-hours", "1.50"),
    )
    # without the trial that failed all are done, and the wall time of the driver is known
    replace(kept, kinds=kinds[:1], start_seconds=6.0).publish(sweep)
    (tmp_path / "mine" / "events.jsonl").write_text(
        '{"at": "2025-12-31T23:00:00+00:00", "event": "sweep_started"}\n'
        '{"at": "2026-01-01T00:01:00+00:00", "event": "sweep_started"}\n'
        '{"at": "2026-01-01T00:02:39+00:00", "event": "sweep_ended"}\n'
    )
    report = write_report(sweep)
    assert report.foreseen is not None
    assert report.foreseen.rows[-1] == ("wall time", "", "1 min 6 s", "1 min 39 s", "1.50")
    table = "naive          2       20 s a trial                         30 s a trial      1.50"
    assert "estimate and truth:" in report_text(report) and table in report_text(report)
    assert "## Estimate and truth" in (tmp_path / "mine" / "report" / "report.md").read_text()
    assert 'id="estimate-table"' in (tmp_path / "mine" / "report" / "index.html").read_text()
    (tmp_path / "mine" / FILE_NAME).write_text("{")
    assert write_report(sweep).foreseen is None


@pytest.mark.ray
def test_a_sweep_costs_about_what_was_estimated(tmp_path, tiny_model_dir, data_files, joined) -> None:
    (tmp_path / "large.py").write_text(TOO_LARGE)
    strategies = {"naive": {}, "kl_divergence": {"grid": {"finetune_config.beta_kl": [1.0, 10.0]}}, "too_large": {}}
    space = write_space(tmp_path, tiny_model_dir, data_files, strategies=strategies, plugins=["large.py"], seeds=[1])
    sweep = tmp_path / "sweeps" / "tiny"
    control = Control(Folder(str(sweep)))
    with claim(control):
        control.folder.write_json(LIVE, {"updated_at": now()})
        asked = sweep_on(joined, space, "--estimate")
    shutil.rmtree(sweep / "control" / "driver")
    (sweep / "control" / LIVE).unlink()
    assert asked.returncode == 1, asked.stdout + asked.stderr
    assert "note: a process runs this sweep now" in asked.stdout
    assert "would not fit: too_large (1 trial, not counted below): CUDA out of memory. Tried" in asked.stdout
    assert "measured 1/3" in asked.stdout and "3 trials, 1 at a time: " in asked.stdout
    assert [path.relative_to(sweep).as_posix() for path in sweep.rglob("*.*")] == ["control/estimate.json"]
    run_without_ray(space, "naive", "kl_divergence")
    only = ("--only", "strategy=naive,kl_divergence")
    done = sweep_on(joined, space, *only)  # nothing is left to run: it writes the report
    assert done.returncode == 0 and "estimate and truth:" in done.stdout, done.stdout + done.stderr
    again = sweep_on(joined, space, "--estimate", *only)
    assert (again.returncode, "nothing is left to estimate" in again.stdout) == (0, True)
