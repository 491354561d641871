"""The fence around a trial's folder: the newest attempt writes, every older one is refused, at any moment."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from fake_sweep import fake_result

from selgen_ray.errors import TrialSuperseded
from selgen_ray.records.attempts import Attempt, Fence, attempt_of
from selgen_ray.records.results import FILE_NAME, TrialResult
from selgen_ray.storage import Folder
from selgen_ray.storage.folder import to_json

OLD, NEW = Attempt(1, 3), Attempt(2, 1)


@pytest.fixture(params=["local", "s3"])
def place(request, tmp_path):
    if request.param == "s3":
        return Folder(request.getfixturevalue("s3_uri")) / "attempts" / request.node.originalname
    return Folder(str(tmp_path / "trial"))


def result(status: str, x: float = 0.5) -> TrialResult:
    return fake_result(status=status, x=x)


def stored(place: Folder) -> TrialResult:
    return TrialResult.model_validate_json(place.read(FILE_NAME))


def test_a_frozen_attempt_that_wakes_up_writes_nothing(place):
    frozen = Fence(place, OLD)
    assert frozen.begin() is None
    frozen.publish(result("running"))
    frozen.check()
    new = Fence(place, NEW)
    found = new.begin()
    assert found is not None and attempt_of(found) == OLD
    for refused in (frozen.check, lambda: frozen.publish(result("running", 0.1)), frozen.begin):
        with pytest.raises(TrialSuperseded, match=r"attempt 000002-0001 runs it, in process \d+ on "):
            refused()
    assert stored(place).capability == 0.5
    new.publish(result("completed", 0.9))
    new.end()
    assert place.folders() == [] and place.files() == [FILE_NAME]
    for refused in (frozen.check, lambda: frozen.publish(result("running", 0.1)), frozen.begin):
        with pytest.raises(TrialSuperseded, match="attempt 000002-0001 has left a result, completed"):
            refused()
    assert (stored(place).status, stored(place).capability, attempt_of(stored(place))) == ("completed", 0.9, NEW)
    assert place.files(recursive=True) == [FILE_NAME]


def test_what_an_older_attempt_finished_stays(place):
    """It finished before the newer one had begun: the newer one is told, and may not write over it either."""
    old, new = Fence(place, OLD), Fence(place, NEW)
    old.begin()
    old.publish(result("completed", 0.9))
    found = new.begin()
    assert found is not None and found.status == "completed"
    with pytest.raises(TrialSuperseded, match="attempt 000001-0003 has left a result, completed"):
        new.publish(result("running", 0.1))
    assert stored(place).capability == 0.9


@pytest.mark.parametrize("status", ["failed", "stopped", "running"])
def test_a_later_attempt_writes_over_what_was_to_be_tried_again(status, tmp_path):
    place = Folder(str(tmp_path))
    Fence(place, OLD).begin()
    Fence(place, OLD).publish(result(status))
    again = Fence(place, Attempt(OLD.generation, OLD.number + 1))
    assert again.begin() is not None
    again.publish(result("completed", 0.9))
    assert stored(place).capability == 0.9


def test_a_removed_trial_does_not_come_back(tmp_path):
    place = Folder(str(tmp_path / "trial"))
    fence = Fence(place, OLD)
    fence.begin()
    place.delete()
    with pytest.raises(TrialSuperseded, match="the trial was removed"):
        fence.publish(result("running"))
    assert not place.exists()


def test_an_attempt_may_finish_twice_to_add_where_the_model_went(tmp_path):
    fence = Fence(Folder(str(tmp_path)), OLD)
    fence.begin()
    fence.publish(result("completed"))
    fence.publish(result("completed", 0.7))
    assert stored(fence.place).capability == 0.7


def test_outside_of_a_sweep_nothing_is_refused_and_no_mark_is_left(tmp_path):
    place = Folder(str(tmp_path))
    fence = Fence(place, None)
    assert fence.begin() is None
    fence.publish(result("completed"))
    fence.publish(result("running", 0.1))
    fence.end()
    assert place.files(recursive=True) == [FILE_NAME] and attempt_of(stored(place)) is None


def test_a_result_of_an_earlier_release_loads_and_is_final_when_it_was(tmp_path):
    place = Folder(str(tmp_path))
    old = json.loads(result("completed", 0.9).content())
    place.write(FILE_NAME, to_json({k: v for k, v in old.items() if k not in ("generation", "attempt")}))
    fence = Fence(place, NEW)
    found = fence.begin()
    assert found is not None and attempt_of(found) is None
    with pytest.raises(TrialSuperseded, match="an earlier release"):
        fence.publish(result("running", 0.1))


def test_the_end_of_one_attempt_leaves_the_mark_of_a_newer_one(tmp_path):
    """It was frozen after its last result, diverged, and somebody has asked for a retry."""
    place = Folder(str(tmp_path))
    old, new = Fence(place, OLD), Fence(place, NEW)
    old.begin()
    old.publish(result("diverged"))
    place.write(FILE_NAME, result("running").content())
    new.begin()
    old.end()
    new.publish(result("completed"))
    new.end()
    assert stored(place).status == "completed" and place.folders() == []


@pytest.mark.parametrize("by", ["[" * 100_000, "7", "[[1, 2]]"], ids=["deep", "number", "pairs"])
def test_a_damaged_mark_still_refuses(by, tmp_path):
    place = Folder(str(tmp_path))
    old = Fence(place, OLD)
    old.begin()
    Fence(place, NEW).begin()
    place.write(f"attempts/{NEW}/by.json", by.encode())
    with pytest.raises(TrialSuperseded, match="attempt 000002-0001 runs it"):
        old.check()


def test_numbers_of_attempts_grow_with_the_driver_first():
    assert Attempt(1, 9) < Attempt(2, 1) < Attempt(2, 2) < Attempt(10, 1)
    assert Attempt.of(str(Attempt(1_000_000, 12_345))) == Attempt(1_000_000, 12_345)
    assert Attempt.of("work") is None and Attempt.of(".000001-0001.c0ffee.gone") is None


def test_of_attempts_that_begin_at_once_the_newest_alone_goes_on(tmp_path):
    place = Folder(str(tmp_path))
    attempts = [Attempt(g, n) for g in range(1, 9) for n in (1, 2)]
    barrier = threading.Barrier(len(attempts))

    def begin(attempt: Attempt) -> Fence | None:
        fence = Fence(place, attempt)
        barrier.wait()
        try:
            fence.begin()
        except TrialSuperseded:
            return None
        return fence

    for _ in range(10):
        with ThreadPoolExecutor(len(attempts)) as pool:
            begun = [fence for fence in pool.map(begin, attempts) if fence]
        writers = []
        for fence in begun:
            try:
                fence.publish(result("running"))
                writers.append(fence.attempt)
            except TrialSuperseded:
                continue
        assert writers == [max(attempts)]
        place.delete()


def test_a_write_that_was_begun_before_the_newer_attempt_fails_after_it(tmp_path, monkeypatch):
    """Frozen between its check and its rename: on a disk the rename itself is refused."""
    place = Folder(str(tmp_path))
    old, new = Fence(place, OLD), Fence(place, NEW)
    old.begin()
    sync, frozen, thaw = __import__("os").fsync, threading.Event(), threading.Event()

    def freeze(file: int) -> None:
        sync(file)
        if threading.current_thread().name == "old":
            frozen.set()
            assert thaw.wait(20)

    monkeypatch.setattr("os.fsync", freeze)
    refusals = []

    def publish() -> None:
        try:
            old.publish(result("running", 0.1))
        except TrialSuperseded as refusal:
            refusals.append(str(refusal))

    writer = threading.Thread(target=publish, name="old")
    writer.start()
    assert frozen.wait(20)
    new.begin()
    new.publish(result("completed", 0.9))
    new.end()
    thaw.set()
    writer.join(20)
    assert refusals == ["attempt 000002-0001 has left a result, completed"]
    assert stored(place).capability == 0.9 and place.files(recursive=True) == [FILE_NAME]
