"""The process that runs a sweep, beside Ray: its claim on the sweep, the event log, what `sweep status` reads, and
the requests it obeys."""

from __future__ import annotations

import functools
import logging
import os
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from selgen_ray.driver.added import AddedTrial, read_added, write_added
from selgen_ray.driver.blockade import FIRST_WAIT_S, MOST_EXCUSED, Blockade, missing_inputs, probe_storage
from selgen_ray.driver.display import Board
from selgen_ray.driver.feedback import Feedback
from selgen_ray.driver.trial_queue import TrialQueue
from selgen_ray.driver.trust import Trust
from selgen_ray.errors import SweepBusyError, SweepLostError, blocked_by
from selgen_ray.records.control import ALL, LIVE, PLAN, Control, mark_name
from selgen_ray.records.events import EventLog
from selgen_ray.records.liveness import LEASE_S
from selgen_ray.records.results import now
from selgen_ray.records.status import TrialStatus
from selgen_ray.stats import is_finite_number
from selgen_ray.storage import Folder
from selgen_ray.storage.leases import Lease, Watch, has_died_here, named, newest_number, read_lease, this_host
from selgen_ray.trial.task import TrialTask

logger = logging.getLogger(__name__)
_SETTLE_S = 0.5


def claim(control: Control, after: int = 0, lease_s: float | None = None) -> Lease:
    """Acquire the lease on a sweep: only its holder runs the sweep. It is released at the end of its `with`.

    A holder that died on this machine is recognised at once, one on another machine after `lease_s` seconds of silence.
    The number of the lease is the sweep's generation: every later lease has a higher one.

    Args:
        after: the highest generation of which a result is known.
        lease_s: seconds; default: LEASE_S.

    Raises:
        SweepBusyError: another process runs the sweep.
        StorageError: the folder cannot be read or written.
    """
    lease_s = LEASE_S if lease_s is None else lease_s
    watch, first = Watch(control.driver, lease_s, _SETTLE_S), None
    while (lease := _acquire(watch, after)) is None:
        holder = watch.holder()
        if holder is None:
            continue
        where = str(holder.get("host", "")).split(" ")[0]
        # it is alive, or has just renewed its lease
        if holder.get("host") == this_host() or first not in (None, holder):
            raise SweepBusyError(
                f"{control.folder}: process {holder.get('pid')} on {where} is running this sweep. 'python -m "
                "selgen_ray.sweep status' shows how far it is, 'add' gives it more trials, 'stop --all' ends it"
            )
        if first is None:
            first = holder
            logger.warning("process %s on %s may be running this sweep: waiting for a sign", holder.get("pid"), where)
        time.sleep(lease_s / 30)
    return lease


def _acquire(watch: Watch, after: int) -> Lease | None:
    """Return a new lease; None if another process holds one, or took the same number at the same time."""
    lease = watch.acquire(after)
    if lease is not None and watch.place.local_path is None:
        time.sleep(watch.settle_s)  # an object store may have let two create it: the last one to write has it
        if lease.look() is not None:
            return None
    return lease


def record_end(sweep: Folder, why: str, pid: int) -> None:
    """Record that a sweep has ended whose driver could not do so itself.

    Args:
        why: what became of the driver.
        pid: of the driver, which ran on this machine and is dead.

    Raises:
        SweepLostError: another process took the sweep over; nothing is written.
        StorageError: the storage refused.
    """
    control = Control(sweep)
    number = newest_number(control.driver.files())
    lease = read_lease(control.driver, number)
    if lease and not (lease.get("pid") == pid and has_died_here(lease)):
        raise SweepLostError(named(lease))
    live = control.read(LIVE)
    if live.get("over") and live.get("pid") == pid:
        return  # it had come as far as that
    events = EventLog(sweep, number or 1)
    events.add("sweep_ended", why=why)
    events.flush()
    if live:
        control.folder.write_json(LIVE, live | {"over": True, "running": {}})


class Driver:
    """Does the driver's work besides running trials, in a thread of its own: event log, live state, requests.

    A storage that does not answer blocks nobody: what could not be written is tried again in the next round.

    Args:
        sweep: the sweep's folder.
        queue: the trials to run.
        board: the state that the terminal shows.
        tasks: trial id -> task, of every trial of the sweep, finished ones included.
        make: makes the task of a trial that is added.
        lease: this process's right to run the sweep. Once it is lost, nothing of the sweep's is written any more but
            events, to a file of this driver's own, and the sweep ends here. None: nobody else can run it.
        time_budget_s: after so long the sweep ends as after Ctrl-C; None: no limit.
        say: shows a line to the user.
        left_out: trial id -> name, of trials of the sweep that this run leaves alone, whoever added them.
        trusted: what trials may run and reach; None: nothing.

    Attributes:
        why_ending: why the sweep is to end early, once it is.
        feedback: early stopping and searches; set before the `with`.
    """

    feedback: Feedback

    def __init__(
        self,
        sweep: Folder,
        queue: TrialQueue,
        board: Board,
        tasks: Mapping[str, TrialTask],
        make: Callable[[AddedTrial], TrialTask],
        lease: Lease | None = None,
        time_budget_s: float | None = None,
        say: Callable[[str], None] = lambda _: None,
        left_out: Mapping[str, str] | None = None,
        trusted: Trust | None = None,
    ):
        self._lease, self._generation = lease, lease.number if lease else 1
        self.control, self.events = Control(sweep), EventLog(sweep, self._generation)
        self.queue, self.board, self._tasks, self._make, self._say = queue, board, dict(tasks), make, say
        self._left_out, self._trusted = dict(left_out or {}), trusted or Trust()
        self._told: set[str] = set()
        self._blockade = Blockade(self._probe)
        self._inputs: list[str] = []  # files that were gone
        self._excused: Counter[str] = Counter()
        self.why_ending: str | None = None
        self._every_s = self.control.look_every_s
        self._deadline = time.monotonic() + time_budget_s if time_budget_s is not None else None
        self._later: deque[Callable[[], None]] = deque()
        self._over, self._wake, self._closing = threading.Event(), threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._run, name="driver", daemon=True)

    @property
    def is_lost(self) -> bool:
        """Whether another process has taken the sweep over."""
        return self._lease is not None and self._lease.lost is not None

    def __enter__(self) -> Driver:
        if self._lease is not None:
            self._lease.on_lost = self._lose
            if (who := self._lease.look()) is not None:
                raise SweepLostError(who)
        self.control.stop.clear(ALL)
        plan = {trial_id: task.name for trial_id, task in self._tasks.items()}
        self.control.folder.write_json(PLAN, {"updated_at": now(), "trials": plan, "left_out": self._left_out})
        self.events.add("sweep_started", trials=self.queue.total)
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def close(self) -> None:
        """End the thread and write what is left to write; a second call does nothing."""
        with self._closing:
            if not self._over.is_set():
                self._close()

    def _close(self) -> None:
        self._over.set()
        self._wake.set()
        self._thread.join()
        self._try(self._look)
        if self.is_lost:
            self._try(self.events.flush)
            return
        self.events.add("sweep_ended", **self._counts(), **({"why": self.why_ending} if self.why_ending else {}))
        for write in (self._write_later, self.events.flush, self._write_live, lambda: self.control.stop.clear(ALL)):
            self._try(write)

    def end(self, why: str) -> None:
        """Let running trials finish their step and save a checkpoint; start no others. Safe in a signal handler."""
        if self.why_ending is None:
            self.why_ending = why
            self.queue.is_ending = True
            self.later(lambda: self.control.stop.set(ALL, why=why, generation=self._generation))
            self.later(lambda: self.events.add("sweep_ending", why=why))
            self._wake.set()

    def stop(self, tasks: Iterable[TrialTask], why: str) -> None:
        """End trials for good, running ones after their current step; a retry lets them go on."""
        for task in tasks:
            self.later(functools.partial(self.control.stop.set, task.trial_id, why=why))
        self._wake.set()

    def keep(self, trial: AddedTrial, task: TrialTask) -> None:
        """Keep a trial that a search asks for in the sweep's folder, so that the search finds it again."""
        if trial.trial_id not in self._tasks:
            self._tasks[trial.trial_id] = task
            self.board.total += 1
            self.events.add("asked", task.name, search=trial.search)
        self.later(lambda: write_added(self.control, trial))

    def tell(self, event: str, text: str) -> None:
        """Show the user a line, and keep it in the event log."""
        self._say(text)
        self.events.add(event, why=text)

    def gone(self, task: TrialTask) -> str | None:
        """Return which of a trial's files are gone, in words; None if all are there, as far as this machine sees."""
        missing = missing_inputs(task.config)
        return f"{', '.join(missing)}: no such file or folder any more" if missing else None

    def block(self, why: str, task: TrialTask | None = None) -> bool:
        """Pause the feed for a condition that would fail every trial, until a look finds that it has ended.

        Args:
            why: the condition, in words.
            task: the trial that met it.

        Returns:
            Whether the trial is excused: it has not met such a condition too often.
        """
        if task is not None:
            self._excused[task.trial_id] += 1
        if self.why_ending is None and not self._over.is_set():
            self.queue.is_paused = True
            self._inputs = list(dict.fromkeys([*self._inputs, *(missing_inputs(task.config) if task else [])]))
            if self._blockade.begin(why):
                first = f"it is looked at again after {FIRST_WAIT_S:g} s, then ever more rarely"
                self.tell("paused", f"paused, no further trial starts: {why}; {first}")
        return task is None or self._excused[task.trial_id] <= MOST_EXCUSED

    def _look_at_blockade(self) -> None:
        if self._blockade.look():
            self._inputs.clear()
            self.queue.is_paused = False
            self.tell("resumed", "goes on: what held the sweep up has ended")

    def _probe(self) -> None:
        probe_storage(self.control.folder)
        if missing := [path for path in self._inputs if not Path(path).exists()]:
            raise FileNotFoundError(", ".join(missing))

    def later(self, write: Callable[[], None]) -> None:
        """Run a write to the storage soon, and repeat it until it succeeds."""
        self._later.append(write)

    def look_now(self) -> None:
        """Look soon whether another process has taken the sweep over."""
        self._wake.set()

    # -- the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._over.is_set():
            if self._deadline is not None and time.monotonic() > self._deadline:
                self.end("the time budget is used up")
                self._say("the time budget is used up: finishing steps and saving checkpoints")
                self._deadline = None
            # first: this process may have been frozen for as long as it takes to lose the sweep
            if self._try(self._look) and not self.is_lost:
                for job in (self._write_later, self.events.flush, self._write_live, self._obey):
                    self._try(job)
                self._try(self._look_at_blockade)
            elif self.is_lost:
                self._later.clear()
                self._try(self.events.flush)
            else:
                self._try(self._look_at_blockade)
            self._wake.wait(self._every_s)
            self._wake.clear()

    def _try(self, job: Callable[[], None]) -> bool:
        try:
            job()
        except OSError as error:
            if job != self._obey and (why := blocked_by(error)):
                self.block(why)
            else:
                logger.warning("%s", error)
            return False
        except Exception:  # a fault of ours must not end the thread, which keeps the sweep's record
            logger.exception("the driver goes on")
            return False
        return True

    def _look(self) -> None:
        if self._lease is not None:
            self._lease.look()

    def _lose(self, who: str) -> None:
        """End the sweep in this process: its workers see the newer lease themselves, and stop."""
        self.why_ending = str(SweepLostError(who))
        self.queue.end()
        self.events.give_way()
        self.events.add("taken_over", why=f"taken over by {who}")
        self._say(self.why_ending)
        self._wake.set()

    def _write_later(self) -> None:
        while self._later:
            try:
                self._later[0]()
            except OSError:
                raise
            except Exception:  # it would fail in each round, and hold up all that waits behind it
                logger.exception("the driver goes on without this write")
            self._later.popleft()

    def _counts(self) -> dict[str, Any]:
        return {"total": self.board.total, "finished": dict(self.board.finished), "running": len(self.board.running)}

    def _write_live(self) -> None:
        running = {
            name: {k: v for k, v in metrics.items() if isinstance(v, str) or is_finite_number(v)}
            for name, metrics in list(self.board.running.items())
        }
        live = {"updated_at": now(), "every_s": self._every_s, "host": socket.gethostname(), "pid": os.getpid()}
        live |= self._counts() | {"running": running, "seconds_left": self.board.seconds_left()}
        live |= {"paused": self._blockade.why}
        self.control.folder.write_json(LIVE, live | {"ending": self.why_ending, "over": self._over.is_set()})

    def _obey(self) -> None:
        """Carry out the requests in the control folder; one listing shows all of them."""
        asked: dict[str, set[str]] = {"stop": set(), "removed": set(), "retry": set(), "added": set()}
        for path in self.control.folder.files(recursive=True):
            kind, _, name = path.partition("/")
            if kind in asked and (mark := mark_name(name)):
                asked[kind].add(mark)
        if ALL in asked["stop"] and self.why_ending is None and (why := self.control.why_ending(self._generation)):
            self._say(f"{why}: finishing steps and saving checkpoints")
            self.end(why)
        for task in self.queue.drop(asked["stop"] | asked["removed"]):
            status = TrialStatus.REMOVED if task.trial_id in asked[TrialStatus.REMOVED] else TrialStatus.STOPPED
            self.board.finished[status] = self.board.finished.get(status, 0) + 1
            self.events.add(status, task.name, why=self.control.why_stopped(task.trial_id))
            self.feedback.ended(task.trial_id, TrialStatus.STOPPED)
        damaged: dict[str, str] = {}
        for trial in read_added(self.control, asked["added"] - self._tasks.keys() - self._left_out.keys(), damaged):
            if why := self._trusted.why_not(trial.plugins, trial.config):
                self._left_out[trial.trial_id] = trial.name
                self._tell_once("not_run", f"{trial.name} {why}")
                continue
            self._obey_one("added", trial.trial_id, functools.partial(self._join, trial))
        for message in damaged.values():
            self._tell_once("damaged", message)
        for trial_id in asked["retry"]:
            if trial_id in self._tasks:
                self._obey_one("retry", trial_id, functools.partial(self._hand_out, "retry_requested", trial_id))
            self.control.retry.clear(trial_id)

    def _obey_one(self, request: str, trial_id: str, job: Callable[[], None]) -> None:
        """Carry out a request on one trial: a fault in it leaves the others alone. Raises StorageError."""
        try:
            job()
        except OSError:
            raise  # the storage refused, and is asked again
        except Exception as error:
            logger.exception("the driver goes on without this request")
            what = f"control/{request}/{trial_id}.json cannot be carried out: {type(error).__name__}: {error}"
            self._tell_once("damaged", what)

    def _join(self, trial: AddedTrial) -> None:
        self._tasks[trial.trial_id] = self._make(trial)
        self._hand_out("added", trial.trial_id)

    def _tell_once(self, event: str, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self.tell(event, text)

    def _hand_out(self, event: str, trial_id: str) -> None:
        one = self._tasks[trial_id]
        if why := self._trusted.why_not(one.plugins, one.config):  # of a trial that was done before it was asked
            self._tell_once("not_run", f"{one.name} {why}")
            return
        for task in self.queue.add([one]):
            self.board.total += 1
            self.events.add(event, task.name)
            self.feedback.add([task])
