"""`--estimate`: what a sweep will cost, from a little of each kind of its trials, run on its cluster."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from selgen_ray.cluster import cluster
from selgen_ray.cluster.measuring import measure_kinds, places, processors
from selgen_ray.cluster.tune_sweep import resolve
from selgen_ray.config.finetune import FinetuneConfig
from selgen_ray.driver.estimate_lines import estimate_lines
from selgen_ray.driver.estimating import estimate, kinds_of, trials_to_estimate
from selgen_ray.driver.plan import Plan
from selgen_ray.records.control import LIVE, Control
from selgen_ray.records.estimate import FILE_NAME
from selgen_ray.records.liveness import is_driven
from selgen_ray.space import SweepSpec

DONE, UNFINISHED, BAD_INPUT = 0, 1, 2
_PATIENCE_S = 5.0  # for a sign of a driver elsewhere, which writes one every second or so


def run_estimate(spec: SweepSpec, plan: Plan, price_per_gpu_hour: float | None, say: Callable[..., None]) -> int:
    """Measure each kind of trial that is left to run, print the estimate, keep it for the report.

    Args:
        say: shows lines on how far it is.

    Returns:
        The exit status: 0; 1 where a kind of trial could not be measured; 2 where the cluster cannot be used.

    Raises:
        StorageError: the estimate cannot be kept.
    """
    tasks = trials_to_estimate(plan)
    if not tasks:
        sys.stdout.write("nothing is left to run, so nothing is left to estimate\n")
        return DONE
    kinds = kinds_of(tasks)
    if is_driven(control := Control(plan.folder), control.read(LIVE), patience_s=_PATIENCE_S):
        sys.stdout.write(
            "note: a process runs this sweep now: what is measured here shares the machines with it, so seconds come "
            "out too large, and the trials that run are counted from their start\n"
        )
    put_back = ExitStack()
    try:
        start = time.monotonic()
        cluster.connect(spec.resources)
        ray_s = time.monotonic() - start
        # now, since Ray has set a handler of its own, which prints its stack
        put_back.enter_context(_interrupting_sigterm())
        granted = resolve(spec.resources)
        shared = FinetuneConfig.model_fields.keys()
        configs = [
            FinetuneConfig.model_validate(
                {key: value for key, value in kind.tasks[0].config["finetune_config"].items() if key in shared}
            )
            for kind in kinds
        ]
        cluster.check_hardware(configs, granted.gpus_per_process)
        num_places = places(granted, spec.resources.max_concurrent)
        measured = measure_kinds(kinds, granted, plan.folder, spec.resources.torch_threads, num_places, say)
    except ConnectionError as error:
        hint = "Is it running? One with token authentication needs RAY_AUTH_MODE=token."
        sys.stderr.write(f"RAY_ADDRESS {os.environ.get('RAY_ADDRESS')!r}: {error}. {hint}\n")
        return BAD_INPUT
    except cluster.InfeasibleError as error:
        sys.stderr.write(f"{error}\n")
        return BAD_INPUT
    finally:
        cluster.disconnect()
        put_back.close()
    found = estimate(tasks, kinds, measured, num_places, *processors(granted), price_per_gpu_hour, ray_s)
    sys.stdout.write("".join(f"{line}\n" for line in estimate_lines(found, kinds, measured, spec)))
    found.publish(plan.folder)
    sys.stdout.write(f"kept in {plan.folder / FILE_NAME}, for the report\n")
    return UNFINISHED if any(one.problem for one in measured) else DONE


@contextmanager
def _interrupting_sigterm() -> Iterator[None]:
    """Let SIGTERM end this process as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield  # somebody else's process: its signals are not ours
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
