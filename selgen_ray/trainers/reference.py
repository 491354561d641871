"""The frozen base's predictions, computed once instead of once a step."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from selgen_ray.data.encode import Batch
from selgen_ray.errors import ModelError
from selgen_ray.models import Model, adapter_off


class BaseLogits:
    """Batch -> logits [scored, vocab] of the model as it was when this object was made, adapter off.

    Keeps the last hidden state of every scored token (hidden size numbers a token, not vocabulary size) and
    applies the head to them. Exact: top-k log-probabilities would bias the KL.

    Args:
        model: before its first step.
        batches: every row of the set once, each batch telling its row numbers.

    Raises:
        ModelError: the model changes the head's output (logit soft-capping, say), so hidden states do not suffice.
    """

    def __init__(self, model: Model, batches: Iterable[Batch]):
        live: Any = model.get_output_embeddings()
        trained = any(p.requires_grad for p in live.parameters())
        # a head that will be trained must be kept as it is now; a frozen one is shared
        self.head: nn.Module = copy.deepcopy(live).requires_grad_(False) if trained else live
        self.hidden: dict[int, Tensor] = {}
        was_training = model.training
        model.eval()
        with torch.no_grad(), adapter_off(model):
            for number, batch in enumerate(batches):
                self._store(model, live, batch, check=number == 0)
        model.train(was_training)

    def _store(self, model: Model, live: nn.Module, batch: Batch, check: bool) -> None:
        seen: list[Tensor] = []
        hook = live.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            logits = model(**batch.inputs).logits
        finally:
            hook.remove()
        hidden = seen[0]
        if check and not torch.allclose(self.head(hidden), logits, rtol=1e-3, atol=1e-3):
            raise ModelError("this model's logits are not its head applied to its last hidden state")
        for i, row in enumerate(batch.rows):
            self.hidden[row] = hidden[i][batch.scored[i]].clone()

    def __call__(self, batch: Batch) -> Tensor:
        """Logits at the scored tokens of `batch`, in the order of `logits[batch.scored]`; detached."""
        with torch.no_grad():
            return self.head(torch.cat([self.hidden[row] for row in batch.rows]))
