"""The course of a training: evaluations before, after each epoch and at the end, log, checkpoints, stop and resume."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch

from selgen_ray.errors import TrialStopped
from selgen_ray.records.results import TrainingRecord
from selgen_ray.trainers.engine.loop import GradMap, Progress

if TYPE_CHECKING:
    from selgen_ray.trainers.base import BaseTrainer
    from selgen_ray.trainers.engine.checkpoints import Checkpoints
    from selgen_ray.trainers.engine.phases import Phase

_DUE = "evaluation_due"


class Course:
    """One trainer's way from the newest checkpoint, or from the start, to the end.

    A stop is obeyed after each step, and inside evaluations and preparations, which are then repeated.
    """

    def __init__(self, trainer: BaseTrainer, checkpoints: Checkpoints | None):
        self.trainer = trainer
        self._checkpoints = checkpoints

    def run(self) -> None:
        """Train to the end. Raises TrialDiverged, TrialStopped."""
        trainer = self.trainer
        found = self._checkpoints.newest() if self._checkpoints else None
        if found:
            trainer.record = TrainingRecord.model_validate(found.state["record"])
            trainer.num_resumes = found.state["num_resumes"] + 1
        else:
            trainer.record_evaluation(0, 0.0)
        start = time.monotonic()
        trainer.prepare()
        trainer.add_time("prepare_s", start)
        phase = trainer.main_phase()
        progress = phase.start(found)
        if found and found.state.get(_DUE):
            self._evaluate(phase, progress)
        phase.run(self._after_step, progress)
        self._evaluate_edits(phase, progress)
        trainer.evaluations.flag_unchanged(progress.step)

    def _after_step(self, phase: Phase, progress: Progress) -> None:
        trainer, step = self.trainer, progress.step
        if phase.log_is_due(progress):
            reading = phase.log(progress)
            trainer.add_time("train_s", time.monotonic() - reading.seconds)
            trainer.record.tokens = {"processed": progress.tokens_processed, "scored": progress.tokens_scored}
            trainer.record.add_reading(step, reading.losses, reading.metrics)
            reading.check_finite(step)
        ends = step == phase.job.num_steps
        if step % phase.epoch_steps == 0 or ends:
            self._evaluate(phase, progress)
            phase.rest(progress)
        if not ends:  # what is left then is evaluations, which look at the stop themselves
            phase.save(progress, self._state)

    def _state(self, due: bool = False) -> dict[str, Any]:
        """What a checkpoint holds besides the job: `due` says that the weights have yet to be evaluated."""
        trainer = self.trainer
        return {"record": trainer.record.model_dump(mode="json"), "num_resumes": trainer.num_resumes, _DUE: due}

    def _evaluate(self, phase: Phase, progress: Progress) -> None:
        try:
            self.trainer.record_evaluation(progress.step, progress.step / phase.epoch_steps)
        except TrialStopped:
            phase.save_now(progress, self._state(due=True))
            raise

    def _evaluate_edits(self, phase: Phase, progress: Progress) -> None:
        trainer, step, trained = self.trainer, progress.step, GradMap()

        def put_back() -> None:
            with torch.no_grad():
                for key, tensor in trained.items():
                    trainer.parameters[key].copy_(tensor)

        record = trainer.record
        done = {version for at, version in zip(record.eval_steps, record.eval_versions, strict=True) if at == step}
        try:
            for name, edit in trainer.edits():
                trained = trained or {k: p.detach().clone() for k, p in trainer.parameters.items()}
                put_back()
                with torch.no_grad():
                    edit(trainer.parameters)
                if name not in done:  # before a stop
                    trainer.record_evaluation(step, step / phase.epoch_steps, name)
        except TrialStopped:
            put_back()
            phase.save_now(progress, self._state())
            raise
