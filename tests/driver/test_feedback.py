"""Searches and early stopping in a real sweep: what results decide while it runs, and after it was cut off."""

from __future__ import annotations

import json

import pytest
from running import dry_run, in_process, results, sweep_on, write_space

from selgen_ray.records.events import read_events
from selgen_ray.storage import Folder

pytestmark = [pytest.mark.ray, pytest.mark.slow]
BETA = "finetune_config.beta_kl"


def test_a_search_asks_while_the_sweep_runs(tmp_path, tiny_model_dir, data_files, joined):
    pytest.importorskip("optuna")
    search = {"algorithm": "optuna", "num_settings": 3, BETA: {"min": 0.1, "max": 10, "log": True}}
    strategies = {"kl_divergence": {"search": search}}
    finetune = {"epochs": 1, "max_new_tokens": 1, "max_to_eval": 1}
    space = write_space(tmp_path, tiny_model_dir, data_files, finetune, strategies=strategies)
    plan = dry_run(space)
    assert "0 trials in " in plan and "up to 3 settings x 2 seeds by optuna" in plan and "0 asked" in plan
    done = sweep_on(joined, space)
    assert done.returncode == 0, done.stdout + done.stderr
    found = results(tmp_path)
    assert len(found) == 6 and {r["status"] for r in found.values()} == {"completed"}
    betas = {r["config"]["finetune_config"]["beta_kl"] for r in found.values()}
    assert len(betas) == 3 and all(0.1 <= beta <= 10 for beta in betas)
    marks = [json.loads(p.read_text()) for p in (tmp_path / "sweeps" / "tiny" / "control" / "added").glob("*.json")]
    assert {mark["search"]["number"] for mark in marks} == set(range(3))
    assert not [e for e in read_events(Folder(str(tmp_path / "sweeps" / "tiny"))) if e["event"] == "retry"]
    status, again, _ = in_process(space)
    assert status == 0 and "6 completed, skipped" in again and "dashboard" not in again


def test_settings_that_do_worse_are_stopped_with_all_their_seeds(tmp_path, tiny_model_dir, data_files, joined):
    finetune = {
        "epochs": 40,
        "max_new_tokens": 1,
        "save_steps": 500,
        "max_to_eval": 2,
    }  # some seconds, to be stopped in
    # learning rates that are too small to learn anything; the good one comes first and sets the mark
    grid = {"grid": {"finetune_config.learning_rate": [5.0e-3, 1.0e-9, 2.0e-9]}}
    rule = {"scheduler": "asha", "metric": "task_train/loss", "grace_epochs": 2, "reduction_factor": 2}
    space = write_space(tmp_path, tiny_model_dir, data_files, finetune, strategies={"naive": grid}, early_stopping=rule)
    done = sweep_on(joined, space, "--max-concurrent", "2")  # seeds of one setting beside each other
    assert done.returncode == 0, done.stdout + done.stderr
    found = results(tmp_path)
    by_rate: dict[float, set[str]] = {}
    for result in found.values():
        by_rate.setdefault(result["config"]["finetune_config"]["learning_rate"], set()).add(result["status"])
    assert by_rate[5.0e-3] == {"completed"}
    stopped = [result for result in found.values() if result["status"] == "stopped"]
    assert stopped and all(result["error"].startswith("early stopping") for result in stopped)
    assert all(statuses in ({"completed"}, {"stopped"}) for statuses in by_rate.values()), by_rate
    events = read_events(Folder(str(tmp_path / "sweeps" / "tiny")))
    assert {e["trial"] for e in events if e["event"] == "stopped"} >= {f"{r['slug']}/seed_{r['seed']}" for r in stopped}
    again = dry_run(space)
    assert f"{len(stopped)} stopped, skipped until a retry" in again
