"""Leases: who holds one, who is dead, and a storage that was away in between."""

import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from selgen_ray.storage import Folder
from selgen_ray.storage.leases import Lease, Watch, this_host

HOLDER = """
import sys, time
from selgen_ray.storage.leases import Watch
from selgen_ray.storage import Folder
with Watch(Folder(sys.argv[1]), 600.0, 0.01).acquire():
    print("held", flush=True)
    sys.stdin.read()
"""
PATIENT = 600.0


@pytest.fixture(params=["local", "s3"])
def place(request, tmp_path):
    if request.param == "s3":
        return Folder(request.getfixturevalue("s3_uri")) / "leases" / request.node.originalname
    return Folder(str(tmp_path))


def test_who_holds_it(place):
    watch = Watch(place, PATIENT, 0.01)
    assert watch.holder() is None
    lease = watch.acquire()
    assert isinstance(lease, Lease)
    with lease:
        found = watch.holder()
        assert found and (found["host"], found["beat"]) == (this_host(), 0)
        assert watch.acquire() is None
    assert watch.holder() is None
    assert watch.acquire()
    assert place.files() == ["000001.json", "000002.json"]


def test_a_holder_that_was_killed_here_is_known_at_once(tmp_path):
    watch = Watch(Folder(str(tmp_path)), PATIENT, 0.01)
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "held\n"
        found = watch.holder()
        assert found and found["pid"] == process.pid
        assert watch.acquire() is None
        process.kill()
        process.wait()
        assert watch.holder() is None
        assert watch.acquire()


def elsewhere(folder, beat=0):
    folder.write_json("000001.json", {"host": "elsewhere", "pid": 1, "started": "1", "beat": beat, "released": False})


def test_time_in_which_nobody_looked_is_no_silence(tmp_path):
    """The storage was away: the holder could not renew its lease, and is not dead."""
    folder, lease_s = Folder(str(tmp_path)), 0.5
    watch = Watch(folder, lease_s, 0.01)
    elsewhere(folder)
    assert watch.holder()
    time.sleep(2 * lease_s)
    assert watch.holder()
    elsewhere(folder, beat=1)
    time.sleep(2 * lease_s)
    assert watch.holder()
    looks = 0
    while watch.acquire() is None:
        looks += 1
        assert looks < 10_000
        time.sleep(0.01)
    assert looks >= 2


def test_a_lease_that_cannot_be_read_names_nobody(tmp_path):
    (tmp_path / "000007.json").write_text("{")
    assert Watch(Folder(str(tmp_path)), PATIENT, 0.01).holder() == {}


def test_a_lease_is_renewed_until_its_end(tmp_path):
    folder = Folder(str(tmp_path))
    lease = Watch(folder, 0.3, 0.01).acquire()
    assert lease
    with lease:
        end = time.monotonic() + 60
        while json.loads(folder.read(lease.name))["beat"] < 3:
            assert time.monotonic() < end
            time.sleep(0.01)
    assert json.loads(folder.read(lease.name))["released"]
    assert not any(thread.name == "lease" for thread in threading.enumerate())


def test_numbers_grow_after_a_clean_end_and_beyond_what_is_known_of_before(place):
    watch = Watch(place, PATIENT, 0.01)
    with watch.acquire() as first:
        assert first.number == 1
    with watch.acquire(after=7) as second:  # somebody removed the files of leases 2 to 7
        assert second.number == 8
    with watch.acquire(after=3) as third:
        assert third.number == 9


def test_a_frozen_holder_learns_who_took_over_and_touches_nothing_of_theirs(place):
    watch = Watch(place, PATIENT, 0.01)
    frozen, lost = watch.acquire(), []
    frozen.on_lost = lost.append
    assert frozen.look() is None and not lost
    place.write_json("000002.json", {"host": "lab2 boot ns", "pid": 7, "id": "b", "beat": 4, "released": False})
    assert frozen.look() == "process 7 on lab2" == frozen.look()
    assert lost == ["process 7 on lab2"]
    before = {name: place.read(name) for name in place.files()}
    with frozen:
        pass
    assert {name: place.read(name) for name in place.files()} == before


def test_of_two_with_one_number_the_last_to_write_has_it(place):
    """An object store may let both create it."""
    watch = Watch(place, PATIENT, 0.01)
    first = watch.acquire()
    second = Lease(place, first.number, PATIENT)
    place.write(second.name, second.content(0))
    assert first.look() and second.look() is None


def test_the_thread_of_a_lease_ends_its_holder(tmp_path):
    folder, told = Folder(str(tmp_path)), threading.Event()
    lease = Watch(folder, 0.3, 0.01).acquire()
    lease.on_lost = lambda who: told.set()
    with lease:
        folder.write_json("000002.json", {"host": "lab2", "pid": 7, "id": "b", "beat": 0, "released": False})
        assert told.wait(20)
        lease._thread.join(20)
        assert not lease._thread.is_alive()


def test_processes_that_take_over_at_once_get_different_numbers_or_none(tmp_path):
    place, barrier = Folder(str(tmp_path)), threading.Barrier(8)

    def take(_):
        watch = Watch(place, PATIENT, 0.01)
        barrier.wait()
        lease = watch.acquire()
        return lease and lease.number

    for round_ in range(1, 6):
        with ThreadPoolExecutor(8) as pool:
            numbers = [number for number in pool.map(take, range(8)) if number]
        assert numbers == [round_]
        newest = f"{round_:06d}.json"
        place.write_json(newest, place.read_json(newest) | {"released": True})


@pytest.mark.parametrize(
    "content",
    ["{}", "[]", "[" * 100_000, '{"host": "here", "pid": "7"}', '{"host": "here", "pid": -1}'],
    ids=["none", "list", "deep", "text", "negative"],
)
def test_a_damaged_lease_is_of_a_holder_that_may_live(content, tmp_path):
    (tmp_path / "000001.json").write_text(content.replace("here", this_host()))
    watch = Watch(Folder(str(tmp_path)), PATIENT, 0.01)
    assert watch.holder() is not None and watch.acquire() is None


def test_a_number_of_more_digits_counts_too(tmp_path):
    watch = Watch(Folder(str(tmp_path)), PATIENT, 0.01)
    with watch.acquire(after=999_998) as old:
        pass
    with watch.acquire(after=1_000_004) as lease:
        assert (old.number, lease.number) == (999_999, 1_000_005)
        assert watch.acquire() is None and old.look()
