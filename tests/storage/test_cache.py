"""Compute once: with real processes that are killed, frozen and late, and files that are damaged."""

import contextlib
import json
import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from selgen_ray.errors import StorageError
from selgen_ray.storage import Folder
from selgen_ray.storage import cache as cache_module
from selgen_ray.storage.cache import Cache

PROGRAM = """
import json, os, sys, time
from pathlib import Path
from selgen_ray.storage.cache import Cache
from selgen_ray.storage import Folder

folder, seen, seconds, lease_s = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
me = str(os.getpid())

def compute(work):
    found = work.files()
    work.write("step_" + me, b"half")
    (seen / ("computes_" + me + ".tmp")).write_text(json.dumps(found))
    (seen / ("computes_" + me + ".tmp")).rename(seen / ("computes_" + me))
    time.sleep(seconds)
    return me

cache = Cache(Folder(folder), lambda kind: (seen / ("waits_" + me)).write_text(kind), lease_s=lease_s, poll_s=0.05)
(seen / ("ready_" + me)).touch()
while not (seen / "go").exists():
    time.sleep(0.01)
print(cache.json("thing", {"a": 1}, compute))
"""
PATIENT = 600.0


class Lab:
    """Processes that need the same value; what they do shows as files in `seen`."""

    def __init__(self, path):
        self.folder = path / "cache"
        self.seen = path / "seen"
        self.seen.mkdir()
        self.running = []

    def start(self, seconds=0.0, lease_s=PATIENT):
        arguments = [str(self.folder), str(self.seen), str(seconds), str(lease_s)]
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], stdout=subprocess.PIPE, text=True)
        self.running.append(process)
        return process

    def go(self):
        (self.seen / "go").touch()

    def saw(self, what):
        return sorted(int(path.name.rsplit("_")[-1]) for path in self.seen.glob(f"{what}_*[0-9]"))

    def until(self, what, *processes):
        end = time.monotonic() + 30
        while not {p.pid for p in processes} <= set(self.saw(what)):
            assert time.monotonic() < end, f"no {what}"
            time.sleep(0.01)

    def found_by(self, process):
        return json.loads((self.seen / f"computes_{process.pid}").read_text())

    def answer(self, process):
        return int(process.communicate(timeout=30)[0])


@pytest.fixture
def lab(tmp_path):
    found = Lab(tmp_path)
    yield found
    for process in found.running:
        process.kill()
        process.communicate()


@pytest.fixture
def cache(tmp_path):
    return Cache(Folder(str(tmp_path / "cache")), lease_s=PATIENT, poll_s=0.02)


class Counted:
    """A value to compute, and how often it was."""

    def __init__(self, value):
        self.value = value
        self.count = 0

    def __call__(self, work):
        self.count += 1
        return self.value


class Waited(Exception):
    pass


def refuse_to_wait(kind):
    raise Waited(kind)


def entry_of(cache, kind="thing"):
    (name,) = (cache.folder / kind).folders()
    return (cache.folder / kind / name).local_path


def test_several_processes_at_once_compute_once(lab):
    processes = [lab.start(seconds=0.3) for _ in range(6)]
    lab.until("ready", *processes)
    lab.go()
    answers = [lab.answer(process) for process in processes]
    assert len(lab.saw("computes")) == 1
    assert answers == lab.saw("computes") * 6
    assert len(lab.saw("waits")) == 5
    assert not list(lab.folder.rglob("work"))


def test_a_killed_holder_is_noticed_at_once_and_its_work_goes_on(lab):
    lab.go()
    holder = lab.start(seconds=60)
    lab.until("computes", holder)
    waiters = [lab.start(), lab.start()]
    lab.until("waits", *waiters)
    assert lab.saw("computes") == [holder.pid]
    holder.kill()  # nobody has asked for its exit status yet: a zombie is dead too
    killed = time.monotonic()
    answers = [lab.answer(process) for process in waiters]
    assert time.monotonic() - killed < 5
    (heir,) = [process for process in waiters if process.pid in lab.saw("computes")]
    assert answers == [heir.pid] * 2
    assert lab.found_by(heir) == [f"step_{holder.pid}"]
    assert not list(lab.folder.rglob("work"))


def test_a_frozen_holder_loses_its_lease_and_takes_the_value_of_its_heir(lab):
    lab.go()
    holder = lab.start(seconds=0.5, lease_s=2.0)
    lab.until("computes", holder)
    os.kill(holder.pid, signal.SIGSTOP)
    waiters = [lab.start(lease_s=2.0) for _ in range(3)]
    answers = [lab.answer(process) for process in waiters]
    (heir,) = set(lab.saw("computes")) - {holder.pid}
    assert answers == [heir] * 3
    os.kill(holder.pid, signal.SIGCONT)
    assert lab.answer(holder) == heir


def test_a_slow_holder_keeps_its_lease(lab):
    lab.go()
    holder = lab.start(seconds=5.0, lease_s=2.0)
    lab.until("computes", holder)
    waiter = lab.start(lease_s=2.0)
    assert lab.answer(waiter) == holder.pid
    assert lab.saw("computes") == [holder.pid]


@pytest.mark.parametrize(
    "change, is_dead",
    [
        ({}, False),
        ({"started": "1"}, True),  # the number was given to another process
        ({"pid": 2**22 + 1}, True),
        ({"pid": 2**22 + 1, "host": "elsewhere"}, False),
    ],
)
def test_who_is_dead(cache, change, is_dead):
    def leave(work):
        path = work.local_path.parent / "leases" / "000001.json"
        lease.update(json.loads(path.read_text()))

    lease = {}
    cache.json("thing", {"a": 1}, leave)
    entry = entry_of(cache)
    (entry / "manifest.json").unlink()
    (entry / "leases" / "000001.json").write_text(json.dumps(lease | change))
    cache.on_wait = refuse_to_wait
    with contextlib.nullcontext() if is_dead else pytest.raises(Waited, match="thing"):
        assert cache.json("thing", {"a": 1}, Counted(2)) == 2


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"pid"'])
def test_a_lease_that_cannot_be_read_expires(cache, content):
    waits = []
    cache.json("thing", {"a": 1}, Counted(1))
    entry = entry_of(cache)
    (entry / "manifest.json").unlink()
    (entry / "leases" / "000001.json").write_bytes(content)
    cache.lease_s, cache.on_wait = 0.2, waits.append
    assert cache.json("thing", {"a": 1}, Counted(2)) == 2
    assert len(waits) >= 3


def test_a_value_is_computed_once_and_what_it_is_can_be_read(cache):
    first, second = Counted({"x": [1, math.nan, -math.inf], "y": (1, 2)}), Counted(None)
    found = cache.json("thing", {"model": "toy", "steps": [1, 2]}, first)
    again = Cache(cache.folder).json("thing", {"steps": [1, 2], "model": "toy"}, second)
    assert (first.count, second.count) == (1, 0)
    assert math.isnan(found["x"][1]) and found["x"][2] == -math.inf
    assert repr(again) == repr(found) and found["y"] == [1, 2]  # the one who computes gets what the others get
    entry = entry_of(cache)
    assert json.loads((entry / "key.json").read_text()) == {"model": "toy", "steps": [1, 2]}
    assert sorted(path.name for path in entry.iterdir()) == ["key.json", "leases", "manifest.json", "value.json"]
    assert cache.json("thing", {"model": "toy", "steps": [1, 3]}, Counted(None)) is None
    assert cache.json("other", {"model": "toy", "steps": [1, 2]}, Counted(5)) == 5


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def give_another_key(path):
    Folder(str(path.parent)).publish({"key.json": b'{"a": 2}', "value.json": b'"wrong"'})


def forget_the_value(path):
    Folder(str(path.parent)).publish({"key.json": path.read_bytes()})


DAMAGES = [
    ("value.json", truncate, "value.json is truncated"),
    ("value.json", flip, "value.json is truncated or damaged"),
    ("value.json", lambda path: path.unlink(), "value.json is missing"),
    ("key.json", flip, "key.json is truncated or damaged"),
    ("key.json", give_another_key, "key.json is of another value"),
    ("key.json", forget_the_value, "lacks value.json"),
    ("manifest.json", truncate, "manifest.json is truncated"),
    ("manifest.json", flip, "damaged"),
]


@pytest.mark.parametrize("name, damage, message", DAMAGES)
def test_a_damaged_value_is_computed_again(cache, caplog, name, damage, message):
    compute = Counted([1.5, "x"])
    cache.json("thing", {"a": 1}, compute)
    damage(entry_of(cache) / name)
    assert [cache.json("thing", {"a": 1}, compute) for _ in range(2)] == [[1.5, "x"]] * 2
    assert compute.count == 2
    assert message in caplog.text
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_those_who_wait_do_not_see_a_damaged_value(cache):
    cache.json("thing", {"a": 1}, Counted(1))
    entry = entry_of(cache)
    truncate(entry / "value.json")

    def compute(work):
        assert not (entry / "manifest.json").exists()
        with pytest.raises(Waited):
            Cache(cache.folder, refuse_to_wait).json("thing", {"a": 1}, Counted(3))
        return 2

    assert cache.json("thing", {"a": 1}, compute) == 2


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt, SystemExit])
def test_an_error_goes_to_the_caller_and_one_who_waits_takes_over(cache, error):
    waiting = threading.Event()
    raised = error("no")

    def compute(work):
        work.write("step_1", b"half")
        assert waiting.wait(20)
        raise raised

    def wait():
        patient = Cache(cache.folder, lambda kind: waiting.set(), lease_s=PATIENT, poll_s=0.02)
        return patient.json("thing", {"a": 1}, lambda work: work.files())

    with ThreadPoolExecutor() as pool:
        holding = pool.submit(cache.json, "thing", {"a": 1}, compute)
        while not (cache.folder / "thing").exists() or not list(entry_of(cache).glob("work/*")):
            time.sleep(0.01)
        taken_over = pool.submit(wait)
        assert holding.exception(timeout=20) is raised
        assert taken_over.result(timeout=20) == ["step_1"]
    assert not any(thread.name == "lease" for thread in threading.enumerate())


def test_a_value_that_cannot_be_stored_releases_the_lease(cache):
    with pytest.raises(TypeError, match="not JSON serializable"):
        cache.json("thing", {"a": 1}, Counted({1, 2}))
    cache.on_wait = refuse_to_wait
    assert cache.json("thing", {"a": 1}, Counted(1)) == 1


def test_different_values_do_not_block_each_other(cache):
    cache.on_wait = refuse_to_wait

    def compute(work):
        return cache.json("thing", {"a": 2}, Counted(2)) + cache.json("other", {"a": 1}, Counted(3))

    assert cache.json("thing", {"a": 1}, compute) == 5


def test_a_value_published_before_the_lease_was_got_is_not_computed_again(cache, monkeypatch):
    acquire = cache_module.Watch.acquire

    def late(watch):
        monkeypatch.setattr(cache_module.Watch, "acquire", acquire)
        Cache(cache.folder).json("thing", {"a": 1}, Counted("theirs"))
        return acquire(watch)

    monkeypatch.setattr(cache_module.Watch, "acquire", late)
    mine = Counted("mine")
    assert cache.json("thing", {"a": 1}, mine) == "theirs"
    assert mine.count == 0


@pytest.mark.parametrize("fails", [True, False])
def test_one_taken_for_dead_takes_the_value_of_its_heir(cache, fails):
    def compute(work):
        work.write("step_1", b"half")
        heir = Cache(cache.folder, lease_s=0.1, poll_s=0.02)  # sees no renewal of a lease of ten minutes
        assert heir.json("thing", {"a": 1}, Counted("heir")) == "heir"
        return "mine" if not fails else work.read("step_1")

    assert cache.json("thing", {"a": 1}, compute) == "heir"
    assert Cache(cache.folder).json("thing", {"a": 1}, Counted("again")) == "heir"


def test_a_folder_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match="file/thing"):
        Cache(Folder(str(tmp_path / "file"))).json("thing", {"a": 1}, Counted(1))


def test_tensors_come_back_as_they_were(cache):
    import torch

    both = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    tensors = {
        "bf16": torch.randn(5, 3, generator=torch.manual_seed(0)).bfloat16(),
        "turned": both.T,
        "shared": both,
        "scalar": torch.tensor(3, dtype=torch.int64),
        "empty": torch.zeros(0, 2),
        "nan": torch.tensor([math.nan, math.inf]),
        "learnt": torch.nn.Parameter(torch.ones(2)),
    }
    compute = Counted(tensors)
    for _ in range(2):
        found = cache.tensors("grads", {"a": 1}, compute)
        assert compute.count == 1
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            torch.testing.assert_close(found[name], tensor.detach(), rtol=0, atol=0, equal_nan=True)
            assert found[name].is_contiguous() and not found[name].requires_grad
        found["shared"].add_(1)
    truncate(entry_of(cache, "grads") / "value.safetensors")
    assert torch.equal(cache.tensors("grads", {"a": 1}, compute)["bf16"], tensors["bf16"])
    assert compute.count == 2
    assert cache.tensors("none", {"a": 1}, Counted({})) == {}


def test_on_an_object_store(s3_uri):
    import torch

    folder = Folder(s3_uri) / "cache"
    count, waits = [], []

    def compute(work):
        work.write("step_1", b"half")
        count.append(1)
        time.sleep(0.5)
        return {"w": torch.arange(3).bfloat16()}

    def get(_):
        return Cache(folder, waits.append, poll_s=0.2).tensors("grads", {"a": 1}, compute)["w"].tolist()

    with ThreadPoolExecutor() as pool:
        assert list(pool.map(get, range(4))) == [[0.0, 1.0, 2.0]] * 4
    assert len(count) == 1 and "grads" in waits
    (place,) = (folder / "grads" / name for name in (folder / "grads").folders())
    assert not (place / "work").files()
    place.write("value.safetensors", b"damaged")
    assert get(0) == [0.0, 1.0, 2.0]
    assert len(count) == 2
