"""Which trials share a process: the queue hands them out together, and the plan says who, who not, and why."""

from __future__ import annotations

from running import dry_run, in_process, write_space

from selgen_ray.driver.packing import pack_size, packing_lines
from selgen_ray.driver.trial_queue import TrialQueue
from selgen_ray.records.status import TrialStatus
from selgen_ray.storage import Folder
from selgen_ray.trial.task import TrialTask


def task(number, **finetune):
    cfg = {"model": "toy", "dtype": "float32", "is_peft": True} | finetune
    config = {"proxy_strategy": "naive", "seed": number, "finetune_config": cfg}
    return TrialTask(config, f"{number:016d}", f"slug{number}", Folder("/nowhere"), git_commit=None)


def names(tasks):
    return [int(t.trial_id) for t in tasks]


def test_trials_of_one_base_are_handed_out_together_and_a_dead_pack_singly():
    tasks = [task(0), task(1, model="other"), task(2), task(3, is_peft=False), task(4), task(5)]
    queue = TrialQueue(tasks, 1, lambda: 2, width=2)
    first, second = queue.next_pack(), queue.next_pack()
    assert names(first) == [0, 2] and names(second) == [1]
    assert queue.next_pack() == []  # two packs run, whatever is in them
    queue.run_alone([first[0].trial_id, first[1].trial_id])  # their process died
    for one in reversed(first):
        assert queue.ended(one.trial_id, TrialStatus.PREEMPTED)
    assert names(queue.next_pack()) == [0] and queue.failures[first[0].trial_id] == 0
    queue.ended(second[0].trial_id, TrialStatus.COMPLETED)
    assert names(queue.next_pack()) == [2]
    queue.ended(first[0].trial_id, TrialStatus.COMPLETED)
    assert names(queue.next_pack()) == [3]
    queue.ended(first[1].trial_id, TrialStatus.COMPLETED)
    assert names(queue.next_pack()) == [4, 5]


def test_a_pack_is_longer_while_many_trials_wait():
    assert [pack_size(4, number, 2) for number in (3, 16, 32, 500)] == [4, 4, 8, 16]


def test_the_plan_says_who_is_packed_and_who_is_not():
    lines = packing_lines([task(0), task(1), task(2, use_dora=True), task(3, is_peft=False), task(4, dtype="x")], 4)
    assert lines == [
        "  packed over toy in float32: 2 trials (naive), up to 4 at a time in one process",
        "  packed over toy in x: 1 trial (naive), alone: no other trial has this base",
        "  not packed: 1 trial, use_dora: it rescales the base's weights",
        "  not packed: 1 trial, is_peft false: all weights are trained, so there is no base to share",
    ]


def test_the_key_is_checked_and_the_dry_run_shows_it(tmp_path, tiny_model_dir, data_files):
    space = write_space(tmp_path, tiny_model_dir, data_files, resources={"pack": 4})
    line = next(line for line in dry_run(space).splitlines() if "packed over" in line)
    assert ": 6 trials (" in line and "up to 4 at a time in one process" in line
    write_space(tmp_path, tiny_model_dir, data_files, resources={"pack": "auto"})
    assert "6 trials (" in (auto := dry_run(space)) and "as many at a time as the GPU has memory for" in auto
    refused = ((1, "from 2 to 64, or auto"), (65, "from 2 to 64"), ("atuo", "Did you mean 'auto'?"), (True, "auto"))
    for value, message in refused:
        write_space(tmp_path, tiny_model_dir, data_files, resources={"pack": value})
        status, _, err = in_process(space, "--dry-run")
        assert status == 2 and "space.yaml" in err and "resources.pack" in err and message in err, err
    write_space(tmp_path, tiny_model_dir, data_files, resources={"pack": 4, "workers": 2})
    status, _, err = in_process(space, "--dry-run")
    assert status == 2 and "workers and pack are both given" in err
    write_space(tmp_path, tiny_model_dir, data_files, resources={"pack": "auto", "gpus": 0})
    status, _, err = in_process(space, "--dry-run")
    assert status == 2 and "pack auto asks what fits into a GPU's memory, and gpus is 0" in err
