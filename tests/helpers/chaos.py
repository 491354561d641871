"""Chaos: a sweep while its processes are killed or frozen, its storage fails and people steer it, at random moments."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psutil
from clusters import Cluster, pids_of
from faulty_s3 import FaultyS3
from running import kill_9, start_as, wait_for

from selgen_ray.errors import StorageError
from selgen_ray.storage import Folder
from selgen_ray.storage.leases import newest_number

EVERY_S = (1.5, 5.0)
LEASE_S = 3.0
# the agents give themselves a title when they have started
OF_RAY = {
    "raylet": ("raylet",),
    "gcs": ("gcs_server",),
    "agent": ("dashboard/agent.py", "runtime_env/agent", "ray::DashboardAgent", "ray::RuntimeEnvAgent"),
}
_FINAL = ("completed", "diverged")


class Storage(Protocol):
    """Where the sweep is written.

    Attributes:
        uri: of the storage, with its faults.
        direct: the same place, past the faults.
    """

    uri: str
    direct: str

    def disturb(self, rng: random.Random) -> bool:
        """Break it for a moment; return whether that was possible."""
        ...

    def refuse(self, rng: random.Random) -> bool:
        """Let every write fail for some seconds, as a full disk or lost credentials do."""
        ...


class Bucket:
    """A bucket behind a proxy that breaks requests."""

    def __init__(self, proxy: FaultyS3, name: str, upstream: str):
        self.proxy = proxy
        self.uri = f"s3://{name}?endpoint_override={proxy.address}&scheme=http"
        self.direct = f"s3://{name}?endpoint_override={upstream}&scheme=http"

    def disturb(self, rng: random.Random) -> bool:
        """Take the server away, or refuse some requests as an overloaded one does."""
        if rng.random() < 0.5:
            self.proxy.away(rng.uniform(1, 4))
        else:
            self.proxy.fail(rng.randrange(1, 8), rng.choice([500, 503]))
        return True

    def refuse(self, rng: random.Random) -> bool:
        """Refuse the credentials of the next writes."""
        self.proxy.fail(rng.randrange(3, 12), 403, method="PUT")
        return True


class Disk:
    """A small filesystem of its own, which can be filled and made read-only; leaving the `with` unmounts it.

    Raises PermissionError: this user may not mount one.
    """

    def __init__(self, place: Path, megabytes: int = 48):
        place.mkdir()
        self.place, self.uri, self.direct = place, str(place / "sweeps"), str(place / "sweeps")
        if not self._mount("-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs"):
            raise PermissionError("mounting a filesystem is not allowed here")

    def _mount(self, *options: str) -> bool:
        return subprocess.run(["mount", *options, str(self.place)], capture_output=True).returncode == 0

    def __enter__(self) -> Disk:
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "-l", str(self.place)], check=True)

    def disturb(self, rng: random.Random) -> bool:
        """Mount it read-only for a moment, as a kernel does with a disk that fails."""
        if not self._mount("-o", "remount,ro"):
            return False  # somebody is writing a file
        time.sleep(rng.uniform(0.5, 4))
        assert self._mount("-o", "remount,rw")
        return True

    def refuse(self, rng: random.Random) -> bool:
        """Fill it, and make room again some seconds later."""
        filler = self.place / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as out:
            while True:
                out.write(bytes(4096))
        time.sleep(rng.uniform(1, 6))
        filler.unlink()
        return True


@dataclass
class Chaos:
    """Injects faults into one sweep until it is done.

    Attributes:
        place: the sweep's folder, past the faults of the storage.
        uri: the same folder, with them.
        more: a search space that is added to the sweep by the kind 'steering'.
        faults: kind -> how often it was injected.
        output: of every driver there was, and of every command that steered.
        went_back: trials whose result was final and then was not, though nobody removed or damaged it.
        repeated: ids of trials that were removed or damaged, and may thus be completed more than once.
    """

    cluster: Cluster
    storage: Storage
    space: Path
    place: Folder
    env: dict[str, str]
    seed: int
    more: Path | None = None
    every_s: tuple[float, float] = EVERY_S
    faults: Counter[str] = field(default_factory=Counter)
    output: list[str] = field(default_factory=list)
    started: int = 0
    frozen: list[tuple[float, psutil.Process]] = field(default_factory=list)
    steering: list[subprocess.Popen] = field(default_factory=list)
    final: dict[str, str] = field(default_factory=dict)
    went_back: list[str] = field(default_factory=list)
    repeated: set[str] = field(default_factory=set)

    def run(self, kinds: dict[str, int], most: int, seconds: float, expected: int) -> None:
        """Run the sweep to its end.

        Args:
            kinds: kind of fault -> its weight; each comes once first.
            most: how many faults.
            seconds: after which this gives up.
            expected: how many trials are completed in the end.
        """
        rng, end = random.Random(self.seed), time.monotonic() + seconds
        self.nodes = [self.cluster.add_node(1)]
        self.driver = self._start()
        while True:
            if self.driver.poll() is not None:
                self._collect()
                # 2: it began while the disk was full or read-only, and said so
                assert self.driver.returncode in (-9, 0, 1, 2), "".join(self.output)
                assert "Traceback" not in self.output[-1], self.output[-1]
                if self.driver.returncode == 0 and self._is_done(expected):
                    break
                self.driver = self._start()
            assert time.monotonic() < end, f"not done after {seconds} s: {self.faults}\n{''.join(self.output)}"
            time.sleep(rng.uniform(*self.every_s))
            self._thaw(time.monotonic())
            self._look(rng)
            if self.faults.total() < most:
                unseen = [kind for kind in kinds if not self.faults[kind]]
                kind = unseen[0] if unseen else rng.choices(list(kinds), list(kinds.values()))[0]
                self.faults[kind] += bool(getattr(self, f"_{kind}")(rng))
        self._thaw(float("inf"))

    def _start(self) -> subprocess.Popen:
        self.started += 1  # each on what the others take for another machine
        return start_as(f"lab{self.started}", LEASE_S, self.space, self.env)

    def _collect(self) -> None:
        self.output.append(self.driver.communicate()[0])

    def _is_done(self, expected: int) -> bool:
        """Return whether everything is completed; if not, bring back what people stopped or removed."""
        for process in self.steering:
            self._steered(process)
        self.steering.clear()
        if sum(result.get("status") == "completed" for result in self._results().values()) == expected:
            return True
        if self.more is not None:
            self._steer("add", str(self.more))  # if no moment of the storm was right for it
            self._steered(self.steering.pop())
        self._steer("retry", "*")
        self._steered(self.steering.pop())
        return False

    def _results(self, paths: list[str] | None = None) -> dict[str, dict]:
        """Path -> the readable results."""
        found = {}
        for path in self.place.find("results.json") if paths is None else paths:
            with contextlib.suppress(StorageError, FileNotFoundError, ValueError):
                content = json.loads(self.place.read(path))
                found[path] = content if isinstance(content, dict) else {}
        return found

    def _look(self, rng: random.Random) -> None:
        """Look at some results: none may go back from final."""
        with contextlib.suppress(StorageError, FileNotFoundError):
            paths = self.place.find("results.json")
            for path, result in self._results(rng.sample(paths, min(12, len(paths)))).items():
                trial_id, status = result.get("trial_id", ""), result.get("status", "")
                if path in self.final and status not in _FINAL and trial_id not in self.repeated:
                    self.went_back.append(f"{path}: {self.final[path]}, then {status}")
                if status in _FINAL:
                    self.final[path] = status

    # -- processes -------------------------------------------------------------------------------------------------

    def _workers(self) -> list[psutil.Process]:
        found = []
        for node in [self.cluster.head, *self.nodes]:
            for pid in pids_of(node):
                with contextlib.suppress(psutil.Error, IndexError):
                    process = psutil.Process(pid)
                    if "/seed_" in process.cmdline()[0]:
                        found.append(process)
        return found

    def _worker(self, rng: random.Random) -> bool:
        workers = self._workers()
        if workers:
            kill_9([rng.choice(workers)])
        return bool(workers)

    def _node(self, rng: random.Random) -> bool:
        self.cluster.kill(self.nodes.pop())
        self.nodes.append(self.cluster.add_node(1))
        return True

    def _driver(self, rng: random.Random) -> bool:
        if self.driver.poll() is not None or not self._workers():
            return False  # let it come as far as running trials
        kill_9([psutil.Process(self.driver.pid)])
        return True

    def _raylet(self, rng: random.Random) -> bool:
        return self._of_ray("raylet")

    def _gcs(self, rng: random.Random) -> bool:
        return self._of_ray("gcs")

    def _agent(self, rng: random.Random) -> bool:
        return self._of_ray("agent")

    def _of_ray(self, kind: str) -> bool:
        """Kill a process of Ray on the driver's node; the driver ends, and goes on with a new cluster."""
        if self.driver.poll() is not None or not self._workers():
            return False
        killed = 0
        for pid in pids_of(self.cluster.head):
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                line = " ".join(process.cmdline())
                if any(name == process.name() or name in line.partition(" --")[0] for name in OF_RAY[kind]):
                    process.kill()
                    killed += 1
        assert killed, f"no process of the kind {kind} was found"
        self.driver.wait(180)
        self.cluster.kill_all()
        self.cluster.start_head()
        self.nodes = [self.cluster.add_node(1)]
        return True

    def _frozen_driver(self, rng: random.Random) -> bool:
        """Freeze the driver, let another one take over, and wake the first one up."""
        if self.driver.poll() is not None or not self._workers():
            return False
        first, before = self.driver, self._generation()
        frozen = [psutil.Process(first.pid), *psutil.Process(first.pid).children()]  # a guard, and who runs the sweep
        for process in frozen:
            process.suspend()
        self.driver = self._start()
        wait_for(lambda: self._generation() > before or self.driver.poll() is not None, 180)
        time.sleep(rng.uniform(0, 8))
        for process in frozen:
            process.resume()
        told = first.communicate(timeout=180)[0]
        self.output.append(told)
        assert first.returncode == 1 and "taken over by process" in told, told
        return True

    def _generation(self) -> int:
        return newest_number((self.place / "control" / "driver").files())

    def _frozen_worker(self, rng: random.Random) -> bool:
        """Freeze a worker, and wake it up some faults later, if it is still there."""
        workers = self._workers()
        if workers:
            worker = rng.choice(workers)
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.suspend()
                self.frozen.append((time.monotonic() + rng.uniform(3, 25), worker))
        return bool(workers)

    def _thaw(self, now: float) -> None:
        for at, worker in self.frozen:
            if at < now:
                with contextlib.suppress(psutil.NoSuchProcess):
                    worker.resume()
        self.frozen = [(at, worker) for at, worker in self.frozen if at >= now]

    # -- storage ---------------------------------------------------------------------------------------------------

    def _storage(self, rng: random.Random) -> bool:
        return self.storage.disturb(rng)

    def _refused(self, rng: random.Random) -> bool:
        return self.storage.refuse(rng)

    def _damage(self, rng: random.Random) -> bool:
        """Tear one file: a result, a checkpoint's, or one of the driver's own."""
        with contextlib.suppress(StorageError, FileNotFoundError):
            files = [name for name in self.place.files(recursive=True) if name.endswith((".json", ".pt", ".jsonl"))]
            # a damaged lease or mark of removal would be a person's deed undone: nothing can tell it from none
            files = [name for name in files if not name.startswith(("control/driver/", "control/removed/"))]
            results = [name for name in files if name.endswith("results.json")]
            files = files if rng.random() < 0.5 else results
            if files:
                name = rng.choice(files)
                content = self.place.read(name)
                if name.endswith("results.json"):
                    with contextlib.suppress(ValueError):  # torn before
                        self.repeated.add(json.loads(content).get("trial_id", ""))
                self.place.write(name, rng.choice([b"", content[: len(content) // 2], b"\0" * 64]))
                return True
        return False

    # -- people ----------------------------------------------------------------------------------------------------

    def _steering(self, rng: random.Random) -> bool:
        """Stop, retry, remove or add trials, while the driver runs."""
        if len(self.steering) > 1:
            self._steered(self.steering.pop(0))
        results = list(self._results().values())
        if not results:
            return False
        chosen = rng.choice(results)
        name = f"{chosen.get('slug')}/seed_{chosen.get('seed')}"
        verb = rng.choice(["stop", "retry", "rm", *(["add"] if self.more else [])])
        if verb == "rm":
            self.repeated.add(chosen.get("trial_id", ""))
        what = {"stop": [name], "retry": ["*"], "rm": [name, "--yes"], "add": [str(self.more)]}
        self._steer(verb, *what[verb])
        return True

    def _steer(self, verb: str, *args: str) -> None:
        line = [sys.executable, "-m", "selgen_ray.sweep", verb, f"{self.uri}", *args]
        pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.steering.append(subprocess.Popen(line, env=self.env, **pipe))

    @property
    def uri(self) -> str:
        """The sweep's folder, with the faults of the storage."""
        path, mark, query = self.storage.uri.partition("?")
        return f"{path}/tiny{mark}{query}"

    def _steered(self, process: subprocess.Popen) -> None:
        told = process.communicate(timeout=180)[0]
        self.output.append(f"$ {' '.join(process.args[3:])}\n{told}")
        assert process.returncode in (0, 1, 2) and "Traceback" not in told, told
