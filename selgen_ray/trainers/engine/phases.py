"""A phase: one use of the training loop, with its data, its optimizer and its job.

A trial has one main phase, 'train'. Its strategy may train others before, such as 'preparing on proxy'.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from selgen_ray.data.encode import Batch
from selgen_ray.trainers.engine import optim, ranks
from selgen_ray.trainers.engine.checkpoints import Checkpoint, capture, restore
from selgen_ray.trainers.engine.context import RunContext
from selgen_ray.trainers.engine.loop import GradMap, Job, Progress, Term, weighted

MicroBatch = Callable[[str, list[int]], Batch]
"""(stream, row numbers) -> those rows as a batch on the device: the hook `micro_batch`."""


class Phase:
    """One training of the run's model on `terms`, of `epochs` passes over the first term's stream.

    Args:
        run: its model, data and settings are used.
        micro_batch: makes the batches.
        name: keys the phase's random numbers, and stands in the progress line.
        terms: the terms of every step; those of weight 0 are dropped, so that a strategy of strength zero is exactly
            training without it.
        epochs, max_steps: the length; `max_steps` optimizer steps, when given, replace the epochs.
        learning_rate: the peak; default: the run's.
        job_hooks: `transform_gradients`, `after_optimizer_step`, `state` and `scope` of the `Job`.

    Attributes:
        job: the input of the loop, `loop.fit`.
        epoch_steps: optimizer steps of an epoch.
    """

    def __init__(
        self,
        run: RunContext,
        micro_batch: MicroBatch,
        name: str,
        terms: list[Term],
        *,
        epochs: int,
        max_steps: int | None = None,
        learning_rate: float | None = None,
        **job_hooks: Any,
    ):
        self.name, self._run, self._micro_batch = name, run, micro_batch
        terms = weighted(terms)
        stream_names = list(dict.fromkeys(term.stream for term in terms if term.stream))
        self._streams = run.sets.streams(stream_names, name)
        self.epoch_steps = self._streams[stream_names[0]].steps_per_epoch
        num_steps = max_steps or epochs * self.epoch_steps
        cfg = run.cfg if learning_rate is None else run.cfg.model_copy(update={"learning_rate": learning_rate})
        optimizer = optim.build_optimizer(list(run.parameters.values()), cfg)
        self.job = Job(
            phase=name,
            model=run.model,
            parameters=run.parameters,
            terms=terms,
            micro_batches=self._micro_batches,
            idle_batch=self._idle_batch,
            num_steps=num_steps,
            optimizer=optimizer,
            scheduler=optim.build_scheduler(optimizer, cfg, num_steps),
            accelerator=run.accelerator,
            seed=run.config.model_seed,
            max_grad_norm=run.cfg.max_grad_norm,
            attempt=self._attempt,
            backward=run.source.backward,
            **job_hooks,
        )

    @property
    def num_steps(self) -> int:
        """Optimizer steps in total."""
        return self.job.num_steps

    def start(self, checkpoint: Checkpoint | None) -> Progress:
        """Return the progress at the phase's beginning, or restore a checkpoint and return its progress."""
        self._run.progress = restore(checkpoint, self.job) if checkpoint else Progress()
        return self._run.progress

    def tokens_of(self, step: int) -> int:
        """Return the tokens of a step's largest micro-batch, with padding: its memory grows with them."""
        batches = ((stream.lengths, rows) for stream in self._streams.values() for rows in stream.step(step))
        return max(len(rows) * max(lengths[row] for row in rows) for lengths, rows in batches)

    def fit(self, progress: Progress, after_step: Callable[[Progress], None]) -> None:
        """Train the steps that are left, calling `after_step` after each."""
        self._run.fit(self.job, progress, after_step)

    def capture(self, progress: Progress, state: dict[str, Any]) -> Checkpoint:
        """Return a checkpoint of the finished steps; `state` is the plain JSON that it holds besides."""
        return capture(self.job, progress, state)

    def learning_rate(self) -> float:
        """Return the learning rate of the next step."""
        return float(self.job.scheduler.get_last_lr()[0])

    def _micro_batches(self, stream: str, step: int) -> list[Batch]:
        of_all_ranks = self._run.memory.split(self._streams[stream].step(step))
        of_this_rank = of_all_ranks[ranks.rank() :: ranks.world_size()]
        return [self._micro_batch(stream, rows) for rows in of_this_rank]

    def _idle_batch(self, stream: str, step: int) -> Batch | None:
        """Return a batch to run with zero weight, or None: with FSDP all ranks must run equally many forward passes."""
        of_all_ranks = self._streams[stream].step(step)
        left_over = len(of_all_ranks) % ranks.world_size()
        idles = self._run.fsdp and left_over and ranks.rank() >= left_over
        return self._micro_batch(stream, of_all_ranks[0]) if idles else None

    def _attempt(self, compute: Callable[[], dict[str, GradMap]], progress: Progress) -> dict[str, GradMap]:
        def undo() -> None:
            self.job.optimizer.zero_grad(set_to_none=True)
            self.job.loss_scale.undo()

        def rows() -> int:
            return max(len(rows) for stream in self._streams.values() for rows in stream.step(progress.step))

        return self._run.memory.step(compute, progress, undo, rows)
