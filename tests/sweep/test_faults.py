"""What goes wrong around a sweep, with real processes: lost nodes, stopped clusters, no memory, full disks."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
from clusters import Cluster, pids_of
from fake_sweep import fake_result
from running import (
    assert_same_sweep,
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

from selgen_ray.records.events import read_events
from selgen_ray.storage import Folder
from selgen_ray.sweep import main

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def events(folder: Path, kind: str) -> list[dict]:
    """The events of one kind, of the sweep in `folder`."""
    return [e for e in read_events(Folder(str(folder / "sweeps" / "tiny"))) if e["event"] == kind]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("cluster"), head_cpus=1) as two_nodes:
        yield two_nodes


@pytest.mark.by_hand
def test_the_trials_of_a_lost_node_go_on_elsewhere(tmp_path, tiny_model_dir, data_files, slow_reference, cluster):
    node = cluster.add_node(1)
    wait_for(lambda: cluster.num_nodes() == 2)  # else the head's worker has done everything before the node's has begun
    space = slow_space(tmp_path, tiny_model_dir, data_files)
    process = start(space, cluster.env)

    def runs_on_the_node() -> bool:
        titles = {f"ray::{name}" for name in under_way(tmp_path)}
        there = []
        for pid in pids_of(node):
            with contextlib.suppress(psutil.Error):
                there += psutil.Process(pid).cmdline()[:1]
        return bool(titles & set(there))

    wait_for(runs_on_the_node)
    cluster.kill(node)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    assert "retrying   " in output and "Traceback" not in output
    assert sum(result["num_resumes"] for result in results(tmp_path).values()) == 1
    assert_same_sweep(tmp_path, slow_reference)
    assert len(events(tmp_path, "node_lost")) == 1
    (retry,) = events(tmp_path, "retry")
    assert retry["failures"] == 1 and retry["why"] and retry["trial"] in results(tmp_path)
    assert len(events(tmp_path, "completed")) == 2
    assert cluster.is_up()  # it is not ours to stop


@pytest.mark.by_hand  # it races with the end that Ray has for a process without a cluster
def test_a_cluster_that_stops_ends_the_sweep_which_goes_on_elsewhere(
    tmp_path, tiny_model_dir, data_files, slow_reference, cluster, joined
):
    space = slow_space(tmp_path, tiny_model_dir, data_files)
    process = start(space, cluster.env | {"RAY_gcs_rpc_server_reconnect_timeout_s": "12"})  # instead of 60
    wait_for(lambda: under_way(tmp_path))
    for pid in pids_of(cluster.head):  # as `ray stop` does, which would also stop the clusters of others
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).send_signal(signal.SIGTERM)
    output = process.communicate(timeout=180)[0]
    assert process.returncode == 1, output
    assert f"to go on: python -m selgen_ray.sweep {space}" in output, output
    assert "running" in {result["status"] for result in results(tmp_path).values()}
    done = sweep(space, env=joined)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same_sweep(tmp_path, slow_reference)


HUNGRY = '''
"""A strategy that takes more and more memory, the first time it runs."""
import time
from pathlib import Path

from selgen_ray.trainers.naive import StandardTrainer


class HungryTrainer(StandardTrainer):
    """As naive."""

    proxy_strategy_name = "hungry"

    def prepare(self):
        mark = Path(MARK)
        if not mark.exists():
            mark.touch()
            eaten = []
            for _ in range(400):
                eaten.append(bytearray(b"x" * 2**26))
                time.sleep(0.02)
'''


@pytest.mark.by_hand
def test_a_worker_that_ran_out_of_memory_is_tried_again_and_the_log_says_why(tmp_path, tiny_model_dir, data_files):
    (tmp_path / "hungry.py").write_text(HUNGRY.replace("MARK", repr(str(tmp_path / "ate"))))
    space = write_space(
        tmp_path, tiny_model_dir, data_files, plugins=["hungry.py"], strategies={"hungry": {}}, seeds=[1]
    )
    # Ray ends a worker when less than this is free; measured now, so that it works on any machine
    keep_free = psutil.virtual_memory().available - 4 * 2**30
    assert keep_free > 0, "needs 4 GiB"
    env = {"RAY_memory_monitor_refresh_ms": "100", "RAY_min_memory_free_bytes": str(keep_free)}
    env |= {"RAY_memory_usage_threshold": "0.05"}
    with Cluster(tmp_path, head_cpus=1, env=env) as small:
        done = sweep(space, env=small.env)
    assert done.returncode == 0, done.stdout + done.stderr
    (retry,) = events(tmp_path, "retry")
    assert "memory" in retry["why"].lower()
    (result,) = results(tmp_path).values()
    assert result["status"] == "completed"


@pytest.fixture
def small_disk(tmp_path):
    """A filesystem of 8 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a small filesystem")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.by_hand
def test_a_full_disk_fails_the_trials_in_words_and_costs_nothing_that_was_finished(
    small_disk, tmp_path, tiny_model_dir, data_files, joined
):
    options = {"storage_path": str(small_disk / "sweeps"), "strategies": {"naive": {}}, "seeds": [1]}
    space = write_space(
        tmp_path, tiny_model_dir, data_files, **options, resources={"max_failures": 0, "max_concurrent": 1}
    )
    kept = fake_result(seed=7)
    kept.publish(Folder(str(small_disk / "sweeps" / "tiny" / kept.slug / "seed_7" / "results" / "before")))
    filler = small_disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb") as out:
        while True:
            out.write(bytes(4096))
    full = sweep(space, env=joined)
    assert full.returncode in (1, 2)
    assert "no space left" in (full.stdout + full.stderr).lower() and "Traceback" not in full.stdout + full.stderr
    assert not list(small_disk.rglob("*.tmp"))
    filler.unlink()
    again = sweep(space, env=joined)
    assert again.returncode == 0, again.stdout + again.stderr
    found = results(small_disk)
    assert found.pop(f"{kept.slug}/seed_7") == kept.model_dump(mode="json")
    assert [result["status"] for result in found.values()] == ["completed"]


@pytest.mark.parametrize(
    ("process_of_ray", "why"),
    [
        ("raylet", "Ray on this machine has died"),
        pytest.param("gcs_server", "the Ray cluster is gone", marks=pytest.mark.by_hand),  # as the other, only slower
    ],
)
def test_the_death_of_this_machines_ray_ends_in_words(process_of_ray, why, tmp_path, tiny_model_dir, data_files):
    space = slow_space(tmp_path, tiny_model_dir, data_files)
    before = shared_memory()
    process = start(space, None, "--max-concurrent", "1")
    wait_for(lambda: under_way(tmp_path, at_least=1))
    everything = tree(process)
    ports = listening({one.pid for one in everything})
    (doomed,) = (one for one in everything if one.name() == process_of_ray)
    doomed.kill()
    output = process.communicate(timeout=90)[0]
    assert process.returncode == 1, output
    (line,) = (line for line in output.splitlines() if "to go on: " in line)
    told = f"ended early ({why}): 0 failed, {{}} left to run; {resume_of(space)}"
    assert line in (told.format(2), told.format(1)), output  # the first may just have ended
    assert "Traceback" not in output and "Last 20 lines" not in output, output
    assert [event["why"] for event in events(tmp_path, "sweep_ended")] == [why]
    gone, alive = psutil.wait_procs(everything, timeout=20)
    assert gone and not alive
    assert ports and not ports & listening()
    assert shared_memory() <= before


def shared_memory() -> set[str]:
    return {path.name for path in Path("/dev/shm").iterdir()}


def listening(pids: set[int] | None = None) -> set[int]:
    """Ports that somebody listens at, or one of these processes."""
    found = [one for one in psutil.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
    return {one.laddr.port for one in found if pids is None or one.pid in pids}


def resume_of(space: Path) -> str:
    return f"to go on: python -m selgen_ray.sweep {space} --max-concurrent 1"


def test_ctrl_c_once_saves_what_runs_and_says_how_to_go_on(
    tmp_path, tiny_model_dir, data_files, slow_reference, joined
):
    space = slow_space(tmp_path, tiny_model_dir, data_files)
    process = start(space, joined, "--max-concurrent", "1")
    wait_for(lambda: under_way(tmp_path))
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 1, output
    assert "Ctrl-C: finishing steps and saving checkpoints; again: at once" in output and "Traceback" not in output
    resume = f"to go on: python -m selgen_ray.sweep {space} --max-concurrent 1"
    assert "ended early (Ctrl-C): " in output and resume in output
    cut_off = list(tmp_path.rglob("checkpoints/step_*"))
    assert cut_off and [e["why"] for e in events(tmp_path, "sweep_ended")] == ["Ctrl-C"]
    done = sweep_on(joined, space)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sum(result["num_resumes"] for result in results(tmp_path).values()) == 1
    assert_same_sweep(tmp_path, slow_reference)


@pytest.mark.by_hand  # the same as Ctrl-C but for the clock
def test_a_time_budget_ends_the_sweep_as_ctrl_c_does(tmp_path, tiny_model_dir, data_files):
    space = slow_space(tmp_path, tiny_model_dir, data_files)
    done = sweep(space, "--time-budget", "1s", "--max-concurrent", "1")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "ended early (the time budget is used up): 0 failed, 2 left to run" in done.stdout


@pytest.mark.by_hand
def test_ctrl_c_twice_ends_at_once(tmp_path, tiny_model_dir, data_files):
    space = slow_space(tmp_path, tiny_model_dir, data_files)
    before = shared_memory()
    process = start(space, None, "--max-concurrent", "1")
    wait_for(lambda: under_way(tmp_path))
    doomed = tree(process)
    ports = listening({one.pid for one in doomed})
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 1, output
    assert "to go on: " in output and "Traceback" not in output
    gone, alive = psutil.wait_procs(doomed, timeout=20)
    assert gone and not alive
    assert ports and not ports & listening()
    assert shared_memory() <= before
    assert "running" in {result["status"] for result in results(tmp_path).values()}


def test_bad_requests_are_refused_in_words(tmp_path, tiny_model_dir, data_files, capsys):
    space = write_space(tmp_path, tiny_model_dir, data_files, storage_path=str(tmp_path / "sweeps"))
    for arguments, told in [
        (["--only", "strategie=naive"], "'proxy_strategy'"),
        (["--only", "strategy=naiv"], "Found: kl_divergence, naive. Did you mean 'naive'?"),
        (["--only", "naive"], "write key=value"),
        (["--time-budget", "8 hours"], "allowed are 8h, 90m"),
        (["--max-concurrent", "0"], "allowed is a whole number from 1"),
    ]:
        try:
            status = main([str(space), *arguments])
        except SystemExit as end:  # argparse
            status = end.code
        told_to_people = capsys.readouterr().err
        assert status == 2 and told in told_to_people, told_to_people
