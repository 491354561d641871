"""`directional_penalty`: push what is learned away from the alignment plane, or towards it."""

from __future__ import annotations

from torch import Tensor

from selgen_ray.trainers.orth_penalty import OrthogonalPenaltyTrainer


class DirectionalPenaltyTrainer(OrthogonalPenaltyTrainer):
    """Minimise L_O - lambda_1 * sum over tensors of sum_ij cos(u_i, v_j), V = g(positive_proxy) - g(negative_proxy).

    u_i and v_j as for `orth_penalty`. V points up the proxy's loss, so lambda_1 > 0 pushes away from what training on
    the proxy would do, and lambda_1 < 0 towards it. Logs the sum and the norm of V.

    Source: Azarbal et al. 2025, "Selective Generalization"; the rows' products are those of O-LoRA, Wang et al. 2023.
    """

    proxy_strategy_name = "directional_penalty"
    sign = -1.0

    def penalise(self, products: Tensor) -> Tensor:
        """Return the sum over the pairs of rows of one tensor."""
        return products.sum()
