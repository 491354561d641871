"""The command, as a user runs it: real subprocesses, a real local Ray, kills that nobody can catch."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess

import jsonschema
import psutil
import pytest
import torch
from running import (
    adapters,
    assert_same_sweep,
    command,
    dry_run,
    environment,
    in_process,
    kill_9,
    results,
    slow_space,
    start,
    sweep,
    sweep_on,
    tree,
    under_way,
    wait_for,
    write_space,
)

from selgen_ray.cluster.cluster import InfeasibleError, resolve_resources
from selgen_ray.reading import load_results
from selgen_ray.records.events import read_events
from selgen_ray.records.results import json_schema
from selgen_ray.space import Resources
from selgen_ray.storage import Folder
from selgen_ray.trainers import get_trainer

pytestmark = pytest.mark.ray


# Python runs it when a process starts: it notes variables that are added while Ray's threads run
WATCH_ENVIRONMENT = """
import os, sys, threading
known = set(os.environ)
def hook(event, args):
    if event == "os.putenv":
        name = os.fsdecode(args[0])
        if name not in known and "ray_listen_error_messages" in [thread.name for thread in threading.enumerate()]:
            with open({log!r}, "a") as log:
                log.write(name + "\\n")
        known.add(name)
sys.addaudithook(hook)
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, tiny_model_dir, data_files):
    folder = tmp_path_factory.mktemp("undisturbed")
    space = write_space(folder, tiny_model_dir, data_files)
    (folder / "startup").mkdir()
    code = WATCH_ENVIRONMENT.format(log=str(folder / "added_variables"))
    (folder / "startup" / "sitecustomize.py").write_text(code)
    env = environment()
    env |= {"PYTHONPATH": f"{folder / 'startup'}{os.pathsep}{env['PYTHONPATH']}"}
    return folder, space, sweep(space, "--max-concurrent", "1", env=env)


def test_a_sweep_runs_and_says_so_without_spam(undisturbed):
    folder, _, done = undisturbed
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "6 new" in done.stdout
    assert (
        len(re.findall(r"^completed +\S+/seed_\d  capability [01]\.\d+  alignment [01]\.\d+", done.stdout, re.M)) == 6
    )
    assert "[6/6 finished, 0 running, 0:00 left]" in done.stdout
    report = folder / "sweeps" / "tiny" / "report"
    assert done.stdout.splitlines()[-1] == f"report: {report / 'index.html'}"
    assert (report / "index.html").read_text().startswith("<!doctype html>")
    assert (report / "figures" / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert (report / "results.csv").exists()


def test_no_variable_is_added_while_clients_in_c_may_read_one(undisturbed):
    """A client of S3 that called getenv just then crashed the driver of a long storm."""
    folder, _, _ = undisturbed
    added = folder / "added_variables"
    assert not added.exists(), added.read_text()


def test_every_result_fits_the_schema_and_tells_what_it_was_made_of(undisturbed):
    folder, _, _ = undisturbed
    found = results(folder)
    assert len(found) == 6
    validator = jsonschema.Draft202012Validator(json_schema())
    for name, result in found.items():
        validator.validate(result)
        assert result["status"] == "completed"
        assert result["config"]["proxy_strategy"] in name
        assert name.endswith(f"seed_{result['seed']}")
        assert result["seed"] == result["config"]["seed"] == result["config"]["data_seed"]
        assert result["eval_epochs"] == [0.0, 1.0, 2.0]
        sets = {"task_train", "task_test", "align_train", "align_train_minus", "align_test"}
        assert set(result["eval_results"]) == sets | {"align_test_minus_align_train"}
        for by_metric in result["eval_results"].values():
            assert all(len(series) == 3 for series in by_metric.values())
        assert result["num_rows"]["eval/align_test_minus_align_train"] == result["num_rows"]["eval/align_test"] - 1
        assert result["capability"] == result["eval_results"]["task_test"]["exact_match"][-1]
        assert result["alignment"] == result["eval_results"]["align_test"]["balanced_accuracy"][-1]
        assert result["train_losses"]["total"][0] > 0
        assert {"total_s", "train_s", "eval_s"} <= set(result["timings"])
        assert result["tokens"]["processed"] >= result["tokens"]["scored"] > 0
        assert result["versions"]["torch"] and result["data_hashes"]["outcome"] and result["model_hash"]
    table = load_results(folder / "sweeps" / "tiny")
    assert len(table) == 6 and table["config.finetune_config.beta_kl"].notna().sum() == 4


def test_no_checkpoint_is_left_behind_and_adapters_differ_between_seeds(undisturbed):
    folder, _, _ = undisturbed
    assert not list((folder / "sweeps").rglob("checkpoints"))
    found = adapters(folder)
    assert len(found) == 6
    first, second = (next(v for k, v in found.items() if k.startswith("naive") and k.endswith(s)) for s in "12")
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_again_skips_all_and_a_longer_list_runs_what_was_added(undisturbed, tiny_model_dir, data_files, joined):
    folder, space, _ = undisturbed
    before = {p: p.stat().st_mtime_ns for p in (folder / "sweeps").rglob("results.json")}
    left = next(iter(before)).parent / "checkpoints" / "step_00000003"  # by a worker that was killed at its very end
    left.mkdir(parents=True)
    (left / "optimizer.pt").write_bytes(b"old")
    status, again, _ = in_process(space)
    assert status == 0 and not left.parent.exists() and all(path.exists() for path in before)
    assert "6 completed, skipped" in again and not re.search(r"^ +\d+ new$", again, re.MULTILINE)
    assert "dashboard" not in again  # nothing to run: Ray was not started
    more = write_space(folder, tiny_model_dir, data_files, seeds=[1, 2, 3], strategies={"naive": {}})
    dry = dry_run(more)
    assert "2 completed, skipped" in dry and "1 new" in dry
    assert "naive: 3 trials, 1 setting, 2 done" in dry
    assert "4 results of trials this file does not name" in dry
    added = sweep_on(joined, more)
    assert added.returncode == 0, added.stderr
    assert len(results(folder)) == 7
    for path, stamp in before.items():
        assert path.stat().st_mtime_ns == stamp, "a finished result was written again"


BROKEN = '''
"""A strategy that fails where no plan can see it."""
from selgen_ray.trainers.naive import StandardTrainer


class BrokenTrainer(StandardTrainer):
    """As naive."""

    proxy_strategy_name = "broken"

    def prepare(self):
        raise ArithmeticError("minus one rows")
'''


def test_a_failed_and_a_diverged_trial_do_not_stop_the_others(tmp_path, tiny_model_dir, data_files, joined):
    overrides = [
        {"proxy_strategy": "naive"},
        {"proxy_strategy": "naive", "finetune_config": {"learning_rate": 1e30, "optim": "sgd"}},
        {"proxy_strategy": "broken"},
    ]
    (tmp_path / "broken.py").write_text(BROKEN)
    options = {"plugins": ["broken.py"], "resources": {"max_failures": 0}, "strategies": None, "seeds": [1]}
    space = write_space(tmp_path, tiny_model_dir, data_files, overrides=overrides, **options)
    done = sweep_on(joined, space)
    assert done.returncode == 1
    by_status = {r["status"]: r for r in results(tmp_path).values()}
    assert set(by_status) == {"completed", "diverged", "failed"}
    assert "ArithmeticError: minus one rows" in by_status["failed"]["error"]
    assert "not finite at step" in by_status["diverged"]["error"]
    assert re.search(r"^failed: broken_\S+/seed_1: .*minus one rows", done.stdout, re.M)
    assert "1 failed" in done.stdout and f"python -m selgen_ray.sweep {space}" in done.stdout
    assert "1 diverged" in done.stdout
    ended = {e["event"]: e for e in read_events(Folder(str(tmp_path / "sweeps" / "tiny"))) if "why" in e}
    assert ended["failed"]["why"] == "ArithmeticError: minus one rows" and "TrialError" in ended["failed"]["detail"]
    assert "not finite at step" in ended["diverged"]["why"]
    # the diverged one stays as it is, the failed one is tried again
    again = dry_run(space)
    assert "1 diverged, skipped" in again and "1 failed, tried again" in again


def test_more_than_the_cluster_has_is_refused():
    with pytest.raises(InfeasibleError, match="a trial asks for 1000 CPUs and 0 GPUs, but the nodes have: 2 CPUs"):
        resolve_resources(Resources(cpus=1000), [{"CPU": 2.0}, {"CPU": 2.0}])


def test_bad_input_is_refused_before_ray_starts(tmp_path, tiny_model_dir, data_files):
    rows = tmp_path / "broken.jsonl"
    rows.write_text('{"messages": []}\n')
    status, _, told = in_process(write_space(tmp_path, tiny_model_dir, {**data_files, "proxy": str(rows)}))
    assert status == 2
    assert "broken.jsonl:1: 'messages' must be a non-empty list" in told
    no_proxy = {k: v for k, v in data_files.items() if k != "proxy"}
    status, _, told = in_process(write_space(tmp_path, tiny_model_dir, no_proxy))
    assert status == 2
    assert "kl_divergence needs data.proxy" in told
    (tmp_path / "a_file").write_text("")
    status, _, told = in_process(write_space(tmp_path, tiny_model_dir, data_files, storage_path="./a_file"))
    assert status == 2 and "Not a directory" in told
    done = sweep(tmp_path / "nowhere.yaml")
    assert done.returncode == 2 and "nowhere.yaml" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.by_hand
def test_in_a_terminal_running_trials_have_a_live_line(tmp_path, tiny_model_dir, data_files, joined):
    finetune = {"epochs": 40, "max_to_eval": 1, "max_new_tokens": 1}
    space = write_space(tmp_path, tiny_model_dir, data_files, finetune, strategies={"naive": {}}, seeds=[1])
    terminal, end = pty.openpty()
    env = joined | {"TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(command(space), stdin=end, stdout=end, stderr=end, env=env, cwd=tmp_path)
    os.close(end)
    output = b""
    with contextlib.suppress(OSError):  # what a terminal says when its last writer is gone
        while chunk := os.read(terminal, 65536):
            output += chunk
    text = output.decode()
    assert process.wait(60) == 0, text
    plain = re.sub(r"\x1b\[[0-9?;]*[a-zA-Z]", "", text)
    assert re.search(r"naive_[0-9a-f]{6}/seed_1 ━*╌+ step \d+/\d+  loss \d\.\d+  \d+ tokens/s", plain)
    assert "0/1 finished, 1 running" in text and "Traceback" not in text


# -- kills -----------------------------------------------------------------------------------------------------------


@pytest.mark.by_hand  # the storm of test_chaos.py kills drivers and workers too
def test_kill_9_of_the_whole_tree_loses_nothing_but_the_steps_since_the_checkpoint(
    tmp_path, tiny_model_dir, data_files, slow_reference
):
    space = slow_space(tmp_path, tiny_model_dir, data_files)
    process = start(space)

    def one_done_and_one_under_way():
        return "completed" in {r["status"] for r in results(tmp_path).values()} and under_way(tmp_path)

    wait_for(one_done_and_one_under_way)
    kill_9(tree(process))
    process.wait()
    before = results(tmp_path)
    finished = [name for name, r in before.items() if r["status"] == "completed"]
    cut_off = [name for name, r in before.items() if r["status"] == "running"]
    assert finished and cut_off
    dry = dry_run(space)
    assert f"{len(finished)} completed, skipped" in dry
    assert f"{len(cut_off)} cut off, continued" in dry

    done = sweep(space)
    assert done.returncode == 0, done.stdout + done.stderr
    after = results(tmp_path)
    assert any(after[name]["num_resumes"] >= 1 for name in cut_off)
    assert all(after[name]["num_resumes"] == 0 for name in finished)
    assert_same_sweep(tmp_path, slow_reference)


@pytest.mark.by_hand
def test_a_killed_worker_is_tried_again_from_its_checkpoint(tmp_path, tiny_model_dir, data_files, slow_reference):
    space = slow_space(tmp_path, tiny_model_dir, data_files)
    process = start(space)

    def worker():
        # a worker process carries its trial's name, which is what the dashboard lists
        titles = {f"ray::{name}" for name in under_way(tmp_path)}
        for p in tree(process) if titles else []:
            with contextlib.suppress(psutil.Error):
                if next(iter(p.cmdline()), "") in titles:
                    return p
        return None

    kill_9([wait_for(worker)])
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert sum(r["num_resumes"] for r in results(tmp_path).values()) == 1
    assert "retrying   " in output and "Traceback" not in output
    assert_same_sweep(tmp_path, slow_reference)


@pytest.mark.by_hand  # test_cache.py kills holders of a lease too
def test_a_killed_preparation_is_taken_over_by_the_trial_that_waits_for_it(
    tmp_path, tiny_model_dir, data_files, joined
):
    finetune = {"epochs": 1, "save_steps": 5, "logging_steps": 1, "max_to_eval": 1, "max_new_tokens": 1}
    finetune |= {"proxy_epochs": 150, "negative_proxy": None}
    strategies = {"orth_penalty": {"grid": {"finetune_config.lambda_1": [0.1, 0.2]}}}
    space = write_space(
        tmp_path, tiny_model_dir, data_files, finetune, strategies=strategies, seeds=[1], resources={"max_failures": 0}
    )
    process = start(space, joined)
    cache = tmp_path / "sweeps" / "tiny" / "cache" / "throw_away_trainings"
    wait_for(lambda: list(cache.glob("*/work/checkpoints/*/manifest.json")))
    # the lease says who computes
    holder = json.loads(next(cache.glob("*/leases/*.json")).read_text())["pid"]
    kill_9([psutil.Process(holder)])
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 1, output  # no retry was allowed
    found = results(tmp_path)
    assert sorted(result["status"] for result in found.values()) == ["completed", "failed"]
    assert len(list(cache.glob("*"))) == 1
    assert len(list(cache.glob("*/leases/*.json"))) == 2  # the dead one's, and that of the one that took over
    done = next(result for result in found.values() if result["status"] == "completed")
    with get_trainer("orth_penalty")(done["config"]) as alone:
        alone.train()
        weights = {name.replace(".default", ""): p for name, p in alone.parameters.items()}
    (saved,) = adapters(tmp_path).values()
    assert all(torch.equal(saved[name], p) for name, p in weights.items())
    assert sweep(space, env=joined).returncode == 0  # and the same command finishes the other
    assert len(list(cache.glob("*/leases/*.json"))) == 2
