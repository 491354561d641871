"""A phase: one use of the loop, with its data, optimizer, log and checkpoints.

A trial is one phase, 'train', after as many preparations as its strategy needs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from selgen_ray.data.encode import Batch
from selgen_ray.trainers.engine import optim, ranks
from selgen_ray.trainers.engine.checkpoints import Checkpoint, Checkpoints, capture, restore
from selgen_ray.trainers.engine.loop import GradMap, Job, Progress, Term, check_finite, fit, weighted

if TYPE_CHECKING:
    from selgen_ray.trainers.base import BaseTrainer

AfterStep = Callable[["Phase", Progress], None]


@dataclass(frozen=True)
class Reading:
    """What a phase logged: mean loss per term, mean of every other metric, seconds of training since the last one."""

    losses: dict[str, float]
    metrics: dict[str, float]
    seconds: float

    def check_finite(self, step: int) -> None:
        """Raises TrialDiverged: a number is NaN or infinite."""
        check_finite(self.losses | self.metrics, step)


class Phase:
    """The trainer's model, trained on `terms` for `epochs` passes over the first term's stream.

    Args:
        trainer: whose model, data, settings and progress line are used.
        name: keys the phase's randomness, and stands in the progress line.
        terms: of every step; those without weight are left out, so that strength zero is the plain sibling.
        epochs, max_steps: the length; `max_steps` optimizer steps, when given, replace the epochs.
        checkpoints: where to save and look for step checkpoints; None: nowhere.
        hooks: `transform_gradients`, `after_optimizer_step` and `state` of the `Job`.
    """

    def __init__(
        self,
        trainer: BaseTrainer,
        name: str,
        terms: list[Term],
        *,
        epochs: int,
        max_steps: int | None = None,
        checkpoints: Checkpoints | None = None,
        **hooks: Any,
    ):
        self.trainer, self.name, self.checkpoints = trainer, name, checkpoints
        cfg, terms = trainer.cfg, weighted(terms)
        names = list(dict.fromkeys(term.stream for term in terms if term.stream))
        self._streams = streams = trainer.sets.streams(names, name)
        self.epoch_steps = streams[names[0]].steps_per_epoch
        num_steps = max_steps or epochs * self.epoch_steps
        optimizer = optim.build_optimizer(list(trainer.parameters.values()), cfg)
        self.job = Job(
            phase=name,
            model=trainer.model,
            parameters=trainer.parameters,
            terms=terms,
            micro_batches=self._micro_batches,
            idle_batch=self._idle_batch,
            num_steps=num_steps,
            optimizer=optimizer,
            scheduler=optim.build_scheduler(optimizer, cfg, num_steps),
            accelerator=trainer.accelerator,
            seed=trainer.config.model_seed,
            max_grad_norm=cfg.max_grad_norm,
            attempt=self._attempt,
            **hooks,
        )
        self._last_log = (time.monotonic(), 0)

    def _micro_batches(self, stream: str, step: int) -> list[Batch]:
        of_all_ranks = self.trainer.memory.split(self._streams[stream].step(step))
        mine = of_all_ranks[ranks.rank() :: ranks.world_size()]
        return [self.trainer.micro_batch(stream, rows) for rows in mine]

    def _idle_batch(self, stream: str, step: int) -> Batch | None:
        """Where the ranks share the base out, what one that has a micro-batch less computes beside the others."""
        of_all_ranks = self._streams[stream].step(step)
        left_over = len(of_all_ranks) % ranks.world_size()
        idles = self.trainer.fsdp and left_over and ranks.rank() >= left_over
        return self.trainer.micro_batch(stream, of_all_ranks[0]) if idles else None

    def _attempt(self, compute: Callable[[], dict[str, GradMap]], progress: Progress) -> dict[str, GradMap]:
        def undo() -> None:
            self.job.optimizer.zero_grad(set_to_none=True)
            self.job.loss_scale.undo()

        def rows() -> int:
            return max(len(rows) for stream in self._streams.values() for rows in stream.step(progress.step))

        return self.trainer.memory.step(compute, progress, undo, rows)

    def start(self, found: Checkpoint | None) -> Progress:
        """Where the phase stands: at its beginning, or where a checkpoint left it."""
        progress = restore(found, self.job) if found else Progress()
        self.trainer.progress = progress
        return progress

    def run(self, after_step: AfterStep | None = None, progress: Progress | None = None) -> None:
        """Train to the end.

        Args:
            after_step: called after each optimizer step; default: log and save checkpoints.
            progress: from `start`; default: where the newest checkpoint left it.

        Raises:
            TrialStopped: the trial was asked to stop; a checkpoint of its last step is written.
        """
        progress = progress or self.start(self.checkpoints.newest() if self.checkpoints else None)
        self.rest(progress)
        try:
            fit(self.job, progress, lambda p: (after_step or Phase._log_and_save)(self, p))
        finally:
            if self.checkpoints:  # or the thread would write into a folder that is deleted now
                self.checkpoints.flush()

    def log(self, progress: Progress) -> Reading:
        """Read losses and metrics, and send them to whoever watches the trial."""
        losses, metrics = progress.read()
        since, tokens = self._last_log
        seconds = max(time.monotonic() - since, 1e-9)
        self.rest(progress)
        line = {"phase": self.name, "step": progress.step, "num_steps": self.job.num_steps}
        line |= {"epoch": progress.step / self.epoch_steps, "loss": losses["total"]}
        line |= {"tokens_per_s": (progress.tokens_processed - tokens) / seconds}
        line |= {"learning_rate": self.job.scheduler.get_last_lr()[0]}
        line |= {f"loss/{name}": value for name, value in losses.items() if name != "total"} | metrics
        self.trainer.on_progress(line)
        return Reading(losses, metrics, seconds)

    def rest(self, progress: Progress) -> None:
        """Let the clock of the throughput start now: what lay before was not training."""
        self._last_log = (time.monotonic(), progress.tokens_processed)

    def save(self, progress: Progress, state: Callable[[], dict[str, Any]]) -> None:
        """Save a checkpoint every `save_steps` steps, but none at the end of the phase; or now, when it is to stop.

        Raises:
            TrialStopped: the trial was asked to stop; the checkpoint is written.
        """
        ranks.agree(self.trainer.stop)
        if self.trainer.stop.requested:
            self.save_now(progress, state())
            self.trainer.stop.check(progress.step)
        due = progress.step % self.trainer.cfg.save_steps == 0 and progress.step < self.job.num_steps
        if self.checkpoints and due:
            self.checkpoints.save(capture(self.job, progress, state()))

    def save_now(self, progress: Progress, state: dict[str, Any]) -> None:
        """Save a checkpoint, and wait until it is written."""
        if self.checkpoints:
            self.checkpoints.save(capture(self.job, progress, state))
            self.checkpoints.flush()

    def log_is_due(self, progress: Progress) -> bool:
        """Every `logging_steps` steps, at the end of an epoch, and at the end."""
        step = progress.step
        ends = step % self.epoch_steps == 0 or step == self.job.num_steps
        return ends or step % self.trainer.cfg.logging_steps == 0

    def _log_and_save(self, progress: Progress) -> None:
        if self.log_is_due(progress):
            self.log(progress).check_finite(progress.step)
        self.save(progress, dict)
