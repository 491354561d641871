"""Values of the start model for each row, computed once before training instead of in every step."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from selgen_ray.data.encode import Batch
from selgen_ray.errors import ModelError
from selgen_ray.models import forward
from selgen_ray.models.log_probs import upcast
from selgen_ray.trainers.engine.context import Hooks, RunContext

_KEPT_BYTES = 2**29  # the log-probabilities of a proxy are kept if they take no more


class BaseValues:
    """Maps a micro-batch of a stream to the start model's values for its rows; detached.

    The start model is the base, with the adapter that training continues from, if any.

    Args:
        run: a run whose model is in its starting state.
        hooks: makes the batches.
        kind: names the values in the sweep's cache; None: they are too large to share, and kept in the CPU's memory.
        stream: the stream whose rows are evaluated.
        compute: batch -> one tensor for each row, [any length, ...]; all axes but the first agree between rows.
    """

    def __init__(
        self,
        run: RunContext,
        hooks: Hooks,
        kind: str | None,
        stream: str,
        compute: Callable[[Batch], list[Tensor]],
    ):
        def every_row(_: Any) -> dict[str, Tensor]:
            rows = ask_start_model(
                run, hooks, stream, compute if kind else lambda batch: [row.cpu() for row in compute(batch)]
            )
            return {"values": torch.cat(rows), "lengths": torch.tensor([len(row) for row in rows])}

        values = run.shared.tensors(kind, run.data_key(stream), every_row) if kind else every_row(None)
        self.rows = values["values"].split(values["lengths"].tolist())

    def __call__(self, batch: Batch) -> Tensor:
        """Return the values of the rows of `batch`, concatenated along the first axis, on its device."""
        return torch.cat([self.rows[row] for row in batch.rows]).to(batch.input_ids.device)


def ask_start_model(
    run: RunContext,
    hooks: Hooks,
    stream: str,
    compute: Callable[[Batch], list[Tensor]],
    rows: Sequence[int] | None = None,
) -> list[Tensor]:
    """Return the value of the start model for each row of a stream, or for each of `rows`, in their order.

    The start model is the base, with the adapter that training continues from, if any, at its starting weights.

    Args:
        compute: batch -> the value of each of its rows.
    """
    # an adapter that training continues from is part of the start model, and still has its starting weights
    with contextlib.nullcontext() if run.cfg.adapter else forward.adapter_off(run.model):
        return ask_model(run, hooks, stream, compute, rows)


def ask_model(
    run: RunContext,
    hooks: Hooks,
    stream: str,
    compute: Callable[[Batch], list[Tensor]],
    rows: Sequence[int] | None = None,
) -> list[Tensor]:
    """Return the value of the model as it is, in evaluation mode and without gradients; see `ask_start_model`."""

    def every_row() -> dict[int, Tensor]:
        by_row: dict[int, Tensor] = {}
        for batch in run.batches(stream, hooks, rows):
            by_row |= zip(batch.rows, compute(batch), strict=True)
        return by_row

    was_training = run.model.training
    run.model.eval()
    with torch.no_grad():
        by_row = run.passes(every_row)
    run.model.train(was_training)
    return [by_row[row] for row in (sorted(by_row) if rows is None else rows)]


class BaseLogProbs:
    """Maps a micro-batch of a stream to the start model's log-probabilities at its scored tokens; detached.

    Caches the last hidden states (hidden size numbers a token instead of vocabulary size), and applies the head to
    them: in every step, or once if the log-probabilities of the whole stream take at most 512 MiB. Exact: top-k
    log-probabilities would bias the KL.

    Raises:
        ModelError: the model changes the head's output (logit soft-capping, say), so hidden states do not suffice.
    """

    def __init__(self, run: RunContext, hooks: Hooks, stream: str = "proxy"):
        live: Any = run.model.get_output_embeddings()
        trained = any(p.requires_grad for p in live.parameters())
        # a head that will be trained must be kept as it is now; a frozen one is shared
        self.head: torch.nn.Module = copy.deepcopy(live).requires_grad_(False) if trained else live
        self.hidden = BaseValues(run, hooks, "base_hidden_states", stream, lambda batch: self._hidden(run, batch))
        size = sum(map(len, self.hidden.rows)) * int(live.weight.shape[0]) * torch.float32.itemsize
        self.rows = [self._log_probs(row) for row in self.hidden.rows] if size <= _KEPT_BYTES else []

    def _hidden(self, run: RunContext, batch: Batch) -> list[Tensor]:
        hidden, output = forward.hidden_states(run.model, batch)
        if not torch.allclose(self.head(hidden[:, :1]), output.logits, rtol=1e-3, atol=1e-3):
            raise ModelError("this model's logits are not its head applied to its last hidden state")
        return [row[scored] for row, scored in zip(hidden, batch.scored, strict=True)]

    @torch.no_grad()
    def _log_probs(self, hidden: Tensor) -> Tensor:
        return torch.log_softmax(upcast(self.head(hidden)), dim=-1)

    def __call__(self, batch: Batch) -> Tensor:
        """Return the log-probabilities at the scored tokens of a batch, [scored, vocab]."""
        if self.rows:
            return torch.cat([self.rows[row] for row in batch.rows])
        return self._log_probs(self.hidden(batch))
