"""The workers of a group. Light to import: Ray's controller of the group needs the backend alone."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import ray
from ray.actor import exit_actor
from ray.exceptions import RayActorError
from ray.train.torch import TorchConfig
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.util.placement_group import PlacementGroup, remove_placement_group

from selgen_ray.errors import INPUT_ERRORS, StorageBlockedError, TrialError, TrialSuperseded, blocked_by
from selgen_ray.records.attempts import status_after

if TYPE_CHECKING:
    from ray.util.queue import Queue

    from selgen_ray.storage import Folder
    from selgen_ray.trial.task import TrialTask


_HEAD = {"node:__internal_head__": 0.001}
_LOOK_EVERY_S = 1.0


def train_in_group(task: TrialTask, sweep: Folder, torch_threads: int, mailbox: Queue, fsdp: bool) -> None:
    """Run a trial together with the other workers; rank 0 puts progress into the mailbox, and at the end the status.

    Raises:
        TrialError: the trial failed in a way that another try may mend; its text is all that Ray brings home.
        SpecError, DataError, ModelError, PluginError: a wrong input.
    """
    # late: the driver imports this module too, and is to start without PyTorch
    import torch

    from selgen_ray.trainers.engine import ranks
    from selgen_ray.trial.run import last_lines, run_trial
    from selgen_ray.trial.worker import Reports, last_report, quiet_worker, sigterm_arrived, watched

    quiet_worker()
    torch.set_num_threads(torch_threads)
    reports = Reports(mailbox.put if ranks.is_main() else lambda _: None)
    try:
        with watched(sweep, task) as stop:
            result = run_trial(task, reports.progress, stop=stop, on_event=reports.event, fsdp=fsdp)
    except TrialSuperseded as error:
        reports.last({"status": status_after(error), "error": str(error)})
        return
    except (*INPUT_ERRORS, StorageBlockedError):
        raise
    except Exception as error:
        if why := blocked_by(error):
            raise StorageBlockedError(why) from error
        raise TrialError(f"{type(error).__name__}: {error}\n{last_lines()}") from error
    reports.last(last_report(task, result))
    if ranks.any_rank(sigterm_arrived()):
        raise TrialError("a worker got SIGTERM: its machine goes away")


def _heed_sigterm() -> None:
    from selgen_ray.trial.worker import heed_sigterm  # late: as above

    heed_sigterm()


class _Warden:
    """Outlives the controller of a group: if it dies, the warden gives the group's places back to the sweep."""

    def watch(self, controller: Any, places: PlacementGroup) -> None:
        try:
            while True:
                ray.get(controller.__ray_ready__.remote())
                time.sleep(_LOOK_EVERY_S)
        except RayActorError:
            remove_placement_group(places)  # no error if they are gone already
        exit_actor()


class GivePlacesBack(WorkerGroupCallback):
    """Starts the warden of a group; runs in the group's controller."""

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Set a warden on the head node to watch this controller."""
        places = worker_group.get_worker_group_state().placement_group_handle.placement_group
        warden: Any = ray.remote(num_cpus=0)(_Warden)
        options = {"lifetime": "detached", "scheduling_strategy": "DEFAULT", "resources": _HEAD}
        warden.options(**options).remote().watch.remote(ray.get_runtime_context().current_actor, places)


class _Backend(TorchConfig().backend_cls):  # type: ignore[misc]  # Ray names it nowhere
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        super().on_start(worker_group, backend_config)
        worker_group.execute(_heed_sigterm)  # here, since signals are a matter of the main thread


class GroupTorchConfig(TorchConfig):
    """Ray's TorchConfig, with workers that heed SIGTERM."""

    @property
    def backend_cls(self) -> type:
        """The class that sets the process group up."""
        return _Backend
