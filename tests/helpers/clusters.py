"""Real Ray clusters of several nodes on this machine, made of `ray start` processes that can be killed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import psutil
from running import environment, free_port, kill_9, wait_for

RAY = str(Path(sys.executable).with_name("ray"))
# a frozen or lost node is noticed within seconds instead of a minute
_FAST = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_health_check_initial_delay_ms": "1000",
}


class Cluster:
    """A head and any number of further nodes; leaving the `with` kills them all, and nothing else.

    Attributes:
        env: what a process needs to join it.

    Args:
        dashboard: the port of the dashboard, if it is to have one.
    """

    def __init__(self, temp: Path, head_cpus: int, env: dict[str, str] | None = None, dashboard: int | None = None):
        self.port = free_port()
        self._temp = temp
        self.env = environment() | _FAST | {"RAY_AUTH_MODE": "token"} | (env or {})
        self.nodes: list[subprocess.Popen] = []
        shown = [f"--dashboard-port={dashboard}"] if dashboard else ["--include-dashboard=false"]
        self._head = ["--head", f"--port={self.port}", f"--num-cpus={head_cpus}", *shown]
        self.env |= {"RAY_ADDRESS": f"127.0.0.1:{self.port}"}
        self.start_head()

    def start_head(self) -> None:
        """Start the head, also of a cluster that was killed."""
        self.head = self._start(*self._head)
        wait_for(self.is_up)

    def _start(self, *args: str) -> subprocess.Popen:
        with (self._temp / f"ray_{len(self.nodes)}.log").open("ab") as log:
            command = [RAY, "start", *args, "--object-store-memory=200000000", "--block", "--disable-usage-stats"]
            env = {k: v for k, v in self.env.items() if k != "RAY_ADDRESS"}
            process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        self.nodes.append(process)
        return process

    def is_up(self) -> bool:
        """Whether the head answers."""
        status = [RAY, "status", "--address", f"127.0.0.1:{self.port}"]
        return subprocess.run(status, env=self.env, capture_output=True, timeout=60).returncode == 0

    def num_nodes(self) -> int:
        """How many nodes have joined, the head among them."""
        status = [RAY, "status", "--address", f"127.0.0.1:{self.port}"]
        done = subprocess.run(status, env=self.env, capture_output=True, text=True, timeout=60)
        return done.stdout.count(" node_")

    def add_node(self, cpus: int) -> subprocess.Popen:
        """Start another node; it joins within seconds."""
        return self._start(f"--address=127.0.0.1:{self.port}", f"--num-cpus={cpus}")

    def kill(self, node: subprocess.Popen) -> None:
        """What a power cut does to a node."""
        with contextlib.suppress(psutil.NoSuchProcess):
            doomed = psutil.Process(node.pid).children(recursive=True)
            kill_9([psutil.Process(node.pid), *doomed])
            psutil.wait_procs(doomed, timeout=10)
        node.wait()

    def __enter__(self) -> Cluster:
        return self

    def kill_all(self) -> None:
        """Kill every node, the head last."""
        for node in reversed(self.nodes):
            if node.poll() is None:
                self.kill(node)

    def __exit__(self, *error: object) -> None:
        self.kill_all()


def pids_of(node: subprocess.Popen) -> set[int]:
    """The processes of a node, workers included."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return {node.pid, *(p.pid for p in psutil.Process(node.pid).children(recursive=True))}
    return set()


def on_path(name: str) -> bool:
    """Whether a program can be called."""
    return any(Path(folder, name).exists() for folder in os.environ["PATH"].split(os.pathsep))
