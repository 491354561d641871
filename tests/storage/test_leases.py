"""Leases: who holds one, who is dead, and a storage that was away in between."""

import json
import subprocess
import sys
import threading
import time

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
