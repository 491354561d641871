"""Notice that trials wait for a place and none runs: on a full cluster, or while an autoscaler adds nodes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial

from selgen_ray.cluster.cluster import TrialResources, nodes, offered
from selgen_ray.cluster.train_group import GroupResources


class WaitNotice(Callback):
    """Tells the user what trials wait for once none has run for a while, and again after each ten times as long.

    Args:
        granted: what a trial gets.
        tell: shows and keeps a line.
        after_s: how long is a while.
        nodes: the resources of each node that is alive, as Ray names them.
        is_private: Ray is this sweep's own, so nobody else takes its places.
    """

    def __init__(
        self,
        granted: TrialResources | GroupResources,
        tell: Callable[[str], None],
        after_s: float = 60.0,
        nodes: Callable[[], Sequence[Mapping[str, float]]] = nodes,
        is_private: bool = False,
    ):
        self._is_private = is_private
        self._granted, self._tell, self._after_s, self._nodes = granted, tell, after_s, nodes
        self._since = self._told = time.monotonic()
        self._patience_s = after_s

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks for a restore that is never made

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Look for waiting trials; Tune calls this after every event, and each second."""
        at = time.monotonic()
        if all(trial.status != Trial.PENDING for trial in trials) or any(t.status == Trial.RUNNING for t in trials):
            self._since = self._told = at
            self._patience_s = self._after_s
        elif at - self._told >= self._patience_s:
            self._told, self._patience_s = at, 10 * self._after_s
            self._tell(self._text(at - self._since))

    def _text(self, seconds: float) -> str:
        silence = f"no trial has run for {seconds / 60:.0f}"
        if self._is_private:
            return (
                f"{silence} min: a process with {self._granted} is still starting on this machine, which is slow where "
                "its CPUs or its disk are busy. The logs of Ray, which this sweep has for itself: "
                "/tmp/ray/session_latest"
            )
        return (
            f"{silence} min: waiting for a place with {self._granted}; the nodes have "
            f"{offered(self._nodes())} in all, taken by others or too small. `ray status` shows what the cluster does"
        )
