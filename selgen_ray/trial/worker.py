"""The work of a worker process: one trial after the other, each with a watch for requests to stop; without Ray."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import Any, Protocol

from selgen_ray.errors import INPUT_ERRORS, ModelError, TrialError, TrialSuperseded, blocked_by
from selgen_ray.models.loading import Source
from selgen_ray.records.attempts import REMOVED, attempt_of, status_after
from selgen_ray.records.control import ALL, Control
from selgen_ray.records.results import TrialResult
from selgen_ray.records.status import TrialStatus
from selgen_ray.storage import Folder
from selgen_ray.trainers.catalogue import build_config
from selgen_ray.trainers.engine.loop import accelerator
from selgen_ray.trainers.engine.stop_signal import StopSignal
from selgen_ray.trainers.pack.pack import Pack
from selgen_ray.trainers.pack.room import DeviceMemory
from selgen_ray.trial.run import run_trial
from selgen_ray.trial.task import TrialTask

logger = logging.getLogger(__name__)
_REPORT_EVERY_S = 0.5  # a report waits for the driver: more often would slow a short trial down


class TrialShown(Protocol):
    """Shows a running trial to people; `cluster.metrics.TrialMetrics` is one."""

    def update(self, progress: dict[str, Any]) -> None:
        """Show a progress line or an evaluation."""
        ...

    def finish(self, status: str, result: TrialResult | None = None) -> None:
        """Show how the trial ended."""
        ...


Report = Callable[[dict[str, Any]], None]
_running: set[StopSignal] = set()  # of the trials that this process runs now


def run_in_worker(task: TrialTask, sweep: Folder, torch_threads: int, report: Report, metrics: TrialShown) -> None:
    """Run a trial, forwarding its progress and events; the last report holds its status.

    Raises:
        TrialError: the trial failed, and another try may succeed. (A wrong input is reported as 'failed' instead, what
            would fail all trials alike as 'preempted', with the cause under 'blocked'.)
    """
    _make_ready(torch_threads)
    _run_watched(task, sweep, Reports(report), metrics)
    if sigterm_arrived():
        raise TrialError("the worker got SIGTERM: its machine goes away")  # else it would get the next trial


def run_pack_in_worker(
    tasks: Sequence[TrialTask],
    sweep: Folder,
    torch_threads: int,
    width: int | None,
    report: Report,
    show: Callable[[TrialTask], TrialShown],
    *,
    share: float = 1.0,
    memory: DeviceMemory | None = None,
) -> None:
    """Run trials over one base, at most `width` at a time, as `run_in_worker` does with one.

    Each report is {'reports': [...]}: those of the trials since the last one, each with the trial's id as 'member';
    a trial's first one has 'started', its last one its status: 'crashed' is a trial that raised.

    Args:
        width: None: as many as fit into the device's memory; the trial whose training says so gets an event.
        report: called from this thread alone, while no trial runs.
        show: makes what shows a trial to people.
        share, memory: as in `Pack`.
    """
    _make_ready(torch_threads)
    waiting: SimpleQueue[dict[str, Any]] = SimpleQueue()

    def send() -> None:
        lines = list[dict[str, Any]]()
        while not waiting.empty():
            lines.append(waiting.get())
        if lines:
            report({"reports": lines})

    def run(task: TrialTask, source: Source | None, *events: dict[str, Any]) -> None:
        def put(line: dict[str, Any]) -> None:
            waiting.put({"member": task.trial_id, **line})

        put({"started": True})
        reports = Reports(put)
        for event in events:
            reports.event(event)
        company = sorted(other.name for other in tasks if other is not task and source)
        try:
            _run_watched(task, sweep, reports, show(task), source=source, packed_with=company)
        except TrialError as error:
            reports.last({"status": TrialStatus.CRASHED, "error": str(error)})

    def tell(number: int, _: int, why: str) -> None:
        waiting.put({"member": tasks[number].trial_id, "events": [{"event": "pack_width", "why": why}]})

    config = build_config(tasks[0].config).finetune_config
    device = str(accelerator().device)
    try:
        pack = Pack(width, config, device, memory=memory, share=share, on_width=tell)
    except ModelError as error:  # each trial runs alone, or says the same in its own result
        for task in tasks:
            run(task, None, {"event": "not_packed", "why": str(error)})
            send()
    else:
        pack.run((functools.partial(run, task) for task in tasks), on_round=send)
        send()
    if sigterm_arrived():
        raise TrialError("the worker got SIGTERM: its machine goes away")


def _make_ready(torch_threads: int) -> None:
    import torch

    quiet_worker()
    free_memory()
    torch.set_num_threads(torch_threads)


def _run_watched(task: TrialTask, sweep: Folder, reports: Reports, metrics: TrialShown, **options: Any) -> None:
    def progress(line: dict[str, Any]) -> None:
        metrics.update(line)
        reports.progress(line)

    try:
        with watched(sweep, task) as stop:
            result = run_trial(task, progress, stop=stop, on_event=reports.event, **options)
    except TrialSuperseded as error:
        metrics.finish(status_after(error))
        logger.warning("%s: %s", task.name, error)
        reports.last({"status": status_after(error), "error": str(error)})
        return
    except INPUT_ERRORS as error:
        metrics.finish(TrialStatus.FAILED)
        logger.error("%s", error)  # published as failed; the same input would fail again
        reports.last({"status": TrialStatus.FAILED, "error": str(error)})
        return
    except Exception as error:
        if why := blocked_by(error):
            metrics.finish(TrialStatus.PREEMPTED)
            reports.last({"status": TrialStatus.PREEMPTED, "blocked": why})
            return
        metrics.finish(TrialStatus.FAILED)
        raise TrialError(f"{type(error).__name__}: {error}") from error
    metrics.finish(result.status.after_run, result)
    reports.last(last_report(task, result))


def last_report(task: TrialTask, result: TrialResult) -> dict[str, Any]:
    """Return the last report of a run: its status, headlines, and why it diverged or was stopped.

    'found_finished' says whose result it is, where the run found one that another attempt had finished.
    """
    last: dict[str, Any] = {
        "status": result.status.after_run,
        "capability": result.capability,
        "alignment": result.alignment,
    }
    last |= {"error": result.error} if result.error else {}
    by = attempt_of(result)
    if task.attempt is not None and by != task.attempt:
        last["found_finished"] = f"attempt {by or 'of an earlier release'} had finished it already"
    return last


class Reports:
    """Sends progress to the driver: at most every 0.5 s, but every event and every evaluation."""

    def __init__(self, send: Report):
        self._send = send
        self._last = 0.0
        self._held: dict[str, Any] = {}  # the newest progress that was not reported
        self._events: list[dict[str, Any]] = []  # the thread that writes checkpoints appends too

    def event(self, event: dict[str, Any]) -> None:
        """Keep an event for the next report."""
        self._events.append(event)

    def progress(self, metrics: dict[str, Any]) -> None:
        """Report the progress, unless the last report was a moment ago; events and evaluations are reported at once."""
        if self._events or "evaluated" in metrics or time.monotonic() - self._last > _REPORT_EVERY_S:
            self.last(self._held | metrics if "evaluated" in metrics else metrics)
        else:
            self._held = metrics

    def last(self, metrics: dict[str, Any]) -> None:
        """Report at once."""
        events, self._events, self._held = self._events, [], {}
        self._last = time.monotonic()
        self._send(metrics | ({"events": events} if events else {}))


@contextlib.contextmanager
def watched(sweep: Folder, task: TrialTask) -> Iterator[StopSignal]:
    """Yield a signal that is set when the trial or the whole sweep is asked to stop, or SIGTERM arrives.

    It is also set when another driver has taken the sweep over from the one that made the task, or when the trial was
    removed.

    The first look into the sweep's folder is made before the trial begins: much may have been asked since it was handed
    out. A thread makes the others, so that slow storage does not hold up the training.
    """
    stop, ended = StopSignal(), threading.Event()
    control = Control(sweep)

    def look() -> None:
        try:
            asked = control.stop.names()
            if task.attempt is not None and (driver := control.newer_driver(task.attempt.generation)):
                stop.request("superseded", f"the sweep was taken over by {driver}")
            elif task.attempt is not None and control.removed.is_set(task.trial_id):
                stop.request("superseded", REMOVED)
            elif task.trial_id in asked:
                stop.request("stopped", control.why_stopped(task.trial_id))
            elif ALL in asked and (why := control.why_ending(task.attempt.generation if task.attempt else 0)):
                stop.request("preempted", why)
        except OSError as error:
            logger.warning("cannot look for requests to stop: %s", error)

    def go_on_looking() -> None:
        while not stop.requested and not ended.wait(control.look_every_s):
            look()

    _running.add(stop)
    if sigterm_arrived():
        stop.request("preempted", "the worker got SIGTERM")
    else:
        look()
    thread = threading.Thread(target=go_on_looking, name="requests to stop", daemon=True)
    thread.start()
    try:
        yield stop
    finally:
        _running.discard(stop)
        ended.set()  # not joined: a look at storage that does not answer takes long


_sigterm = threading.Event()


def sigterm_arrived() -> bool:
    """Return whether this process got SIGTERM."""
    return _sigterm.is_set()


def heed_sigterm() -> None:
    """Make SIGTERM stop the running trial after its step, with a checkpoint; call it from the main thread.

    A process that runs no trial calls its former handler, or ends at once if it had none.
    """
    before = signal.getsignal(signal.SIGTERM)

    def on_sigterm(number: int, frame: Any) -> None:
        _sigterm.set()
        if _running:
            for stop in list(_running):
                stop.request("preempted", "the worker got SIGTERM")
        elif callable(before):
            before(number, frame)
        else:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, on_sigterm)


def quiet_worker() -> None:
    """Keep progress bars and warnings of libraries out of the worker's log."""
    import transformers

    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()


_left, _added = 0, 0  # objects that the last full collection left, and those that were frozen since


def free_memory() -> None:
    """Free what the trial before left, then freeze all objects that stay: collecting them again costs a step's time.

    Objects frozen earlier are collected again only when their number has grown by a tenth: a full collection takes a
    fifth of a second with the libraries loaded.
    """
    global _left, _added
    import torch

    is_full = not _left or _added > 0.1 * _left
    if is_full:
        gc.unfreeze()
    gc.collect()
    found = len(gc.get_objects())  # frozen ones are not among them, and to count those takes longer than a short trial
    _left, _added = (found, 0) if is_full else (_left, _added + found)
    gc.freeze()
    _give_back()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _give_back() -> None:
    """Return the heap's free pages to the machine: glibc keeps gigabytes of a trial's activations otherwise."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # no other allocator has it
        trim(0)
