"""Two workers on one trial: one is frozen, another takes over, the first wakes up. Drivers do so in test_chaos.py."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from running import environment, wait_for

from selgen_ray.records.attempts import Attempt
from selgen_ray.records.results import TrialResult
from selgen_ray.storage import Folder
from selgen_ray.trainers import build_config
from selgen_ray.trial.run import run_trial
from selgen_ray.trial.task import TrialTask

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
