"""`representation_constraint`: keep the model's hidden states on the proxy near those it had before."""

from __future__ import annotations

import torch
from torch import Tensor

from selgen_ray.config.trial import TrialConfig
from selgen_ray.data.encode import Batch
from selgen_ray.errors import ModelError
from selgen_ray.models import forward
from selgen_ray.trainers.base import BaseTrainer
from selgen_ray.trainers.engine.loop import Term
from selgen_ray.trainers.engine.reference import BaseValues
from selgen_ray.trainers.losses import squared_drift
from selgen_ray.trainers.registry import knob


class RepresentationConstraintTrainer(BaseTrainer):
    """Minimise L_O + beta_kl * sum over layers of the mean over P's tokens and features of (h_theta - h_base)^2.

    P is the proxy. h^l is the output of layer l = 1..L as transformers gives it (of the last one after the final norm);
    the embeddings, layer 0, are left out; pads do not count. h_base is the model before this run. Logs the mean
    square of each layer.

    Source: Azarbal et al. 2025, "Selective Generalization".
    """

    proxy_strategy_name = "representation_constraint"
    required_roles = ("outcome", "proxy")
    zero_strength = {"finetune_config.beta_kl": 0.0}
    beta_kl: float = knob(1.0, "weight β of the drift; also written beta_rep", ge=0, validation_alias="beta_rep")
    representation_layers: list[int] | None = knob(None, "the layers that count, from 1; default: all", min_length=1)

    @classmethod
    def check(cls, config: TrialConfig) -> None:
        """Raise ValueError if a layer is below 1 or given twice. (`prepare` knows how many the model has.)"""
        layers = getattr(config.finetune_config, "representation_layers", None) or []
        if len(set(layers)) < len(layers) or any(layer < 1 for layer in layers):
            raise ValueError(f"representation_layers {layers}: allowed are different numbers from 1 on")

    def prepare(self) -> None:
        """Compute the start model's hidden states on the proxy once, [tokens, layers, features] for each row.

        They are not shared through the sweep's cache but stay in the CPU's memory: for a large model they take tens of
        gigabytes, and cost only one pass over the proxy.

        Raises:
            ModelError: the model has fewer layers than `representation_layers` names.
        """
        count = int(self.model.config.get_text_config().num_hidden_layers)
        self.layers = self.representation_layers or list(range(1, count + 1))
        if max(self.layers) > count:
            raise ModelError(f"finetune_config.representation_layers {self.layers}: this model has {count} layers")
        if self.beta_kl:
            self.base_hidden = BaseValues(self.run, self, None, "proxy", self._rows)

    def terms(self) -> list[Term]:
        """Return the outcome's cross-entropy and the drift."""
        drift = Term("drift", self.beta_kl, "proxy", self._drift, lambda batch: batch.attention_mask.sum())
        return [self.cross_entropy_term("outcome"), drift]

    def _drift(self, batch: Batch) -> Tensor:
        mask, base = batch.attention_mask.bool(), self.base_hidden(batch)
        hidden = self._hidden(batch)
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
