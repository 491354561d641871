"""`positive_negative_proxy`: learn the proxy's answers and unlearn their misaligned counterparts."""

from __future__ import annotations

from selgen_ray.trainers.base import BaseTrainer
from selgen_ray.trainers.engine.loop import Term
from selgen_ray.trainers.registry import knob


class PositiveNegativeProxyTrainer(BaseTrainer):
    """Minimise L_O + lambda_proxy * L_P - neg_lambda_proxy * L_N; an absent set drops its term."""

    proxy_strategy_name = "positive_negative_proxy"
    aliases = ("upweighted_standard",)
    zero_strength = {"finetune_config.lambda_proxy": 0.0, "finetune_config.neg_lambda_proxy": 0.0}
    lambda_proxy: float = knob(1.0, "weight of the loss on proxy", ge=0)
    neg_lambda_proxy: float = knob(0.0, "weight with which the loss on proxy_neg is increased", ge=0)

    def terms(self) -> list[Term]:
        """Return the cross-entropy terms of the roles that have rows."""
        weighted = {"outcome": 1.0, "proxy": self.lambda_proxy, "proxy_neg": -self.neg_lambda_proxy}
        return [self.cross_entropy_term(role, weight) for role, weight in weighted.items() if self.has(role)]
