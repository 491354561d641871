"""docker/slurm.sbatch, with stand-ins for Slurm's commands and real nodes of Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from running import environment, results, slow_space, under_way, wait_for, write_space

SCRIPT = Path(__file__).parents[2] / "docker" / "slurm.sbatch"
JOB_ID = 4711
# srun: the command that follows its options runs here, as a child that gets its signals; all options are noted
SRUN = """#!/bin/bash
echo "$@" >> "$STAND_IN/srun"
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!/bin/bash
case "$1 $2" in
  "show hostnames") [ "$3" = "n[1-2]" ] && printf 'n1\\nn2\\n' ;;
  "show job") cat "$STAND_IN/state" ;;
  "requeue $SLURM_JOB_ID") touch "$STAND_IN/requeued" ;;
  *) exit 1 ;;
esac
"""


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Starts the script as Slurm would, in an allocation of two nodes with a CPU each."""
    stand_in, home = tmp_path / "stand_in", tmp_path / "home"
    for folder in (stand_in / "bin", home):
        folder.mkdir(parents=True)
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (stand_in / "bin" / name).write_text(text)
        (stand_in / "bin" / name).chmod(0o755)
    (stand_in / "state").write_text("JobId=4711 JobName=selgen\n   JobState=RUNNING Reason=None\n")
    path = [str(stand_in / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
    env = environment() | {"HOME": str(home), "STAND_IN": str(stand_in), "PATH": os.pathsep.join(path)}
    env |= {"SLURM_JOB_ID": str(JOB_ID), "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_CPUS_PER_TASK": "1"}
    started: list[subprocess.Popen] = []

    def start(*args: str, **more: str) -> subprocess.Popen:
        pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(["bash", str(SCRIPT), *args], env=env | more, cwd=tmp_path, **pipe))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()


def test_without_a_search_space_it_says_how_it_is_used(job, tmp_path):
    process = job()
    _, told = process.communicate(timeout=60)
    assert process.returncode == 2 and told.startswith("usage: sbatch docker/slurm.sbatch SPACE.yaml")
    assert not (tmp_path / "stand_in" / "srun").exists(), "no node was used"


def test_what_is_wrong_is_said_before_a_node_is_used(job, tmp_path, tiny_model_dir, data_files):
    write_space(tmp_path, tiny_model_dir, data_files, {"learning_rat": 1.0})
    process = job("space.yaml")
    out, told = process.communicate(timeout=120)
    assert process.returncode == 2 and "learning_rat" in told and "'base.finetune_config.learning_rate'" in told
    assert out == "" and not (tmp_path / "stand_in" / "srun").exists()


@pytest.mark.ray
@pytest.mark.by_hand
def test_a_sweep_runs_on_both_nodes_until_the_clock_cuts_it_off(job, tmp_path, tiny_model_dir, data_files):
    space = slow_space(tmp_path, tiny_model_dir, data_files)
    process = job(space.name)
    wait_for(lambda: under_way(tmp_path))
    token = tmp_path / "home" / ".ray" / f"slurm_{JOB_ID}.token"
    secret = token.read_text()
    assert len(secret) == 64 and token.stat().st_mode & 0o077 == 0
    out, told = cut_off(process)
    assert (tmp_path / "stand_in" / "requeued").exists() and not token.exists()
    steps = (tmp_path / "stand_in" / "srun").read_text().splitlines()
    head, worker = [step for step in steps if " ray start " in step]
    assert "--nodelist=n1" in head and " --head " in head and "--dashboard-host=127.0.0.1" in head
    assert "--nodelist=n2" in worker and " --address=" in worker
    assert all(secret not in step for step in steps) and secret not in out + told


@pytest.mark.ray
@pytest.mark.by_hand
def test_what_the_clock_cut_off_goes_on_in_the_next_allocation(job, tmp_path, tiny_model_dir, data_files):
    space = slow_space(tmp_path, tiny_model_dir, data_files)
    first = job(space.name)
    wait_for(lambda: under_way(tmp_path))
    cut_off(first)
    second = job(space.name, SLURM_RESTART_COUNT="1")
    out, told = second.communicate(timeout=300)
    assert second.returncode == 0, out + told
    done = results(tmp_path)
    assert len(done) == 2 and {r["status"] for r in done.values()} == {"completed"}
    lines = (tmp_path / "sweeps" / "tiny" / "events.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["event"] == "sweep_started" for line in lines) == 2
    wait_for(lambda: nodes_of_ray() == [])


def cut_off(process: subprocess.Popen) -> tuple[str, str]:
    """What the time limit does; returns what the job printed."""
    process.send_signal(signal.SIGTERM)  # as `--signal=B:TERM@300`
    out, told = process.communicate(timeout=120)
    assert process.returncode == 1 and "going on in the next allocation" in out, out + told
    wait_for(lambda: nodes_of_ray() == [])
    return out, told


@pytest.mark.parametrize(
    "more, state",
    [
        pytest.param({"SELGEN_REQUEUES": "0"}, "RUNNING", marks=pytest.mark.by_hand),
        pytest.param({"SLURM_RESTART_COUNT": "20"}, "RUNNING", marks=pytest.mark.by_hand),
        ({}, "CANCELLED"),
    ],
)
def test_a_job_goes_back_into_the_queue_only_as_often_as_said_and_never_when_cancelled(
    job, tmp_path, tiny_model_dir, data_files, more, state
):
    (tmp_path / "stand_in" / "state").write_text(f"   JobState={state} Reason=None\n")
    write_space(tmp_path, tiny_model_dir, data_files)
    # a head that never comes up: the signal finds the script waiting for it
    ray = tmp_path / "stand_in" / "bin" / "ray"
    ray.write_text("#!/bin/bash\nexec sleep 600\n")
    ray.chmod(0o755)
    process = job("space.yaml", **more)
    wait_for(
        lambda: (tmp_path / "stand_in" / "srun").exists() and " --head" in (tmp_path / "stand_in" / "srun").read_text()
    )
    process.send_signal(signal.SIGTERM)
    out, told = process.communicate(timeout=60)
    assert process.returncode == 1 and out + told == ""
    assert not (tmp_path / "stand_in" / "requeued").exists()


def nodes_of_ray() -> list[psutil.Process]:
    """The raylets of the job."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if f"/ray_{JOB_ID}/" in " ".join(process.info["cmdline"] or []):
            found.append(process)
    return found


def test_a_head_that_does_not_start_is_said(job, tmp_path, tiny_model_dir, data_files):
    write_space(tmp_path, tiny_model_dir, data_files)
    ray = tmp_path / "stand_in" / "bin" / "ray"
    ray.write_text("#!/bin/bash\necho no memory >&2\nexit 1\n")
    ray.chmod(0o755)
    process = job("space.yaml", SELGEN_NODES_WITHIN="2")
    out, told = process.communicate(timeout=60)
    assert process.returncode == 1 and out == ""
    assert told.startswith("the head of Ray did not start on n1: see ") and f"selgen-{JOB_ID}.ray.out" in told
    assert (tmp_path / f"selgen-{JOB_ID}.ray.out").read_text() == "no memory\n"
