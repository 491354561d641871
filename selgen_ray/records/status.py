"""The status of a trial: one vocabulary for results, the plan, the queue, the display and the metrics."""

from __future__ import annotations

from enum import StrEnum


class TrialStatus(StrEnum):
    """How a trial stands; the values stand in results.json and live.json, so they do not change.

    On storage `RUNNING` is the result of a trial that runs, or that was cut off: only a driver knows which.
    """

    PENDING = "pending"
    """There is no result yet."""
    RUNNING = "running"
    COMPLETED = "completed"
    DIVERGED = "diverged"
    """A loss or a metric became NaN or infinite: a result, not a fault."""
    STOPPED = "stopped"
    """Somebody, or early stopping, ended it for good; a retry lets it go on."""
    FAILED = "failed"
    """It raised; on storage after its last attempt, at the end of a run where its input is wrong."""
    PREEMPTED = "preempted"
    """Its process went away through no fault of its own; it goes on from its checkpoint."""
    CRASHED = "crashed"
    """It raised, or its worker died; it is tried again up to `max_failures` times."""
    REMOVED = "removed"
    """Somebody deleted it; it does not run again until a retry."""

    @property
    def is_finished(self) -> bool:
        """Whether training has come to its end: the result stands and is never computed again."""
        return self in (TrialStatus.COMPLETED, TrialStatus.DIVERGED)

    @property
    def is_final(self) -> bool:
        """Whether it does not run again unless somebody asks for it."""
        return self.is_finished or self in (TrialStatus.STOPPED, TrialStatus.REMOVED)

    @property
    def after_run(self) -> TrialStatus:
        """How a run ended, from the result that it left: one that still says running was cut off."""
        return TrialStatus.PREEMPTED if self is TrialStatus.RUNNING else self


STORED = (
    TrialStatus.RUNNING,
    TrialStatus.COMPLETED,
    TrialStatus.DIVERGED,
    TrialStatus.STOPPED,
    TrialStatus.FAILED,
)
"""What a results.json may say, in the order of its schema."""
PREFERENCE = (
    TrialStatus.COMPLETED,
    TrialStatus.DIVERGED,
    TrialStatus.STOPPED,
    TrialStatus.RUNNING,
    TrialStatus.FAILED,
)
"""Of two results of one trial the one with the first of these counts."""
