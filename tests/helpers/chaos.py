"""Chaos: a sweep while workers, nodes and its driver are killed or frozen and its storage fails, at random moments."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from clusters import Cluster, pids_of
from faulty_s3 import FaultyS3
from running import kill_9, start_as, wait_for

from selgen_ray.storage import Folder
from selgen_ray.storage.leases import newest_number

EVERY_S = (1.5, 5.0)
LEASE_S = 3.0


@dataclass
class Chaos:
    """Injects faults into one sweep until it is done.

    Attributes:
        place: the sweep's folder, past the faults of the storage.
        faults: kind -> how often it was injected.
        output: of every driver there was.
    """

    cluster: Cluster
    storage: FaultyS3
    space: Path
    place: Folder
    env: dict[str, str]
    seed: int
    faults: Counter[str] = field(default_factory=Counter)
    output: list[str] = field(default_factory=list)
    started: int = 0
    frozen: list[tuple[float, psutil.Process]] = field(default_factory=list)

    def run(self, kinds: list[str], most: int, seconds: float) -> None:
        """Run the sweep to its end, with at most so many faults, `kinds` in turn and at random."""
        rng, end = random.Random(self.seed), time.monotonic() + seconds
        self.nodes = [self.cluster.add_node(1)]
        self.driver = self._start()
        while self.driver.poll() is None or self.driver.returncode != 0:
            if self.driver.poll() is not None:
                self._collect()
                assert self.driver.returncode in (-9, 1), "".join(self.output)
                self.driver = self._start()
            assert time.monotonic() < end, f"not done after {seconds} s: {self.faults}\n{''.join(self.output)}"
            time.sleep(rng.uniform(*EVERY_S))
            self._thaw(time.monotonic())
            if self.faults.total() < most:
                # each kind once, then whichever
                kind = kinds[self.faults.total()] if self.faults.total() < len(kinds) else rng.choice(kinds)
                self.faults[kind] += bool(getattr(self, f"_{kind}")(rng))
        self._thaw(float("inf"))
        self._collect()

    def _start(self) -> subprocess.Popen:
        self.started += 1  # each on what the others take for another machine
        return start_as(f"lab{self.started}", LEASE_S, self.space, self.env)

    def _collect(self) -> None:
        self.output.append(self.driver.communicate()[0])

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

    def _frozen_driver(self, rng: random.Random) -> bool:
        """Freeze the driver, let another one take over, and wake the first one up."""
        if self.driver.poll() is not None or not self._workers():
            return False
        first, before = self.driver, self._generation()
        first.send_signal(signal.SIGSTOP)
        self.driver = self._start()
        wait_for(lambda: self._generation() > before or self.driver.poll() is not None, 180)
        time.sleep(rng.uniform(0, 8))
        first.send_signal(signal.SIGCONT)
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

    def _storage(self, rng: random.Random) -> bool:
        if rng.random() < 0.5:
            self.storage.away(rng.uniform(1, 4))
        else:
            self.storage.fail(rng.randrange(1, 8), rng.choice([500, 503]))
        return True
