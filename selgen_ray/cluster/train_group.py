"""One trial on several workers: a Ray Train group inside a Tune trial, which itself takes next to nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray.exceptions import RayActorError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import PreemptionError, WorkerGroupError  # ray.train does not name them
from ray.util.queue import Empty, Queue

from selgen_ray.cluster.cluster import GROWING, InfeasibleError, offered
from selgen_ray.cluster.train_group_worker import GivePlacesBack, GroupTorchConfig, train_in_group
from selgen_ray.errors import INPUT_ERRORS, TrialError, blocked_by
from selgen_ray.records.status import TrialStatus
from selgen_ray.space import Resources
from selgen_ray.storage import Folder
from selgen_ray.storage.scratch import scratch
from selgen_ray.trial.task import TrialTask
from selgen_ray.trial.worker import Report

DRIVER: dict[str, float] = {"memory": 2**20}
"""The request of a Tune trial whose workers are elsewhere: no CPU, or it would take the place of a worker."""
_COLLECTIVE_TIMEOUT_S = 24 * 3600  # rank 0 may wait that long for another trial's value; Ray notices a dead rank
_START_ATTEMPTS = 240  # of a minute each, for places that others hold or an autoscaler has yet to make
_FETCH_S = 1.0
_WAITING = 8  # groups that wait for a place, each with a process, so that an autoscaler sees them


@dataclass(frozen=True)
class GroupResources:
    """The resources of a trial that runs on a group of workers, once the cluster was asked."""

    workers: int
    cpus_per_worker: float
    gpus_per_worker: int
    fsdp: bool = False

    @property
    def gpus_per_process(self) -> float:
        """GPUs of each process that trains."""
        return self.gpus_per_worker

    @property
    def bundle(self) -> dict[str, float]:
        """The resources that its Tune trial requests from Ray."""
        return DRIVER

    def fit_on(self, nodes: Sequence[Mapping[str, float]]) -> int:
        """Return how many trials the nodes can hold, were they empty; the workers of one may lie on several nodes."""
        return sum(self._workers_on(node) for node in nodes) // self.workers

    def _workers_on(self, node: Mapping[str, float]) -> int:
        shares = [node.get("CPU", 0) / self.cpus_per_worker]
        if self.gpus_per_worker:
            shares.append(node.get("GPU", 0) / self.gpus_per_worker)
        return int(min(shares) + 1e-9)

    def ahead_of(self, num_fit: int, autoscaling: bool) -> int:
        """Return how many more groups than fit are handed out; those that wait hold a process each."""
        return _WAITING if autoscaling else 0

    def __str__(self) -> str:
        # Ray Train waits for the workers; Tune waits for the process that leads them
        return "its leading process"


def resolve_group(resources: Resources, nodes: Sequence[Mapping[str, float]]) -> GroupResources:
    """Decide what a group gets, and make sure that the nodes have it, unless nodes come when they are needed.

    Args:
        resources: with `workers`.
        nodes: the resources of each node that is alive, as Ray names them.

    Raises:
        InfeasibleError: they could not hold one trial; says what was asked for and what they have.
    """
    gpus = resources.gpus_per_worker
    if gpus is None:
        gpus = int(any(node.get("GPU", 0) >= 1 for node in nodes))
    fsdp = resources.strategy == "fsdp"
    granted = GroupResources(resources.workers or 1, resources.cpus_per_worker or 1.0, gpus, fsdp)
    if not resources.autoscaling and granted.fit_on(nodes) == 0:
        raise InfeasibleError(
            f"resources: a trial asks for {granted.workers} workers of {granted.cpus_per_worker:g} CPUs and "
            f"{granted.gpus_per_worker} GPUs each, but the nodes have: {offered(nodes)}. {GROWING}"
        )
    return granted


class _Trainer(TorchTrainer):
    """A TorchTrainer with a watch of our own over the group's places.

    Ray's own watch asks the newest dashboard of the machine. So it takes a running group's places away when another
    cluster starts on the machine, and without a dashboard each trial waits 12 s for one.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        others = [callback for callback in callbacks if type(callback).__name__ != "PlacementGroupCleanerCallback"]
        return [*others, GivePlacesBack()]


def run_group(
    task: TrialTask,
    sweep: Folder,
    granted: GroupResources,
    torch_threads: int,
    report: Report,
    work: Callable[[TrialTask, Folder, int, Queue, bool], None] = train_in_group,
) -> None:
    """Run a trial on a group of workers, forwarding progress and events of rank 0; the last report holds its status.

    It blocks until the group has ended.

    Args:
        work: what each worker calls, with the last argument of `GroupResources.fsdp`.

    Raises:
        TrialError: a worker failed in a way that another try may mend; a wrong input is reported as 'failed'.
    """
    mailbox = Queue(actor_options={"num_cpus": 0})  # train.report would make all ranks wait for each other
    with scratch("train") as place:  # Train's own state; checkpoints are ours
        trainer = _Trainer(
            lambda: work(task, sweep, torch_threads, mailbox, granted.fsdp),
            scaling_config=ScalingConfig(
                num_workers=granted.workers,
                use_gpu=granted.gpus_per_worker > 0,
                resources_per_worker={"CPU": granted.cpus_per_worker, "GPU": granted.gpus_per_worker},
            ),
            run_config=RunConfig(
                name=task.trial_id,
                storage_path=str(place),
                failure_config=FailureConfig(0, controller_failure_limit=_START_ATTEMPTS, max_preemption_failures=0),
            ),
            torch_config=GroupTorchConfig(
                # a GPU group also sends numbers that lie on the CPU
                backend="cpu:gloo,cuda:nccl" if granted.gpus_per_worker else "gloo",
                timeout_s=_COLLECTIVE_TIMEOUT_S,
            ),
        )
        _forward(_in_thread(trainer.fit), mailbox, report)


def _in_thread(function: Callable[[], Any]) -> tuple[threading.Thread, list[Exception]]:
    """Run the function in a thread; return the thread and a list that gets the error it raises."""
    errors: list[Exception] = []

    def run() -> None:
        try:
            function()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="worker group", daemon=True)
    thread.start()
    return thread, errors


def _forward(group: tuple[threading.Thread, list[Exception]], mailbox: Queue, report: Report) -> None:
    """Report what arrives until the group has ended; in this thread, since Tune accepts reports from no other."""
    thread, errors = group
    while True:
        ended = not thread.is_alive()  # asked first: everything that was sent before the end has then arrived
        try:
            report(mailbox.get(timeout=_FETCH_S) if not ended else mailbox.get_nowait())
        except Empty:
            if ended:
                break
    mailbox.shutdown()
    if errors:
        _explain(errors[0], report)


def _explain(error: Exception, report: Report) -> None:
    """Raise the error that a worker met. A wrong input is only reported, since it would fail again."""
    if isinstance(error, PreemptionError):
        report({"status": TrialStatus.PREEMPTED})
        raise TrialError(str(error)) from error
    failures = error.worker_failures if isinstance(error, WorkerGroupError) else {}
    for failure in failures.values():
        if isinstance(failure, INPUT_ERRORS):
            report({"status": TrialStatus.FAILED, "error": str(failure)})
            return
        if why := blocked_by(failure):
            report({"status": TrialStatus.PREEMPTED, "blocked": why})
            return
    if not failures:
        raise TrialError(f"{type(error).__name__}: {error}") from error
    # when a rank dies, the others lose their connection to it: name the dead one first
    ranks = sorted(failures, key=lambda rank: (not _died(failures[rank]), rank))
    raise TrialError("\n".join(f"worker {rank}: {_text(failures[rank])}" for rank in ranks)) from error


def _died(failure: Exception) -> bool:
    return isinstance(getattr(failure, "health_check_failure", failure), RayActorError)


def _text(failure: Exception) -> str:
    return "it died: its process or its machine is gone" if _died(failure) else str(failure)
