"""What the frozen base says about each row, computed once instead of once a step."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from selgen_ray.data.encode import Batch
from selgen_ray.errors import ModelError
from selgen_ray.models import forward
from selgen_ray.models.log_probs import upcast

if TYPE_CHECKING:
    from selgen_ray.trainers.base import BaseTrainer

_KEPT_BYTES = 2**29  # as much as the log-probabilities of a proxy may take


class BaseValues:
    """A micro-batch of a stream -> what the model said about its rows before the first step; detached.

    That is the model that training starts from: the base, with the adapter that training continues from, if any.

    Args:
        trainer: in its starting state.
        kind: names the values in the sweep's cache; None: too large to share, and kept in the CPU's memory.
        stream: whose rows.
        compute: batch -> one tensor a row, the first axes of any length, the others alike.
    """

    def __init__(self, trainer: BaseTrainer, kind: str | None, stream: str, compute: Callable[[Batch], list[Tensor]]):
        def every_row(_: Any) -> dict[str, Tensor]:
            rows = _ask_base(trainer, stream, compute if kind else lambda batch: [row.cpu() for row in compute(batch)])
            return {"values": torch.cat(rows), "lengths": torch.tensor([len(row) for row in rows])}

        found = trainer.share.tensors(kind, trainer.data_key(stream), every_row) if kind else every_row(None)
        self.rows = found["values"].split(found["lengths"].tolist())

    def __call__(self, batch: Batch) -> Tensor:
        """The values of the rows of `batch`, one row after the other."""
        return torch.cat([self.rows[row] for row in batch.rows]).to(batch.input_ids.device)


def _ask_base(trainer: BaseTrainer, stream: str, compute: Callable[[Batch], list[Tensor]]) -> list[Tensor]:
    def every_row() -> dict[int, Tensor]:
        found: dict[int, Tensor] = {}
        for batch in trainer.batches(stream):
            found |= zip(batch.rows, compute(batch), strict=True)
        return found

    was_training = trainer.model.training
    trainer.model.eval()
    # an adapter that training continues from is part of the reference, and still as it was
    reference = contextlib.nullcontext() if trainer.cfg.adapter else forward.adapter_off(trainer.model)
    with torch.no_grad(), reference:
        found = trainer.passes(every_row)
    trainer.model.train(was_training)
    return [found[row] for row in sorted(found)]


class BaseLogProbs:
    """Micro-batch of the proxy -> the base's log-probabilities at its scored tokens, [scored, vocab]; detached.

    Shares the last hidden states (hidden size numbers a token, not vocabulary size) and applies the head to them: in
    every step, or once where the log-probabilities of the whole proxy take little memory. Exact: top-k
    log-probabilities would bias the KL.

    Raises:
        ModelError: the model changes the head's output (logit soft-capping, say), so hidden states do not suffice.
    """

    def __init__(self, trainer: BaseTrainer):
        live: Any = trainer.model.get_output_embeddings()
        trained = any(p.requires_grad for p in live.parameters())
        # a head that will be trained must be kept as it is now; a frozen one is shared
        self.head: torch.nn.Module = copy.deepcopy(live).requires_grad_(False) if trained else live
        self.hidden = BaseValues(trainer, "base_hidden_states", "proxy", lambda b: self._hidden(trainer, b))
        size = sum(map(len, self.hidden.rows)) * int(live.weight.shape[0]) * torch.float32.itemsize
        self.rows = [self._log_probs(row) for row in self.hidden.rows] if size <= _KEPT_BYTES else []

    def _hidden(self, trainer: BaseTrainer, batch: Batch) -> list[Tensor]:
        hidden, output = forward.hidden_states(trainer.model, batch)
        if not torch.allclose(self.head(hidden[:, :1]), output.logits, rtol=1e-3, atol=1e-3):
            raise ModelError("this model's logits are not its head applied to its last hidden state")
        return [row[scored] for row, scored in zip(hidden, batch.scored, strict=True)]

    @torch.no_grad()
    def _log_probs(self, hidden: Tensor) -> Tensor:
        return torch.log_softmax(upcast(self.head(hidden)), dim=-1)

    def __call__(self, batch: Batch) -> Tensor:
        """Log-probabilities of a batch's scored positions, [scored tokens, vocabulary]."""
        if self.rows:
            return torch.cat([self.rows[row] for row in batch.rows])
        return self._log_probs(self.hidden(batch))
