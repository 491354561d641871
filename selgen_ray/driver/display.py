"""What the terminal shows of a running sweep: running trials with their steps, those that ended, the time left."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from selgen_ray.last_line import last_line

KINDS = ("auto", "rich", "plain", "none")
_PLAIN_EVERY_S = 30.0
_BAR_WIDTH, _FAILURES_SHOWN = 16, 3
_COLOURS = {"completed": "green", "failed": "red", "diverged": "yellow"}


@dataclass
class Board:
    """The state of a sweep as far as it is shown.

    Attributes:
        total: trials to run.
        running: trial name -> its last reported numbers.
        finished: status -> count.
        failures: 'name: cause' of the trials that failed or diverged.
    """

    total: int
    running: dict[str, dict[str, Any]] = field(default_factory=dict)
    finished: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
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

    def end(self, name: str, status: str, cause: str) -> None:
        """Count a trial that ended."""
        self.finished[status] = self.finished.get(status, 0) + 1
        if status in ("failed", "diverged"):
            self.failures.append(f"{name}: {last_line(cause, status)}")

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

    def start(self) -> None:
        """Before the first trial."""
        ...

    def update(self, board: Board) -> None:
        """The board has changed."""
        ...

    def line(self, text: str, board: Board) -> None:
        """A trial has ended; `text` tells how."""
        ...

    def say(self, text: str, board: Board) -> None:
        """Something that the user must not miss."""
        ...

    def stop(self) -> None:
        """After the last trial, or before the process ends."""
        ...


class NoDisplay:
    """For those who look elsewhere: no trials, only what concerns the whole sweep, such as that it ends early."""

    def start(self) -> None: ...
    def update(self, board: Board) -> None: ...
    def line(self, text: str, board: Board) -> None: ...
    def stop(self) -> None: ...

    def say(self, text: str, board: Board) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


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

    say = line

    def _write(self, text: str) -> None:
        self._last = time.monotonic()
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


class LiveDisplay:
    """For a terminal: finished trials scroll by above the running ones with their bars, the failures, and the whole."""

    def __init__(self, console: Console | None = None) -> None:
        self._live = Live(console=console or Console(), refresh_per_second=4, transient=True)

    def start(self) -> None:
        self._live.start()

    def stop(self) -> None:
        self._live.stop()

    def update(self, board: Board) -> None:
        self._live.update(_view(board, self._live.console))

    def line(self, text: str, board: Board) -> None:
        self._live.console.print(Text(text, style=_COLOURS.get(text.split(" ")[0], "")))
        self.update(board)

    say = line


def _view(board: Board, console: Console) -> RenderableType:
    """The part that is drawn anew: it never is higher than the terminal, which would scroll it."""
    room = max(console.height - _FAILURES_SHOWN - 4, 1)
    running = list(board.running.items())
    names = {name: _shortened(name, console.width // 3) for name, _ in running[:room]}
    width = max(map(len, names.values()), default=0)
    lines = []
    for name, metrics in running[:room]:
        done = metrics["step"] / metrics["num_steps"] if metrics.get("num_steps") else None
        told = running_line(name, metrics).removeprefix(name).strip()
        lines.append(Text.assemble(f"{names[name]:{width}s} ", *_bar(done), f" {told}"))
    if len(running) > room:
        lines.append(Text(f"and {len(running) - room} more", style="dim"))
    lines += [Text(failure, style="red") for failure in board.failures[-_FAILURES_SHOWN:]]
    lines.append(Text.assemble(*_bar(board.num_finished / max(board.total, 1)), f" {board.summary()}"))
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis"
    return Group(*lines)


def _bar(done: float | None) -> tuple[tuple[str, str], tuple[str, str]]:
    """What is done and what is not, of 16 columns; nothing where it is not known."""
    full = round((done or 0) * _BAR_WIDTH)
    return ("━" * full, "green"), ((" " if done is None else "╌") * (_BAR_WIDTH - full), "dim")


def _shortened(name: str, width: int) -> str:
    """The setting's end gives way, never the seed."""
    setting, slash, seed = name.rpartition("/")
    room = max(width - len(slash + seed) - 1, 8)
    return name if len(setting) <= room else f"{setting[:room]}…{slash}{seed}"


def make_display(kind: str = "auto") -> Display:
    """A display of one of the `KINDS`; 'auto': a live one in a terminal, plain lines elsewhere."""
    console = Console(force_terminal=True if kind == "rich" else None)
    if kind == "none":
        return NoDisplay()
    return LiveDisplay(console) if kind == "rich" or (kind == "auto" and console.is_terminal) else PlainDisplay()
