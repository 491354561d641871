"""`preventative_steering`: add the habit to the residual stream while learning, so that it need not be learnt."""

from __future__ import annotations

from contextlib import AbstractContextManager

from selgen_ray.models import blocks
from selgen_ray.trainers.activations import DIRECTION_CONTROL, Control, chosen_layers, habit_directions, layers_knob
from selgen_ray.trainers.base import BaseTrainer
from selgen_ray.trainers.engine.loop import Term
from selgen_ray.trainers.registry import knob


class PreventativeSteeringTrainer(BaseTrainer):
    """Minimise L_O where h_l <- h_l + steer_alpha * v_l at every position of `steer_layers`, while training only.

    v_l is the start model's mean activation at the output of block l on proxy_neg minus that on proxy, and points
    towards the habit. Deployed and evaluated without it. With `direction_control: random` v_l is random, of the same
    norm. Logs the norm of each v_l.

    Source: persona vectors, Chen et al. 2025 (arXiv 2507.21509).
    """

    proxy_strategy_name = "preventative_steering"
    required_roles = ("outcome", "proxy", "proxy_neg")
    zero_strength = {"finetune_config.steer_alpha": 0.0}
    steer_alpha: float = knob(1.0, "strength α of the vectors")
    steer_layers: list[int] | None = layers_knob("that the vectors are added to")
    direction_control: Control = DIRECTION_CONTROL

    def prepare(self) -> None:
        """Compute the vectors once."""
        layers = chosen_layers(self, "steer_layers")
        self.vectors = habit_directions(self, layers, self.direction_control) if self.steer_alpha else {}

    def training_scope(self) -> AbstractContextManager[None]:
        """Add the vectors to the residual stream."""
        for layer, vector in self.vectors.items():
            self.log(f"direction_norm/layer_{layer}", vector.norm())
        changes = {layer: blocks.adding(self.steer_alpha * v) for layer, v in self.vectors.items()}
        return blocks.changing(self.model, changes)

    def terms(self) -> list[Term]:
        """Return the outcome's cross-entropy."""
        return [self.cross_entropy_term("outcome")]
