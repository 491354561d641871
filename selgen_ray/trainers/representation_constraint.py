"""`representation_constraint`: keep the model's hidden states on the proxy near those it had before."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from selgen_ray.config.trial import TrialConfig
from selgen_ray.data.encode import Batch
from selgen_ray.errors import ModelError
from selgen_ray.models import forward
from selgen_ray.models.log_probs import cross_entropy
from selgen_ray.trainers.base import BaseTrainer
from selgen_ray.trainers.engine.loop import Term
from selgen_ray.trainers.engine.reference import BaseValues
from selgen_ray.trainers.losses import squared_drift
from selgen_ray.trainers.registry import knob


class RepresentationConstraintTrainer(BaseTrainer):
    """Minimise L_O + beta_kl * sum over layers of the mean over P's tokens and features of (h_theta - h_base)^2.

    P is the proxy. h^l is the output of layer l = 1..L as transformers gives it (of the last one after the final norm);
    the embeddings, layer 0, are left out; pads do not count. h_base is the model before this run. Logs the mean
    square of each layer. With `constraint_on: outcome` the drift is that on the outcome's own tokens, and the proxy is
    not read.

    Source: Azarbal et al. 2025, "Selective Generalization"; on the outcome: LDIFS in Kaczér et al. 2025 (arXiv
    2508.06249).
    """

    proxy_strategy_name = "representation_constraint"
    required_roles = ("outcome", "proxy")
    zero_strength = {"finetune_config.beta_kl": 0.0}
    beta_kl: float = knob(1.0, "weight β of the drift; also written beta_rep", ge=0, validation_alias="beta_rep")
    representation_layers: list[int] | None = knob(None, "the layers that count, from 1; default: all", min_length=1)
    constraint_on: Literal["proxy", "outcome"] = knob("proxy", "whose tokens the drift is taken on")

    @classmethod
    def needed_roles(cls, config: TrialConfig) -> tuple[str, ...]:
        """Return the roles that the two terms read."""
        return tuple(dict.fromkeys(("outcome", getattr(config.finetune_config, "constraint_on", "proxy"))))

    @classmethod
    def check(cls, config: TrialConfig) -> None:
        """Raise ValueError if a layer is below 1 or given twice. (`prepare` knows how many the model has.)"""
        layers = getattr(config.finetune_config, "representation_layers", None) or []
        if len(set(layers)) < len(layers) or any(layer < 1 for layer in layers):
            raise ValueError(f"representation_layers {layers}: allowed are different numbers from 1 on")

    def prepare(self) -> None:
        """Compute the start model's hidden states once, [tokens, layers, features] for each row.

        They are not shared through the sweep's cache but stay in the CPU's memory: for a large model they take tens of
        gigabytes, and cost only one pass.

        Raises:
            ModelError: the model has fewer layers than `representation_layers` names.
        """
        count = int(self.model.config.get_text_config().num_hidden_layers)
        self.layers = self.representation_layers or list(range(1, count + 1))
        if max(self.layers) > count:
            raise ModelError(f"finetune_config.representation_layers {self.layers}: this model has {count} layers")
        if self.beta_kl:
            self.base_hidden = BaseValues(self.run, self, None, self.constraint_on, self._rows)

    def terms(self) -> list[Term]:
        """Return the outcome's cross-entropy and the drift, of one forward pass where both are on the outcome."""
        tokens = lambda batch: batch.attention_mask.sum()  # noqa: E731
        drift = Term("drift", self.beta_kl, self.constraint_on, self._drift, tokens)
        if self.constraint_on == "outcome" and self.beta_kl:
            return [Term("outcome", 1.0, "outcome", self._both, beside=(drift,))]
        return [self.cross_entropy_term("outcome"), drift]

    def _drift(self, batch: Batch) -> Tensor:
        return self._drift_of(self._hidden(batch), batch)

    def _both(self, batch: Batch) -> list[Tensor]:
        logits, output = forward.scored_output(self.model, batch, output_hidden_states=True)
        hidden = [output.hidden_states[layer] for layer in self.layers]
        return [cross_entropy(logits, batch.targets[batch.scored]), self._drift_of(hidden, batch)]

    def _drift_of(self, hidden: list[Tensor], batch: Batch) -> Tensor:
        mask, base = batch.attention_mask.bool(), self.base_hidden(batch)
        drifts = [squared_drift(h, base[:, i], mask) for i, h in enumerate(hidden)]
        for layer, drift in zip(self.layers, drifts, strict=True):
            self.log(f"mse/layer_{layer}", drift.detach(), mask.sum())
        return torch.stack(drifts).sum()

    def _hidden(self, batch: Batch) -> list[Tensor]:
        _, output = forward.hidden_states(self.model, batch, output_hidden_states=True)
        return [output.hidden_states[layer] for layer in self.layers]

    def _rows(self, batch: Batch) -> list[Tensor]:
        stacked = torch.stack(self._hidden(batch), dim=2)
        return [row[mask] for row, mask in zip(stacked, batch.attention_mask.bool(), strict=True)]
