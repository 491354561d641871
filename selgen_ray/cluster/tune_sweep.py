"""The trials of a sweep as Ray Tune trials: started, watched, tried again, ended."""

from __future__ import annotations

import base64
import contextlib
import functools
import logging
import os
import pickle
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray import tune

# Ray's own: another copy cannot find the arguments that Ray has overwritten
from ray._raylet import setproctitle  # pyright: ignore[reportAttributeAccessIssue]
from ray.tune.search import Searcher
from ray.tune.trainable.function_trainable import wrap_function

from selgen_ray.cluster import schedulers
from selgen_ray.cluster.cluster import HeadWatch, Places, TrialResources, nodes, resolve_resources, worker_environment
from selgen_ray.cluster.metrics import SweepMetricsCallback, TrialMetrics
from selgen_ray.cluster.packed_trials import EachOfAPack
from selgen_ray.cluster.repairs import shorten_dumps, survive_lost_workers
from selgen_ray.cluster.trackers import tracker_callbacks
from selgen_ray.cluster.train_group import GroupResources, resolve_group, run_group
from selgen_ray.cluster.tune_events import TuneEvents
from selgen_ray.cluster.wait_notice import WaitNotice
from selgen_ray.driver import guard
from selgen_ray.driver.added import AddedTrial
from selgen_ray.driver.display import Board, Display
from selgen_ray.driver.driver import Driver
from selgen_ray.driver.feedback import Feedback
from selgen_ray.driver.packing import pack_width
from selgen_ray.driver.plan import Plan
from selgen_ray.driver.trial_queue import TrialQueue
from selgen_ray.records.attempts import Attempt
from selgen_ray.records.status import TrialStatus
from selgen_ray.space import Resources, SweepSpec
from selgen_ray.storage import Folder
from selgen_ray.storage.leases import Lease
from selgen_ray.storage.scratch import scratch
from selgen_ray.trial.task import TrialTask

Granted = TrialResources | GroupResources


def resolve(resources: Resources) -> Granted:
    """Return what a trial gets on this cluster, one process or a group. Raises InfeasibleError: nodes are too small."""
    return (resolve_group if resources.workers else resolve_resources)(resources, nodes())


def _fits(granted: Granted, autoscaling: bool) -> Callable[[Sequence[Mapping[str, float]]], int]:
    """Return how many trials to hand out on nodes: those that fit, and some more."""

    def with_some_more(nodes: Sequence[Mapping[str, float]]) -> int:
        num_fit = granted.fit_on(nodes)
        return num_fit + granted.ahead_of(num_fit, autoscaling)

    return with_some_more


@dataclass(frozen=True)
class Launch:
    """A sweep to launch, and how.

    Attributes:
        spec: the search space.
        plan: says which trials run.
        granted: what a trial gets on this cluster.
        display: shows the progress.
        abandon: tells the user why the sweep ended and how it goes on; it ends the process, or lets its thread go on.
        lease: this process's right to run the sweep.
        time_budget_s: after so long the sweep ends as after Ctrl-C; None: no limit.
        is_private: the Ray cluster was started for this sweep alone.
    """

    spec: SweepSpec
    plan: Plan
    granted: Granted
    display: Display
    abandon: Callable[[str], None]
    lease: Lease
    time_budget_s: float | None = None
    is_private: bool = False


def launch(run: Launch) -> str | None:
    """Run the trials that the plan leaves to run, as many at a time as fit; return when none runs any more.

    The outcome of a trial stands in its results.json alone, the events on the way in events.jsonl. Ctrl-C and SIGTERM
    end the sweep after the running steps, with checkpoints; a second one ends it at once.

    Returns:
        Why the sweep ended early, or None if it did not.

    Raises:
        KeyboardInterrupt: at a second Ctrl-C.
    """
    tasks = {p.task.trial_id: p.task for p in run.plan.planned}
    board = Board(total=len(run.plan.to_run))
    max_failures, ask = run.spec.resources.max_failures, (lambda: driver.feedback.ask())
    number, may_ask = run.lease.number, (lambda: driver.feedback.may_ask)
    width = pack_width(run.spec.resources)
    queue = TrialQueue(run.plan.to_run, max_failures, lambda: limit(), ask, may_ask, number, width)

    def make(trial: AddedTrial) -> TrialTask:
        return run.plan.make.task(trial, trial.config, trial.plugins)

    def say(text: str) -> None:
        run.display.say(text, board)

    left_out, trusted = run.plan.left_out, run.plan.make.trusted
    driver = Driver(run.plan.folder, queue, board, tasks, make, run.lease, run.time_budget_s, say, left_out, trusted)
    for why in run.plan.refused:
        driver.events.add("not_run", why=why)
    driver.feedback = Feedback(run.spec, run.plan, driver.stop, driver.keep, schedulers.make_judge)
    places = Places(
        _fits(run.granted, run.spec.resources.autoscaling), lambda event, node: driver.events.add(event, node=node)
    )

    def limit() -> int:
        return min(places(), run.spec.resources.max_concurrent or places())

    runs_now = {task.trial_id for task in run.plan.to_run}
    before: Counter[TrialStatus] = Counter(
        p.found for p in run.plan.planned if p.found is not TrialStatus.PENDING and p.task.trial_id not in runs_now
    )
    watching = [SweepMetricsCallback(run.spec.name, board, before)]
    by_trial = tracker_callbacks(
        run.spec.trackers, run.spec.name, run.plan.folder, queue.known.__getitem__, driver.later
    )

    def give_up(why: str) -> None:  # Ray's calls may never come back: end from here
        queue.is_ending = True  # a new trial could make Ray end this process
        driver.why_ending = why
        driver.close()
        run.display.stop()
        run.abandon(why)

    is_private = run.is_private
    with (
        driver,
        _heeded_signals(driver, say),
        _shown(run.display),
        HeadWatch(give_up, is_private) as head,
    ):
        try:
            waiting = WaitNotice(run.granted, lambda text: driver.tell("waiting", text), is_private=is_private)
            by_trial = [TuneEvents(driver, run.display, max_failures), *by_trial]
            _run_tuner(run, queue, [EachOfAPack(by_trial, queue.run_alone), waiting, *watching])
        except Exception:
            if (why := head.why_dying()) is None:
                raise
            give_up(why)
    return driver.why_ending


def _run_tuner(run: Launch, queue: TrialQueue, callbacks: list[tune.Callback]) -> None:
    survive_lost_workers()
    shorten_dumps()
    known = dict(queue.known)
    with scratch("tune") as place:  # Tune's own state is not the sweep's truth
        tune.Tuner(
            _trainable(run, *_shared(known)),
            tune_config=tune.TuneConfig(
                search_alg=_NextTrial(queue, frozenset(known)),
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=lambda trial: trial.config["name"],
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name=run.spec.name,
                storage_path=str(place),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=0),  # the queue decides which trials run again
                callbacks=callbacks,
            ),
        ).fit()


_TUNE = {
    "RAY_AIR_NEW_OUTPUT": "0",  # no spam on the terminal
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no log files of trials that nobody reads
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Tune's would drop running trials without a checkpoint
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",  # the queue decides how many trials wait for a place
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # Tune's own state is not the sweep's truth
}


@contextlib.contextmanager
def settings_of_tune() -> Iterator[None]:
    """Set what Tune reads when it runs, and put back what the program had, whose own Tuner reads it too.

    Enter it before threads run: where a variable is added, the C library moves all of them, and a client of a storage
    or of Ray that reads one in that moment crashes.
    """
    before = {name: os.environ.get(name) for name in _TUNE}
    log = logging.getLogger("ray.tune")
    level = log.level
    os.environ |= _TUNE
    log.setLevel(logging.CRITICAL)  # a failure gets a line of ours, not a page of Tune's
    try:
        yield
    finally:
        log.setLevel(level)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class _NextTrial(Searcher):
    """Gives Tune the next trial of the queue whenever it asks."""

    def __init__(self, queue: TrialQueue, known: frozenset[str]):
        super().__init__()
        self._queue, self._known = queue, known

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles what it is given for a restore that is never made

    def suggest(self, trial_id: str) -> Any:  # Ray's annotation forgets FINISHED
        if tasks := self._queue.next_pack():
            members = [self._config(task) for task in tasks]
            if len(members) == 1:
                return members[0]
            return {"trial_id": tasks[0].trial_id, "name": f"{len(members)} trials in a pack", "members": members}
        return Searcher.FINISHED if self._queue.is_over else None

    def _config(self, task: TrialTask) -> dict[str, Any]:
        config = {"trial_id": task.trial_id, "name": task.name}
        config["attempt"] = str(task.attempt)
        if task.trial_id not in self._known:  # workers know the tasks that were there from the start alone
            config["late"] = base64.b64encode(pickle.dumps(task)).decode()
        return config

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None: ...

    def save(self, checkpoint_path: str) -> None: ...  # the sweep's folder is what a restart reads

    def restore(self, checkpoint_path: str) -> None: ...


_TOGETHER = 100
"""Tasks that a worker gets at a time: to unpickle all of a large sweep takes longer than a short trial."""


def _shared(tasks: Mapping[str, TrialTask]) -> tuple[dict[str, int], list[ray.ObjectRef[Any]]]:
    """Put the tasks where workers find them; return id -> number of its part, and the parts, each {id: task}."""
    ids = list(tasks)
    parts = [ids[start : start + _TOGETHER] for start in range(0, len(ids), _TOGETHER)]
    return (
        {trial_id: number for number, part in enumerate(parts) for trial_id in part},
        [ray.put({trial_id: tasks[trial_id] for trial_id in part}) for part in parts],
    )


def _trainable(run: Launch, part_of: dict[str, int], parts: list[ray.ObjectRef[Any]]) -> type:
    """Return the Tune trainable: a function in a reused worker, so that imports and base model are loaded once."""
    name, granted, torch_threads, sweep = run.spec.name, run.granted, run.spec.resources.torch_threads, run.plan.folder
    env = worker_environment(run.spec.resources)
    group = granted if isinstance(granted, GroupResources) else None
    width = None if run.spec.resources.packs_by_memory else pack_width(run.spec.resources)
    share = min(1.0, granted.gpus_per_process) or 1.0  # of one device: whoever gets several uses the first

    at_hand: dict[int, dict[str, TrialTask]] = {}  # of each worker its own, as it is pickled empty

    def task_of(config: dict[str, Any]) -> TrialTask:
        if late := config.get("late"):
            task = pickle.loads(base64.b64decode(late))
        else:
            number = part_of[config["trial_id"]]
            if number not in at_hand:
                at_hand.clear()
                at_hand[number] = ray.get(parts[number])
            task = at_hand[number][config["trial_id"]]
        return replace(task, attempt=Attempt.of(config["attempt"]))

    def train(config: dict[str, Any]) -> None:
        from selgen_ray.trial.worker import run_in_worker, run_pack_in_worker  # late: the driver needs no PyTorch

        if "members" in config:
            tasks = [task_of(member) for member in config["members"]]
            show = functools.partial(TrialMetrics, name)
            run_pack_in_worker(tasks, sweep, torch_threads, width, tune.report, show, share=share)
            return
        task = task_of(config)
        if group is None:
            run_in_worker(task, sweep, torch_threads, tune.report, TrialMetrics(name, task))
        else:
            _run_group(task, sweep, group, torch_threads, TrialMetrics(name, task))

    class TrialWorker(wrap_function(train)):  # type: ignore[misc]  # Ray has no public class to name a function by
        def setup(self, config: dict[str, Any]) -> None:
            for variable, value in env.items():  # on a cluster that the program had joined, Ray does not set them
                os.environ.setdefault(variable, value)
            from selgen_ray.trial.worker import heed_sigterm  # late: as above

            heed_sigterm()  # here, since signals are a matter of the main thread
            super().setup(config)

        def step(self) -> dict[str, Any]:
            # Ray names the process after the method; the dashboard lists processes, so name it after the trial
            setproctitle(f"ray::{self.trial_name}")
            return super().step()

        @classmethod
        def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
            return tune.PlacementGroupFactory([granted.bundle])

        def __repr__(self) -> str:
            return f"trial worker of {name}"  # Ray asks once, and the worker outlives its first trial

    return TrialWorker


def _run_group(task: TrialTask, sweep: Folder, group: GroupResources, threads: int, metrics: TrialMetrics) -> None:
    """Run a trial on several workers, as `run_in_worker` does on one; this process shows what rank 0 reports."""
    status = TrialStatus.FAILED

    def report(line: dict[str, Any]) -> None:
        nonlocal status
        metrics.update(line)
        status = line.get("status", status)
        tune.report(line)

    try:
        run_group(task, sweep, group, threads, report)
    finally:
        metrics.finish(status)


@contextlib.contextmanager
def _shown(display: Display) -> Iterator[None]:
    display.start()
    try:
        yield
    finally:
        display.stop()


@contextlib.contextmanager
def _heeded_signals(driver: Driver, say: Callable[[str], None]) -> Iterator[None]:
    """End the sweep in an orderly way at the first SIGINT or SIGTERM, at once at the second."""
    if threading.current_thread() is not threading.main_thread():
        yield  # somebody else's process: its signals are not ours
        return
    names = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}

    def heed(number: int, frame: Any) -> None:
        guard.note(f"signal {number}")
        if driver.why_ending is not None:
            raise KeyboardInterrupt
        name = names[signal.Signals(number)]
        driver.end(name)
        # not from here: the terminal may be in the middle of a line
        hint = "; again: at once" if number == signal.SIGINT else ""
        driver.later(lambda: say(f"{name}: finishing steps and saving checkpoints{hint}"))

    before = {number: signal.signal(number, heed) for number in names}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
