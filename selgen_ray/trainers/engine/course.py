"""The course of a training: evaluations before, after each epoch and at the end, log, checkpoints, stop and resume."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from selgen_ray.errors import TrialStopped
from selgen_ray.records.results import TrainingRecord
from selgen_ray.trainers.engine import ranks
from selgen_ray.trainers.engine.checkpoints import Checkpoints, capture
from selgen_ray.trainers.engine.context import Hooks, RunContext
from selgen_ray.trainers.engine.evaluations import Evaluations
from selgen_ray.trainers.engine.loop import GradMap, Progress, check_finite, fit
from selgen_ray.trainers.engine.phases import Phase

_DUE = "evaluation_due"


@dataclass(frozen=True)
class Reading:
    """What was logged since the last reading: mean loss per term, mean of every other metric, seconds of training."""

    losses: dict[str, float]
    metrics: dict[str, float]
    seconds: float

    def check_finite(self, step: int) -> None:
        """Raises TrialDiverged: a number is NaN or infinite."""
        check_finite(self.losses | self.metrics, step)


class PhaseCourse:
    """Takes a phase from its newest checkpoint, or from its start, to its end; logs and saves between the steps.

    Args:
        run: whose progress line and stop signal are used.
        phase: what is trained.
        checkpoints: where to save and look for step checkpoints; None: nowhere.
    """

    def __init__(self, run: RunContext, phase: Phase, checkpoints: Checkpoints | None):
        self.run, self.phase, self.checkpoints = run, phase, checkpoints
        self._last_log = (time.monotonic(), 0)

    def to_the_end(self, progress: Progress | None = None) -> None:
        """Train the rest of the phase.

        Args:
            progress: from `Phase.start`; default: where the newest checkpoint left it.

        Raises:
            TrialDiverged: a number is NaN or infinite.
            TrialStopped: the trial was asked to stop; a checkpoint of its last step is written.
        """
        progress = progress or self.phase.start(self.checkpoints.newest() if self.checkpoints else None)
        self.reset_throughput(progress)
        try:
            fit(self.phase.job, progress, self.after_step)
        finally:
            if self.checkpoints:  # or the thread would write into a folder that is deleted now
                self.checkpoints.flush()

    def after_step(self, progress: Progress) -> None:
        """Log, stop or save after an optimizer step."""
        if self.log_is_due(progress):
            self.log(progress).check_finite(progress.step)
        self.save(progress)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds besides the job."""
        return {}

    def log_is_due(self, progress: Progress) -> bool:
        """Whether to log: every `logging_steps` steps, at the end of an epoch, and at the end."""
        step = progress.step
        ends = step % self.phase.epoch_steps == 0 or step == self.phase.job.num_steps
        return ends or step % self.run.cfg.logging_steps == 0

    def log(self, progress: Progress) -> Reading:
        """Read losses and metrics, and send them to whoever watches the trial."""
        losses, metrics = progress.read()
        since, tokens_before = self._last_log
        seconds = max(time.monotonic() - since, 1e-9)
        self.reset_throughput(progress)
        job = self.phase.job
        line = {"phase": self.phase.name, "step": progress.step, "num_steps": job.num_steps}
        line |= {"epoch": progress.step / self.phase.epoch_steps, "loss": losses["total"]}
        line |= {"tokens_per_s": (progress.tokens_processed - tokens_before) / seconds}
        line |= {"learning_rate": job.scheduler.get_last_lr()[0]}
        line |= {f"loss/{name}": value for name, value in losses.items() if name != "total"} | metrics
        self.run.callbacks.on_progress(line)
        return Reading(losses, metrics, seconds)

    def reset_throughput(self, progress: Progress) -> None:
        """Reset the throughput timer (call it after evaluations, so that their time does not count)."""
        self._last_log = (time.monotonic(), progress.tokens_processed)

    def save(self, progress: Progress) -> None:
        """Save a checkpoint every `save_steps` steps, but none at the end of the phase; or now, when it is to stop.

        Raises:
            TrialStopped: the trial was asked to stop; the checkpoint is written.
        """
        ranks.agree(self.run.stop)
        if self.run.stop.requested:
            self.save_now(progress, self.state())
            self.run.stop.check(progress.step)
        due = progress.step % self.run.cfg.save_steps == 0 and progress.step < self.phase.job.num_steps
        if self.checkpoints and due:
            self.checkpoints.save(capture(self.phase.job, progress, self.state()))

    def save_now(self, progress: Progress, state: dict[str, Any]) -> None:
        """Save a checkpoint, and wait until it is written."""
        if self.checkpoints:
            self.checkpoints.save(capture(self.phase.job, progress, state))
            self.checkpoints.flush()


class Course(PhaseCourse):
    """One run from the newest checkpoint, or from the start, to the end.

    A stop is obeyed after each step, and inside evaluations and preparations, which are then repeated.
    """

    def __init__(self, run: RunContext, hooks: Hooks, evaluations: Evaluations):
        super().__init__(run, main_phase(run, hooks), run.checkpoints)
        self._hooks, self._evaluations = hooks, evaluations

    def after_step(self, progress: Progress) -> None:
        """Log and record, evaluate at the end of an epoch, stop or save."""
        run, step = self.run, progress.step
        if self.log_is_due(progress):
            reading = self.log(progress)
            run.add_time("train_s", time.monotonic() - reading.seconds)
            run.record.tokens = {"processed": progress.tokens_processed, "scored": progress.tokens_scored}
            run.record.add_reading(step, reading.losses, reading.metrics)
            reading.check_finite(step)
        ends = step == self.phase.job.num_steps
        if step % self.phase.epoch_steps == 0 or ends:
            self.evaluate(progress)
            self.reset_throughput(progress)
        if not ends:  # what is left then is evaluations, which look at the stop themselves
            self.save(progress)

    def state(self, due: bool = False) -> dict[str, Any]:
        """Return what a checkpoint holds besides the job: `due` says that the weights have yet to be evaluated."""
        return {"record": self.run.record.model_dump(mode="json"), "num_resumes": self.run.num_resumes, _DUE: due}

    def evaluate(self, progress: Progress) -> None:
        """Evaluate the weights in training; a stop meanwhile leaves a checkpoint that says it is due."""
        try:
            self._evaluations.take(progress.step, progress.step / self.phase.epoch_steps)
        except TrialStopped:
            self.save_now(progress, self.state(due=True))
            raise

    def evaluate_edits(self, progress: Progress) -> None:
        """Apply each of the strategy's edits to the trained weights, and evaluate them."""
        run, step, trained = self.run, progress.step, GradMap()

        def put_back() -> None:
            with torch.no_grad():
                for key, tensor in trained.items():
                    run.parameters[key].copy_(tensor)

        record = run.record
        done = {version for at, version in zip(record.eval_steps, record.eval_versions, strict=True) if at == step}
        try:
            for name, edit in self._hooks.edits():
                trained = trained or {k: p.detach().clone() for k, p in run.parameters.items()}
                put_back()
                with torch.no_grad():
                    edit(run.parameters)
                if name not in done:  # before a stop
                    self._evaluations.take(step, step / self.phase.epoch_steps, name)
        except TrialStopped:
            put_back()
            self.save_now(progress, self.state())
            raise


def main_phase(run: RunContext, hooks: Hooks) -> Phase:
    """Return the training itself, after the strategy's `prepare`."""
    phase = Phase(
        run,
        hooks.micro_batch,
        "train",
        hooks.terms(),
        epochs=run.cfg.epochs,
        max_steps=run.cfg.max_steps,
        transform_gradients=hooks.transform_gradients,
        after_optimizer_step=hooks.after_optimizer_step,
    )
    run.num_steps = phase.job.num_steps
    return phase


def train(run: RunContext, hooks: Hooks, evaluations: Evaluations) -> None:
    """Train a run to its end: restore or evaluate; prepare; step, log, evaluate, save; edit.

    Raises:
        TrialDiverged: a loss became NaN or infinite.
        TrialStopped: it was asked to stop; what was trained is in a checkpoint.
    """
    checkpoint = run.checkpoints.newest() if run.checkpoints else None
    if checkpoint:
        run.record = TrainingRecord.model_validate(checkpoint.state["record"])
        run.num_resumes = checkpoint.state["num_resumes"] + 1
    else:
        evaluations.take(0, 0.0)
    start = time.monotonic()
    hooks.prepare()
    run.add_time("prepare_s", start)
    course = Course(run, hooks, evaluations)
    progress = course.phase.start(checkpoint)
    if checkpoint and checkpoint.state.get(_DUE):
        course.evaluate(progress)
    course.to_the_end(progress)
    course.evaluate_edits(progress)
    evaluations.flag_unchanged(progress.step)
