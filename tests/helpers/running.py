"""Running the command as a user does: real subprocesses, and what their sweeps leave behind."""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import psutil
import safetensors.torch
import torch
import yaml

if TYPE_CHECKING:
    from selgen_ray.driver.trial_queue import TrialQueue
    from selgen_ray.trial.task import TrialTask

ROOT = Path(__file__).parents[2]


def write_space(folder: Path, model: str, data: dict[str, str], finetune: dict | None = None, **space) -> Path:
    cfg = {"model": model, "learning_rate": 5e-3, "epochs": 2, "per_device_train_batch_size": 4, "r": 4}
    cfg |= {"max_new_tokens": 4, "logging_steps": 2, "save_steps": 3, "save_model_locally": True} | (finetune or {})
    content = {
        "name": "tiny",
        "storage_path": "./sweeps",  # as users write it; workers have another current directory
        "base": {"finetune_config": cfg, "data": data},
        "seeds": [1, 2],
        "strategies": {"naive": {}, "kl_divergence": {"grid": {"finetune_config.beta_kl": [1.0, 10.0]}}},
    } | space
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    return path


def environment() -> dict[str, str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    return env | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def command(space: Path, *args: str) -> list[str]:
    return [sys.executable, "-m", "selgen_ray.sweep", str(space), *args]


def sweep(space: Path, *args: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    options = {"capture_output": True, "text": True, "timeout": 300, "cwd": space.parent}
    return subprocess.run(command(space, *args), env=env or environment(), **options)


def in_process(space: Path, *args: str) -> tuple[int, str, str]:
    """As `sweep`, in this process, for what needs no Ray: (status, output, errors)."""
    from selgen_ray.sweep.run import main  # late: a process of its own imports PyTorch in seconds, this one has it

    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(space.parent), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(space), *args])
    return status, out.getvalue(), err.getvalue()


def sweep_on(cluster: dict[str, str], space: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """As `sweep`, in this process, on a running cluster and with one worker: what it imports takes the longest.

    Args:
        cluster: the environment that leads to it.
    """
    from selgen_ray.trainers import plugins  # late, as above

    try:
        with mock.patch.dict(os.environ, cluster):
            status, out, err = in_process(space, "--max-concurrent", "1", *args)
    finally:
        plugins.register_exactly(())
    return subprocess.CompletedProcess(command(space, *args), status, out, err)


def run_without_ray(space: Path, *strategies: str) -> None:
    """Run what is left of a sweep, one trial after another in this process: Ray's start takes longer than its trials.

    Args:
        strategies: those whose trials run; default: all.
    """
    from selgen_ray.driver.plan import make_plan  # late, as above
    from selgen_ray.space import load_space
    from selgen_ray.trial.run import run_trial

    with contextlib.chdir(space.parent):
        for task in make_plan(load_space(space)).to_run:
            if not strategies or task.config["proxy_strategy"] in strategies:
                run_trial(task)


def next_trial(queue: TrialQueue) -> TrialTask | None:
    """The next trial that a queue without packs hands out, if there is one now."""
    return next(iter(queue.next_pack()), None)


def dry_run(space: Path) -> str:
    """What the plan says."""
    status, out, err = in_process(space, "--dry-run")
    assert status == 0, err
    return out


def results(folder: Path) -> dict[str, dict]:
    """'<slug>/seed_<N>' -> results.json, of one sweep folder; a trial with two of them is an error."""
    found = {}
    for path in sorted((folder / "sweeps" / "tiny").glob("*/seed_*/results/*/results.json")):
        name = "/".join(path.parts[-5:-3])
        assert name not in found, f"{name} has two results"
        found[name] = json.loads(path.read_text())
    return found


def adapters(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    found = {}
    for path in (folder / "sweeps" / "tiny").glob("*/seed_*/results/*/model/adapter_model.safetensors"):
        found["/".join(path.parts[-6:-4])] = safetensors.torch.load_file(path)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


SLOW = {"epochs": 30, "save_steps": 5, "logging_steps": 5, "max_to_eval": 1, "max_new_tokens": 1, "lora_dropout": 0.1}


def wait_for(condition, seconds: float = 120):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"nothing within {seconds} s")


def slow_space(folder: Path, model: str, data: dict[str, str]) -> Path:
    strategies = {"kl_divergence": {"fixed": {"finetune_config.beta_kl": 3.0}}}
    return write_space(folder, model, data, SLOW, strategies=strategies)


def start(space: Path, env: dict[str, str] | None = None, *args: str) -> subprocess.Popen:
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command(space, *args), env=env or environment(), cwd=space.parent, **pipe)


_AS = """
import sys
from selgen_ray.storage import leases
leases.this_host = lambda: sys.argv[1]
from selgen_ray.driver import driver
driver.LEASE_S = float(sys.argv[2])
from selgen_ray.sweep import main
sys.exit(main(sys.argv[3:]))
"""


def start_as(host: str, lease_s: float, space: Path, env: dict[str, str] | None, *args: str) -> subprocess.Popen:
    """As `start`, on what others take for another machine, with a lease that expires sooner."""
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    line = [sys.executable, "-c", _AS, host, str(lease_s), str(space), *args]
    return subprocess.Popen(line, env=env or environment(), cwd=space.parent, **pipe)


def tree(process: subprocess.Popen) -> list[psutil.Process]:
    return [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]


def kill_9(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def under_way(folder: Path, at_least: int = 20) -> list[str]:
    """Running trials that have a checkpoint of some steps; a finished one may still be deleting its own."""
    manifests = (folder / "sweeps").glob("tiny/*/seed_*/results/*/checkpoints/*/manifest.json")
    far = {"/".join(p.parts[-7:-5]) for p in manifests if int(p.parent.name.split("_")[1][:8]) >= at_least}
    return [name for name, result in results(folder).items() if result["status"] == "running" and name in far]


def assert_same_sweep(folder: Path, reference: Path) -> None:
    expected, found = adapters(reference), adapters(folder)
    assert found.keys() == expected.keys() and len(found) == 2
    for name, tensors in expected.items():
        assert all(torch.equal(tensors[key], found[name][key]) for key in tensors), name
    for name, result in results(reference).items():
        other = results(folder)[name]
        for key in ("train_steps", "train_losses", "eval_steps", "eval_results", "tokens", "trial_id"):
            assert other[key] == result[key], (name, key)
