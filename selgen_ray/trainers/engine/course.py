"""The course of a training, from the first evaluation to the last: `train` tells it.

A run trains one main phase (`Course`); its strategy may train others before, in `prepare`, such as a throw-away
training on the proxy (`PhaseCourse`). Both end early when the trial is to stop, and resume from their checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from selgen_ray.errors import TrialStopped
from selgen_ray.records.results import TrainingRecord
from selgen_ray.storage.parallel import clock
from selgen_ray.trainers.engine import ranks
from selgen_ray.trainers.engine.checkpoints import Checkpoints
from selgen_ray.trainers.engine.context import Hooks, RunContext, Training
from selgen_ray.trainers.engine.evaluations import Evaluations
from selgen_ray.trainers.engine.loop import GradMap, Progress, check_finite
from selgen_ray.trainers.engine.phases import Phase

_DUE = "evaluation_due"  # in a checkpoint's state: the evaluation of its weights has not been done


def train(run: RunContext, hooks: Hooks, evaluations: Evaluations) -> None:
    """Train a run to its end: restore or evaluate; prepare; then step, log, evaluate and save in turn; edit.

    A stop is obeyed after each step, and inside evaluations and preparations, which the resumed run repeats.

    Raises:
        TrialDiverged: a loss or a value of an evaluation is NaN or infinite.
        TrialStopped: the trial was asked to stop; every finished step is in a checkpoint.
    """
    # resume from the newest checkpoint; without one, evaluate the start model, which all later values compare with
    checkpoint = run.checkpoints.newest() if run.checkpoints else None
    if checkpoint:
        run.record = TrainingRecord.model_validate(checkpoint.state["record"])
        run.num_resumes = checkpoint.state["num_resumes"] + 1
    else:
        evaluations.take(0, 0.0)

    # the strategy's own work, on the model in its starting state: also after a resume, before weights are restored
    start = clock()
    hooks.prepare()
    run.add_time("prepare_s", start)

    # all optimizer steps; `Course.after_step` is what happens after each of them
    course = Course(run, hooks, evaluations)
    progress = course.phase.start(checkpoint)
    if checkpoint and checkpoint.state.get(_DUE):  # a stop cut this evaluation off
        course.evaluate(progress)
    course.to_the_end(progress)

    # the strategy's edits of the finished weights, each evaluated; the last one stays
    course.evaluate_edits(progress)
    evaluations.flag_unchanged(progress.step)


@dataclass(frozen=True)
class Reading:
    """The numbers logged since the last reading.

    Attributes:
        losses: term -> mean over the steps; 'total' is their weighted sum.
        metrics: name -> mean of every other metric.
        seconds: training time since the last reading, without evaluations.
    """

    losses: dict[str, float]
    metrics: dict[str, float]
    seconds: float

    def check_finite(self, step: int) -> None:
        """Raise TrialDiverged if a number is NaN or infinite."""
        check_finite(self.losses | self.metrics, step)


class PhaseCourse:
    """Trains a phase from its newest checkpoint, or from its start, to its end; logs and saves between the steps.

    Args:
        run: its settings, callbacks and stop signal are used.
        phase: the phase to train.
        checkpoints: where to save and look for step checkpoints; None: nowhere.
    """

    def __init__(self, run: RunContext, phase: Training, checkpoints: Checkpoints | None):
        self.run, self.phase, self.checkpoints = run, phase, checkpoints
        self._last_log = (clock(), 0)

    def to_the_end(self, progress: Progress | None = None) -> None:
        """Train the remaining steps of the phase.

        Args:
            progress: from `Phase.start`; default: that of the newest checkpoint, or the beginning.

        Raises:
            TrialDiverged: a number is NaN or infinite.
            TrialStopped: the trial was asked to stop; a checkpoint of its last step is written.
        """
        progress = progress or self.phase.start(self.checkpoints.newest() if self.checkpoints else None)
        self.reset_throughput(progress)
        try:
            self.phase.fit(progress, self.after_step)
        finally:
            if self.checkpoints:  # the folder may be deleted next: no thread may still write into it
                self.checkpoints.flush()

    def after_step(self, progress: Progress) -> None:
        """Log if it is due; then save a checkpoint, and stop, if they are."""
        if self.log_is_due(progress):
            self.log(progress).check_finite(progress.step)
        self.save(progress)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds besides the job, as plain JSON."""
        return {}

    def log_is_due(self, progress: Progress) -> bool:
        """Return whether to log: every `logging_steps` steps, at the end of each epoch and of the phase."""
        step = progress.step
        is_boundary = step % self.phase.epoch_steps == 0 or step == self.phase.num_steps
        return is_boundary or step % self.run.cfg.logging_steps == 0

    def log(self, progress: Progress) -> Reading:
        """Read losses and metrics, and pass them to the callback `on_progress`."""
        losses, metrics = progress.read()
        last_log, tokens_before = self._last_log
        seconds = max(clock() - last_log, 1e-9)
        self.reset_throughput(progress)
        line = {"phase": self.phase.name, "step": progress.step, "num_steps": self.phase.num_steps}
        line |= {"epoch": progress.step / self.phase.epoch_steps, "loss": losses["total"]}
        line |= {"tokens_per_s": (progress.tokens_processed - tokens_before) / seconds}
        line |= {"learning_rate": self.phase.learning_rate()}
        line |= {f"loss/{name}": value for name, value in losses.items() if name != "total"} | metrics
        self.run.callbacks.on_progress(line)
        return Reading(losses, metrics, seconds)

    def reset_throughput(self, progress: Progress) -> None:
        """Reset the throughput timer (call it after evaluations, so that their time does not count)."""
        self._last_log = (clock(), progress.tokens_processed)

    def save(self, progress: Progress) -> None:
        """Save a checkpoint every `save_steps` steps, but none at the end; if the trial is to stop, save now.

        Raises:
            TrialStopped: the trial was asked to stop; the checkpoint is written.
        """
        ranks.agree(self.run.stop)
        if self.run.stop.requested:
            self.save_now(progress, self.state())
            self.run.stop.check(progress.step)
        due = progress.step % self.run.cfg.save_steps == 0 and progress.step < self.phase.num_steps
        if self.checkpoints and due:
            self.checkpoints.save(self.phase.capture(progress, self.state()))

    def save_now(self, progress: Progress, state: dict[str, Any]) -> None:
        """Save a checkpoint, and wait until it is written."""
        if self.checkpoints:
            self.checkpoints.save(self.phase.capture(progress, state))
            self.checkpoints.flush()


class Course(PhaseCourse):
    """Trains the main phase of a run, with evaluations as `evals.during` says, at the end, and after each edit."""

    def __init__(self, run: RunContext, hooks: Hooks, evaluations: Evaluations):
        super().__init__(run, hooks.main_phase(), run.checkpoints)
        self._hooks, self._evaluations = hooks, evaluations

    def after_step(self, progress: Progress) -> None:
        """Log and record; evaluate as `evals.during` says, and at the end; then save a checkpoint, and stop, if due."""
        run, step = self.run, progress.step
        if self.log_is_due(progress):
            reading = self.log(progress)
            run.add_time("train_s", clock() - reading.seconds)
            run.record.tokens = {"processed": progress.tokens_processed, "scored": progress.tokens_scored}
            run.record.add_reading(step, reading.losses, reading.metrics)
            reading.check_finite(step)
        is_last = step == self.phase.num_steps
        if is_last or run.config.evals.during.is_due(step, self.phase.epoch_steps):
            self.evaluate(progress)
            self.reset_throughput(progress)
        if not is_last:  # after the last step only evaluations are left, and they check for a stop themselves
            run.callbacks.on_step(lambda: self.phase.capture(progress, self.state()))
            self.save(progress)

    def state(self, due: bool = False) -> dict[str, Any]:
        """Return what a checkpoint holds besides the job, as plain JSON.

        Args:
            due: the evaluation of these weights has been cut off, and is to be repeated on resume.
        """
        return {"record": self.run.record.model_dump(mode="json"), "num_resumes": self.run.num_resumes, _DUE: due}

    def evaluate(self, progress: Progress) -> None:
        """Evaluate the weights in training; if a stop cuts that off, save a checkpoint that says so, and raise."""
        try:
            max_rows = self.run.config.evals.during.max_rows if progress.step < self.phase.num_steps else None
            self._evaluations.take(progress.step, progress.step / self.phase.epoch_steps, max_rows=max_rows)
        except TrialStopped:
            self.save_now(progress, self.state(due=True))
            raise

    def evaluate_edits(self, progress: Progress) -> None:
        """Apply each of the strategy's edits to the trained weights, and evaluate the result.

        Each edit starts from the trained weights; those of the last edit stay. A stop puts the trained weights back
        and saves them, so that a resumed run repeats the edits but no evaluation that the record holds.
        """
        run, step, trained = self.run, progress.step, GradMap()

        def put_back() -> None:
            with torch.no_grad():
                for key, tensor in trained.items():
                    run.parameters[key].copy_(tensor)

        record = run.record
        evaluated = {
            version for at_step, version in zip(record.eval_steps, record.eval_versions, strict=True) if at_step == step
        }
        try:
            for name, edit in self._hooks.edits():
                trained = trained or {k: p.detach().clone() for k, p in run.parameters.items()}
                put_back()
                with torch.no_grad():
                    edit(run.parameters)
                if name not in evaluated:  # by the run before a stop
                    self._evaluations.take(step, step / self.phase.epoch_steps, name)
        except TrialStopped:
            put_back()
            self.save_now(progress, self.state())
            raise


def main_phase(run: RunContext, hooks: Hooks) -> Phase:
    """Build the phase 'train' and set `run.num_steps`; call it after the strategy's `prepare`."""
    phase = Phase(
        run,
        hooks.micro_batch,
        "train",
        hooks.terms(),
        epochs=run.cfg.epochs,
        max_steps=run.cfg.max_steps,
        transform_gradients=hooks.transform_gradients,
        after_optimizer_step=hooks.after_optimizer_step,
        scope=hooks.training_scope,
        state=hooks.checkpoint_state(),
    )
    run.num_steps = phase.num_steps
    return phase
