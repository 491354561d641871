"""Batch sizes that fit the device's memory: smaller ones after an out-of-memory error, with the same gradient."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from selgen_ray.config.finetune import FinetuneConfig
from selgen_ray.data.streams import BatchLimits
from selgen_ray.trainers.engine import ranks
from selgen_ray.trainers.engine.loop import Progress

T = TypeVar("T")
_TRAINING = "set finetune_config.auto_batch: true, or lower finetune_config.per_device_train_batch_size"
_EVALUATION = "set finetune_config.auto_batch: true, or lower finetune_config.per_device_eval_batch_size"
_EVAL_ROWS = 32  # of a batch where only rows are counted, and nobody said how many
_EVAL_SHARE = 0.4  # of a GPU's free memory that an evaluation's batch is planned to take
_MOST_TOKENS, _FEWEST_TOKENS = 65_536, 1024


class BatchSizes:
    """The batch sizes of one run; with `auto_batch` they shrink when memory runs out, and stay small.

    A step keeps its rows, and its gradient up to rounding; dropout draws another mask.

    Args:
        cfg: `auto_batch` and `per_device_eval_batch_size` are used.
        on_event: called with {'event': 'auto_batch', 'why', 'step'} when batches shrink.
        model: the model that is evaluated, already on its device; every rank must call this.

    Attributes:
        parts: the number of parts that a micro-batch is split into, a power of two.
        eval_batch_size: rows of a batch that no gradient is computed for, where only rows are counted.
        eval_limits: limits of an evaluation's batches; on a GPU the tokens are chosen by its free memory.
    """

    def __init__(self, cfg: FinetuneConfig, on_event: Callable[[dict[str, Any]], None], model: Any = None):
        self.parts = 1
        self.eval_batch_size = cfg.per_device_eval_batch_size or _EVAL_ROWS
        self.eval_limits = BatchLimits(cfg.per_device_eval_batch_size)
        if model is not None and model.device.type == "cuda":
            free: int = torch.cuda.mem_get_info(model.device)[0]
            # with FSDP all ranks must run equally many batches
            self.eval_limits = ranks.broadcast(limits_for(model, free, cfg.per_device_eval_batch_size))
        self._auto = cfg.auto_batch
        self._on_event = on_event

    def split(self, micro_batches: list[list[int]]) -> list[list[int]]:
        """Split the rows of each micro-batch into at most `parts` nearly equal parts, none of them empty."""
        return [part for rows in micro_batches for part in _split(rows, self.parts)]

    def step(
        self, compute: Callable[[], T], progress: Progress, undo: Callable[[], None], rows: Callable[[], int]
    ) -> T:
        """Return the gradients of a step; after an out-of-memory error, halve the micro-batches and compute again.

        Args:
            compute: forward and backward passes over all micro-batches, split by `split`.
            progress: reset to its state before a failed try.
            undo: undoes everything else that a failed try did.
            rows: returns the number of rows of the largest micro-batch before splitting.

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
        """Call `compute`, which runs the model over batches without gradients; return its value.

        After an out-of-memory error, halve `eval_batch_size` and `eval_limits`, and call it again.

        Raises:
            torch.OutOfMemoryError: without `auto_batch`, or when one row alone does not fit.
        """

        def smaller() -> str | None:
            if self.eval_batch_size == 1:
                return None
            self.eval_batch_size //= 2
            limits = self.eval_limits
            rows = self.eval_batch_size if limits.rows or self.eval_batch_size == 1 else None
            self.eval_limits = BatchLimits(rows, max(1, limits.tokens // 2), max(1, limits.cached_tokens // 2))
            return f"evaluation batches have {self.eval_batch_size} rows"

        return self._attempt(compute, smaller, step, _EVALUATION)

    @staticmethod
    def _alike(compute: Callable[[], T]) -> Callable[[], T]:
        """Wrap `compute` to raise OutOfMemoryError on every rank if one rank does: all have to split alike."""

        def computed() -> T:
            try:
                value = compute()
            except torch.OutOfMemoryError:
                ranks.any_rank(True)
                raise
            if ranks.any_rank(False):
                raise torch.OutOfMemoryError("another worker of this trial ran out of memory")
            return value

        return computed

    def _attempt(self, compute: Callable[[], T], smaller: Callable[[], str | None], step: int, hint: str) -> T:
        while True:
            try:
                return compute()
            except torch.OutOfMemoryError as error:
                if not self._auto:
                    error.args = (f"{error}\nOut of memory: {hint}",)
                    raise
                if (change := smaller()) is None:
                    raise
                why = f"out of memory at step {step}: from now on {change}"
            # outside of `except`: only now the error is freed, and the tensors in the frames of its traceback
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self._on_event({"event": "auto_batch", "why": why, "step": step})


def limits_for(model: Any, free: int, rows: int | None) -> BatchLimits:
    """Return limits with which a batch of an evaluation should take less than half of a GPU's free memory.

    Args:
        model: a transformers model; its sizes are read from its config.
        free: free memory in bytes.
        rows: rows of a batch at most; None: as many as the tokens allow.
    """
    config = model.config.get_text_config()
    hidden, heads = config.hidden_size, config.num_attention_heads
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    head = getattr(config, "head_dim", None) or hidden // heads
    cached_heads = getattr(config, "num_key_value_heads", None) or heads
    size = model.dtype.itemsize
    # a layer's inputs, outputs and products; the logits of a scored token and their softmax in float32
    token = size * (8 * hidden + 4 * inner) + 12 * config.vocab_size
    cached = size * (2 * config.num_hidden_layers * cached_heads * head + 8 * hidden + 4 * inner)
    planned = _EVAL_SHARE * free
    within = (min(_MOST_TOKENS, max(_FEWEST_TOKENS, int(planned / each))) for each in (token, cached))
    return BatchLimits(rows, *within)


def _split(rows: list[int], parts: int) -> list[list[int]]:
    size = -(-len(rows) // parts)
    return [rows[at : at + size] for at in range(0, len(rows), size)]


def _copy(progress: Progress) -> Progress:
    """Copy a progress and its dicts; their tensors are never changed in place, so they need no copy."""
    copied = copy.copy(progress)
    copied.sums, copied.metrics = dict(progress.sums), dict(progress.metrics)
    return copied
