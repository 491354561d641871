"""Two drivers on one sweep: one is frozen, another takes over, the first wakes up. And so with a worker."""

from __future__ import annotations

import contextlib
import json
import pickle
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from running import SLOW, environment, results, start_as, under_way, wait_for, write_space

from selgen_ray.records.attempts import Attempt
from selgen_ray.records.events import read_events
from selgen_ray.records.results import TrialResult
from selgen_ray.storage import Folder
from selgen_ray.trainers import build_config
from selgen_ray.trial.run import run_trial
from selgen_ray.trial.task import TrialTask


@pytest.mark.ray
@pytest.mark.slow
def test_a_driver_that_was_frozen_ends_and_every_trial_is_completed_once(tmp_path, tiny_model_dir, data_files, joined):
    space = write_space(tmp_path, tiny_model_dir, data_files, SLOW, strategies={"naive": {}}, seeds=[1, 2])
    place = tmp_path / "sweeps" / "tiny"

    def completed() -> Counter[str]:
        return Counter(e["trial"] for e in read_events(Folder(str(place))) if e["event"] == "completed")

    first = start_as("lab1", 2.0, space, joined, "--max-concurrent", "1")
    with contextlib.ExitStack() as clean_up:
        clean_up.callback(first.kill)
        wait_for(lambda: under_way(tmp_path))
        first.send_signal(signal.SIGSTOP)
        second = start_as("lab2", 2.0, space, joined, "--max-concurrent", "1")
        clean_up.callback(second.kill)
        wait_for(completed)
        first.send_signal(signal.SIGCONT)
        output = first.communicate(timeout=120)[0]
        assert first.returncode == 1, output
        assert f"taken over by process {second.pid} on lab2" in output and "Traceback" not in output, output
        assert "report:" not in output
        others = second.communicate(timeout=180)[0]
    assert second.returncode == 0, others
    found = results(tmp_path)  # a trial with two results is an error
    assert len(found) == 2 and {r["status"] for r in found.values()} == {"completed"}, others
    assert completed() == Counter(found.keys())
    assert {r["generation"] for r in found.values()} == {2}
    assert all(len(list(folder.iterdir())) == 1 for folder in place.glob("*/seed_*/results"))
    assert not [*place.rglob("checkpoints"), *place.rglob("attempts")]
    happened = Counter(e["event"] for e in read_events(Folder(str(place))))
    assert (happened["sweep_started"], happened["sweep_ended"], happened["taken_over"]) == (2, 1, 1), happened
    live = json.loads((place / "control" / "live.json").read_text())
    assert (live["pid"], live["over"]) == (second.pid, True)


RUN = """
import pickle, sys
from pathlib import Path
from selgen_ray.errors import TrialSuperseded
from selgen_ray.trial.run import run_trial
task = pickle.loads(Path(sys.argv[1]).read_bytes())
try:
    print(run_trial(task, lambda line: print(line.get("step"), flush=True)).status)
except TrialSuperseded as refusal:
    print(f"superseded: {refusal}")
"""


def test_a_worker_that_was_frozen_after_a_checkpoint_leaves_the_result_of_another_alone(make_config, tmp_path):
    config = build_config(make_config(epochs=10, save_steps=2, logging_steps=2, max_to_eval=1, max_new_tokens=1))
    place = Folder(str(tmp_path / "t"))
    task = TrialTask(config.model_dump(mode="json"), "0123456789abcdef", "slug_abc123", place, git_commit=None)
    (tmp_path / "task").write_bytes(pickle.dumps(replace(task, attempt=Attempt(1, 1))))
    line = [sys.executable, "-c", RUN, str(tmp_path / "task")]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment(), cwd=Path.cwd()) as frozen:
        wait_for(lambda: list(tmp_path.glob("t/checkpoints/*/manifest.json")))
        frozen.send_signal(signal.SIGSTOP)
        try:
            result = run_trial(replace(task, attempt=Attempt(2, 1)))
            before = place.read("results.json")
        finally:
            frozen.send_signal(signal.SIGCONT)
        output = frozen.communicate(timeout=120)[0]
    assert frozen.returncode == 0 and "superseded: attempt 000002-0001 has left a result, completed" in output, output
    assert result.status == "completed" and result.num_resumes == 1
    assert place.read("results.json") == before
    assert TrialResult.model_validate_json(before).model_dump() == result.model_dump()
    assert place.files(recursive=True) == ["config.json", "results.json"]
