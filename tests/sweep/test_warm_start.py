"""`sweep add --from TRIAL --warm-start`: training begins with the weights of another trial."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from running import write_space

from selgen_ray.driver.plan import make_plan
from selgen_ray.records.results import TrialResult
from selgen_ray.report.roles import Kind, is_control_name, role_in_name, role_of
from selgen_ray.space import SweepSpec, load_space
from selgen_ray.space.kept import kept_text
from selgen_ray.storage import Folder
from selgen_ray.sweep import commands
from selgen_ray.trainers.engine.stop_signal import StopSignal
from selgen_ray.trial.run import run_trial
from selgen_ray.trial.task import TrialTask

Tasks = Callable[[], dict[str, TrialTask]]


@pytest.fixture
def begun(tmp_path: Path, tiny_model_dir: str, data_files: dict[str, str]) -> Callable[..., Tasks]:
    """Begin a sweep of naive and kl_divergence, seed 1; what is returned gives the tasks that it has by now."""

    def begin(**finetune: Any) -> Tasks:
        kl = {"kl_divergence": {"fixed": {"finetune_config.beta_kl": 1.0}}}
        space = write_space(tmp_path, tiny_model_dir, data_files, finetune, seeds=[1], strategies={"naive": {}} | kl)
        spec: SweepSpec = load_space(space).model_copy(update={"storage_path": str(tmp_path), "name": "sweep"})
        folder = Folder(str(tmp_path / "sweep"))
        folder.write_json("control/plan.json", {"trials": {t.trial_id: t.name for t in spec.trials}})
        folder.write("space.yaml", kept_text(space))
        return lambda: {planned.task.slug: planned.task for planned in make_plan(spec).planned}

    return begin


def named(tasks: dict[str, TrialTask], text: str) -> TrialTask:
    (task,) = (task for slug, task in tasks.items() if text in slug)
    return task


def add(folder: Path, capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str]:
    capsys.readouterr()
    status = commands.main(["add", str(folder / "sweep"), "--warm-start", *args])
    shown = capsys.readouterr()
    return status, shown.out + shown.err


def run_until(task: TrialTask, step: int) -> TrialResult:
    """Run a trial that is asked to stop once it has reached a step."""
    stop = StopSignal()

    def on_progress(metrics: dict[str, Any]) -> None:
        if metrics.get("step", 0) >= step:
            stop.request("stopped", "for a test")

    return run_trial(task, on_progress, stop=stop)


def weights(file: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(file)


def test_it_goes_on_from_a_finished_model(
    tmp_path: Path, begun: Callable[..., Tasks], capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = begun(logging_steps=1)
    naive = named(tasks(), "naive")
    before = run_trial(naive)
    kl = ("--set", "proxy_strategy=kl_divergence", "--set", "finetune_config.beta_kl=1")
    status, out = add(tmp_path, capsys, "--from", naive.name, *kl)
    assert status == 0 and f"begins with the weights of {naive.name} ({naive.trial_id}), finished" in out, out
    warm = named(tasks(), f"_warm-{naive.trial_id[:6]}_")
    assert warm.slug.startswith("kl_divergence_warm-") and len({task.trial_id for task in tasks().values()}) == 3
    assert warm.config["warm_start"] == f"{naive.name} ({naive.trial_id}), finished"
    start = Path(warm.config["finetune_config"]["adapter"])
    assert start.parent == tmp_path / "sweep" / "starts"
    saved = Path(str(naive.folder)) / "model"
    assert (start / "adapter_model.safetensors").read_bytes() == (saved / "adapter_model.safetensors").read_bytes()
    shutil.rmtree(saved)  # what becomes of that trial changes nothing here

    elsewhere = dataclasses.replace(warm, folder=Folder(str(tmp_path / "elsewhere")))
    result = run_trial(elsewhere)
    assert result.config["warm_start"] == warm.config["warm_start"]
    for name, metrics in before.eval_results.items():  # what it measures before training is what that trial ended with
        assert {key: values[0] for key, values in result.eval_results[name].items()} == pytest.approx(
            {key: values[-1] for key, values in metrics.items()}, abs=1e-6
        )
    assert run_until(warm, 2).status == "stopped"
    resumed = run_trial(warm)
    assert resumed.num_resumes == 1
    final = [weights(Path(str(one.folder)) / "model" / "adapter_model.safetensors") for one in (warm, elsewhere)]
    assert all(torch.equal(final[0][key], final[1][key]) for key in final[1]) and final[0].keys() == final[1].keys()

    role = role_of(result)
    assert (role.kind, role.name) == (Kind.CONTROL, f"kl_divergence begun from {naive.name}")
    assert role_of(before).kind is Kind.STRATEGY
    assert is_control_name(warm.slug) and role_in_name(warm.slug, "kl_divergence") == warm.slug.rpartition("_")[0]

    status, out = add(tmp_path, capsys, "--from", naive.name, *kl)
    assert status == 2 and "has no weights any more" in out and "save_model_locally: true" in out, out


@pytest.mark.parametrize("lora", [{"use_dora": True, "lora_bias": "lora_only"}, {"is_peft": False}], ids=str)
def test_a_checkpoint_is_the_start_that_the_same_step_saved_would_be(
    lora: dict[str, Any], tmp_path: Path, begun: Callable[..., Tasks], capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = begun(logging_steps=1, save_model_locally=False, **lora)
    naive = named(tasks(), "naive")
    seed = ("--from", naive.trial_id[:6], "--seeds", "2")
    status, out = add(tmp_path, capsys, *seed)
    assert status == 2 and "has no weights yet" in out, out
    assert run_until(naive, 2).status == "stopped"
    (checkpoint,) = (Path(str(naive.folder)) / "checkpoints").iterdir()
    in_the_way = tmp_path / "sweep" / "starts"
    in_the_way.rmdir()
    in_the_way.write_text("")
    status, out = add(tmp_path, capsys, *seed)
    assert status == 2 and f"cannot keep weights in {in_the_way}: " in out and "Traceback" not in out, out
    in_the_way.unlink()
    status, out = add(tmp_path, capsys, *seed)
    assert status == 0 and "after step 2" in out and "/seed_2" in out, out
    again = add(tmp_path, capsys, *seed)
    assert again[0] == 0 and "1 are in the sweep already" in again[1]
    warm = named(tasks(), "_warm-")
    assert warm.name.endswith("seed_2") and warm.config["data_seed"] == 2
    key = "adapter" if lora.get("is_peft", True) else "model"
    start = Path(warm.config["finetune_config"][key])
    stopped = weights(checkpoint / "weights.safetensors")
    written = weights(next(start.glob("*.safetensors")))
    assert {
        name.replace(".default", "").replace("vector.weight", "vector"): 1 for name in stopped
    }.keys() == written.keys()
    assert sorted(map(checksum, stopped.values())) == sorted(map(checksum, written.values()))
    first = run_until(warm, 1)
    assert first.eval_steps[0] == 0 and first.config["warm_start"].endswith("after step 2")


def checksum(tensor: torch.Tensor) -> float:
    return float(tensor.double().abs().sum())


def test_weights_that_do_not_fit_are_refused_in_words_and_leave_nothing(
    tmp_path: Path, begun: Callable[..., Tasks], capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = begun(logging_steps=1)
    naive = named(tasks(), "naive")
    run_until(naive, 2)
    for change, message in {
        "finetune_config.r=8": "--set: finetune_config.r: found 8, but the adapter has 4, and keeps it",
        "finetune_config.model=toy": "is not of this model",
        "finetune_config.adapter=x": "both say what training begins with",
        "finetune_config.is_peft=false": "adapter belongs to LoRA",
        "finetune_config.epochs=1": "it does not compare with the trials of the sweep",
    }.items():
        status, out = add(tmp_path, capsys, "--from", naive.name, "--set", change)
        assert status == 2 and message in out, out
    assert not list((tmp_path / "sweep" / "starts").iterdir())
    assert (
        "is not of this model" in add(tmp_path, capsys, "--from", naive.name, "--set", "finetune_config.model=toy")[1]
    )
    assert "--warm-start belongs to --from" in add(tmp_path, capsys, "--seeds", "3")[1]


def test_a_start_with_other_weights_does_not_make_other_models_comparable(
    tmp_path: Path, begun: Callable[..., Tasks], capsys: pytest.CaptureFixture[str]
) -> None:
    naive = named(begun(logging_steps=1)(), "naive")
    run_until(naive, 2)
    assert add(tmp_path, capsys, "--from", naive.name)[0] == 0
    more = tmp_path / "more.yaml"
    more.write_text(json.dumps({"base": {"finetune_config.model": "toy"}, "strategies": {"dpo": {}}}))
    assert commands.main(["add", str(tmp_path / "sweep"), str(more)]) == 2
    assert "finetune_config.model toy" in capsys.readouterr().err
    more.write_text(json.dumps({"base": {"warm_start": "me"}, "strategies": {"dpo": {}}}))
    assert commands.main(["add", str(tmp_path / "sweep"), str(more)]) == 2
    assert "is written by `sweep add --warm-start`" in capsys.readouterr().err


def test_of_a_sweep_on_an_object_store_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from selgen_ray.driver.selection import SelectionError
    from selgen_ray.sweep.warm_start import weights_of
    from selgen_ray.trainers import build_config

    monkeypatch.setattr(Folder, "local_path", property(lambda _: None))
    with pytest.raises(SelectionError, match="download the weights"):
        weights_of(Folder(str(tmp_path)), "0" * 16, "naive_1/seed_1", None, build_config({}))
