"""Requests that the driver of a running sweep obeys, without Ray."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

from running import wait_for

from selgen_ray.driver.added import AddedTrial, write_added
from selgen_ray.driver.display import Board
from selgen_ray.driver.driver import Driver
from selgen_ray.driver.trial_queue import TrialQueue
from selgen_ray.records.control import Control
from selgen_ray.storage import Folder
from selgen_ray.trial.task import TrialTask


def added(control: Control, trial_id: str, seed: int) -> str:
    trial = AddedTrial(trial_id, "dpo_c0ffee", {"seed": seed, "proxy_strategy": "dpo"}, "0" * 64)
    write_added(control, trial)
    return trial.name


def test_a_part_of_a_sweep_leaves_alone_what_was_added_before_and_takes_what_is_added_now(tmp_path: Path) -> None:
    place = Folder(str(tmp_path))
    control = Control(place)
    before = added(control, "a" * 16, 1)
    queue = TrialQueue([TrialTask({"seed": 9}, "c" * 16, "naive_beef", place, git_commit=None)], 0, lambda: 9)

    def make(trial: AddedTrial) -> TrialTask:
        return TrialTask(trial.config, trial.trial_id, trial.slug, place, git_commit=None)

    driver = Driver(place, queue, Board(1), queue.known, make, left_out={"a" * 16: before})  # as --only has it
    driver.feedback = SimpleNamespace(add=lambda tasks: None, ended=lambda *_: None)  # pyright: ignore
    with driver:
        time.sleep(0.2)
        added(control, "b" * 16, 2)
        wait_for(lambda: "b" * 16 in queue.known, 10)
    assert queue.known.keys() == {"b" * 16, "c" * 16}
