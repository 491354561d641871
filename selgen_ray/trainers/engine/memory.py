"""What fits into the device's memory: smaller batches after an out-of-memory error, with the same gradient."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from selgen_ray.config.finetune import FinetuneConfig
from selgen_ray.trainers.engine import ranks
from selgen_ray.trainers.engine.loop import Progress

T = TypeVar("T")
_TRAINING = "set finetune_config.auto_batch: true, or lower finetune_config.per_device_train_batch_size"
_EVALUATION = "set finetune_config.auto_batch: true, or lower finetune_config.per_device_eval_batch_size"


class BatchSizes:
    """How large the batches of one trainer are; with `auto_batch` they shrink when memory runs out, and stay small.

    The rows of a step stay the same, and so does its gradient, up to rounding; dropout draws another mask.

    Args:
        cfg: has `auto_batch` and the size of an evaluation batch.
        on_event: told {'event': 'auto_batch', 'why', 'step'}.

    Attributes:
        parts: into so many a micro-batch is split, a power of two.
        eval_batch_size: rows of a batch that no gradient is computed for.
    """

    def __init__(self, cfg: FinetuneConfig, on_event: Callable[[dict[str, Any]], None]):
        self.parts = 1
        self.eval_batch_size = cfg.per_device_eval_batch_size
        self._auto = cfg.auto_batch
        self._on_event = on_event

    def split(self, micro_batches: list[list[int]]) -> list[list[int]]:
        """The rows of each micro-batch in `parts` nearly equal parts, none of them empty."""
        return [part for rows in micro_batches for part in _split(rows, self.parts)]

    def step(
        self, compute: Callable[[], T], progress: Progress, undo: Callable[[], None], rows: Callable[[], int]
    ) -> T:
        """The gradients of a step, which the micro-batches are split for as often as it takes.

        Args:
            compute: forward and backward passes over all micro-batches as `split` gives them.
            progress: what a failed try added to it is taken back.
            undo: takes back what else it did.
            rows: of the largest micro-batch before splitting.

        Raises:
            torch.OutOfMemoryError: without `auto_batch`, or when one row alone does not fit.
        """
        before = _copy(progress)

        def smaller() -> str | None:
            undo()
            vars(progress).update(vars(_copy(before)))
            if self.parts >= rows():
                return None
            self.parts *= 2
            return f"micro-batches of {rows()} rows are split into {min(self.parts, rows())} parts"

        return self._attempt(self._alike(compute) if self._auto else compute, smaller, progress.step, _TRAINING)

    def passes(self, compute: Callable[[], T], step: int) -> T:
        """What `compute` gives, which runs the model over batches of `eval_batch_size` without gradients.

        Raises:
            torch.OutOfMemoryError: without `auto_batch`, or when one row alone does not fit.
        """

        def smaller() -> str | None:
            if self.eval_batch_size == 1:
                return None
            self.eval_batch_size //= 2
            return f"evaluation batches have {self.eval_batch_size} rows"

        return self._attempt(compute, smaller, step, _EVALUATION)

    @staticmethod
    def _alike(compute: Callable[[], T]) -> Callable[[], T]:
        """The same, but out of memory on every rank where it is on one: all have to split alike."""

        def computed() -> T:
            try:
                found = compute()
            except torch.OutOfMemoryError:
                ranks.any_rank(True)
                raise
            if ranks.any_rank(False):
                raise torch.OutOfMemoryError("another worker of this trial ran out of memory")
            return found

        return computed

    def _attempt(self, compute: Callable[[], T], smaller: Callable[[], str | None], step: int, hint: str) -> T:
        while True:
            try:
                return compute()
            except torch.OutOfMemoryError as error:
                if not self._auto:
                    error.args = (f"{error}\nOut of memory: {hint}",)
                    raise
                if (what := smaller()) is None:
                    raise
                why = f"out of memory at step {step}: from now on {what}"
            # only now is the error gone, and with it what the frames of its traceback held
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self._on_event({"event": "auto_batch", "why": why, "step": step})


def _split(rows: list[int], parts: int) -> list[list[int]]:
    size = -(-len(rows) // parts)
    return [rows[at : at + size] for at in range(0, len(rows), size)]


def _copy(progress: Progress) -> Progress:
    """Nothing in the dicts is ever changed in place, so they alone are copied."""
    found = copy.copy(progress)
    found.sums, found.metrics = dict(progress.sums), dict(progress.metrics)
    return found
