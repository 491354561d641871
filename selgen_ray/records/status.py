"""The status of a trial: one enum for results, the plan, the queue, the display and the metrics."""

from __future__ import annotations

from enum import StrEnum


class TrialStatus(StrEnum):
    """The status of a trial. The values are written to results.json and live.json, so they must not change.

    A stored result that says `RUNNING` is of a trial that runs, or of one that was interrupted: only a driver can tell.
    """

    PENDING = "pending"
    """There is no result yet."""
    UNREADABLE = "unreadable"
    """Its results.json is damaged; the next run of the sweep runs it again."""
    RUNNING = "running"
    COMPLETED = "completed"
    DIVERGED = "diverged"
    """A loss or a metric became NaN or infinite: a result, not a fault."""
    STOPPED = "stopped"
    """A person or early stopping ended it for good; a retry continues it."""
    FAILED = "failed"
    """It raised an error. On storage: its last attempt in this run failed, or its input is wrong; the next run of the
    sweep tries it again."""
    PREEMPTED = "preempted"
    """Its process ended through no fault of the trial; it continues from its checkpoint."""
    CRASHED = "crashed"
    """It raised an error or its worker died; it is retried up to `max_failures` times."""
    SUPERSEDED = "superseded"
    """Another process took the trial over, so this run of it ended; no failure, and not tried again by this driver."""
    REMOVED = "removed"
    """A person deleted it; it does not run again until a retry."""

    @property
    def is_finished(self) -> bool:
        """Whether training has reached its end: the result is kept and never computed again."""
        return self in (TrialStatus.COMPLETED, TrialStatus.DIVERGED)

    @property
    def is_final(self) -> bool:
        """Whether the trial does not run again unless a person asks for a retry."""
        return self.is_finished or self in (TrialStatus.STOPPED, TrialStatus.REMOVED)

    @property
    def after_run(self) -> TrialStatus:
        """The status after a run, from the result that it left: one that still says running was interrupted."""
        return TrialStatus.PREEMPTED if self is TrialStatus.RUNNING else self


STORED = (
    TrialStatus.RUNNING,
    TrialStatus.COMPLETED,
    TrialStatus.DIVERGED,
    TrialStatus.STOPPED,
    TrialStatus.FAILED,
)
"""The statuses that a results.json may have, in the order of its schema."""
PREFERENCE = (
    TrialStatus.COMPLETED,
    TrialStatus.DIVERGED,
    TrialStatus.STOPPED,
    TrialStatus.RUNNING,
    TrialStatus.FAILED,
)
"""Statuses by preference: of two results of one trial, the one whose status comes first here counts."""
