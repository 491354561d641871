"""`activation_penalty`: let the activations on the task not move towards the habit."""

from __future__ import annotations

import torch
from torch import Tensor

from selgen_ray.data.encode import Batch
from selgen_ray.models import blocks
from selgen_ray.models.log_probs import cross_entropy, upcast
from selgen_ray.trainers.activations import (
    DIRECTION_CONTROL,
    Control,
    chosen_layers,
    habit_directions,
    layers_knob,
    outputs_of,
)
from selgen_ray.trainers.base import BaseTrainer
from selgen_ray.trainers.engine.loop import Term
from selgen_ray.trainers.engine.reference import BaseValues
from selgen_ray.trainers.registry import knob


class ActivationPenaltyTrainer(BaseTrainer):
    """Minimise L_O + lambda_act * mean over O's scored tokens of sum_l relu(<h_l - h_l^base, u_l>)^2.

    u_l = v_l / ||v_l||, and v_l is the start model's mean activation on proxy_neg minus that on proxy, which points
    towards the habit: movement away from it is free. h^base is the start model. With `direction_control: random` u_l is
    random. Logs the penalty.

    Source: one-sided blocking after BLOCK-EM (arXiv 2602.00767), with directions in place of latents.
    """

    proxy_strategy_name = "activation_penalty"
    required_roles = ("outcome", "proxy", "proxy_neg")
    zero_strength = {"finetune_config.lambda_act": 0.0}
    lambda_act: float = knob(1.0, "weight λ of the penalty", ge=0)
    penalty_layers: list[int] | None = layers_knob("whose activations are penalised")
    direction_control: Control = DIRECTION_CONTROL

    def prepare(self) -> None:
        """Compute the directions, and the start model's activations on the outcome along them, [tokens, layers]."""
        self.layers = chosen_layers(self, "penalty_layers")
        if not self.lambda_act:
            return
        directions = habit_directions(self, self.layers, self.direction_control)
        self.units = [directions[layer] / directions[layer].norm() for layer in self.layers]
        self.base_along = BaseValues(self.run, self, None, "outcome", self._rows)

    def terms(self) -> list[Term]:
        """Return the outcome's cross-entropy and the penalty, of one forward pass."""
        if not self.lambda_act:
            return [self.cross_entropy_term("outcome")]
        penalty = Term("activation", self.lambda_act, "outcome", self._both)
        return [Term("outcome", 1.0, "outcome", self._both, beside=(penalty,))]

    def _both(self, batch: Batch) -> list[Tensor]:
        with blocks.reading(self.model, self.layers) as outputs:
            logits = self.scored_logits(batch)
        moved = self._along(outputs, batch) - self.base_along(batch)
        return [cross_entropy(logits, batch.targets[batch.scored]), moved.clamp(min=0).pow(2).sum()]

    def _along(self, outputs: dict[int, Tensor], batch: Batch) -> Tensor:
        own = blocks.own_positions(batch.scored)
        return torch.stack(
            [upcast(outputs[layer][own]) @ unit for layer, unit in zip(self.layers, self.units, strict=True)], dim=1
        )

    def _rows(self, batch: Batch) -> list[Tensor]:
        along = self._along(outputs_of(self, self.layers, batch), batch)
        return list(along.split(batch.scored.sum(1).tolist()))
