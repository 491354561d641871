"""What a worker does between two trials."""

from __future__ import annotations

import gc
import sys
import time
from dataclasses import replace

import psutil
import pytest
import torch
from fake_sweep import fake_result

from selgen_ray import errors
from selgen_ray.cluster.metrics import TrialMetrics
from selgen_ray.records.attempts import Attempt, Fence
from selgen_ray.records.control import Control
from selgen_ray.records.results import TrialResult
from selgen_ray.storage import Folder
from selgen_ray.trainers import build_config, plugins
from selgen_ray.trainers.engine import ranks
from selgen_ray.trainers.engine.checkpoints import Checkpoints
from selgen_ray.trainers.engine.stop_signal import StopSignal
from selgen_ray.trainers.plugins import Plugin
from selgen_ray.trial import run
from selgen_ray.trial.task import TrialTask
from selgen_ray.trial.worker import free_memory, run_in_worker, run_pack_in_worker

_MIB = 2**20
ID = "0" * 16
OLD, NEW = Attempt(1, 3), Attempt(2, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's heap")
def test_the_memory_of_a_trial_is_given_back_to_the_machine():
    del_me = [torch.ones(30 * _MIB // 4)]  # freed: the heap then takes blocks of up to this size
    del del_me[:]
    before = psutil.Process().memory_info().rss
    blocks = [torch.ones(_MIB // 4) for _ in range(400)]
    kept = blocks[::40]  # some of what follows stays, as weights do, and pins the heap's end
    blocks[:] = []
    held = psutil.Process().memory_info().rss - before
    try:
        free_memory()
    finally:
        gc.unfreeze()
    left = psutil.Process().memory_info().rss - before
    assert len(kept) == 10
    if held < 100 * _MIB:
        pytest.skip("this allocator gives memory back by itself")
    assert left < 60 * _MIB, f"{left / _MIB:.0f} MiB of {held / _MIB:.0f} stayed"


def test_a_plugin_that_does_not_load_fails_the_trial_once_and_is_published(tmp_path):
    """A wrong input: reported as 'failed', so that it is not tried again as a crash is."""
    broken = Plugin("mine.py", "import no_such_package\n")
    task = TrialTask({"proxy_strategy": "mine", "seed": 1}, "0" * 16, "mine_3fa1b2", Folder(str(tmp_path / "trial")))
    task = replace(task, plugins=(broken,))
    reports = []
    try:
        run_in_worker(task, Folder(str(tmp_path)), 1, reports.append, TrialMetrics("sweep", task))
    finally:
        plugins.register_exactly(())
        gc.unfreeze()
    assert reports[-1]["status"] == "failed" and "no_such_package" in reports[-1]["error"]
    result = TrialResult.model_validate_json(task.folder.read("results.json"))
    assert result.status == "failed" and "mine.py:1" in str(result.error) and result.config == task.config


def test_every_error_of_an_input_is_one_of_the_constant():
    """Whoever handles input errors names the constant, so a class that is missing there is retried as a crash."""
    named = {cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, ValueError)}
    assert named - {errors.SelectionError} == set(errors.INPUT_ERRORS)  # it is of commands, no trial raises it


@pytest.fixture
def ended(tmp_path):
    """Make a run that has come to its end, and whose trial another attempt has meanwhile."""
    task = TrialTask({"proxy_strategy": "naive", "seed": 1}, "0" * 16, "slug_c0ffee", Folder(str(tmp_path)))
    made = object.__new__(run._Run)
    made.task, made.result, made.superseded, made.stop = replace(task, attempt=OLD), fake_result(), "", StopSignal()
    made.fence, made.seconds_before, made.started = Fence(task.folder, OLD), 0.0, 0.0
    made.checkpoints, made.cache_folder = Checkpoints(task.folder / "checkpoints", 1), task.folder / "cache"
    made.fence.begin()
    Fence(task.folder, NEW).begin()
    task.folder.write("checkpoints/step_00000001/manifest.json", b"of the newer attempt")
    return made


def test_the_end_of_an_older_attempt_leaves_the_checkpoints_of_a_newer_one(ended):
    ended._clear_up()
    assert ended.task.folder.files(recursive=True) == [
        f"attempts/{NEW}/by.json",
        "checkpoints/step_00000001/manifest.json",
    ]


def test_ranks_learn_together_that_another_has_the_trial(ended, monkeypatch):
    """Rank 0 alone writes: if it left by itself, the others would wait for it, and the trial would count as crashed."""
    with pytest.raises(errors.TrialSuperseded, match="attempt 000002-0001 runs it"):
        ended._publish_last()
    ended.superseded = ""
    monkeypatch.setattr(ranks, "is_main", lambda: False)
    monkeypatch.setattr(ranks, "from_main", lambda compute: "attempt 000002-0001 runs it")
    with pytest.raises(errors.TrialSuperseded, match="attempt 000002-0001 runs it"):
        ended._publish_last()
    monkeypatch.setattr(ended, "_save", lambda *_: pytest.fail("saved"))
    monkeypatch.setattr(ranks, "is_main", lambda: True)
    ended._try_to_save(None, None)  # no error on one rank alone
    assert ended.stop.requested == ("superseded", ended.superseded)


def test_a_trial_that_cannot_begin_on_a_full_disk_has_not_failed(make_config, tmp_path, monkeypatch):
    config = build_config(make_config()).model_dump(mode="json")
    task = TrialTask(config, "0" * 16, "slug_c0ffee", Folder(str(tmp_path / "trial")))
    full = [errors.StorageBlockedError("no space left")]
    begin = Fence.begin

    def once_full(fence):
        if full:
            raise full.pop()
        return begin(fence)

    monkeypatch.setattr(Fence, "begin", once_full)
    with pytest.raises(errors.StorageBlockedError):
        run.run_trial(replace(task, attempt=OLD))
    assert task.folder.files() == []


@pytest.fixture
def handed_out(make_config, tmp_path):
    config = build_config(make_config(max_steps=1, max_to_eval=1, max_new_tokens=1)).model_dump(mode="json")
    place = Folder(str(tmp_path / "naive_c0ffee" / "seed_1" / "results" / ID))
    return TrialTask(config, ID, "naive_c0ffee", place, git_commit=None, attempt=OLD)


def last_of(task: TrialTask, sweep: Folder) -> dict:
    reports = []
    try:
        run_in_worker(task, sweep, 1, reports.append, TrialMetrics("sweep", task))
    finally:
        gc.unfreeze()
    return reports[-1]


def test_a_trial_that_was_removed_between_its_handing_out_and_its_start_does_not_begin(handed_out, tmp_path):
    sweep = Folder(str(tmp_path))
    control = Control(sweep)
    control.removed.set(ID)
    control.removed.set("1" * 16)
    assert last_of(handed_out, sweep) == {"status": "removed", "error": "the trial was removed"}
    assert not (tmp_path / "naive_c0ffee").exists()
    control.removed.clear(ID)  # a retry
    assert last_of(handed_out, sweep)["status"] == "completed"


def test_a_trial_that_is_removed_while_it_runs_leaves_no_result_even_where_its_folder_stays(
    handed_out, tmp_path, monkeypatch
):
    """`rm` looked for its folder before there was one."""
    sweep = Folder(str(tmp_path))
    begin = Fence.begin

    def removed_just_before(fence):
        Control(sweep).removed.set(ID)
        time.sleep(1.5)  # the worker looks every second
        return begin(fence)

    monkeypatch.setattr(Fence, "begin", removed_just_before)
    assert last_of(handed_out, sweep) == {"status": "removed", "error": "the trial was removed"}
    assert not handed_out.folder.exists("results.json")


def test_a_member_of_a_pack_that_was_removed_while_others_ran_does_not_begin(handed_out, tmp_path):
    sweep = Folder(str(tmp_path))
    other = replace(handed_out, trial_id="1" * 16, folder=Folder(str(tmp_path / "other")))

    class Shown(TrialMetrics):
        def finish(self, status, result=None):
            Control(sweep).removed.set(ID)  # when the first one has ended
            super().finish(status, result)

    reports = []
    try:
        run_pack_in_worker([other, handed_out], sweep, 1, 1, reports.append, lambda task: Shown("sweep", task))
    finally:
        gc.unfreeze()
    lines = [line for report in reports for line in report["reports"]]
    ends = {line["member"]: line["status"] for line in lines if "status" in line}
    assert ends == {"1" * 16: "completed", ID: "removed"}
    assert not (tmp_path / "naive_c0ffee").exists()
