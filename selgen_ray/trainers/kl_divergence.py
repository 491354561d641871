"""`kl_divergence`: keep the model's predictions on the proxy near those it had before."""

from __future__ import annotations

from torch import Tensor

from selgen_ray.data.encode import Batch
from selgen_ray.trainers.base import BaseTrainer
from selgen_ray.trainers.engine.loop import Term
from selgen_ray.trainers.engine.reference import BaseLogProbs
from selgen_ray.trainers.losses import kl_to_base
from selgen_ray.trainers.registry import knob


class KLDivergenceTrainer(BaseTrainer):
    """Minimise L_O + beta_kl * mean over the proxy's scored tokens of KL(p_theta || p_base).

    p_base is the model before this run (a new adapter off). Logs the KL in nats a token.

    Source: Azarbal et al. 2025, "Selective Generalization".
    """

    proxy_strategy_name = "kl_divergence"
    required_roles = ("outcome", "proxy")
    zero_strength = {"finetune_config.beta_kl": 0.0}
    beta_kl: float = knob(1.0, "weight β of the KL penalty on proxy", ge=0)

    def prepare(self) -> None:
        """Compute the start model's log-probabilities on the proxy once."""
        if self.beta_kl:
            self.base_log_probs = BaseLogProbs(self.run, self)

    def terms(self) -> list[Term]:
        """Return the outcome's cross-entropy and the KL penalty."""
        return [self.cross_entropy_term("outcome"), Term("kl", self.beta_kl, "proxy", self._kl)]

    def _kl(self, batch: Batch) -> Tensor:
        return kl_to_base(self.scored_logits(batch), self.base_log_probs(batch))
