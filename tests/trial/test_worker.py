"""What a worker does between two trials."""

from __future__ import annotations

import gc
import sys
from dataclasses import replace

import psutil
import pytest
import torch

from selgen_ray import errors
from selgen_ray.cluster.metrics import TrialMetrics
from selgen_ray.records.results import TrialResult
from selgen_ray.storage import Folder
from selgen_ray.trainers import plugins
from selgen_ray.trainers.plugins import Plugin
from selgen_ray.trial.task import TrialTask
from selgen_ray.trial.worker import free_memory, run_in_worker

_MIB = 2**20


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
    assert named == set(errors.INPUT_ERRORS)
