"""Steering a sweep by its folder while another process runs it."""

from __future__ import annotations

import json
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from running import (
    SLOW,
    dry_run,
    environment,
    in_process,
    next_trial,
    results,
    start,
    sweep,
    under_way,
    wait_for,
    write_space,
)

from selgen_ray.driver.trial_queue import TrialQueue
from selgen_ray.errors import StorageBlockedError
from selgen_ray.records.events import EventLog, read_events
from selgen_ray.storage import Folder
from selgen_ray.sweep import main
from selgen_ray.trial.task import TrialTask


def steer(command: str, folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "selgen_ray.sweep", command, str(folder), *args]
    options = {"capture_output": True, "text": True, "timeout": 300, "env": environment()}
    return subprocess.run(line, cwd=folder.parent, **options)


def status(folder: Path) -> dict:
    return json.loads(steer("status", folder, "--json").stdout)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.by_hand
def test_a_running_sweep_is_watched_and_steered_from_elsewhere(tmp_path, tiny_model_dir, data_files, joined):
    finetune = SLOW | {"epochs": 70}
    space = write_space(tmp_path, tiny_model_dir, data_files, finetune, strategies={"naive": {}}, seeds=[1, 2, 3, 4])
    place = tmp_path / "sweeps" / "tiny"
    process = start(space, joined)
    first, second = wait_for(lambda: (found := sorted(under_way(tmp_path))) and len(found) == 2 and found)

    # watched
    seen = wait_for(lambda: (s := status(place)) and all("step" in m for m in s["running"].values()) and s)
    assert seen["is_driven"] and seen["counts"] == {"running": 2, "waiting": 2} and seen["seconds_left"] > 0
    assert seen["running"][first]["num_steps"] == 490 and 0 < seen["running"][first]["step"] <= 490
    told = steer("status", space).stdout  # the YAML does as well as the folder
    assert f"running   {first}  step " in told and "4 trials: 2 running, 2 waiting" in told

    # not run twice
    refused, _, told = in_process(space)
    assert refused == 2 and re.search(r"process \d+ on ", told) and "is running this sweep" in told

    # steered
    refused = steer("rm", place, first, "--yes")
    assert refused.returncode == 2 and "running; stop it first" in refused.stderr
    waiting = next(name for name in (f"{first[:-1]}{n}" for n in "1234") if name not in (first, second))
    assert "is to stop" in steer("stop", place, first, waiting, "--why", "too slow").stdout
    more = tmp_path / "more.yaml"
    more.write_text(space.read_text().replace("seeds:\n- 1\n- 2\n- 3\n- 4", "seeds:\n- 1\n- 9"))
    assert "added 1 trial:" in (added := steer("add", place, str(more)).stdout) and "1 are in the sweep" in added
    wait_for(lambda: results(tmp_path)[first]["status"] == "stopped")
    assert results(tmp_path)[first]["error"] == "too slow"
    nine = f"{first[:-1]}9"
    wait_for(lambda: nine in under_way(tmp_path))

    # ended, and looked at
    assert "asked the sweep to end" in steer("stop", place, "--all").stdout
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 1 and "to go on: " in output, output
    after = status(place)
    assert not after["is_driven"] and set(after["stopped"]) == {first, waiting}
    assert after["counts"].get("cut off", 0) >= 1
    happened = {(e["event"], e.get("trial")) for e in read_events(Folder(str(place)))}
    assert {("stopped", first), ("stopped", waiting), ("added", nine), ("sweep_ended", None)} <= happened

    # a stopped trial waits for a retry, the others go on; what was added is part of the sweep
    dry = dry_run(space)
    assert "2 stopped, skipped until a retry" in dry and "5 trials in " in dry
    assert "is to run again" in steer("retry", place, "--stopped").stdout
    assert "nothing to stop" in steer("stop", place, "--all").stderr
    assert steer("rm", place, second, "--yes").stdout == f"{second} is removed\n"
    done = sweep(space, env=joined)
    assert done.returncode == 0, done.stdout + done.stderr
    found = results(tmp_path)
    assert second not in found and {r["status"] for r in found.values()} == {"completed"} and len(found) == 4
    assert found[first]["num_resumes"] == 1 and found[first]["error"] is None
    assert status(place)["counts"] == {"completed": 4, "removed": 1}
    assert "is completed already" in steer("stop", place, first).stdout
    assert "is to run again" in steer("retry", place, second).stdout
    assert "1 new" in dry_run(space)


def test_bad_requests_are_refused_in_words(tmp_path, capsys):
    nowhere = steer("status", tmp_path / "nowhere")  # as a process, once: the others end in the same way
    assert nowhere.returncode == 2 and "no sweep at" in nowhere.stderr and "Traceback" not in nowhere.stderr
    place = Folder(str(tmp_path))
    place.write_json("control/plan.json", {"trials": {"0123456789abcdef": "naive_c0ffee/seed_1"}})
    for command, args, told in [
        ("stop", [], "name at least one TRIAL or --all"),
        ("stop", ["naive_c0ffe/seed_1"], "Did you mean 'naive_c0ffee/seed_1'?"),
        ("stop", ["--all"], "no process runs this sweep"),
        ("retry", [], "--failed"),
        ("rm", ["naive_c0ffee"], "say --yes"),
        ("add", [str(tmp_path / "none.yaml"), "--different"], "none.yaml"),
        ("add", [str(tmp_path / "none.yaml")], "no run of this sweep has begun"),
    ]:
        assert main([command, str(tmp_path), *args]) == 2
        assert told in (words := capsys.readouterr().err) and "Traceback" not in words, words


def task(trial_id: str) -> TrialTask:
    return TrialTask({"seed": 1}, trial_id, "slug", Folder("/nowhere"), git_commit=None)


def test_the_queue_tries_again_what_crashed_or_was_preempted_and_nothing_else():
    queue = TrialQueue([task(i) for i in "abcdef"], max_failures=1, limit=lambda: 6)
    given = [next_trial(queue) for _ in range(6)]
    assert [t.trial_id for t in given if t] == list("abcdef") and next_trial(queue) is None
    outcomes = {"a": "completed", "b": "diverged", "c": "stopped", "d": "failed", "e": "preempted", "f": "crashed"}
    assert [i for i, outcome in outcomes.items() if queue.ended(i, outcome)] == ["e", "f"]
    assert {next_trial(queue).trial_id, next_trial(queue).trial_id} == {"e", "f"}
    assert queue.ended("e", "preempted") and not queue.ended("f", "crashed")  # one retry was allowed
    assert next_trial(queue).trial_id == "e" and not queue.is_over
    assert not queue.ended("e", "completed") and queue.is_over


def test_the_queue_keeps_the_limit_which_may_change():
    allowed = [1]
    queue = TrialQueue([task(i) for i in "abc"], 0, lambda: allowed[0])
    assert next_trial(queue).trial_id == "a" and next_trial(queue) is None
    allowed[0] = 2
    assert next_trial(queue).trial_id == "b" and next_trial(queue) is None
    queue.ended("a", "completed")
    assert [t.trial_id for t in queue.drop(["b", "c"])] == ["c"]  # b runs
    assert [t.trial_id for t in queue.add([task("b"), task("d")])] == ["d"]
    queue.end()
    assert next_trial(queue) is None and not queue.is_over
    queue.ended("b", "completed")
    assert queue.is_over


def test_the_event_log_survives_a_torn_line(tmp_path, s3_uri):
    for place in (Folder(str(tmp_path)), Folder(s3_uri) / "events"):
        log = EventLog(place)
        log.add("started", "a/seed_1")
        log.flush()
        name = "events.jsonl" if place.local_path else "events/000001.jsonl"
        place.write(name, place.read(name) + b'{"at": "2026-11-2')  # a crash
        log = EventLog(place)
        log.add("retry", "a/seed_1", why="killed")
        log.flush()
        log.add("completed", "a/seed_1")
        log.flush()
        log.flush()
        assert [e["event"] for e in read_events(place)] == ["started", "retry", "completed"]


def test_a_disk_that_is_full_in_the_middle_of_a_flush_doubles_no_event(tmp_path):
    log, names = EventLog(Folder(str(tmp_path))), [f"naive_c0ffee/seed_{i}" for i in range(300)]
    log.add("started", names[0])
    log.flush()
    for name in names:
        log.add("completed", name)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))  # a write stops there, as on a full disk
    try:
        with pytest.raises(StorageBlockedError, match="cannot write "):
            log.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [e["event"] for e in read_events(Folder(str(tmp_path)))] == ["started"]
    log.flush()
    assert [e["trial"] for e in read_events(Folder(str(tmp_path)))] == [names[0], *names]


def test_a_preempted_worker_is_told_by_sigterm(tmp_path):
    script = """
import os, signal, sys, threading
from selgen_ray.storage import Folder
from selgen_ray.trial.worker import heed_sigterm, sigterm_arrived, watched
heed_sigterm()
from selgen_ray.trial.task import TrialTask
task = TrialTask({"seed": 1}, "0123456789abcdef", "slug", Folder(sys.argv[1]), git_commit=None)
with watched(Folder(sys.argv[1]), task) as stop:
    os.kill(os.getpid(), signal.SIGTERM)
    print(stop.requested, sigterm_arrived(), flush=True)
os.kill(os.getpid(), signal.SIGTERM)
print("still here")
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=120, env=environment()
    )
    assert done.stdout == "('preempted', 'the worker got SIGTERM') True\n", done.stdout + done.stderr
    assert done.returncode == -signal.SIGTERM
