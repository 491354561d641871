"""The guard over the process that runs a sweep, with real processes and without Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from fake_sweep import fake_result, publish
from running import environment, wait_for, write_space

from selgen_ray.driver.guard import guarded
from selgen_ray.records.control import LIVE, PLAN, Control
from selgen_ray.records.events import read_events
from selgen_ray.space import load_space
from selgen_ray.storage import Folder
from selgen_ray.sweep import run

SCRIPT = """
import os, signal, subprocess, sys, time
from pathlib import Path
from selgen_ray.driver.guard import guarded, note

here = Path(sys.argv[1])

def sweep():
    signals = []
    def heed(number, frame):
        note(f"signal {number}")
        signals.append(signal.Signals(number).name)
        (here / "signals").write_text(" ".join(signals))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, heed)
    left_behind = subprocess.Popen(["sleep", "100"], start_new_session=True)
    (here / "left_behind").write_text(str(left_behind.pid))
    note("launched")
    (here / "child").write_text(str(os.getpid()))
    while not (here / "go").exists():
        time.sleep(0.02)
    what = (here / "go").read_text()
    if what.startswith("why"):
        note(what)
    if what == "over":
        left_behind.kill()
        note("over")
        return 7
    os._exit(1)

def lost(why, is_recorded, pid):
    assert str(pid) == (here / "child").read_text()
    print(f"{why}; {is_recorded}", flush=True)
    if why == "slow":
        time.sleep(60)
    return 5

sys.exit(guarded(sweep, lost))
"""


@pytest.fixture
def guard(tmp_path: Path):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), start_new_session=True
    )
    wait_for((tmp_path / "child").exists, 30)
    yield process
    process.kill()


def number(path: Path) -> int:
    return int(wait_for(lambda: path.read_text()))


def go(folder: Path, text: str) -> None:
    (folder / "new").write_text(text)
    (folder / "new").rename(folder / "go")


@pytest.mark.parametrize(
    ("end", "told"),
    [
        ("exit", "Ray on this machine has died; False\n"),
        ("why the cluster is gone", "the cluster is gone; True\n"),
        ("SIGKILL", "the process that ran it was ended by SIGKILL: is there enough memory?; False\n"),
    ],
)
def test_who_runs_the_sweep_and_disappears_is_spoken_for(
    end: str, told: str, tmp_path: Path, guard: subprocess.Popen[str]
) -> None:
    left_behind = psutil.Process(number(tmp_path / "left_behind"))
    if end == "SIGKILL":
        os.kill(number(tmp_path / "child"), signal.SIGKILL)
    else:
        go(tmp_path, end)
    out, err = guard.communicate(timeout=30)
    assert (out, err, guard.returncode) == (told, "", 5)
    assert not left_behind.is_running()


def test_who_ends_in_order_speaks_for_itself(tmp_path: Path, guard: subprocess.Popen[str]) -> None:
    go(tmp_path, "over")
    assert guard.communicate(timeout=30) == ("", "") and guard.returncode == 7


def test_a_signal_arrives_once_whoever_gets_it(tmp_path: Path, guard: subprocess.Popen[str]) -> None:
    seen = tmp_path / "signals"
    guard.send_signal(signal.SIGINT)  # by `kill`: to the command alone
    wait_for(lambda: seen.exists() and seen.read_text() == "SIGINT", 10)
    os.killpg(guard.pid, signal.SIGINT)  # by a terminal: to both
    wait_for(lambda: seen.read_text() == "SIGINT SIGINT", 10)
    guard.send_signal(signal.SIGTERM)  # passed on after the other one would have been
    wait_for(lambda: "SIGTERM" in seen.read_text(), 10)
    assert seen.read_text() == "SIGINT SIGINT SIGTERM"
    go(tmp_path, "over")
    assert guard.wait(30) == 7


def test_signals_that_arrive_together_are_not_taken_for_each_other(
    tmp_path: Path, guard: subprocess.Popen[str]
) -> None:
    """A loaded machine: the guard gets both at once, the later one first, and the child has had only one of them."""
    seen = tmp_path / "signals"
    guard.send_signal(signal.SIGSTOP)
    os.killpg(guard.pid, signal.SIGINT)
    wait_for(lambda: seen.exists() and seen.read_text() == "SIGINT", 30)
    guard.send_signal(signal.SIGTERM)
    guard.send_signal(signal.SIGCONT)
    wait_for(lambda: "SIGTERM" in seen.read_text(), 30)
    go(tmp_path, "over")
    assert guard.wait(30) == 7
    assert seen.read_text() == "SIGINT SIGTERM"


def test_a_guard_that_is_killed_takes_the_sweep_along(tmp_path: Path, guard: subprocess.Popen[str]) -> None:
    child = psutil.Process(number(tmp_path / "child"))
    guard.kill()
    gone, alive = psutil.wait_procs([child], timeout=10)
    assert gone and not alive
    psutil.Process(number(tmp_path / "left_behind")).kill()


def test_after_the_loss_it_is_said_recorded_and_reported(
    tmp_path: Path, tiny_model_dir: str, data_files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"storage_path": str(tmp_path / "sweeps"), "strategies": {"naive": {}}}
    space = write_space(tmp_path, tiny_model_dir, data_files, **options)
    sweep, (first, second) = Folder(str(tmp_path / "sweeps" / "tiny")), load_space(space).trials
    publish(sweep, fake_result(seed=1, changes={"trial_id": first.trial_id, "slug": first.slug}))
    control = Control(sweep).folder
    control.write_json(PLAN, {"trials": {first.trial_id: first.name, second.trial_id: second.name}})
    control.write_json(LIVE, {"updated_at": "2999-01-01T00:00:00+00:00", "running": {second.name: {}}, "pid": 1})
    assert run.after_loss([str(space)], "Ray on this machine has died", False, 1) == 1
    out = capsys.readouterr().out
    told = "ended early (Ray on this machine has died): 0 failed, 1 left to run; to go on: python -m selgen_ray.sweep "
    assert f"{told}{space}\n" in out and "report: " in out, out
    (event,) = read_events(sweep)
    assert (event["event"], event["why"]) == ("sweep_ended", "Ray on this machine has died")
    live = json.loads(control.read(LIVE))
    assert live["over"] is True and live["running"] == {}
    assert run.after_loss([str(space)], "it was said", True, 1) == 1
    assert "it was said" not in capsys.readouterr().out and len(read_events(sweep)) == 1


def test_it_does_not_fork_where_threads_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook, or a program that calls the command: the thread would be lost in the child, with its locks."""
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("forked"))
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        assert guarded(lambda: 7, lambda *_: 5) == 7
    finally:
        over.set()
        thread.join()


def test_nothing_that_begins_threads_is_imported_before_the_fork() -> None:
    script = """if True:
        import os, sys
        from pathlib import Path
        from selgen_ray.__main__ import main
        def fork():
            print(len(list(Path("/proc/self/task").iterdir())), flush=True)
            os._exit(3)
        os.fork = fork
        sys.argv = ["selgen", "no_such.yaml"]
        main()
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment(), timeout=60)
    assert (done.stdout, done.returncode) == ("1\n", 3), done.stderr


def test_ctrl_c_ends_what_the_guard_itself_does_at_last(tmp_path: Path, guard: subprocess.Popen[str]) -> None:
    go(tmp_path, "why slow")
    assert guard.stdout is not None and guard.stdout.readline() == "slow; True\n"
    guard.send_signal(signal.SIGINT)
    assert guard.wait(10) != 5


def test_who_is_killed_before_anything_was_launched_and_what_is_not_the_sweeps(tmp_path: Path) -> None:
    """The command ends as the sweep did, and leaves alone what ran before it: jobs of the shell that became it."""
    script = "import os; from selgen_ray.driver.guard import guarded; guarded(lambda: os.kill(os.getpid(), 9), None)"
    line = f'sleep 60 >/dev/null 2>&1 & echo $! > {tmp_path}/job; exec {sys.executable} -c "{script}"'
    done = subprocess.run(["bash", "-c", line], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment())
    job = psutil.Process(number(tmp_path / "job"))
    assert done.returncode == -signal.SIGKILL and job.is_running(), done.stderr
    job.kill()
