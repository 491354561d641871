"""A trial on a group of workers, on a real Ray cluster: it runs, it survives a worker, and groups wait for places."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
import safetensors.torch
import torch

import selgen_ray.cluster  # noqa: F401  # isort: skip  # it sets the environment that ray reads

import ray
from conftest import make_roles, write_jsonl

from selgen_ray.cluster.cluster import InfeasibleError
from selgen_ray.cluster.train_group import GroupResources, resolve_group, run_group
from selgen_ray.errors import TrialError
from selgen_ray.space import Resources
from selgen_ray.storage import Folder
from selgen_ray.trainers import build_config
from selgen_ray.trial.run import run_trial
from selgen_ray.trial.task import TrialTask

CPUS = 2  # one group at a time
GRANTED = GroupResources(workers=2, cpus_per_worker=1.0, gpus_per_worker=0)


def node(cpus: float, gpus: float = 0) -> dict[str, float]:
    return {"CPU": cpus, "GPU": gpus}


@pytest.mark.parametrize(
    ("nodes", "granted", "fit"),
    [
        ([node(4)], (2, 1.0, 0), 2),
        ([node(2)], (2, 1.0, 0), 1),  # the one who waits for them takes no CPU
        ([node(4)], (3, 1.0, 0), 1),
        ([node(1), node(1)], (2, 1.0, 0), 1),  # over nodes
        ([node(3), node(3)], (2, 2.0, 0), 1),
        ([node(1.5)], (1, 0.5, 0), 3),
        ([node(8, 4), node(8, 4)], (2, 1.0, 1), 4),
        ([node(8, 4), node(8, 4)], (8, 1.0, 1), 1),
        ([node(2, 4), node(8, 1)], (1, 1.0, 1), 3),  # CPUs here, GPUs there
        ([node(8, 3)], (1, 1.0, 2), 1),
        ([node(64)], (1, 1.0, 1), 0),
        ([node(4)], (5, 1.0, 0), 0),
        ([], (1, 1.0, 0), 0),
    ],
)
def test_how_many_trials_fit(nodes, granted, fit):
    assert GroupResources(*granted).fit_on(nodes) == fit


def test_a_group_that_no_cluster_of_this_size_holds_is_refused():
    with pytest.raises(InfeasibleError, match=r"5 workers of 2 CPUs and 0 GPUs each.*: 4 CPUs and 0 GPUs"):
        resolve_group(Resources(workers=5, cpus_per_worker=2.0), [node(4)])
    assert resolve_group(Resources(workers=2), [node(4, 2)]) == GroupResources(2, 1.0, 1)
    assert resolve_group(Resources(workers=2), [node(4)]) == GroupResources(2, 1.0, 0)


@pytest.fixture
def cluster():
    ray.init(address="local", num_cpus=CPUS, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def outcome(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    result = json.loads((folder / "results.json").read_text())
    return result, safetensors.torch.load_file(folder / "model/adapter_model.safetensors")


class Killer:
    """Kills a worker of a trial once, as soon as it has a checkpoint; keeps what is reported."""

    def __init__(self, folder: Path):
        self.folder, self.killed, self.reports = folder, 0, []

    def __call__(self, report: dict[str, Any]) -> None:
        self.reports.append(report)
        if not self.killed and list((self.folder / "checkpoints").glob("*/manifest.json")):
            self.killed = workers_of(self.folder.name)[-1]
            os.kill(self.killed, signal.SIGKILL)


def workers_of(trial_id: str) -> list[int]:
    """Their processes: the directory of each is named after the trial."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "RayTrainWorker" in " ".join(process.cmdline()) and Path(process.cwd()).name == trial_id:
                found.append(process.pid)
    return sorted(found)


@pytest.mark.ray
def test_a_group_runs_and_survives_a_killed_worker(cluster, tmp_path, tiny_model_dir, data_files):
    rows = write_jsonl(tmp_path / "outcome.jsonl", make_roles(200)["outcome"])
    cfg = {"model": tiny_model_dir, "optim": "sgd", "learning_rate": 0.3, "epochs": 1, "r": 4, "max_new_tokens": 1}
    cfg |= {"per_device_train_batch_size": 2, "max_to_eval": 1, "logging_steps": 5, "save_steps": 5}
    cfg |= {"save_model_locally": True, "lora_dropout": 0.1}
    config = {"proxy_strategy": "kl_divergence", "seed": 1, "num_workers": 2, "finetune_config": cfg}
    config |= {"data": {"outcome": rows, "proxy": data_files["proxy"]}}

    def task(name: str, config: dict[str, Any]) -> TrialTask:
        raw = build_config(config).model_dump(mode="json")
        return TrialTask(raw, name, "slug_abc123", Folder(str(tmp_path / name)))

    watch = Killer(tmp_path / "killed")
    for attempt in range(2):  # as the queue does it
        died = contextlib.nullcontext() if attempt else pytest.raises(TrialError, match="its process or its machine")
        with died:
            run_group(task("killed", config), Folder(str(tmp_path / "sweep")), GRANTED, 1, watch)
    assert watch.killed
    found = json.loads((tmp_path / "killed" / "results.json").read_bytes())
    assert found["status"] == "completed" and found["num_resumes"] == 1
    # as one process has it that nobody killed
    killed = outcome(tmp_path / "killed")
    alone = config | {"num_workers": 1, "finetune_config": cfg | {"gradient_accumulation_steps": 2}}
    run_trial(task("alone", alone))
    for name, tensor in outcome(tmp_path / "alone")[1].items():
        torch.testing.assert_close(killed[1][name], tensor, rtol=0, atol=1e-5)
    # what the driver is told on the way
    reports = watch.reports
    assert {0, killed[0]["train_steps"][-1]} <= {r["evaluated"]["step"] for r in reports if "evaluated" in r}
    assert any(r.get("phase") == "train" and 0 < r["step"] < killed[0]["train_steps"][-1] for r in reports)
    assert reports[-1]["status"] == "completed"
