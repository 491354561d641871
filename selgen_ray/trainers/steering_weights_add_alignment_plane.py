"""`steering_weights_add_alignment_plane`: steer the finished weights once."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from selgen_ray.trainers.directions import PlaneTrainer, add_in_place
from selgen_ray.trainers.engine.context import Edit
from selgen_ray.trainers.engine.loop import Term
from selgen_ray.trainers.registry import knob


class SteerAtEndTrainer(PlaneTrainer):
    """Minimise L_O alone; then theta <- theta - alpha * V once, V = g(positive_proxy) - g(negative_proxy).

    g is the average gradient of a throw-away training of `proxy_epochs` before the run. The last evaluation is of the
    edited weights; the unedited ones are evaluated before it. Logs the norm of V. Of LoRA it subtracts in the factors A
    and B, whose product then changes by alpha^2 V_B V_A too: at a large alpha the model collapses. `weight_steering`
    adds products instead.

    Source: Azarbal et al. 2025, "Selective Generalization".
    """

    proxy_strategy_name = "steering_weights_add_alignment_plane"
    zero_strength = {"finetune_config.steering_alpha": 0.0}
    steering_alpha: float = knob(1.0, "strength α of the edit")

    def prepare(self) -> None:
        """Compute V, or read it from a file."""
        self.direction = self.plane() if self.steering_alpha else {}

    def terms(self) -> list[Term]:
        """Return the outcome's cross-entropy."""
        return [self.cross_entropy_term("outcome")]

    def edits(self) -> Iterable[tuple[str, Edit]]:
        """Yield the edit theta <- theta - alpha * V."""
        if self.steering_alpha:
            self.record.add_metrics({name: float(value) for name, value in self.plane_metrics(self.direction).items()})
            yield "steered", functools.partial(add_in_place, direction=self.direction, factor=-self.steering_alpha)
