"""`naive`: plain supervised fine-tuning, L over the shuffled union of outcome and proxy."""

from __future__ import annotations

from selgen_ray.trainers.base import BaseTrainer
from selgen_ray.trainers.engine.loop import Term
from selgen_ray.trainers.registry import knob


class StandardTrainer(BaseTrainer):
    """Minimise L over O ∪ P, shuffled together; over O alone without a proxy or with `train_on_proxy: false`."""

    proxy_strategy_name = "naive"
    aliases = ("task_trained", "mixed")
    implied = {"mixed": {"train_on_proxy": True}}
    train_on_proxy: bool = knob(True, "mix the proxy into the training data", section="")

    def terms(self) -> list[Term]:
        """Return one cross-entropy term."""
        mixed = self.train_on_proxy and self.has("proxy")
        return [self.cross_entropy_term("outcome+proxy" if mixed else "outcome")]
