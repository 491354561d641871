"""The Ray side of a sweep: cluster, resources, Tune trials, retries, progress. Nothing else imports ray."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# before ray is imported: no spam on the terminal, no per-trial log files nobody reads
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")

import ray
from ray import tune

# Ray's own: another copy cannot find the arguments that Ray has overwritten
from ray._raylet import setproctitle  # pyright: ignore[reportAttributeAccessIssue]
from ray.exceptions import RayTaskError
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.trainable.function_trainable import wrap_function

from selgen_ray.errors import DataError, ModelError, SpecError, TrialError
from selgen_ray.progress import Board, Display, finished_line
from selgen_ray.results import FILE_NAME, TrialResult
from selgen_ray.space import Resources
from selgen_ray.trial import TrialTask

logger = logging.getLogger(__name__)
_REPORT_EVERY_S = 0.5  # a report waits for the driver: more often would slow a short trial down
# what workers must be told even when the cluster was started elsewhere; never a credential
_FORWARDED = ("HF_HUB_OFFLINE", "HF_HOME")


@dataclass(frozen=True)
class TrialResources:
    """What one trial gets, after asking the cluster."""

    cpus: float
    gpus: float


class InfeasibleError(RuntimeError):
    """No node of the cluster can ever hold a trial; waiting would be for ever."""


def connect(resources: Resources) -> str | None:
    """Join the cluster at RAY_ADDRESS, or start a local one. Returns the dashboard's URL, or None.

    Raises:
        ConnectionError: nothing answers at RAY_ADDRESS.
    """
    env = {name: os.environ[name] for name in _FORWARDED if name in os.environ}
    env |= {
        "OMP_NUM_THREADS": str(resources.torch_threads),
        "TOKENIZERS_PARALLELISM": "false",
        # a stopped trial may take long to unwind; Tune would give up on reusing its worker, and hang
        "TUNE_FUNCTION_THREAD_TIMEOUT_S": "30",
    }
    context = ray.init(
        address=os.environ.get("RAY_ADDRESS") or "local",
        runtime_env={"env_vars": env},
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a failure gets a line of ours, not a page of Tune's
    return f"http://{context.dashboard_url}" if context.dashboard_url else None


def disconnect() -> None:
    """Leave the cluster; a local one ends."""
    ray.shutdown()


def resolve_resources(resources: Resources) -> TrialResources:
    """Decide what a trial gets, and make sure that some node has it.

    Raises:
        InfeasibleError: no node is large enough; says what was asked for and what the largest nodes have.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = resources.gpus
    if gpus is None:
        gpus = 1.0 if any(node.get("GPU", 0) >= 1 for node in nodes) else 0.0
    if not any(node.get("CPU", 0) >= resources.cpus and node.get("GPU", 0) >= gpus for node in nodes):
        offered = ", ".join(sorted({f"{n.get('CPU', 0):g} CPUs and {n.get('GPU', 0):g} GPUs" for n in nodes}))
        raise InfeasibleError(
            f"resources: a trial asks for {resources.cpus:g} CPUs and {gpus:g} GPUs, but the nodes have: {offered}"
        )
    return TrialResources(resources.cpus, gpus)


def check_cuda(cuda_only: Sequence[str], granted: TrialResources) -> None:
    """Refuse configs that work on CUDA only when trials get no GPU. Raises InfeasibleError."""
    if cuda_only and not granted.gpus:
        keys = ", ".join(f"finetune_config.{key}" for key in cuda_only)
        raise InfeasibleError(f"{keys}: works on a CUDA GPU only, and this cluster gives the trials none")


def launch(
    name: str, tasks: Sequence[TrialTask], resources: Resources, granted: TrialResources, display: Display
) -> None:
    """Run every task as a Ray Tune trial, as many at a time as fit; return when none is left to run.

    A trial that raises is tried again up to `max_failures` times from its last checkpoint, in a fresh process; one
    whose input is wrong is not. What became of a trial stands in its results.json alone.
    """
    board = Board(total=len(tasks))
    by_id = {task.trial_id: task for task in tasks}
    # Tune replaces objects in a search space by placeholders, so trials carry their id and look the task up
    trainable = _trainable(name, ray.put(by_id), granted, resources.torch_threads)
    with tempfile.TemporaryDirectory(prefix="selgen_tune_") as scratch:  # Tune's own state is not the sweep's truth
        tuner = tune.Tuner(
            trainable,
            param_space={"trial_id": tune.grid_search(list(by_id))},
            tune_config=tune.TuneConfig(
                reuse_actors=True,
                max_concurrent_trials=resources.max_concurrent,
                trial_name_creator=lambda trial: by_id[trial.config["trial_id"]].name,
                trial_dirname_creator=lambda trial: trial.config["trial_id"],
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=scratch,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=resources.max_failures),
                callbacks=[_Watcher(board, display, by_id)],
            ),
        )
        display.start()
        try:
            tuner.fit()
        finally:
            display.stop()


def _trainable(sweep: str, tasks: ray.ObjectRef, granted: TrialResources, torch_threads: int) -> type:
    """The Tune trainable: a function in a reused worker, so that imports and base model are loaded once."""

    def run(config: dict[str, Any]) -> None:
        _run_in_worker(ray.get(tasks)[config["trial_id"]], torch_threads)

    class TrialWorker(wrap_function(run)):  # type: ignore[misc]  # Ray has no public class to name a function by
        def step(self) -> dict[str, Any]:
            # Ray names the process after the method; the dashboard lists processes, so name it after the trial
            setproctitle(f"ray::{self.trial_name}")
            return super().step()

        @classmethod
        def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
            return tune.PlacementGroupFactory([{"CPU": granted.cpus, "GPU": granted.gpus}])

        def __repr__(self) -> str:
            return f"trial worker of {sweep}"  # Ray asks once, and the worker outlives its first trial

    return TrialWorker


def _run_in_worker(task: TrialTask, torch_threads: int) -> None:
    import torch

    from selgen_ray.trial import run_trial

    _quiet_worker()
    _free_memory()
    torch.set_num_threads(torch_threads)
    last = 0.0

    def report(metrics: dict[str, Any]) -> None:
        nonlocal last
        if time.monotonic() - last > _REPORT_EVERY_S:
            last = time.monotonic()
            tune.report(metrics)

    try:
        result = run_trial(task, report)
    except (DataError, ModelError, SpecError) as error:
        logger.error("%s", error)  # published as failed; the same input would fail again
        tune.report({"status": "failed", "error": str(error)})
        return
    except Exception as error:
        raise TrialError(f"{type(error).__name__}: {error}") from error
    tune.report({"status": result.status, "capability": result.capability, "alignment": result.alignment})


def _quiet_worker() -> None:
    import transformers

    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()


def _free_memory() -> None:
    """Drop what the trial before left, then keep the collector off everything that stays: it costs a step's time."""
    import torch

    gc.unfreeze()
    gc.collect()
    gc.freeze()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def mark_failed(task: TrialTask, cause: str) -> None:
    """Publish status 'failed' for a trial whose worker could not: killed, out of memory, node lost."""
    result = TrialResult(
        trial_id=task.trial_id, slug=task.slug, seed=task.config["seed"], status="running", config=task.config
    )
    with contextlib.suppress(FileNotFoundError):
        result = TrialResult.model_validate_json(task.folder.read(FILE_NAME))
    if result.status == "running":
        result.status, result.error = "failed", cause
        result.publish(task.folder)


def _cause(trial: TuneTrial) -> str:
    """What Ray knows of a failure; a traceback's own last line comes first."""
    error = trial.get_pickled_error() or trial.get_error()
    lines = str(error or "the worker died; Ray gives no cause, its log is in the dashboard").strip().splitlines()
    return "\n".join([lines[-1], *lines[:-1]] if isinstance(error, RayTaskError) else lines)


class _Watcher(tune.Callback):
    """Tune's events to the board; marks what died without a word."""

    def __init__(self, board: Board, display: Display, tasks: Mapping[str, TrialTask]):
        self._board, self._display, self._tasks = board, display, tasks

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks for a restore that is never made; a terminal cannot be pickled

    def on_trial_start(self, iteration: int, trials: list, trial: TuneTrial, **info: Any) -> None:
        self._board.running.setdefault(str(trial), {})
        self._display.update(self._board)

    def on_trial_result(self, iteration: int, trials: list, trial: TuneTrial, result: dict, **info: Any) -> None:
        self._board.running[str(trial)] = result
        self._display.update(self._board)

    def on_trial_complete(self, iteration: int, trials: list, trial: TuneTrial, **info: Any) -> None:
        last = trial.last_result or {}
        self._finish(trial, last.get("status", "stopped"), last)

    def on_trial_recover(self, iteration: int, trials: list, trial: TuneTrial, **info: Any) -> None:
        self._board.running.pop(str(trial), None)
        self._display.line(f"retrying   {trial}  {_cause(trial).splitlines()[0]}", self._board)

    def on_trial_error(self, iteration: int, trials: list, trial: TuneTrial, **info: Any) -> None:
        mark_failed(self._tasks[trial.config["trial_id"]], _cause(trial))
        self._finish(trial, "failed", {})

    def _finish(self, trial: TuneTrial, status: str, metrics: dict[str, Any]) -> None:
        self._board.running.pop(str(trial), None)
        self._board.finished[status] = self._board.finished.get(status, 0) + 1
        self._display.line(finished_line(str(trial), status, metrics), self._board)
