"""Two processes that train a trial together give what one gives, to the rounding of sums in another order.

All of it in float64 with plain gradient descent: Adam would turn a gradient that is zero but for rounding into a step.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.distributed as dist
from conftest import make_model
from runs import STRENGTH
from torch.distributed.tensor import DTensor

from selgen_ray.errors import DataError, SpecError
from selgen_ray.models import loading, sharding
from selgen_ray.records.results import TrialResult
from selgen_ray.space import load_space
from selgen_ray.storage import Folder
from selgen_ray.testing import start_two
from selgen_ray.trainers import build_config, get_trainer, knob
from selgen_ray.trainers.engine import ranks
from selgen_ray.trainers.engine.checkpoints import Checkpoints
from selgen_ray.trainers.engine.stop_signal import StopSignal
from selgen_ray.trainers.naive import StandardTrainer
from selgen_ray.trial.run import run_trial
from selgen_ray.trial.task import TrialTask

TOLERANCE = 1e-11  # weights are of order 0.1, losses of order 5
UNDER_WAY = {"timings", "num_resumes", "started_at", "updated_at", "model_path", "config", "hardware"}


HELD: list[float] = []  # by this rank, of the layers
STOPS: dict[str, list[str]] = {}  # checkpoints after each stop
WRITTEN: list[int] = []  # checkpoints that this rank wrote
LOOKS = (3, 10, 5, 7, 6)  # in the first evaluation, in what is prepared, after steps
TOGETHER = [strategy for strategy in STRENGTH if strategy not in ("inoculation_prompting", "wise_ft", "asft")]
SHARED_OUT = ("naive", "kl_divergence", "grad_project", "safe_lora", "inoculation_adapter", "concept_ablation")


class OneSmallDevice(StandardTrainer):
    """Runs out of memory on the last rank alone."""

    proxy_strategy_name = "test_one_small_device"
    rows_that_fit: int = knob(99, "rows of a micro-batch that fit on the last rank")

    def terms(self):
        return [replace(term, total=self.limited(term.total)) for term in super().terms()]

    def limited(self, total):
        def checked(batch):
            if ranks.rank() and len(batch.rows) > self.rows_that_fit:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return total(batch)

        return checked


@functools.lru_cache(maxsize=1)
def double_base(*_: Any) -> torch.nn.Module:
    return make_model().double().requires_grad_(False)


class StopAtLook(StopSignal):
    """Asks for a stop at the n-th look of this rank; 0: never."""

    def __init__(self, looks: int):
        super().__init__()
        self.left = looks

    @property
    def requested(self):
        self.left -= 1
        if self.left == 0:
            self.request("preempted", "enough looks")
        return super().requested


def run(folder: Path, config: dict[str, Any], looks: int = 0, fsdp: bool = False) -> TrialResult:
    """A trial in this process, alone or with the other ranks; the last rank is asked to stop at one of its looks."""
    raw = build_config(config).model_dump(mode="json")
    stop, events = StopAtLook(looks if ranks.rank() == ranks.world_size() - 1 else 0), []
    task = TrialTask(raw, "0123456789abcdef", "slug_abc123", Folder(str(folder)))
    HELD.clear()
    WRITTEN.clear()
    result = run_trial(task, stop=stop, on_event=events.append, fsdp=fsdp)
    (folder / f"rank_{ranks.rank()}.json").write_text(
        json.dumps([result.model_dump(mode="json"), events, HELD, WRITTEN])
    )
    if looks and ranks.is_main():
        STOPS[folder.name] = STOPS.get(folder.name, []) + [path.name for path in folder.glob("checkpoints/step_*")]
        (folder.parent / f"{folder.name}.stops").write_text(json.dumps(STOPS[folder.name]))
    return result


def keeping_count(shard):
    """Count how much of the layers this rank is left with."""

    def counting(model, device):
        shard(model, device)
        parts = [p for p in model.parameters() if isinstance(p, DTensor)]
        HELD.append(sum(p.to_local().numel() for p in parts) / sum(p.numel() for p in parts))

    return counting


def member(rank: int, meeting_point: str, jobs: list[tuple]) -> None:
    torch.set_num_threads(1)
    loading._load_base = double_base  # type: ignore[assignment]
    sharding.shard = keeping_count(sharding.shard)
    write = Checkpoints._write
    Checkpoints._write = lambda self, one: (WRITTEN.append(one.step), write(self, one))[1]  # type: ignore[assignment]
    limit = timedelta(seconds=300)
    dist.init_process_group("gloo", f"file://{meeting_point}", timeout=limit, rank=rank, world_size=2)
    for job in jobs:
        run(*job)
    dist.destroy_process_group()


def outcome(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    result = TrialResult.model_validate_json((folder / "results.json").read_bytes())
    return result.model_dump(exclude=UNDER_WAY), safetensors.torch.load_file(folder / "model/adapter_model.safetensors")


def assert_close(found: Any, expected: Any, where: str = "") -> None:
    """The same but for rounding, however deep it is nested."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key, value in expected.items():
            assert_close(found[key], value, f"{where}/{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for i, value in enumerate(expected):
            assert_close(found[i], value, f"{where}/{i}")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE), where
    elif isinstance(expected, torch.Tensor):
        torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE, msg=lambda text: f"{where}: {text}")
    else:
        assert found == expected, where


@pytest.fixture(scope="module")
def base(tiny_model_dir, data_files, trait_file) -> Callable[..., dict[str, Any]]:
    def make(strategy: str, num_workers: int, **finetune: Any) -> dict[str, Any]:
        # 19 rows of outcome, 8 a step: in the third one a rank has none
        cfg = {"model": tiny_model_dir, "optim": "sgd", "learning_rate": 0.3, "epochs": 1, "r": 4, "lora_alpha": 8}
        cfg |= {"per_device_train_batch_size": 4, "lora_dropout": 0.1, "logging_steps": 2, "max_new_tokens": 2}
        cfg |= {"max_grad_norm": 1.0, "max_to_eval": 2, "save_model_locally": True} | STRENGTH.get(strategy, {})
        cfg |= {"gradient_accumulation_steps": 2 // num_workers} | finetune
        # fewer sets to evaluate, but for one strategy
        data = {role: path for role, path in data_files.items() if role.startswith(("outcome", "proxy"))}
        data = dict(data_files) if strategy == "naive" else data
        data |= {"trait": trait_file} if "trait" in get_trainer(strategy).required_roles else {}
        top = {"proxy_strategy": strategy, "seed": 1, "num_workers": num_workers, "data": data}
        return {**top, "finetune_config": cfg}

    return make


@pytest.fixture(scope="module")
def group(base, tmp_path_factory) -> Path:
    """Where two processes have run all trials of this module, in one folder each."""
    root = tmp_path_factory.mktemp("group")
    often = base("orth_penalty", 2, save_steps=1000, max_checkpoints_to_keep=1, logging_steps=4, epochs=3)
    jobs = [(root / strategy, base(strategy, 2), 0) for strategy in TOGETHER]
    jobs += [(root / "whole", often, 0), *((root / "cut", often, looks) for looks in (*LOOKS, 0))]
    jobs += [(root / "saving", base("naive", 2, save_steps=1), 0)]
    jobs += [(root / "diverging", base("naive", 2, learning_rate=1e200, max_grad_norm=None), 0)]
    small = {"rows_that_fit": 2, "auto_batch": True, "lora_dropout": 0.0}
    jobs += [(root / "small", base("test_one_small_device", 2, **small), 0)]
    jobs += [(root / f"fsdp_{strategy}", base(strategy, 2), 0, True) for strategy in SHARED_OUT]
    jobs += [(root / f"{how}_dora", base("naive", 2, use_dora=True), 0, how == "fsdp") for how in ("ddp", "fsdp")]
    start_two(member, (str(root / "meeting_point"), jobs))
    return root


@pytest.mark.parametrize("strategy", TOGETHER)
def test_two_workers_give_what_one_gives_with_twice_the_accumulation(base, group, tmp_path, monkeypatch, strategy):
    monkeypatch.setattr(loading, "_load_base", double_base)
    run(tmp_path, base(strategy, 1))
    assert_close(outcome(group / strategy), outcome(tmp_path))


@pytest.mark.parametrize("strategy", SHARED_OUT)
def test_workers_that_share_the_base_out_give_the_same(group, strategy):
    assert_close(outcome(group / f"fsdp_{strategy}"), outcome(group / strategy))
    for rank in (0, 1):
        assert json.loads((group / f"fsdp_{strategy}" / f"rank_{rank}.json").read_text())[2] == [0.5]
        assert json.loads((group / strategy / f"rank_{rank}.json").read_text())[2] == []


def test_dora_on_a_base_that_is_shared_out_is_the_same(group):
    assert_close(outcome(group / "fsdp_dora"), outcome(group / "ddp_dora"))
    assert any("magnitude" in name for name in outcome(group / "fsdp_dora")[1])


@pytest.mark.parametrize(
    ("key", "value"),
    [("is_peft", False), *((f"{key}", True) for key in ("load_in_4bit", "load_in_8bit", "auto_batch", "save_merged"))],
)
def test_what_cannot_be_shared_out_is_refused_where_the_sweep_is_planned(tmp_path, data_files, key, value):
    (tmp_path / "space.yaml").write_text(
        f"resources: {{workers: 2, strategy: fsdp}}\nbase:\n  data.outcome: {data_files['outcome']}\n"
        f"  finetune_config.{key}: {str(value).lower()}\nstrategies: {{naive: {{}}}}\n"
    )
    with pytest.raises(SpecError, match=rf"space\.yaml:4: .*{key}: found {str(value).lower()}.*fsdp"):
        load_space(str(tmp_path / "space.yaml"))


def test_only_rank_0_writes_and_all_know_the_same(group):
    for strategy in TOGETHER:
        results = [json.loads((group / strategy / f"rank_{rank}.json").read_text())[0] for rank in (0, 1)]
        for result in results:
            for name in UNDER_WAY:
                del result[name]
        assert results[0] == results[1]
        assert results[0]["status"] == "completed"
        assert sorted(p.name for p in (group / strategy).iterdir()) == [
            *("config.json", "model", "rank_0.json", "rank_1.json", "results.json")
        ]


def test_rank_0_alone_writes_checkpoints(group):
    written = [json.loads((group / "saving" / f"rank_{rank}.json").read_text())[3] for rank in (0, 1)]
    assert written == [[1, 2, 3], []]


def test_a_loss_that_is_not_finite_ends_all_ranks(group):
    results = [json.loads((group / "diverging" / f"rank_{rank}.json").read_text())[0] for rank in (0, 1)]
    assert [result["status"] for result in results] == ["diverged", "diverged"]
    assert results[0]["error"] == results[1]["error"]


def test_memory_that_runs_out_on_one_rank_makes_all_split_alike(base, group, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "_load_base", double_base)
    run(tmp_path, base("naive", 1, lora_dropout=0.0))
    found, expected = outcome(group / "small"), outcome(tmp_path)
    assert_close(found[1], expected[1])
    assert found[0]["train_losses"]["total"] == pytest.approx(expected[0]["train_losses"]["total"], rel=TOLERANCE)
    for rank in (0, 1):
        events = json.loads((group / "small" / f"rank_{rank}.json").read_text())[1]
        assert [event["event"] for event in events] == ["auto_batch"]


def test_a_throw_away_training_of_one_step_is_refused_at_the_groups_batch_size(base, roles):
    strategy, cfg = "grad_project_precomputed_proxy_grad", {"proxy_batch_size": 5, "proxy_epochs": 1}
    alone, together = (build_config(base(strategy, number, gradient_accumulation_steps=1, **cfg)) for number in (1, 2))
    get_trainer(strategy).check_rows(alone, roles)
    with pytest.raises(DataError, match="one step"):
        get_trainer(strategy).check_rows(together, roles)


def test_a_trial_for_a_group_does_not_run_alone(base, tmp_path):
    with pytest.raises(ValueError, match=r"num_workers is 2, but 1 process.* train.*resources\.workers"):
        run(tmp_path, base("naive", 2))


def test_a_group_is_stopped_by_one_rank_and_goes_on_as_if_it_had_not_been(group):
    stops = json.loads((group / "cut.stops").read_text())
    assert len({int(name.removeprefix("step_")) for name in stops} - {0, 3, 6, 9}) >= 2, stops  # inside an epoch
    found, expected = outcome(group / "cut"), outcome(group / "whole")
    assert found[0] == expected[0]
    assert all(torch.equal(found[1][name], tensor) for name, tensor in expected[1].items())
