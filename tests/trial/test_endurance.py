"""A worker that has run many trials holds no more than one that has run a few."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from selgen_ray.storage import Folder
from selgen_ray.trainers import build_config
from selgen_ray.trial.run import run_trial
from selgen_ray.trial.task import TrialTask

STRATEGIES = ["naive", "kl_divergence", "steering_weights", "dpo"]
MORE_MB = 20  # over 150 trials; a leaked adapter with its optimizer's state would be 40


@pytest.mark.by_hand
def test_handles_and_memory_are_flat_over_200_trials(
    make_config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    me, seen = psutil.Process(), {}
    for number in range(200):
        options = {"epochs": 1, "save_steps": 2, "save_model_locally": True}
        config = build_config(make_config(STRATEGIES[number % 4], seed=number, **options)).model_dump(mode="json")
        run_trial(TrialTask(config, f"{number:016x}", "slug_abc123", Folder(str(tmp_path / str(number)))))
        if number in (49, 199):
            gc.collect()
            seen[number] = (me.memory_info().rss / 2**20, me.num_fds(), len(me.threads()), len(me.children()))
    (before, *handles), (after, *handles_after) = seen.values()
    assert handles_after == handles, seen
    assert after - before < MORE_MB, seen
