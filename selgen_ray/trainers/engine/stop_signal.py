"""A request that a running trial stops after its step; set by a thread or a signal handler, looked at by the loop."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from selgen_ray.errors import TrialStopped

if TYPE_CHECKING:
    from selgen_ray.models.loading import Model

Reason = Literal["preempted", "stopped"]
"""'preempted': it goes on later from its checkpoint. 'stopped': somebody ended it for good."""


class StopSignal:
    """Set once; later requests change nothing."""

    def __init__(self) -> None:
        self._requested: tuple[Reason, str] | None = None

    def request(self, reason: Reason, why: str) -> None:
        """Ask for a stop. No lock, since a signal handler may call it in the middle of anything."""
        if self._requested is None:
            self._requested = (reason, why)

    @property
    def requested(self) -> tuple[Reason, str] | None:
        """The reason and what to tell people, or None."""
        return self._requested

    def check(self, step: int) -> None:
        """Raises TrialStopped: a stop was asked for; `step` optimizer steps are finished."""
        if self._requested is not None:
            raise TrialStopped(*self._requested, step)

    @contextlib.contextmanager
    def ends_passes(self, model: Model, step: int) -> Iterator[None]:
        """Raises TrialStopped before the next forward pass of `model`, for as long as the context lasts.

        Whatever computes with the model needs no code for it, generation included.
        """
        embeddings: Any = model.get_input_embeddings()  # every pass begins there
        hook = embeddings.register_forward_pre_hook(lambda *_: self.check(step))
        try:
            yield
        finally:
            hook.remove()
