"""`ray job submit`: the same command on a cluster, from a working directory with data, plugin and model."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from running import environment, free_port, kill_9, tree, wait_for

from selgen_ray.driver.plan import make_plan
from selgen_ray.space import load_space
from selgen_ray.trainers import plugins

pytestmark = [pytest.mark.ray, pytest.mark.slow]
RAY = str(Path(sys.executable).with_name("ray"))
PLUGIN = """\
from selgen_ray.trainers import knob
from selgen_ray.trainers.base import BaseTrainer


class Mine(BaseTrainer):
    proxy_strategy_name = "mine"
    push: float = knob(1.0, "factor", gt=0)

    def _compute_loss(self, batch):
        return self.push * super()._compute_loss(batch)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """A cluster with token authentication; the environment in which `ray job` finds it."""
    port, dashboard, agent = free_port(), free_port(), free_port()
    # a socket's path is limited to 107 characters, and pytest's folders are deep
    folder = tempfile.mkdtemp(prefix="ray_")
    env = environment() | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a-token-of-the-tests" * 3}
    # a job's `python` is what its node finds first, and these tests may run in an environment that is not activated
    env["PATH"] = f"{Path(RAY).parent}{os.pathsep}{env['PATH']}"
    start = [RAY, "start", "--head", "--block", f"--port={port}", "--num-cpus=2", f"--temp-dir={folder}"]
    start += [f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
    process = subprocess.Popen(start, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    env |= {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}"}
    try:
        wait_for(lambda: job(env, "list").returncode == 0)
        yield env
    finally:
        doomed = tree(process)
        process.terminate()
        psutil.wait_procs(doomed, timeout=20)
        kill_9(doomed)
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def job(env: dict[str, str], *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([RAY, "job", *args], env=env, capture_output=True, text=True, timeout=300)


@pytest.fixture
def working_dir(tmp_path, tiny_model_dir, data_files) -> Path:
    """Everything a sweep needs, named by relative paths."""
    folder = tmp_path / "work"
    shutil.copytree(tiny_model_dir, folder / "model")
    (folder / "data").mkdir()
    for role in ("outcome", "proxy"):
        shutil.copy(data_files[role], folder / "data")
    (folder / "mine.py").write_text(PLUGIN)
    return folder


def write_space(path: Path, storage_path: str, finetune: dict[str, Any] | None = None, **space: Any) -> None:
    cfg = {"model": "./model", "learning_rate": 5e-3, "epochs": 1, "per_device_train_batch_size": 8, "r": 4}
    cfg |= {"max_new_tokens": 2, "max_to_eval": 2, "save_model_locally": True} | (finetune or {})
    content = {
        "name": "tiny",
        "storage_path": storage_path,
        "plugins": ["mine.py"],
        "base": {"finetune_config": cfg, "data": {"outcome": "data/outcome.jsonl", "proxy": "data/proxy.jsonl"}},
        "seeds": [1],
        "resources": {"max_concurrent": 1},  # one worker, which loads its libraries once
        "strategies": {"naive": {}, "mine": {"fixed": {"finetune_config.push": 2.0}}},
    } | space
    path.write_text(yaml.safe_dump(content))


def submit(env: dict[str, str], folder: Path, command: str, *options: str) -> subprocess.CompletedProcess[str]:
    return job(env, "submit", "--working-dir", str(folder), *options, "--", *command.split())


def results(storage: Path) -> dict[str, dict[str, Any]]:
    """Strategy -> results.json."""
    found = [json.loads(path.read_text()) for path in storage.glob("tiny/*/*/results/*/results.json")]
    return {result["config"]["proxy_strategy"]: result for result in found}


def test_a_submitted_job_runs_the_sweep(cluster, working_dir, tmp_path):
    write_space(working_dir / "lost.yaml", "./sweeps")
    write_space(working_dir / "space.yaml", str(tmp_path / "sweeps"), trackers=["tensorboard"])
    (working_dir / "both.sh").write_text("for space in lost space; do python -m selgen_ray.sweep $space.yaml; done")
    # Ray refuses a variable that job and driver both set, and this process has both of them
    variables = {"env_vars": {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}}
    done = submit(cluster, working_dir, "bash both.sh", "--runtime-env-json", json.dumps(variables))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("lost.yaml: storage_path './sweeps' is relative: in a Ray job") == 1
    found = results(tmp_path / "sweeps")
    assert {strategy: result["status"] for strategy, result in found.items()} == {
        "naive": "completed",
        "mine": "completed",
    }
    assert len(list((tmp_path / "sweeps").rglob("adapter_model.safetensors"))) == 2
    events = [path.read_bytes() for path in (tmp_path / "sweeps" / "tiny" / "tensorboard").rglob("events.*")]
    assert len(events) == 2
    for content in events:
        assert b"ray/tune/loss" in content and b"ray/tune/eval/task_train/exact_match" in content
    assert len(re.findall(r"^completed +\S+/seed_1  capability", done.stdout, re.M)) == 2
    assert "[2/2 finished, 0 running, 0:00 left]" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr and "(pid=" not in done.stdout


@pytest.mark.by_hand  # that SIGTERM ends a driver in an orderly way is tested without a job
def test_a_stopped_job_leaves_a_sweep_that_goes_on(cluster, working_dir, tmp_path):
    slow = {"epochs": 3000, "save_steps": 10, "logging_steps": 10, "max_to_eval": 1, "max_new_tokens": 1}
    write_space(working_dir / "space.yaml", str(tmp_path / "sweeps"), slow, strategies={"mine": {}})
    # Ray kills a job three seconds after it asked it to stop, unless it is told to wait
    patient = ["--runtime-env-json", json.dumps({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60"}})]
    command = "python -m selgen_ray.sweep space.yaml"
    started = submit(cluster, working_dir, command, "--no-wait", "--submission-id", "slow", *patient)
    assert started.returncode == 0, started.stdout + started.stderr
    wait_for(lambda: list((tmp_path / "sweeps").rglob("step_*/manifest.json")))
    assert job(cluster, "stop", "slow").returncode == 0
    log = job(cluster, "logs", "slow").stdout
    assert "SIGTERM: finishing steps and saving checkpoints" in log and "Traceback" not in log
    assert f"1 left to run; to go on: {command}" in log
    (result,) = results(tmp_path / "sweeps").values()
    (step,) = {int(path.parent.name.split("_")[1][:8]) for path in newest_checkpoints(tmp_path / "sweeps")}
    assert result["status"] == "running" and step > 0
    # the same trial for a driver with another working directory: what is cut off goes on
    try:
        plan = make_plan(load_space(working_dir / "space.yaml"))
        assert [p.task.trial_id for p in plan.with_status("running")] == [result["trial_id"]]
        assert len(plan.planned) == 1
    finally:
        plugins.register_exactly(())


def newest_checkpoints(storage: Path) -> list[Path]:
    """The newest manifest of each trial."""
    newest: dict[Path, Path] = {}
    for path in sorted(storage.rglob("step_*/manifest.json"), key=lambda p: int(p.parent.name.split("_")[1][:8])):
        newest[path.parents[1]] = path
    return list(newest.values())
