"""A condition that would fail every trial pauses the feed, costs no trial a failure, and ends by itself. No Ray."""

from __future__ import annotations

import errno
import gc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from running import next_trial, wait_for

from selgen_ray.cluster.metrics import TrialMetrics
from selgen_ray.cluster.tune_events import TuneEvents
from selgen_ray.driver import blockade
from selgen_ray.driver.blockade import LONGEST_WAIT_S, MOST_EXCUSED, Blockade, missing_inputs
from selgen_ray.driver.display import Board, NoDisplay
from selgen_ray.driver.driver import Driver
from selgen_ray.driver.trial_queue import TrialQueue
from selgen_ray.errors import StorageBlockedError, StorageError, blocked_by
from selgen_ray.records.control import LIVE, Control
from selgen_ray.records.events import read_events
from selgen_ray.records.results import FILE_NAME, TrialResult
from selgen_ray.storage import Folder, local_files
from selgen_ray.storage.retries import retrying
from selgen_ray.trial.task import TrialTask
from selgen_ray.trial.worker import run_in_worker


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "no room, or no inodes"), "no space left on s3://b"),
        (OSError(errno.EDQUOT, "quota"), "no space left on s3://b"),
        (OSError(errno.EROFS, "Read-only file system"), "Read-only"),
        (PermissionError(errno.EACCES, "no"), "no"),
        (OSError("AWS Error ACCESS_DENIED during PutObject"), "access denied"),
        (OSError("AWS Error UNKNOWN (HTTP status 507) during PutObject"), "no space left"),
        (OSError("AWS Error UNKNOWN (HTTP status 403) during PutObject"), "403"),
        (OSError("Azure Error: [AuthenticationFailed] 403 x"), "not valid"),
    ],
)
def test_what_is_of_the_storage_is_told_from_what_is_of_one_file(error: OSError, words: str) -> None:
    def refuse() -> None:
        raise error

    with pytest.raises(StorageBlockedError, match=words):
        retrying(lambda: "write x", "s3://b", refuse)
    with pytest.raises(StorageError) as other:
        retrying(lambda: "write x", "s3://b", Path("/").read_bytes)
    assert not isinstance(other.value, StorageBlockedError)


def test_the_cause_is_found_in_the_chain_of_an_error() -> None:
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("cannot write tensors") from error
    except RuntimeError as error:
        assert blocked_by(error) == "[Errno 28] No space left on device"
    assert blocked_by(RuntimeError("bad")) is None and blocked_by(OSError(errno.ENOENT, "gone")) is None


def test_it_is_looked_at_ever_more_rarely_and_said_once() -> None:
    now, works, looks = [0.0], [False], list[float]()

    def probe() -> None:
        looks.append(now[0])
        if not works[0]:
            raise StorageBlockedError("full")

    one = Blockade(probe, lambda: now[0])
    assert one.begin("full") and not one.begin("full") and one.why == "full"
    while now[0] < 1000:
        assert not one.look()
        now[0] += 1
    assert looks == [5, 15, 35, 75, *range(135, 1000, 60)]
    works[0] = True
    now[0] += LONGEST_WAIT_S
    assert one.look() and one.why is None and not one.look()
    # it comes straight back: not said again, nor looked at more often
    assert not one.begin("full") and not one.look()
    now[0] += LONGEST_WAIT_S
    assert one.look()
    assert one.begin("another thing")
    now[0] += LONGEST_WAIT_S
    assert one.look()
    now[0] += 1000
    assert one.begin("full")  # much later
    now[0] += 5
    assert one.look()


def test_one_that_comes_back_each_minute_is_not_waited_for_ever_longer() -> None:
    """A storage that fails now and then: each time the sweep had run for longer than it would have waited."""
    now, paused = [0.0], 0.0
    one = Blockade(lambda: None, lambda: now[0])
    for _ in range(30):
        now[0] += 60
        one.begin("read-only")
        begun = now[0]
        while not one.look():
            now[0] += 1
        paused += now[0] - begun
    assert paused == 30 * 5


def task(place: Folder, **config: Any) -> TrialTask:
    trial = {"seed": 1, "proxy_strategy": "naive"} | config
    return TrialTask(trial, "a" * 16, "naive_c0ffee", place / "naive_c0ffee/seed_1/results/now", git_commit=None)


Started = Callable[..., tuple[Driver, list[str]]]


@pytest.fixture
def driver_of(monkeypatch: pytest.MonkeyPatch) -> Started:
    monkeypatch.setattr(blockade, "FIRST_WAIT_S", 0.05)

    def make(place: Folder, one: TrialTask) -> tuple[Driver, list[str]]:
        told: list[str] = []
        queue = TrialQueue([one], 0, lambda: 9)
        driver = Driver(place, queue, Board(1), dict(queue.known), lambda _: one, say=told.append)
        driver.feedback = SimpleNamespace(add=lambda tasks: None, ended=lambda *_: None)  # pyright: ignore
        driver._every_s = 0.02
        return driver, told

    return make


def test_a_full_disk_pauses_the_feed_until_it_has_room(
    tmp_path: Path, driver_of: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, is_full, write = Folder(str(tmp_path)), [False], local_files.write

    def full(target: Path, content: bytes) -> None:
        if is_full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(target, content)

    monkeypatch.setattr(local_files, "write", full)
    driver, told = driver_of(place, task(place))
    with driver:
        is_full[0] = True
        wait_for(lambda: driver.queue.is_paused, 10)
        assert next_trial(driver.queue) is None and not driver.queue.is_over
        wait_for(lambda: driver._blockade._wait_s > 0.1, 10)
        is_full[0] = False
        wait_for(lambda: not driver.queue.is_paused, 10)
        assert next_trial(driver.queue) is not None
        wait_for(lambda: Control(place).read(LIVE).get("paused", "") is None, 10)
    assert len(told) == 2 and "paused, no further trial starts: " in told[0] and "no space left on" in told[0], told
    assert "goes on" in told[1]
    assert [e["event"] for e in read_events(place) if e["event"] in ("paused", "resumed")] == ["paused", "resumed"]
    assert not list(tmp_path.rglob("probe_*"))


def ended(driver: Driver, last: dict[str, Any]) -> None:
    trial = SimpleNamespace(config={"trial_id": "a" * 16}, last_result=last)
    TuneEvents(driver, NoDisplay(), 0).on_trial_complete(0, [], trial)  # pyright: ignore


def test_a_trial_that_meets_it_is_not_charged_with_a_failure(tmp_path: Path, driver_of: Started) -> None:
    place = Folder(str(tmp_path))
    driver, told = driver_of(place, task(place))
    for _ in range(MOST_EXCUSED):
        driver.queue.is_paused = False
        assert next_trial(driver.queue) is not None
        ended(driver, {"status": "preempted", "blocked": "no space left on /x"})
        assert driver.queue.is_paused and not driver.queue.failures["a" * 16] and not driver.board.finished
    assert len(told) == 1 and "no space left on /x" in told[0]
    # where this machine sees nothing of it, it is the trial's in the end
    driver.queue.is_paused = False
    assert next_trial(driver.queue) is not None
    ended(driver, {"status": "preempted", "blocked": "no space left on /x"})
    assert driver.board.finished == {"failed": 1}


def test_a_model_that_is_gone_is_waited_for(tmp_path: Path, driver_of: Started) -> None:
    place, model = Folder(str(tmp_path / "sweep")), tmp_path / "model"
    names = {"finetune_config": {"model": str(model)}, "data": {"outcome": {"path": "/no/rows", "split": "/x"}}}
    assert missing_inputs(names) == [str(model), "/no/rows"]
    assert missing_inputs({"finetune_config": {"model": "org/name"}, "data": {"outcome": "rows.jsonl"}}) == []
    driver, told = driver_of(place, task(place, finetune_config={"model": str(model)}))
    with driver:
        assert next_trial(driver.queue) is not None
        ended(driver, {"status": "failed", "error": "ModelError: cannot be loaded"})
        assert driver.queue.is_paused and not driver.board.finished
        model.mkdir()
        wait_for(lambda: not driver.queue.is_paused, 10)
        assert next_trial(driver.queue) is not None
        ended(driver, {"status": "failed", "error": "ModelError: cannot be loaded"})
    assert driver.board.finished == {"failed": 1}
    assert f"{model}: no such file or folder any more" in told[0]


def test_a_worker_reports_it_and_leaves_the_result_as_it_is(
    tmp_path: Path, make_config: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, writes, write = Folder(str(tmp_path)), list[str](), local_files.write

    def full(target: Path, content: bytes) -> None:
        if target.name == FILE_NAME and (writes.append(target.name) or len(writes) > 1):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(target, content)

    monkeypatch.setattr(local_files, "write", full)
    one = TrialTask(make_config(epochs=1), "a" * 16, "naive_c0ffee", sweep / "trial", git_commit=None)
    reports: list[dict[str, Any]] = []
    try:
        run_in_worker(one, sweep, 1, reports.append, TrialMetrics("sweep", one))
    finally:
        gc.unfreeze()
    assert reports[-1]["status"] == "preempted" and "no space left on" in reports[-1]["blocked"], reports[-1]
    assert TrialResult.model_validate_json(one.folder.read(FILE_NAME)).status == "running"
