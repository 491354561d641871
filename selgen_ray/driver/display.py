"""Display of a running sweep in the terminal: running trials with their steps, those that ended, the time left."""

from __future__ import annotations

import importlib
import io
import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from selgen_ray.errors import Cause
from selgen_ray.records.status import TrialStatus
from selgen_ray.records.text import printable

KINDS = ("auto", "rich", "plain", "none")
logger = logging.getLogger(__name__)
_PLAIN_EVERY_S, _CALLBACK_EVERY_S, _NOTEBOOK_EVERY_S = 30.0, 0.5, 0.25
_ENDED_SHOWN = 20
_BAR_WIDTH, _FAILURES_SHOWN = 16, 3
_COLOURS: dict[str, str] = {TrialStatus.COMPLETED: "green", TrialStatus.FAILED: "red", TrialStatus.DIVERGED: "yellow"}


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
        """Trials that ended, whatever their status."""
        return sum(self.finished.values())

    def seconds_left(self) -> float | None:
        """Estimate the seconds left from the work done, running trials by their steps; None before any is done."""
        training = [m for m in self.running.values() if m.get("num_steps") and m.get("phase") in (None, "train")]
        parts = (m.get("step", 0) / m["num_steps"] for m in training)
        done = self.num_finished + sum(parts)
        if done <= 0:
            return None
        return (time.monotonic() - self.started) * (self.total - done) / done

    def end(self, name: str, status: str, cause: Cause | None = None) -> None:
        """Count a trial that ended; the cause of one that failed or diverged is shown."""
        self.finished[status] = self.finished.get(status, 0) + 1
        if status in (TrialStatus.FAILED, TrialStatus.DIVERGED):
            self.failures.append(f"{name}: {cause.line if cause else status}")

    def summary(self) -> str:
        """Return the state in one line: '5/18 finished (1 diverged), 2 running, 1:20 left'."""
        odd = ", ".join(f"{n} {status}" for status, n in self.finished.items() if status != TrialStatus.COMPLETED)
        left = self.seconds_left()
        return (
            f"{self.num_finished}/{self.total} finished{f' ({odd})' if odd else ''}, {len(self.running)} running, "
            f"{'?' if left is None else clock(left)} left"
        )


def clock(seconds: float) -> str:
    """Format seconds as m:ss or h:mm:ss."""
    minutes, remaining = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{remaining:02d}" if hours else f"{minutes}:{remaining:02d}"


def running_line(name: str, metrics: dict[str, Any]) -> str:
    """Describe a running trial in one line: its phase unless it trains, step, loss, tokens per second."""
    phase = "" if metrics.get("phase") == "train" else metrics.get("phase", "")
    if "step" not in metrics:
        return f"{name}  {phase or 'starting: a process, then the model and the data'}"
    step = f"{phase + ': ' if phase else ''}step {metrics['step']}/{metrics['num_steps']}"
    return (
        f"{name}  {step}  loss {metrics.get('loss', float('nan')):.4g}  {metrics.get('tokens_per_s', 0.0):.0f} tokens/s"
    )


def finished_line(name: str, status: str, metrics: dict[str, Any]) -> str:
    """Describe a finished trial in one line: its status, capability and alignment."""
    scores = (f"{key} {metrics[key]:.3f}" for key in ("capability", "alignment") if metrics.get(key) is not None)
    return "  ".join([f"{status:9s}", name, *scores])


class Display(Protocol):
    """Shows a board to the user."""

    def start(self) -> None:
        """Open the display; called before the first trial."""
        ...

    def update(self, board: Board) -> None:
        """Show the board, which has changed."""
        ...

    def line(self, text: str, board: Board) -> None:
        """Show that a trial has ended; `text` says how."""
        ...

    def say(self, text: str, board: Board) -> None:
        """Show something that the user must not miss."""
        ...

    def stop(self) -> None:
        """Close the display; called after the last trial, or before the process ends."""
        ...


class NoDisplay:
    """Prints nothing about trials, only what concerns the whole sweep, such as that it ends early."""

    def start(self) -> None: ...
    def update(self, board: Board) -> None: ...
    def line(self, text: str, board: Board) -> None: ...
    def stop(self) -> None: ...

    def say(self, text: str, board: Board) -> None:
        sys.stdout.write(printable(text + "\n"))
        sys.stdout.flush()


class PlainDisplay:
    """Prints lines for a log: one for each finished trial, and the running trials with the summary every 30 s."""

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
        sys.stdout.write(printable(text + "\n"))
        sys.stdout.flush()


class LiveDisplay:
    """Redraws a terminal: finished trials scroll by above the running ones, the last failures and the whole sweep."""

    def __init__(self, console: Console | None = None) -> None:
        self._live = Live(console=console or Console(), refresh_per_second=4, transient=True)

    def start(self) -> None:
        self._live.start()

    def stop(self) -> None:
        self._live.stop()

    def update(self, board: Board) -> None:
        self._live.update(_view(board, self._live.console))

    def line(self, text: str, board: Board) -> None:
        self._live.console.print(Text(printable(text), style=_COLOURS.get(text.split(" ")[0], "")))
        self.update(board)

    say = line


def _view(board: Board, console: Console) -> RenderableType:
    """Draw the part that is refreshed; it is never higher than the terminal, which would scroll it."""
    room = max(console.height - _FAILURES_SHOWN - 4, 1)
    running = list(board.running.items())
    names = {name: _shortened(name, console.width // 3) for name, _ in running[:room]}
    width = max(map(len, names.values()), default=0)
    lines = []
    for name, metrics in running[:room]:
        done = metrics["step"] / metrics["num_steps"] if metrics.get("num_steps") else None
        description = running_line(name, metrics).removeprefix(name).strip()
        lines.append(Text.assemble(f"{names[name]:{width}s} ", *_bar(done), f" {description}"))
    if len(running) > room:
        lines.append(Text(f"and {len(running) - room} more", style="dim"))
    lines += [Text(printable(failure), style="red") for failure in board.failures[-_FAILURES_SHOWN:]]
    lines.append(Text.assemble(*_bar(board.num_finished / max(board.total, 1)), f" {board.summary()}"))
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis"
    return Group(*lines)


def _bar(done: float | None) -> tuple[tuple[str, str], tuple[str, str]]:
    """Return the filled and the open part of a bar, each with its style; all blank if `done` is None."""
    full = round((done or 0) * _BAR_WIDTH)
    return ("━" * full, "green"), ((" " if done is None else "╌") * (_BAR_WIDTH - full), "dim")


def _shortened(name: str, width: int) -> str:
    """Shorten a trial's name to `width` characters: the end of the setting is cut, never the seed."""
    setting, slash, seed = name.rpartition("/")
    room = max(width - len(slash + seed) - 1, 8)
    return name if len(setting) <= room else f"{setting[:room]}…{slash}{seed}"


@dataclass(frozen=True)
class Progress:
    """The state of a running sweep, as a callback gets it.

    Attributes:
        total: trials to run.
        finished: status -> number of trials that ended with it.
        running: trial name -> the numbers it reported last, such as {'step': 12, 'num_steps': 40, 'loss': 0.8}.
        seconds_left: an estimate; None before anything is done.
        summary: all of that in one line.
        message: a line on what has just happened, such as that a trial has ended; '' where only numbers are new.
    """

    total: int
    finished: Mapping[str, int]
    running: Mapping[str, Mapping[str, Any]]
    seconds_left: float | None
    summary: str
    message: str = ""

    @classmethod
    def of(cls, board: Board, message: str = "") -> Progress:
        """Copy the state of a board."""
        running = {name: dict(numbers) for name, numbers in list(board.running.items())}
        return cls(board.total, dict(board.finished), running, board.seconds_left(), board.summary(), message)


class CallbackDisplay:
    """Passes the progress to a function of the user's: at each line, and at most every half second in between.

    A function that raises is not called again; the sweep goes on, and its error is logged.
    """

    def __init__(self, function: Callable[[Progress], object]) -> None:
        self._function: Callable[[Progress], object] | None = function
        self._last = 0.0

    def start(self) -> None: ...
    def stop(self) -> None: ...

    def update(self, board: Board) -> None:
        if time.monotonic() - self._last > _CALLBACK_EVERY_S:
            self.line("", board)

    def line(self, text: str, board: Board) -> None:
        if self._function is None:
            return
        self._last = time.monotonic()
        try:
            self._function(Progress.of(board, text))
        except Exception:
            self._function = None
            logger.exception("progress: the function raised, and is not called again; the sweep goes on")

    say = line


class NotebookDisplay:
    """Redraws an output of a Jupyter notebook in place; it needs IPython alone, no widgets."""

    def __init__(self) -> None:
        # IPython is there, since it runs this code, and is nowhere else needed
        self._ipython: Any = importlib.import_module("IPython.display")
        self._handle: Any = None
        self._ended: deque[str] = deque(maxlen=_ENDED_SHOWN)
        self._last = 0.0
        self._board: Board | None = None

    def start(self) -> None:
        self._handle = self._ipython.display(self._ipython.HTML("<pre>starting</pre>"), display_id=True)

    def stop(self) -> None:
        if self._board is not None:
            self._draw(self._board)

    def update(self, board: Board) -> None:
        self._board = board
        if time.monotonic() - self._last > _NOTEBOOK_EVERY_S:
            self._draw(board)

    def line(self, text: str, board: Board) -> None:
        self._ended.append(text)
        self.update(board)

    def say(self, text: str, board: Board) -> None:
        self._ended.append(text)
        self._board = board
        self._draw(board)

    def _draw(self, board: Board) -> None:
        self._last = time.monotonic()
        console = Console(file=io.StringIO(), width=120, height=30, record=True, force_jupyter=False)
        for text in self._ended:
            console.print(Text(printable(text), style=_COLOURS.get(text.split(" ")[0], "")))
        console.print(_view(board, console))
        html = console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")
        if self._handle is not None:
            self._handle.update(self._ipython.HTML(html))


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return getattr(get_ipython() if get_ipython else None, "kernel", None) is not None


def make_display(kind: str | Callable[[Progress], object] = "auto") -> Display:
    """Return a display.

    Args:
        kind: one of the `KINDS`, or a function that gets the progress. 'auto' is a live display in a terminal and in a
            notebook, and plain lines elsewhere.
    """
    if not isinstance(kind, str):
        return CallbackDisplay(kind)
    if kind == "auto" and in_notebook():
        return NotebookDisplay()
    console = Console(force_terminal=True if kind == "rich" else None)
    if kind == "none":
        return NoDisplay()
    return LiveDisplay(console) if kind == "rich" or (kind == "auto" and console.is_terminal) else PlainDisplay()
