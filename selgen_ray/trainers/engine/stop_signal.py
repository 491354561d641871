"""A request that a running trial stops after its step; a thread or a signal handler sets it, the loop checks it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from selgen_ray.errors import TrialStopped

if TYPE_CHECKING:
    from selgen_ray.models.loading import Model

Reason = Literal["preempted", "stopped", "superseded"]
"""'preempted': it goes on later from its checkpoint. 'stopped': somebody ended it for good. 'superseded': another
process runs it, or the whole sweep, now; or it was removed."""


class StopSignal:
    """A request to stop: the first one counts, later ones change nothing."""

    def __init__(self) -> None:
        self._requested: tuple[Reason, str] | None = None

    def request(self, reason: Reason, why: str) -> None:
        """Ask for a stop; takes no lock, since a signal handler may call it in the middle of anything."""
        if self._requested is None:
            self._requested = (reason, why)

    @property
    def requested(self) -> tuple[Reason, str] | None:
        """(reason, explanation for people) of the first request, or None."""
        return self._requested

    def check(self, step: int) -> None:
        """Raise TrialStopped if a stop was requested; `step` is the number of finished optimizer steps."""
        if self._requested is not None:
            raise TrialStopped(*self._requested, step)

    @contextlib.contextmanager
    def ends_passes(self, model: Model, step: int) -> Iterator[None]:
        """Within this context, raise TrialStopped before the next forward pass of `model` once a stop is requested.

        Code that runs the model, generation included, need not check for itself.
        """
        embeddings: Any = model.get_input_embeddings()  # every pass begins there
        hook = embeddings.register_forward_pre_hook(lambda *_: self.check(step))
        try:
            yield
        finally:
            hook.remove()
