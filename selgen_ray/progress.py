"""What the terminal shows of a running sweep: one line per running trial, the finished count, the time left."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

_PLAIN_EVERY_S = 30.0


@dataclass
class Board:
    """The state of a sweep as far as it is shown.

    Attributes:
        total: trials to run.
        running: trial name -> its last reported numbers.
        finished: status -> count.
    """

    total: int
    running: dict[str, dict[str, Any]] = field(default_factory=dict)
    finished: dict[str, int] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    @property
    def num_finished(self) -> int:
        """Trials that ended, however."""
        return sum(self.finished.values())

    def seconds_left(self) -> float | None:
        """Estimate from the work done so far, running trials counted by their steps; None before there is any."""
        training = [m for m in self.running.values() if m.get("num_steps") and m.get("phase") in (None, "train")]
        parts = (m.get("step", 0) / m["num_steps"] for m in training)
        done = self.num_finished + sum(parts)
        if done <= 0:
            return None
        return (time.monotonic() - self.started) * (self.total - done) / done

    def summary(self) -> str:
        """'5/18 finished (1 diverged), 2 running, 1:20 left'."""
        odd = ", ".join(f"{n} {status}" for status, n in self.finished.items() if status != "completed")
        left = self.seconds_left()
        return (
            f"{self.num_finished}/{self.total} finished{f' ({odd})' if odd else ''}, {len(self.running)} running, "
            f"{'?' if left is None else clock(left)} left"
        )


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def running_line(name: str, metrics: dict[str, Any]) -> str:
    """One running trial: its phase unless it trains, step, loss, tokens a second."""
    phase = "" if metrics.get("phase") == "train" else metrics.get("phase", "")
    if "step" not in metrics:
        return f"{name}  {phase or 'starting'}"
    step = f"{phase + ': ' if phase else ''}step {metrics['step']}/{metrics['num_steps']}"
    return (
        f"{name}  {step}  loss {metrics.get('loss', float('nan')):.4g}  {metrics.get('tokens_per_s', 0.0):.0f} tokens/s"
    )


def finished_line(name: str, status: str, metrics: dict[str, Any]) -> str:
    """One finished trial: its status, capability and alignment."""
    scores = (f"{key} {metrics[key]:.3f}" for key in ("capability", "alignment") if metrics.get(key) is not None)
    return "  ".join([f"{status:9s}", name, *scores])


class Display(Protocol):
    """Somewhere to show a board."""

    def start(self) -> None: ...
    def update(self, board: Board) -> None: ...
    def line(self, text: str, board: Board) -> None: ...
    def stop(self) -> None: ...


class PlainDisplay:
    """For logs: a line for each finished trial, and the summary now and then."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def update(self, board: Board) -> None:
        if time.monotonic() - self._last > _PLAIN_EVERY_S:
            for name, metrics in board.running.items():
                self._write(running_line(name, metrics))
            self._write(board.summary())

    def line(self, text: str, board: Board) -> None:
        self._write(f"{text}  [{board.summary()}]")

    def _write(self, text: str) -> None:
        self._last = time.monotonic()
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


class LiveDisplay:
    """For a terminal: finished trials scroll by above the live lines."""

    def __init__(self, console: Console | None = None) -> None:
        self._live = Live(console=console or Console(), refresh_per_second=4, transient=True)

    def start(self) -> None:
        self._live.start()

    def stop(self) -> None:
        self._live.stop()

    def update(self, board: Board) -> None:
        lines = [running_line(name, metrics) for name, metrics in board.running.items()]
        self._live.update(Group(*(Text(line, overflow="ellipsis", no_wrap=True) for line in [*lines, board.summary()])))

    def line(self, text: str, board: Board) -> None:
        self._live.console.print(Text(text))
        self.update(board)


def make_display() -> Display:
    """A live display in a terminal, plain lines elsewhere."""
    console = Console()
    return LiveDisplay(console) if console.is_terminal else PlainDisplay()
