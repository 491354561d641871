"""Repairs of Ray 2.60 in this process; each does nothing where Ray no longer needs it."""

from __future__ import annotations

from typing import Any

from ray._private import worker
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import RayActorError, RayError, RayTaskError


def survive_lost_workers() -> None:
    """Let Tune treat every error of Ray as the death of one worker.

    Ray 2.60 survives a worker that died, but stops the whole run if one was killed for lack of memory.
    """
    known = RayActorManager._actor_task_failed  # pyright: ignore[reportPrivateUsage]
    if known.__module__ == __name__:
        return

    def actor_task_failed(self: RayActorManager, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, RayError) and not isinstance(exception, RayActorError | RayTaskError):
            exception = RayActorError(error_msg=str(exception))
        known(self, tracked_actor_task, exception)

    RayActorManager._actor_task_failed = actor_task_failed  # pyright: ignore[reportPrivateUsage]


def shorten_dumps() -> None:
    """Keep the log that Ray prints into the terminal when a node manager (raylet) dies to its first line.

    Ray 2.60 prints the last 20 lines of that process's log, also with `log_to_driver=False`.
    """
    known = getattr(worker, "print_to_stdstream", None)
    if known is None or known.__module__ == __name__:
        return

    def print_to_stdstream(data: Any, *args: Any, **options: Any) -> None:
        lines = [str(line).partition(_DUMP)[0].rstrip() for line in data.get("lines", ())]
        known(data | {"lines": lines}, *args, **options)

    worker.print_to_stdstream = print_to_stdstream


_DUMP = " Last 20 lines of the Raylet logs"
