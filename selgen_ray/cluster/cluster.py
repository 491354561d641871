"""The Ray cluster of a sweep: joining it, what a trial gets there, and how many trials fit on its nodes."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from selgen_ray.cluster import job
from selgen_ray.config import hardware
from selgen_ray.config.finetune import FinetuneConfig
from selgen_ray.errors import InfeasibleError
from selgen_ray.records.text import first_line
from selgen_ray.space import Resources

GROWING = "A cluster that adds nodes while trials wait needs resources.autoscaling: true"
_NODES_EVERY_S = 5.0
_WAITING = 64  # a cluster that grows by one node at a time would take hours
_HEAD_TIMEOUT = "RAY_gcs_rpc_server_reconnect_timeout_s"
# variables that workers must get even when the cluster was started elsewhere; never a credential
_FORWARDED = ("HF_HUB_OFFLINE", "HF_HOME")


@dataclass(frozen=True)
class TrialResources:
    """The resources of a trial that runs in one process, once the cluster was asked."""

    cpus: float
    gpus: float

    @property
    def gpus_per_process(self) -> float:
        """GPUs of the process that trains."""
        return self.gpus

    @property
    def bundle(self) -> dict[str, float]:
        """The resources that its Tune trial requests from Ray."""
        return {"CPU": self.cpus, "GPU": self.gpus}

    def fit_on(self, nodes: Sequence[Mapping[str, float]]) -> int:
        """Return how many trials the nodes can hold at a time, were they empty."""
        return sum(self._fit_on_one(node) for node in nodes)

    def _fit_on_one(self, node: Mapping[str, float]) -> int:
        shares = [node.get("CPU", 0) / self.cpus]
        if self.gpus >= 1:
            shares.append(node.get("GPU", 0) / self.gpus)
        elif self.gpus:  # a share of a GPU is never put together from two of them
            shares.append(node.get("GPU", 0) * int(1 / self.gpus + 1e-9))
        return int(min(shares) + 1e-9)

    def ahead_of(self, num_fit: int, autoscaling: bool) -> int:
        """Return how many more trials than fit are handed out: they start at once, and an autoscaler sees them wait."""
        return _WAITING if autoscaling else max(1, min(num_fit // 4, _WAITING))

    def __str__(self) -> str:
        return f"{self.cpus:g} CPUs and {self.gpus:g} GPUs"


@dataclass(frozen=True)
class Connection:
    """The connection of this process to a Ray cluster.

    Attributes:
        dashboard: its URL, or None.
        is_ours: it was made for the sweep, and ends with it; else the program had it before, and keeps it.
        is_private: the cluster was started for the sweep alone.
    """

    dashboard: str | None = None
    is_ours: bool = True
    is_private: bool = False


def worker_environment(resources: Resources) -> dict[str, str]:
    """Return the environment variables that every process which trains needs."""
    env = {name: os.environ[name] for name in _FORWARDED if name in os.environ}
    return env | {
        "OMP_NUM_THREADS": str(resources.torch_threads),
        "TOKENIZERS_PARALLELISM": "false",
        # a stopped trial may take long to unwind; Tune would give up on reusing its worker, and hang
        "TUNE_FUNCTION_THREAD_TIMEOUT_S": "30",
    }


def connect(resources: Resources) -> Connection:
    """Use the cluster that this process is connected to, else join that at RAY_ADDRESS, else start a local one.

    Raises:
        ConnectionError: nothing answers at RAY_ADDRESS.
        InfeasibleError: Ray did not start.
    """
    if ray.is_initialized():
        return Connection(is_ours=False)
    env = worker_environment(resources)
    address = os.environ.get("RAY_ADDRESS") or "local"
    # Ray sets it when its threads run already; a variable that is there is only overwritten (see `settings_of_tune`)
    os.environ.setdefault("PYTHONBREAKPOINT", "ray.util.rpdb._driver_set_trace")
    try:
        context = ray.init(
            address=address,
            runtime_env={"env_vars": {name: env[name] for name in env.keys() - job.set_by_the_job()}},
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    except ConnectionError:
        raise
    except Exception as error:  # Ray raises bare ones
        where = "a local Ray" if address == "local" else f"RAY_ADDRESS {address!r}"
        message = f"{where} did not start: {first_line(error)} Its logs are in /tmp/ray/session_latest/logs"
        raise InfeasibleError(message) from error
    dashboard = f"http://{context.dashboard_url}" if context.dashboard_url else None
    return Connection(dashboard, is_private=address == "local" and not resources.autoscaling)


def disconnect() -> None:
    """Leave the cluster; a local one ends."""
    ray.shutdown()


def nodes() -> list[dict[str, float]]:
    """Return the resources of each node that is alive, as Ray names them: {'CPU': 8.0, 'GPU': 1.0}."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def resolve_resources(resources: Resources, nodes: Sequence[Mapping[str, float]]) -> TrialResources:
    """Decide what a trial gets, and make sure that some node has it, unless nodes come when they are needed.

    Raises:
        InfeasibleError: no node is large enough, or none has the GPU that `pack: auto` asks; says what was asked for
            and what the largest nodes have.
    """
    gpus = resources.gpus
    if gpus is None:
        gpus = 1.0 if any(node.get("GPU", 0) >= 1 for node in nodes) else 0.0
    granted = TrialResources(resources.cpus, gpus)
    if resources.packs_by_memory and not gpus:
        raise InfeasibleError(
            f"resources.pack auto asks what fits into a GPU's memory, but the nodes have: {offered(nodes)}. "
            "Say how many, 2 to 64"
        )
    if not resources.autoscaling and not granted.fit_on(nodes):
        raise InfeasibleError(f"resources: a trial asks for {granted}, but the nodes have: {offered(nodes)}. {GROWING}")
    return granted


def offered(nodes: Sequence[Mapping[str, float]]) -> str:
    """Describe in words what the nodes have, each kind of node once."""
    kinds = {f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes}
    return ", ".join(sorted(kinds)) or "nothing"


def check_hardware(configs: Iterable[FinetuneConfig], gpus: float) -> None:
    """Refuse settings that a process with `gpus` GPUs cannot run.

    One place of the cluster is looked at. Where nodes differ, or none has GPUs yet, the worker's own check finds the
    other problems.

    Raises:
        InfeasibleError: the device cannot run a setting; says which, and what to use instead.
    """
    asking = [config for config in configs if hardware.asked(config)]
    if not asking or all(node.get("GPU", 0) < gpus for node in nodes()):
        return
    look = ray.remote(num_cpus=0, num_gpus=gpus)(hardware.this_device)
    device = ray.get(look.remote())
    problems = dict.fromkeys(text for config in asking for text in hardware.hardware_problems(config, device))
    if problems:
        raise InfeasibleError("\n".join(problems))


class Places:
    """How many trials the cluster can hold now; looked up every few seconds, since nodes come and go.

    Args:
        fit: how many trials nodes can hold.
        on_change: called with 'node_joined' or 'node_lost' and the node's address.
    """

    def __init__(self, fit: Callable[[Sequence[Mapping[str, float]]], int], on_change: Callable[[str, str], None]):
        self._fit, self._on_change = fit, on_change
        self._alive: dict[str, str] | None = None
        self._places, self._looked = 0, -_NODES_EVERY_S

    def __call__(self) -> int:
        """Return how many trials fit on the nodes, were they empty."""
        if time.monotonic() - self._looked >= _NODES_EVERY_S:
            self._looked = time.monotonic()
            alive = [node for node in ray.nodes() if node["Alive"]]
            self._places = self._fit([node["Resources"] for node in alive])
            self._notice({node["NodeID"]: node["NodeManagerAddress"] for node in alive})
        return self._places

    def _notice(self, alive: dict[str, str]) -> None:
        before, self._alive = self._alive, alive
        if before is not None:
            for node in before.keys() - alive.keys():
                self._on_change("node_lost", before[node])
            for node in alive.keys() - before.keys():
                self._on_change("node_joined", alive[node])


class HeadWatch:
    """Reports, inside its `with`, that the cluster's head, or Ray on this machine, has not answered for too long.

    Ray itself ends the process a minute after it lost the head, and at its next call after it lost its own node,
    without a message that helps. This watch waits three quarters of that minute. Where Ray is told to wait longer
    (`_HEAD_TIMEOUT`), for clusters whose head comes back, so does the watch. Nothing brings a private cluster's head or
    this machine's node back: for these it waits a few seconds.

    Args:
        on_lost: called once, in the thread that watches, with what is gone.
        is_private: the cluster was started for this process.
    """

    def __init__(self, on_lost: Callable[[str], None], is_private: bool = False):
        self._on_lost = on_lost
        patience_s = 0.75 * float(os.environ.get(_HEAD_TIMEOUT, "60"))
        host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
        self._watched = {HEAD_GONE: ((host, int(port)), _SURELY_S if is_private else patience_s)}
        own = ray.get_runtime_context().get_node_id()
        for node in (node for node in ray.nodes() if node["NodeID"] == own):
            self._watched[NODE_GONE] = ((node["NodeManagerAddress"], node["NodeManagerPort"]), _SURELY_S)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="head of the cluster", daemon=True)

    def why_dying(self) -> str | None:
        """Return what stops answering within 30 s, None if all goes on: a cluster that is stopped loses nodes first."""
        for _ in range(60):
            for why, (address, _) in self._watched.items():
                if not _answers(address):
                    return why
            time.sleep(0.5)
        return None

    def _watch(self) -> None:
        seen = dict.fromkeys(self._watched, time.monotonic())
        pause_s = min(2.0, *(patience_s / 4 for _, patience_s in self._watched.values()))
        while not self._over.wait(pause_s):
            for why, (address, patience_s) in self._watched.items():
                if _answers(address):
                    seen[why] = time.monotonic()
                elif time.monotonic() - seen[why] > patience_s:
                    self._on_lost(why)
                    return

    def __enter__(self) -> HeadWatch:
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._over.set()


HEAD_GONE, NODE_GONE = "the Ray cluster is gone", "Ray on this machine has died"
_SURELY_S = 6.0


def _answers(address: tuple[str, int]) -> bool:
    """Return whether something listens there."""
    try:
        with socket.create_connection(address, timeout=5):
            return True
    except OSError:
        return False
