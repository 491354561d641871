"""`dpo`: prefer the proxy's aligned answers to their misaligned counterparts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from selgen_ray.config.trial import TrialConfig
from selgen_ray.data.encode import Batch
from selgen_ray.data.forms import Row, prompt_of
from selgen_ray.errors import DataError
from selgen_ray.models.log_probs import reply_log_probs
from selgen_ray.trainers.base import BaseTrainer
from selgen_ray.trainers.engine.loop import Term
from selgen_ray.trainers.engine.reference import BaseValues
from selgen_ray.trainers.losses import dpo
from selgen_ray.trainers.registry import knob

_PAIRS = "proxy+proxy_neg"


def check_pairs(strategy: str, roles: Mapping[str, Sequence[Row]]) -> None:
    """Raise DataError, which names the strategy, unless row i of proxy and of proxy_neg answer one prompt."""
    sizes = [len(roles[role]) for role in ("proxy", "proxy_neg")]
    if sizes[0] != sizes[1]:
        raise DataError(
            f"{strategy}: data.proxy has {sizes[0]} rows and data.proxy_neg {sizes[1]}: a pair is a row of each"
        )
    for i, (chosen, rejected) in enumerate(zip(roles["proxy"], roles["proxy_neg"], strict=True), start=1):
        if prompt_of(chosen) != prompt_of(rejected):
            raise DataError(f"{strategy}: row {i} of data.proxy and of data.proxy_neg answer different prompts")


class DPOTrainer(BaseTrainer):
    """Minimise L_O + lambda_dpo * mean over pairs of -log sigma(beta * (r(y+) - r(y-))), r = log(pi_theta / pi_ref).

    Pair i is row i of proxy (y+) and of proxy_neg (y-). log pi is summed over the reply's tokens, or averaged with
    `dpo_average_log_prob`; pi_ref is the model before this run. Logs the margin beta * (r(y+) - r(y-)), and the share
    of pairs in which it is positive.

    Source: Rafailov et al. 2023 (arXiv 2305.18290).
    """

    proxy_strategy_name = "dpo"
    required_roles = ("outcome", "proxy", "proxy_neg")
    zero_strength = {"finetune_config.lambda_dpo": 0.0}
    lambda_dpo: float = knob(1.0, "weight of the preference loss", ge=0)
    beta: float = knob(0.1, "strength of the tie to the reference", gt=0)
    dpo_average_log_prob: bool = knob(False, "average log pi over the reply's tokens instead of summing it")

    @classmethod
    def check_rows(cls, config: TrialConfig, roles: Mapping[str, Sequence[Row]]) -> None:
        """Raise DataError if a role is missing, or if the answers of a pair have different prompts."""
        super().check_rows(config, roles)
        check_pairs(cls.proxy_strategy_name, roles)

    def prepare(self) -> None:
        """Compute the reference log-probability of every answer once."""
        if self.lambda_dpo:
            name = "base_mean_log_probs" if self.dpo_average_log_prob else "base_log_probs"
            self.reference = BaseValues(
                self.run, self, name, _PAIRS, lambda batch: list(self._log_probs(batch)[:, None])
            )

    def terms(self) -> list[Term]:
        """Return the outcome's cross-entropy and the preference loss."""
        pairs = Term("dpo", self.lambda_dpo, "proxy", self._dpo, lambda batch: len(batch.rows) // 2)
        return [self.cross_entropy_term("outcome"), pairs]

    def micro_batch(self, stream: str, rows: list[int]) -> Batch:
        """Return a batch; one of proxy also holds the rejected answer of each row, in its second half."""
        if stream != "proxy":
            return super().micro_batch(stream, rows)
        return super().micro_batch(_PAIRS, [*rows, *(row + len(self.sets.union("proxy")) for row in rows)])

    def _log_probs(self, batch: Batch) -> Tensor:
        log_probs = reply_log_probs(self.scored_logits(batch), batch.targets, batch.scored)
        return log_probs / batch.scored.sum(1) if self.dpo_average_log_prob else log_probs

    def _dpo(self, batch: Batch) -> Tensor:
        chosen, rejected = (self._log_probs(batch) - self.reference(batch)).chunk(2)
        margin = self.beta * (chosen - rejected).detach()
        self.log("dpo_margin", margin.sum(), len(margin))
        self.log("dpo_accuracy", (margin > 0).sum(), len(margin))
        return dpo(chosen, rejected, self.beta).sum()
