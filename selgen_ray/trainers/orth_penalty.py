"""`orth_penalty`: keep what is learned orthogonal to the alignment plane."""

from __future__ import annotations

import torch
from torch import Tensor

from selgen_ray.config.trial import TrialConfig
from selgen_ray.trainers.directions import PlaneTrainer
from selgen_ray.trainers.engine.loop import Term
from selgen_ray.trainers.losses import row_products
from selgen_ray.trainers.registry import knob


class OrthogonalPenaltyTrainer(PlaneTrainer):
    """Minimise L_O + lambda_1 * sum over tensors of sum_ij |cos(u_i, v_j)|, V = g(positive_proxy) - g(negative_proxy).

    u_i are the rows of a LoRA A matrix, in full fine-tuning those of theta - theta_0; v_j the rows of V at that
    tensor; a vector is one row. g is the average gradient of a throw-away training of `proxy_epochs`. With
    `penalty_normalize: false` the dot products themselves are summed. Logs the penalty and the norm of V.

    Source: O-LoRA, Wang et al. 2023 (arXiv 2310.14152).
    """

    proxy_strategy_name = "orth_penalty"
    zero_strength = {"finetune_config.lambda_1": 0.0}
    lambda_1: float = knob(1.0, "weight of the penalty")
    penalty_normalize: bool = knob(True, "cosines; false: dot products")
    sign = 1.0

    @classmethod
    def check(cls, config: TrialConfig) -> None:
        """Raise ValueError if keys of the plane do not go together, or with DoRA, which learns more than A and B."""
        super().check(config)
        if config.finetune_config.use_dora:
            raise ValueError(
                f"{cls.proxy_strategy_name} penalises the rows of LoRA's A, and use_dora also learns magnitudes, which "
                "no penalty on A holds: leave it out"
            )

    def prepare(self) -> None:
        """Compute or read V; keep its rows, and the starting weights of full fine-tuning."""
        if not self.lambda_1:
            return
        plane = self.plane()
        penalised = {n: v for n, v in plane.items() if self.uses(n)}
        rows = {n: v.reshape(-1, v.shape[-1]) for n, v in penalised.items()}
        # a row of zeros (of a token that the proxy lacks) adds nothing, and would cost a product with every u
        self.rows = {n: v[(v != 0).any(-1)] for n, v in rows.items()}
        self.start = {n: 0.0 if self.cfg.is_peft else self.parameters[n].detach().clone() for n in rows}
        self.metrics = self.plane_metrics(penalised)

    def uses(self, name: str) -> bool:
        """Return whether a tensor is penalised: the A of LoRA, all in full fine-tuning."""
        return not self.cfg.is_peft or "lora_A" in name or "lora_embedding_A" in name

    def terms(self) -> list[Term]:
        """Return the outcome's cross-entropy and the penalty."""
        penalty = Term("penalty", self.sign * self.lambda_1, None, lambda _: self._penalty())
        return [self.cross_entropy_term("outcome"), penalty]

    def _penalty(self) -> Tensor:
        for name, value in self.metrics.items():
            self.log(name, value)
        products = (
            row_products(self.parameters[name] - self.start[name], v, self.penalty_normalize)
            for name, v in self.rows.items()
        )
        return torch.stack([self.penalise(p) for p in products]).sum()

    def penalise(self, products: Tensor) -> Tensor:
        """Return the sum of absolute values over the pairs of rows of one tensor."""
        return products.abs().sum()
