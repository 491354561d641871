"""Threads that run one at a time and meet where they ask for work that is cheaper done together.

Each slot of a pack is a thread. A baton goes round: the thread that holds it runs until it posts a request, waits for
something outside, or ends. When nobody can run, the requests are served together. Nothing here knows of models.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

import torch

from selgen_ray.storage.parallel import Turn, taking_turns

logger = logging.getLogger(__name__)


class PackEnded(BaseException):
    """Raised in the threads of a pack that ends with an error, so that they unwind; nobody should handle it."""


class State(Enum):
    """A slot's state: READY to run, POSTED a request, AWAY where it waits for something outside, ENDED."""

    READY = 1
    POSTED = 2
    AWAY = 3
    ENDED = 4


class Rng:
    """The state of torch's global random streams, on the CPU and on every CUDA device."""

    def __init__(self) -> None:
        self.cpu = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []

    def restore(self) -> None:
        """Give the global streams this state."""
        torch.set_rng_state(self.cpu)
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)


@dataclass
class Outcome:
    """The end of a job: its value, or the exception that it raised."""

    number: int
    value: Any = None
    error: BaseException | None = None


class Server(Protocol):
    """Serves the requests of a pack, in the thread that runs the pack, while all slots stand still."""

    def serve(self, slots: list[Slot]) -> bool:
        """Serve some of the requests; set `answer` or `error` of each that is done, and its slot's state to READY.

        Return whether anything was done.
        """
        ...

    def ended(self, slot: Slot) -> None:
        """Forget a slot whose job has ended."""
        ...


class Request:
    """Something that a slot asks for; it stands still until `done`."""

    def __init__(self) -> None:
        self.slot: Slot | None = None
        self.answer: Any = None
        self.error: BaseException | None = None

    def done(self, answer: Any = None, error: BaseException | None = None) -> None:
        """Let the slot go on with an answer, or with an exception."""
        assert self.slot is not None
        self.answer, self.error = answer, error
        self.slot.request, self.slot.state = None, State.READY


class Slot(Turn):
    """One place of a pack, with the thread of the job that runs in it.

    Attributes:
        place: number of the place, 0 to width - 1.
        number: number of the job.
        state, request: what it does, and what it has posted.
        seconds: seconds of its own: those in which it held the baton or waited, and its share of joint work.
        rng: its state of the global random streams, while it does not run.
    """

    def __init__(self, pack: Rendezvous, place: int, number: int, job: Callable[[Slot], Any]):
        self.place, self.number, self.state = place, number, State.READY
        self.request: Request | None = None
        self.outcome = Outcome(number)
        self.seconds, self.rng = 0.0, Rng()
        self._pack, self._job, self._since = pack, job, time.monotonic()
        self._baton = threading.Semaphore(0)
        self._abort = False
        self.thread = threading.Thread(target=self._run, name=f"slot {place}", daemon=True)
        self.thread.start()

    # -- called by the slot's own thread ----------------------------------------------------------------------------

    def post(self, request: Request) -> Any:
        """Post a request, and return its answer when it is served.

        Raises:
            Exception: the request's error.
        """
        request.slot, self.request = self, request
        self._give_back(State.POSTED)
        self._take()
        if request.error is not None:
            raise request.error
        return request.answer

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Let the others run inside the context; time spent in it is this slot's own."""
        if self.state is State.AWAY:  # inside of another wait
            yield
            return
        self._give_back(State.AWAY)
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds += time.monotonic() - start
            self.state = State.READY
            self._pack.wake.set()
            self._take()

    def now(self) -> float:
        """Return this slot's own seconds."""
        return self.seconds + time.monotonic() - self._since

    def is_mine(self) -> bool:
        """Return whether this is the slot's thread, which alone may post."""
        return threading.current_thread() is self.thread

    def _take(self) -> None:
        self._baton.acquire()
        if self._abort:
            raise PackEnded
        self.rng.restore()
        self._since = time.monotonic()

    def _give_back(self, state: State) -> None:
        self.rng = Rng()
        self.seconds += time.monotonic() - self._since
        self.state = state
        self._pack.back.release()

    def _run(self) -> None:
        try:
            self._take()
            with taking_turns(self):
                self.outcome.value = self._job(self)
        except BaseException as error:
            self.outcome.error = error
        self._give_back(State.ENDED)

    # -- called by the pack -----------------------------------------------------------------------------------------

    def go(self, abort: bool = False) -> None:
        """Hand the slot the baton, and wait until it comes back."""
        self._abort = abort
        self._baton.release()
        self._pack.back.acquire()


class Rendezvous:
    """Runs jobs in at most `width` slots, one thread at a time.

    Args:
        width: number of slots.
        server: serves what they post.

    Attributes:
        slots: those that hold a job now.
    """

    def __init__(self, width: int, server: Server):
        self.width, self.slots = width, list[Slot]()
        self._server = server
        self.back, self.wake = threading.Semaphore(0), threading.Event()

    def run(
        self,
        jobs: Iterator[Callable[[Slot], Any]],
        on_end: Callable[[Outcome], None],
        on_round: Callable[[], None] = lambda: None,
    ) -> None:
        """Run all jobs; one that ends makes room for the next.

        Args:
            jobs: asked for the next job whenever a place is free; each gets its slot.
            on_end: called with each job's outcome when it has ended. An exception of a job is its outcome, no error.
            on_round: called again and again, while no job runs.
        """
        number, own = 0, Rng()
        more = True
        try:
            while True:
                while more and len(self.slots) < self.width:
                    job = next(jobs, None)
                    if job is None:
                        more = False
                        break
                    place = min(set(range(self.width)) - {slot.place for slot in self.slots})
                    self.slots.append(Slot(self, place, number, job))
                    number += 1
                if not self.slots:
                    return
                self._round(on_end)
                on_round()
        finally:
            for slot in self.slots:  # only after an error of the pack itself, or Ctrl-C
                self._unwind(slot)
            own.restore()

    def _round(self, on_end: Callable[[Outcome], None]) -> None:
        """Run all slots that can run, in turn; if there is none, serve requests; if there is none either, wait."""
        self.wake.clear()
        ready = [slot for slot in self.slots if slot.state is State.READY]
        for slot in ready:
            slot.go()
            if slot.state is State.ENDED:
                self._remove(slot)
                on_end(slot.outcome)
        if not ready and not self._server.serve(self.slots):
            self.wake.wait()

    def _remove(self, slot: Slot) -> None:
        self.slots.remove(slot)
        slot.thread.join()
        self._server.ended(slot)

    def _unwind(self, slot: Slot) -> None:
        while slot.state in (State.READY, State.POSTED):  # code that cleans up may post again
            slot.go(abort=True)
        if slot.state is State.AWAY:  # it ends by itself when its wait does
            logger.warning("a trial of the pack still waits for something outside")
