"""A sweep of packed trials on a real Ray whose worker is killed: nothing is lost, and nobody innocent is blamed."""

from __future__ import annotations

import json

import psutil
import pytest
from clusters import pids_of
from running import kill_9, results, start, tree, under_way, wait_for, write_space

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
