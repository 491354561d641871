"""Two workers on one trial: one is frozen or cut off, another takes over. Drivers do so in test_chaos.py."""

from __future__ import annotations

import errno
import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from running import environment, wait_for

from selgen_ray.errors import TrialSuperseded
from selgen_ray.records.attempts import Attempt
from selgen_ray.records.results import TrialResult
from selgen_ray.storage import Folder, local_files
from selgen_ray.trainers import build_config
from selgen_ray.trial.run import run_trial
from selgen_ray.trial.task import TrialTask

ID = "0123456789abcdef"
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
    task = TrialTask(config.model_dump(mode="json"), ID, "slug_abc123", place, git_commit=None)
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


@pytest.mark.parametrize("is_full", [True, False], ids=["full", "frozen"])
@pytest.mark.parametrize("elsewhere", [True, False], ids=["output_dir", "model"])
def test_a_worker_that_is_cut_off_while_it_saves_its_model_leaves_that_of_another_alone(
    elsewhere, is_full, make_config, tmp_path, monkeypatch
):
    """Between two files of its model another finishes the trial; then its own disk is full, or it just goes on."""
    finetune = {"max_steps": 1, "max_to_eval": 1, "max_new_tokens": 1, "save_model_locally": True}
    finetune |= {"output_dir": str(tmp_path / "models")} if elsewhere else {}
    config = build_config(make_config(**finetune)).model_dump(mode="json")
    task = TrialTask(config, ID, "slug_abc123", Folder(str(tmp_path / "t")), git_commit=None)
    model = tmp_path / "models" / f"model-{ID}" if elsewhere else tmp_path / "t" / "model"
    left = {}

    def state() -> dict:
        return {file.name: (file.stat().st_ino, file.stat().st_mtime_ns, file.read_bytes()) for file in model.iterdir()}

    def cut_off(name: str) -> None:
        real = getattr(local_files, name)

        def write(*args) -> None:
            real(*args)
            if args[-2].name == "adapter_config.json" and not left:
                left["begun"] = True
                result = run_trial(replace(task, attempt=Attempt(2, 1)))
                left["by"], left["files"] = result, state()
                if is_full:
                    raise OSError(errno.ENOSPC, "no space left")

        monkeypatch.setattr(local_files, name, write)

    cut_off("write")
    cut_off("write_by_way_of")
    with pytest.raises(TrialSuperseded, match="attempt 000002-0001 has left a result, completed"):
        run_trial(replace(task, attempt=Attempt(1, 1)))
    assert left["by"].model_path == str(model) and "adapter_model.safetensors" in left["files"]
    assert state() == left["files"]
    stored = TrialResult.model_validate_json(task.folder.read("results.json"))
    assert (stored.generation, stored.model_path) == (2, str(model))
