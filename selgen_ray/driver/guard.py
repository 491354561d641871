"""A guard over the process that runs a sweep: should Ray end that process, or a kill, the guard says how to go on.

Ray's C++ core ends a driver whose node manager (raylet) has died by `_exit`: no `finally` runs, no handler, no thread.
So the sweep runs in a child process, forked before anything is imported, and the command itself only waits for it.
Signals reach both from a terminal, one of them from `kill`: the guard passes on those that the child did not get.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

_PASS_ON_S, _GAP_S = 0.3, 0.1  # a signal that the child also got is acknowledged within milliseconds
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
_GRACE_S = 3.0
_guard: int | None = None  # in the child: where notes are written


def note(text: str) -> None:
    """Tell the guard something, in one line: 'launched', 'over', 'signal <number>' or 'why <reason>'.

    Nothing happens without a guard.
    """
    if _guard is not None:
        with contextlib.suppress(OSError):
            os.write(_guard, text.replace("\n", " ").encode() + b"\n")


def is_guarded() -> bool:
    """Return whether a guard waits for this process."""
    return _guard is not None


def guarded(run: Callable[[], int], lost: Callable[[str, bool, int], int]) -> int:
    """Run a function in a child process and return its exit status.

    Args:
        run: notes 'launched' when the child may be ended from outside, and 'over' when it has ended in order.
        lost: called in this process with the reason if the child was ended in between, with whether the child gave
            that reason itself, and with the child's pid; its value is returned.

    Where this process has other threads, which a fork would leave behind in the middle of anything (a notebook, a
    program that calls the command), the function runs here, without a guard.
    """
    if not sys.platform.startswith("linux") or _has_threads():  # elsewhere nothing ties the two processes together
        return run()
    notes, write = os.pipe()
    parent, others = os.getpid(), frozenset(_children())
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # until both are ready for them
    child = os.fork()
    if child == 0:
        os.close(notes)
        _become_guarded(write, parent)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return run()
    os.close(write)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # what Ray started and did not end is handed to us, to be ended
    watch = _Watch(child, notes)
    woken = watch.listen()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    status = watch.wait(woken)
    _end_what_is_left(others)
    _heed_signals_again()
    if watch.was_launched and not watch.is_over:
        if sys.stdout.isatty():
            sys.stdout.write("\x1b[?25h")  # the display had hidden the cursor
        return lost(watch.why or _reason(status), bool(watch.why), child)
    if os.WIFSIGNALED(status):  # end as the child did, for the shell
        with contextlib.suppress(OSError):  # SIGKILL has no handler
            signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(parent, os.WTERMSIG(status))
        return 128 + os.WTERMSIG(status)  # the first process of a container lives on
    return os.waitstatus_to_exitcode(status)


def _has_threads() -> bool:
    try:
        return len(list(Path("/proc/self/task").iterdir())) > 1  # also those that Python does not know
    except OSError:
        return threading.active_count() > 1


def _heed_signals_again() -> None:
    """Let Ctrl-C end what this process does itself, such as the report: there is no child any more to pass it to."""
    signal.set_wakeup_fd(-1)
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        signal.signal(number, handler)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _become_guarded(write: int, parent: int) -> None:
    global _guard
    _guard = write
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # a guard that is killed takes the sweep along, as a driver's kill does
    if os.getppid() != parent:
        os._exit(1)

    def interrupt(number: int, frame: object) -> None:
        note(f"signal {number}")
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)


def _prctl(option: int, value: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _reason(status: int) -> str:
    if not os.WIFSIGNALED(status):
        return "Ray on this machine has died"
    name = signal.Signals(os.WTERMSIG(status)).name
    hint = ": is there enough memory?" if name == "SIGKILL" else ""
    return f"the process that ran it was ended by {name}{hint}"


@dataclass
class _Watch:
    """The guard's view of the child."""

    child: int
    notes: int
    was_launched: bool = False
    is_over: bool = False
    why: str = ""
    _text: bytes = b""
    _pending: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])  # when to pass which signal on
    # signals that the child will acknowledge
    _passed_on: list[int] = field(default_factory=list[int])
    # when it acknowledged which one that we did not get yet
    _early: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])

    def listen(self) -> int:
        """Take signals from now on; return the end of a pipe from which their numbers are read."""
        wake, woken = os.pipe()
        os.set_blocking(woken, False)
        signal.set_wakeup_fd(woken)
        for number in (*_SIGNALS, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)  # the number arrives through the pipe
        return wake

    def wait(self, wake: int) -> int:
        """Wait for the child to end; return its wait status."""
        sources = [self.notes, wake]
        while True:
            ended, status = os.waitpid(self.child, os.WNOHANG)
            if ended:
                while self._read():
                    pass
                return status
            left_s = max(0.0, self._pending[0][0] - time.monotonic()) if self._pending else None
            ready = select.select(sources, [], [], left_s)[0]
            if wake in ready:
                for number in os.read(wake, 64):
                    if number in _SIGNALS:
                        self._arrived(number)
            if self.notes in ready and not self._read():
                sources.remove(self.notes)  # the child is about to end
            self._pass_on()

    def _read(self) -> bool:
        """Take in what the child has noted; return whether there may be more."""
        os.set_blocking(self.notes, False)
        try:
            part = os.read(self.notes, 4096)
        except BlockingIOError:
            return False
        *lines, self._text = (self._text + part).split(b"\n")
        for line in lines:
            word, _, rest = line.decode(errors="replace").partition(" ")
            self.was_launched |= word == "launched"
            self.is_over |= word == "over"
            self.why = rest if word == "why" else self.why
            if word == "signal":
                self._acknowledged(int(rest))
        return bool(part)

    def _arrived(self, number: int) -> None:
        now = time.monotonic()
        self._early = [early for early in self._early if now - early[0] < 1]
        if _drop(self._early, number):
            return
        last = self._pending[-1][0] if self._pending else 0.0
        self._pending.append((max(now + _PASS_ON_S, last + _GAP_S), number))

    def _acknowledged(self, number: int) -> None:
        """Match by number: of two signals that wait, the system hands us the later one first."""
        if number in self._passed_on:
            self._passed_on.remove(number)
        elif not _drop(self._pending, number):
            self._early.append((time.monotonic(), number))

    def _pass_on(self) -> None:
        while self._pending and self._pending[0][0] <= time.monotonic():
            _, number = self._pending.pop(0)
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.child, number)
                self._passed_on.append(number)


def _drop(signals: list[tuple[float, int]], number: int) -> bool:
    """Remove the first signal of this number; return whether there was one."""
    found = next((item for item in signals if item[1] == number), None)
    if found is not None:
        signals.remove(found)
    return found is not None


def _children() -> list[int]:
    """Return the processes whose parent this one is."""
    with contextlib.suppress(OSError):
        return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    return []


def _end_what_is_left(others: Collection[int]) -> None:
    """End the processes that the child left behind: they are ours now.

    Args:
        others: pids of processes that were ours before: of a shell that has become this process by `exec`, say.
    """

    def left() -> list[int]:
        return [pid for pid in _children() if pid not in others]

    for number, seconds in ((signal.SIGTERM, _GRACE_S), (signal.SIGKILL, _GRACE_S)):
        end = time.monotonic() + seconds
        for pid in left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        while time.monotonic() < end:
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            if not left():
                return
            time.sleep(0.05)
