"""A little of each kind of trial, run on the cluster with the resources that a trial has: for `--estimate`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import OutOfMemoryError, RayError, WorkerCrashedError

from selgen_ray.cluster.cluster import TrialResources, nodes
from selgen_ray.cluster.train_group import GroupResources, run_group
from selgen_ray.cluster.tune_events import cause_of
from selgen_ray.driver.estimating import Kind, Measured
from selgen_ray.errors import TrialError
from selgen_ray.records.text import first_line
from selgen_ray.storage import Folder
from selgen_ray.trial.task import TrialTask

if TYPE_CHECKING:
    from ray.util.queue import Queue


def places(granted: TrialResources | GroupResources, most: int | None) -> int:
    """Return how many trials the nodes hold at a time, at most `most`; one where nodes have yet to come."""
    num_fit = max(1, granted.fit_on(nodes()))
    return min(num_fit, most or num_fit)


def processors(granted: TrialResources | GroupResources) -> tuple[float, float]:
    """Return (GPUs, CPU cores) of a trial, those of all its workers together."""
    if isinstance(granted, GroupResources):
        return granted.workers * granted.gpus_per_worker, granted.workers * granted.cpus_per_worker
    return granted.gpus, granted.cpus


def measure_kinds(
    kinds: Sequence[Kind],
    granted: TrialResources | GroupResources,
    sweep: Folder,
    torch_threads: int,
    num_places: int,
    say: Callable[[str], None],
) -> list[Measured]:
    """Measure a trial of each kind, as many at a time as trials of the sweep run; say a line for each.

    Args:
        kinds: what to measure.
        granted: the resources of a trial.
        sweep: the sweep's folder; nothing is written to it.
        torch_threads: of a trial.
        num_places: trials at a time.
        say: shows a line to the user.
    """
    if isinstance(granted, GroupResources):
        found = list[Measured]()
        for kind in kinds:
            found.append(Measured.of(_of_group(kind.tasks[0], granted, sweep, torch_threads)))
            say(_line(kind, found[-1], len(found), len(kinds)))
        return found
    options = {"num_cpus": granted.cpus, "num_gpus": granted.gpus, "max_retries": 0}
    measure: Any = ray.remote(_measure).options(**options)
    waiting, running, by_number = list(enumerate(kinds)), dict[Any, int](), dict[int, Measured]()
    while waiting or running:
        while waiting and len(running) < num_places:
            number, kind = waiting.pop(0)
            running[measure.remote(kind.tasks[0], torch_threads)] = number
        (done,), _ = ray.wait(list(running), num_returns=1)
        number = running.pop(done)
        by_number[number] = Measured.of(_result(lambda done=done: ray.get(done)))
        say(_line(kinds[number], by_number[number], len(by_number), len(kinds)))
    return [by_number[number] for number in range(len(kinds))]


def _line(kind: Kind, found: Measured, number: int, total: int) -> str:
    how = "measured" if not found.problem else "could not be measured" if found.fits else "would not fit"
    return f"{how} {number}/{total}  {kind.label}"


def _measure(task: TrialTask, torch_threads: int) -> dict[str, Any]:
    """Measure a trial in a worker of Ray."""
    start = time.monotonic()
    # late: the driver imports this module too, and needs no PyTorch; what they take is measured
    import torch

    from selgen_ray.trial.measuring import measure_trial
    from selgen_ray.trial.worker import free_memory, quiet_worker

    quiet_worker()
    start_s = time.monotonic() - start
    free_memory()
    torch.set_num_threads(torch_threads)
    return measure_trial(task) | {"start_s": start_s}


def _result(get: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return a worker's measurement; where it died, why."""
    try:
        return get()
    except OutOfMemoryError as error:  # Ray ended it, before the machine's memory was used up
        return {"problem": f"out of memory of the machine: {first_line(error)}", "fits": False}
    except WorkerCrashedError:
        return {
            "problem": "its process was killed, as the kernel does when the machine's memory is used up",
            "fits": False,
        }
    except (RayError, TrialError) as error:
        return {"problem": cause_of(error).line, "fits": True}


# -- several workers a trial -------------------------------------------------------------------------------------------


def _of_group(task: TrialTask, granted: GroupResources, sweep: Folder, torch_threads: int) -> dict[str, Any]:
    lines = list[dict[str, Any]]()

    def run() -> dict[str, Any]:
        run_group(task, sweep, granted, torch_threads, lines.append, _measure_in_group)
        why = lines[-1].get("error", "its workers ended without a word") if lines else "its workers did not start"
        return {"problem": str(why), "fits": True}

    found = _result(run)
    return next((line for line in lines if "steps" in line or "problem" in line), found)


def _measure_in_group(task: TrialTask, sweep: Folder, torch_threads: int, mailbox: Queue, fsdp: bool) -> None:
    """Measure a trial together with the other workers; rank 0 puts what was found into the mailbox."""
    start = time.monotonic()
    # late: as above
    import torch

    from selgen_ray.trainers.engine import ranks
    from selgen_ray.trial.measuring import measure_trial, problem_of
    from selgen_ray.trial.worker import quiet_worker

    quiet_worker()
    start_s = time.monotonic() - start
    torch.set_num_threads(torch_threads)
    try:
        found = measure_trial(task, fsdp=fsdp)
    except Exception as error:
        mailbox.put(problem_of(error))  # the first rank that fails says why: the others only lose the connection
        raise
    if ranks.is_main():
        mailbox.put(found | {"start_s": start_s})
