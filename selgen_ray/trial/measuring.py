"""What a trial costs, from a few of its steps and one batch of each of its evaluations: run, timed, thrown away.

Nothing is written but into a temporary folder: no result, no checkpoint, no value that other trials would find.
"""

from __future__ import annotations

import gc
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from selgen_ray.data.forms import Row, prompt_of
from selgen_ray.data.rows import load_roles
from selgen_ray.data.sets import RowSet
from selgen_ray.errors import INPUT_ERRORS, TrialDiverged
from selgen_ray.evals.snapshot import Snapshot
from selgen_ray.hashing import digest
from selgen_ray.models import tokenizer
from selgen_ray.records.text import first_line
from selgen_ray.seeding import keep_global_rng
from selgen_ray.storage import Folder
from selgen_ray.storage.cache import Cache
from selgen_ray.storage.parallel import clock
from selgen_ray.storage.scratch import scratch
from selgen_ray.trainers.base import BaseTrainer, trainer_class
from selgen_ray.trainers.catalogue import build_config
from selgen_ray.trainers.engine import ranks
from selgen_ray.trainers.engine.context import Training
from selgen_ray.trainers.engine.evaluations import Evaluations, Measured
from selgen_ray.trainers.engine.loop import Job, Progress, take_step
from selgen_ray.trainers.engine.phases import Phase
from selgen_ray.trainers.engine.shared_values import SharedValues
from selgen_ray.trainers.plugins import register_exactly
from selgen_ray.trial.task import TrialTask

_WARM_UP, _TIMED = 1, 6  # optimizer steps of a training: the first of a process are slower
_MOST_LOOKED_AT = 10_000  # steps of which is asked what is due in them
_FEW_ROWS = 8
_NO_LENGTH = 64  # tokens of a prompt that are assumed where nothing is known
_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|cannot allocate memory|alloc_cpu|not enough memory", re.I)


def measure_trial(task: TrialTask, *, fsdp: bool = False) -> dict[str, Any]:
    """Run a little of a trial and return what it took, as plain data; `driver.estimating.Measured` names the keys.

    If several processes train the trial together, each calls this function.

    Returns:
        The measurement. {'problem': why, 'fits': False} where its memory does not do, and {'problem': why, 'fits':
        True} where something else is wrong: neither is raised.
    """
    try:
        return _Measuring(task, fsdp).measured()
    except Exception as error:
        if ranks.world_size() > 1:
            raise  # the others wait for this rank: its group has to end
        return problem_of(error)
    finally:
        gc.collect()


def problem_of(error: Exception) -> dict[str, Any]:
    """Return how an error stands in a measurement: whether memory was too small, and its cause in one line."""
    chain = list(_chain(error))
    if found := next((one for one in chain if _is_about_memory(one)), None):
        return {"problem": first_line(found), "fits": False}
    named = error if isinstance(error, (*INPUT_ERRORS, TrialDiverged)) else None
    return {"problem": str(named) if named else f"{type(error).__name__}: {first_line(error)}", "fits": True}


def _chain(error: BaseException | None) -> Iterator[Exception]:
    while isinstance(error, Exception):
        yield error
        error = error.__cause__ or error.__context__


def _is_about_memory(error: Exception) -> bool:
    # on a CPU PyTorch raises a bare RuntimeError
    is_plain = type(error) is RuntimeError and _NO_MEMORY.search(str(error)) is not None
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or is_plain


class _Measuring:
    """One measurement: what was run so far, and how much longer the whole of it would have taken."""

    def __init__(self, task: TrialTask, fsdp: bool):
        self.task, self.fsdp = task, fsdp
        self.trainings: list[dict[str, Any]] = []
        self.events: list[str] = []
        self.unrun_s = 0.0
        """Seconds of trainings so far that were not run, by those that were."""

    def measured(self) -> dict[str, Any]:
        register_exactly(self.task.plugins)
        reset_peak_memory()
        with scratch("estimate") as place, keep_global_rng():
            open_s = [self._open_s(place)] if not self.fsdp else []  # a sharded base serves one trial alone
            start = clock()
            with self._trainer(place) as trainer:
                open_s.append(clock() - start)
                found = self._of(trainer)
                if self._keeps_model(trainer):
                    found["save_s"] = _seconds(lambda: trainer.save_model(place / "model"), trainer)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return found | {
            "device": device,
            "memory": peak_memory(),
            "device_memory": torch.cuda.mem_get_info()[1] if device == "cuda" else None,
            "open_s": open_s[-1],
            "load_s": max(0.0, open_s[0] - open_s[-1]),
            "trainings": self.trainings,
            "events": self.events,
        }

    def _open_s(self, place: Path) -> float:
        """Load what every trial of the process finds loaded later, and return the seconds."""
        start = clock()
        with self._trainer(place) as trainer:
            if type(trainer).main_phase is not BaseTrainer.main_phase:
                trainer.main_phase().start(None)  # another loop, whose packages are imported here
            return clock() - start

    def _trainer(self, place: Path) -> BaseTrainer:
        config = build_config(self.task.config)
        make_trainer = trainer_class(config.proxy_strategy)
        refused, prompts = tokenizer.refused_rows(config), make_trainer.training_prompts(config)
        return make_trainer(
            config,
            datasets=load_roles(config, make_trainer.needed_roles(config), refused, prompts),
            cache=Cache(Folder(str(place / "cache"))),
            model_hash=self.task.model_hash,
            on_event=lambda event: self.events.append(str(event["why"])),
            fsdp=self.fsdp,
        )

    def _keeps_model(self, trainer: BaseTrainer) -> bool:
        return (trainer.cfg.keeps_model or trainer.cfg.push_to_hub) and ranks.is_main() and not self.fsdp

    def _of(self, trainer: BaseTrainer) -> dict[str, Any]:
        """Run the parts of a trial, in its order."""
        sampled = SampledEvaluations(trainer.run, None)  # no judge: its answers cost money
        trainer.evaluations, trainer.run.fit = sampled, self._fit
        shared = trainer.run.shared = TimedValues(trainer.run.shared, lambda: self.unrun_s)
        sampled.sample(_FEW_ROWS)  # a process's first passes are slower
        before = sampled.sample()
        sampled.base()

        start = clock()
        trainer.prepare()
        phase = trainer.main_phase()
        progress = phase.start(None)
        _wait_for_device(trainer)
        prepare_s = clock() - start + self.unrun_s

        if isinstance(phase, Phase):
            strata = self._steps(phase.job, progress, [largest_step(phase)])
            checkpoint_s = _seconds(lambda: phase.capture(progress, {}), trainer)
        else:
            strata, checkpoint_s = self._of_another_loop(phase, progress)
        trainer.record.add_reading(progress.step, *progress.read())
        after = sampled.sample()
        for one, again in zip(before, after, strict=True):
            one["seconds"] += again["seconds"]
        edits, edits_s = self._edits(trainer)
        return {
            "steps": {"per_epoch": phase.epoch_steps, "strata": strata},
            "checkpoint_s": checkpoint_s,
            "evaluation": before,
            "versions": sampled.num_asked,
            "edits": edits,
            "edits_s": edits_s,
            "prepare_s": max(0.0, prepare_s - sum(one["seconds"] for one in shared.taken)),
            "shared": shared.taken,
        }

    # -- training ------------------------------------------------------------------------------------------------------

    def _fit(self, job: Job, progress: Progress, after_step: Callable[[Progress], None]) -> None:
        """Train a throw-away phase for a few steps; note how long all of them would have taken."""
        start, left = clock(), job.num_steps - progress.step
        strata = self._steps(job, progress)
        whole_s = left * sum(one["share"] * _mean(one["seconds"]) for one in strata)
        self.trainings.append({"name": job.phase, "num_steps": left, "seconds": whole_s})
        self.unrun_s += whole_s - (clock() - start)

    def _of_another_loop(self, training: Training, progress: Progress) -> tuple[list[dict[str, Any]], float]:
        """Let a loop that is not ours take its first steps; return what `_steps` does, and the seconds of a checkpoint.

        Such a loop cannot be asked for single steps: the rows of its first ones decide.
        """
        ends: list[float] = []
        checkpoint_s = 0.0

        def after_step(progress: Progress) -> None:
            nonlocal checkpoint_s
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            ends.append(clock())
            if len(ends) > _WARM_UP + _TIMED or len(ends) == training.num_steps:
                training.capture(progress, {})
                checkpoint_s = clock() - ends[-1]
                raise _EnoughError

        start = clock()
        with suppress(_EnoughError):
            training.fit(progress, after_step)
        seconds = [end - before for before, end in zip([start, *ends], ends, strict=False)]
        return [{"share": 1.0, "seconds": seconds[_WARM_UP:] or seconds}], checkpoint_s

    def _steps(self, job: Job, progress: Progress, first: Sequence[int] = ()) -> list[dict[str, Any]]:
        """Run some steps and return their seconds, for each kind of step: not every term is due in each.

        Args:
            first: steps to run before, untimed.

        Returns:
            [{'share': of all steps, 'seconds': [one a step]}].
        """
        looked_at = range(min(job.num_steps, _MOST_LOOKED_AT))
        kinds = [tuple(term.due(step) for term in job.terms) for step in looked_at]
        shares, strata = Counter(kinds), list[dict[str, Any]]()
        for step in first:
            self._step_s(job, progress, step)
        for kind, count in shares.items():
            steps = [step for step, one in zip(looked_at, kinds, strict=True) if one == kind]
            chosen = [steps[i * len(steps) // _TIMED] for i in range(_TIMED)] if len(steps) > _TIMED else steps
            for step in chosen[:_WARM_UP]:
                self._step_s(job, progress, step)
            seconds = [self._step_s(job, progress, step) for step in chosen]
            strata.append({"share": count / len(looked_at), "seconds": seconds})
        return strata

    def _step_s(self, job: Job, progress: Progress, step: int) -> float:
        progress.step = step
        start = clock()
        if not job.model.training:
            job.model.train()
        take_step(job, progress)
        progress.step += 1
        progress.steps_summed += 1
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return clock() - start

    def _edits(self, trainer: BaseTrainer) -> tuple[int, float]:
        """Make each of the strategy's edits of the weights; return how many there are, and the seconds."""
        start, count = clock(), 0
        trained = {name: p.detach().clone() for name, p in trainer.parameters.items()}
        for _, edit in trainer.edits():
            count += 1
            with torch.no_grad():
                edit(trainer.parameters)
                for name, tensor in trained.items():
                    trainer.parameters[name].copy_(tensor)
        _wait_for_device(trainer)
        return count, (clock() - start if count else 0.0)


class _EnoughError(Exception):
    """Ends a training of which enough steps were seen."""


def largest_step(phase: Phase) -> int:
    """Return the step with the most tokens, of the first 10,000: memory has to suffice for it."""
    looked_at = range(min(phase.job.num_steps, phase.epoch_steps, _MOST_LOOKED_AT))
    return max(looked_at, key=phase.tokens_of)


# -- evaluations -------------------------------------------------------------------------------------------------------


class SampledEvaluations(Evaluations):
    """Measures one batch of each set; of the evaluations that a strategy asks for it only counts how many there are.

    Attributes:
        num_asked: evaluations that the strategy asked for before training.
    """

    num_asked = 0

    def take(self, step: int, epoch: float, version: str = "", max_rows: int | None = None) -> None:
        """Count an evaluation, and run nothing."""
        self.num_asked += 1

    def now(self, max_rows: int | None = None) -> Measured:
        """Return nothing: `base` is asked only which trials have the start model's evaluation in common."""
        return {}

    def sample(self, most: int | None = None) -> list[dict[str, Any]]:
        """Measure some rows of each different set, and return how long each took.

        Args:
            most: rows of a set; default: as many as one batch of its generation has.

        Returns:
            [{'names': of the set, 'rows': it has, 'sampled': number of rows, 'seconds': [s], 'tokens': mean of a reply,
            or None without replies, 'limit': of a reply}].
        """
        found: list[dict[str, Any]] = []
        snapshot = Snapshot(self._run.model)
        for whole, names in self._distinct_sets():
            rows = _some_of(whole, most or self._rows_of_a_batch(whole))
            start = clock()
            measurement = self._run.passes(lambda rows=rows, names=names: self._measure(rows, names, snapshot))
            _wait_for_device(self)
            seconds, replies = clock() - start, list(measurement["replies"].values())
            lengths = [1 + len(self._run.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in replies]
            found.append(
                {
                    "names": names,
                    "rows": len(whole.rows),
                    "sampled": len(rows.rows),
                    "seconds": [seconds],
                    "tokens": min(_mean(lengths), measurement["max_new_tokens"]) if lengths else None,
                    "limit": measurement["max_new_tokens"],
                }
            )
        return found

    def _rows_of_a_batch(self, rows: RowSet) -> int:
        limits = self._run.memory.eval_limits
        lengths = rows.encoded.lengths[:1000] if len(rows.encoded) else [_NO_LENGTH]
        fit = limits.cached_tokens // int(_mean(lengths) + self._run.cfg.max_new_tokens + 1)
        return max(_FEW_ROWS, min(fit, limits.rows or fit))


def _some_of(rows: RowSet, number: int) -> RowSet:
    """Return some of the rows, chosen by what they ask: files may be sorted, and sets that overlap get the same."""

    def place(row: Row) -> int:
        return zlib.crc32(prompt_of(row).encode())

    if number >= len(rows.rows):
        return rows
    order = sorted(range(len(rows.rows)), key=lambda i: (place(rows.rows[i]), i))
    return rows.take(sorted(order[:number]))


# -- values that trials share ------------------------------------------------------------------------------------------


class TimedValues(SharedValues):
    """A run's shared values that note how long each took to compute.

    Args:
        values: those of the run.
        unrun_s: returns the seconds so far of trainings that were not run.

    Attributes:
        taken: [{'kind', 'key': digest, 'seconds', 'follows': which settings beside the rows the value depends on}].
    """

    def __init__(self, values: SharedValues, unrun_s: Callable[[], float]):
        vars(self).update(vars(values))
        self._unrun_s, self._inner = unrun_s, list[float]()
        self.taken: list[dict[str, Any]] = []

    def tensors(self, kind: str, key: dict[str, Any], compute: Any) -> Any:
        """Return tensors as `SharedValues` does, and note the seconds."""
        return super().tensors(kind, key, self._timed(kind, key, compute))

    def json(self, kind: str, key: dict[str, Any], compute: Any) -> Any:
        """Return a value of plain JSON as `SharedValues` does, and note the seconds."""
        return super().json(kind, key, self._timed(kind, key, compute))

    def _timed(self, kind: str, key: dict[str, Any], compute: Callable[..., Any]) -> Callable[..., Any]:
        def computed(*args: Any) -> Any:
            start, unrun = clock(), self._unrun_s()
            outer, self._inner = self._inner, []
            try:
                return compute(*args)
            finally:
                whole = clock() - start + self._unrun_s() - unrun
                follows = [name for name in ("data_seed", "model_seed", "config") if name in key]
                own_s = max(0.0, whole - sum(self._inner))
                self.taken.append({"kind": kind, "key": digest(key)[:16], "seconds": own_s, "follows": follows})
                self._inner = [*outer, whole]

        return computed


# -- small things ------------------------------------------------------------------------------------------------------


def reset_peak_memory() -> None:
    """Let `peak_memory` count from now on."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # not every container lets a process do so: then it counts from the process's start
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory() -> int | None:
    """Return the most bytes that the process held since `reset_peak_memory`: of its GPU, else of the machine.

    None where the machine does not say.
    """
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_reserved())
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    return None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _seconds(do: Callable[[], Any], trainer: BaseTrainer) -> float:
    start = clock()
    do()
    _wait_for_device(trainer)
    return clock() - start


def _wait_for_device(_: Any) -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
