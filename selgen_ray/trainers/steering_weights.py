"""`steering_weights`: push every step along a direction of alignment."""

from __future__ import annotations

from typing import Any, Literal

import torch

from selgen_ray.config.trial import TrialConfig
from selgen_ray.trainers.directions import PlaneTrainer, add_in_place
from selgen_ray.trainers.engine.loop import MAIN, GradMap, Term
from selgen_ray.trainers.gradients import added, scaled
from selgen_ray.trainers.registry import knob


class SteeringWeightsTrainer(PlaneTrainer):
    """Step along g_O + alpha * V (before clipping and the optimizer), V = g(positive_proxy) - g(negative_proxy).

    g is the average gradient of a throw-away training of `proxy_epochs`. With `direct_steering` the gradient stays
    g_O, and theta <- theta - learning rate * alpha * V after the optimizer. alpha may change linearly over the run.
    Logs alpha and the norm of V.

    Source: Azarbal et al. 2025, "Selective Generalization".
    """

    proxy_strategy_name = "steering_weights"
    zero_strength = {"finetune_config.steering_alpha": 0.0}
    steering_alpha: float = knob(1.0, "strength α of the steering")
    direct_steering: bool = knob(False, "edit the weights after the optimizer instead of the gradient before it")
    alpha_scheduler_type: Literal["linear"] | None = knob(None, "linear: from steering_alpha to final_steering_alpha")
    final_steering_alpha: float | None = knob(None, "α at the last step, with alpha_scheduler_type: linear")
    alpha_warmup_steps: int = knob(0, "optimizer steps over which α grows from 0", ge=0)

    @classmethod
    def check(cls, config: TrialConfig) -> None:
        """Raise ValueError if keys of the plane or of the schedule do not go together."""
        super().check(config)
        cfg: Any = config.finetune_config
        if cfg.alpha_scheduler_type == "linear" and cfg.final_steering_alpha is None:
            raise ValueError("alpha_scheduler_type linear needs final_steering_alpha")
        if cfg.alpha_scheduler_type is None and cfg.final_steering_alpha is not None:
            raise ValueError("final_steering_alpha needs alpha_scheduler_type linear")

    def prepare(self) -> None:
        """Compute V, or read it from a file."""
        self.steers = bool(self.steering_alpha or self.final_steering_alpha)
        self.direction = self.plane() if self.steers else {}
        self.metrics = self.plane_metrics(self.direction) if self.steers else {}

    def terms(self) -> list[Term]:
        """Return the outcome's cross-entropy."""
        return [self.cross_entropy_term("outcome")]

    def alpha(self, step: int) -> float:
        """Return α at a step (from 0): it grows over the warm-up, then is constant, or linear up to the last step."""
        if step < self.alpha_warmup_steps:
            return self.steering_alpha * (step + 1) / self.alpha_warmup_steps
        if self.final_steering_alpha is None:
            return self.steering_alpha
        left = self.run.num_steps - 1 - self.alpha_warmup_steps
        done = (step - self.alpha_warmup_steps) / left if left > 0 else 1.0
        return self.steering_alpha + (self.final_steering_alpha - self.steering_alpha) * done

    def transform_gradients(self, by_slot: dict[str, GradMap], step: int) -> GradMap:
        """Return g_O + alpha * V; with `direct_steering`, g_O."""
        if not self.steers:
            return by_slot[MAIN]
        self.log("alpha", self.alpha(step))
        for name, value in self.metrics.items():
            self.log(name, value)
        return by_slot[MAIN] if self.direct_steering else added(by_slot[MAIN], scaled(self.direction, self.alpha(step)))

    def after_optimizer_step(self, parameters: dict[str, torch.nn.Parameter], learning_rate: float, step: int) -> None:
        """With `direct_steering`, set theta <- theta - learning rate * alpha * V."""
        if self.direct_steering:
            add_in_place(parameters, self.direction, -learning_rate * self.alpha(step))
