"""`kl_divergence`: keep the model's predictions on the proxy near those it had before."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from selgen_ray.config.trial import TrialConfig
from selgen_ray.data.encode import Batch
from selgen_ray.models.log_probs import cross_entropy
from selgen_ray.trainers.base import BaseTrainer
from selgen_ray.trainers.engine.loop import Term
from selgen_ray.trainers.engine.reference import BaseLogProbs
from selgen_ray.trainers.losses import kl_to_base
from selgen_ray.trainers.registry import knob


class KLDivergenceTrainer(BaseTrainer):
    """Minimise L_O + beta_kl * mean over the proxy's scored tokens of KL(p_theta || p_base).

    p_base is the model before this run (a new adapter off). Logs the KL in nats a token. With `kl_on: outcome` the KL
    is that on the outcome's own scored tokens, and the proxy is not read.

    Source: Azarbal et al. 2025, "Selective Generalization"; on the outcome: Kaczér et al. 2025 (arXiv 2508.06249).
    """

    proxy_strategy_name = "kl_divergence"
    required_roles = ("outcome", "proxy")
    zero_strength = {"finetune_config.beta_kl": 0.0}
    beta_kl: float = knob(1.0, "weight β of the KL penalty on proxy", ge=0)
    kl_on: Literal["proxy", "outcome"] = knob("proxy", "whose scored tokens the KL is taken on")

    @classmethod
    def needed_roles(cls, config: TrialConfig) -> tuple[str, ...]:
        """Return the roles that the two terms read."""
        return tuple(dict.fromkeys(("outcome", getattr(config.finetune_config, "kl_on", "proxy"))))

    def prepare(self) -> None:
        """Compute the start model's log-probabilities once."""
        if self.beta_kl:
            self.base_log_probs = BaseLogProbs(self.run, self, self.kl_on)

    def terms(self) -> list[Term]:
        """Return the outcome's cross-entropy and the KL penalty, of one forward pass where both are on the outcome."""
        penalty = Term("kl", self.beta_kl, self.kl_on, self._kl)
        if self.kl_on == "outcome" and self.beta_kl:
            return [Term("outcome", 1.0, "outcome", self._both, beside=(penalty,))]
        return [self.cross_entropy_term("outcome"), penalty]

    def _kl(self, batch: Batch) -> Tensor:
        return kl_to_base(self.scored_logits(batch), self.base_log_probs(batch))

    def _both(self, batch: Batch) -> list[Tensor]:
        logits = self.scored_logits(batch)
        return [
            cross_entropy(logits, batch.targets[batch.scored]),
            kl_to_base(logits, self.base_log_probs(batch)),
        ]
