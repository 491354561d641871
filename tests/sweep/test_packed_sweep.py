"""A sweep of packed trials on a real Ray whose worker is killed: nothing is lost, and nobody innocent is blamed."""

from __future__ import annotations

import json
import signal

import psutil
import pytest
from clusters import pids_of
from running import kill_9, results, start, sweep_on, tree, under_way, wait_for, write_space

from selgen_ray.sweep import main

pytestmark = pytest.mark.ray
SHORT = {"epochs": 24, "save_steps": 4, "logging_steps": 4, "max_to_eval": 1, "max_new_tokens": 1}


def test_a_pack_that_is_killed_goes_on_and_completes(tmp_path, tiny_model_dir, data_files, running_cluster):
    strategies = {"naive": {}, "kl_divergence": {"fixed": {"finetune_config.beta_kl": 3.0}}}
    space = write_space(
        tmp_path, tiny_model_dir, data_files, SHORT, strategies=strategies, resources={"pack": 4, "max_failures": 0}
    )
    process = start(space, running_cluster.env, "--progress", "none")
    try:
        wait_for(lambda: len(under_way(tmp_path, at_least=4)) >= 2)
        workers = [psutil.Process(pid) for pid in pids_of(running_cluster.head)]
        packs = [worker for worker in workers if "trials in a pack" in " ".join(worker.cmdline())]
        assert len(packs) == 1
        packs[0].kill()
        output, _ = process.communicate(timeout=200)
    finally:
        kill_9(tree(process) if process.poll() is None else [])
    assert process.returncode == 0, output
    found = results(tmp_path)
    assert len(found) == 4 and {result["status"] for result in found.values()} == {"completed"}
    assert any(result["num_resumes"] for result in found.values())
    assert all(len(set(result["train_steps"])) == len(result["train_steps"]) for result in found.values())
    lines = (tmp_path / "sweeps" / "tiny" / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    retries = [event for event in events if event["event"] == "retry"]
    # max_failures is 0: had the death counted as a failure of one of them, it would have failed
    assert len(retries) >= 2 and {event["failures"] for event in retries} == {0}
    assert any("its pack died" in event.get("why", "") for event in retries)


@pytest.mark.by_hand  # requests to stop reach a slot as they reach a trial of its own, which the suite tests
def test_trials_of_a_pack_are_stopped_one_by_one_and_all_together(
    tmp_path, tiny_model_dir, data_files, running_cluster
):
    strategies = {"naive": {}, "kl_divergence": {"fixed": {"finetune_config.beta_kl": 3.0}}}
    finetune = SHORT | {"epochs": 60}
    space = write_space(tmp_path, tiny_model_dir, data_files, finetune, strategies=strategies, resources={"pack": 4})
    process = start(space, running_cluster.env, "--progress", "none")
    try:
        wait_for(lambda: len(under_way(tmp_path, at_least=4)) == 4)
        chosen = min(results(tmp_path))
        assert main(["stop", str(tmp_path / "sweeps" / "tiny"), chosen]) == 0
        wait_for(lambda: results(tmp_path)[chosen]["status"] == "stopped")
        before = {name: result["train_steps"][-1] for name, result in results(tmp_path).items() if name != chosen}
        wait_for(lambda: all(results(tmp_path)[name]["train_steps"][-1] > step for name, step in before.items()))
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=120)
    finally:
        kill_9(tree(process) if process.poll() is None else [])
    assert process.returncode == 1 and "ended early (Ctrl-C): 0 failed, 3 left to run" in output, output
    assert len(list(tmp_path.rglob("checkpoints/step_*"))) >= 3
    done = sweep_on(running_cluster.env, space)
    assert done.returncode == 0, done.stdout + done.stderr
    found = results(tmp_path)
    assert found.pop(chosen)["status"] == "stopped"
    assert [(result["status"], result["num_resumes"]) for result in found.values()] == [("completed", 1)] * 3
