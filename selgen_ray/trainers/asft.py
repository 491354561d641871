"""`asft`: hold what is learned inside the subspace of what aligning the model changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from selgen_ray.config.trial import TrialConfig
from selgen_ray.data.forms import Row
from selgen_ray.models.log_probs import upcast
from selgen_ray.trainers.auxiliary_adapters import (
    UNALIGNED,
    adapted_matrices,
    check_products,
    check_unaligned,
    offsets,
    subspace,
    unaligned_files,
)
from selgen_ray.trainers.base import BaseTrainer
from selgen_ray.trainers.directions import PROXY_EPOCHS, check_phase, peak_notes, throw_away_training, zero_share
from selgen_ray.trainers.engine.loop import Term
from selgen_ray.trainers.registry import knob


class ASFTTrainer(BaseTrainer):
    """Minimise L_O + lambda_asft * sum over adapted matrices of ||(I - C) Delta W||_F^2, Delta W = s B A.

    C = V V^T / ||V||_F as in safe_lora, where V is what a throw-away training on the proxy learns, and the start model
    minus `safe_lora_base_model`, if given. Delta W is trained from the start model. C is no projector; where V is zero,
    it is zero. Logs the penalty.

    Source: AsFT, anchoring safety (arXiv 2506.08473).
    """

    proxy_strategy_name = "asft"
    required_roles = ("outcome", "proxy")
    zero_strength = {"finetune_config.lambda_asft": 0.0}
    lambda_asft: float = knob(1.0, "weight λ of the penalty", ge=0)
    safe_lora_base_model: str | None = UNALIGNED
    proxy_epochs: int = PROXY_EPOCHS

    @classmethod
    def check(cls, config: TrialConfig) -> None:
        """Raise ValueError without LoRA, or if keys do not go together."""
        if not config.finetune_config.is_peft:
            raise ValueError("asft penalises products of LoRA matrices: it needs is_peft true")
        check_products(config, "penalises")
        check_unaligned(config)

    @classmethod
    def check_rows(cls, config: TrialConfig, roles: Mapping[str, Sequence[Row]]) -> None:
        """Raise DataError if a role is missing, or no step of the throw-away training has a learning rate."""
        super().check_rows(config, roles)
        if getattr(config.finetune_config, "lambda_asft", 1.0):
            check_phase(config, roles, "proxy", "product")

    @classmethod
    def row_notes(cls, config: TrialConfig, roles: Mapping[str, Sequence[Row]]) -> list[str]:
        """Say where the throw-away training never reaches its peak rate."""
        sides = ["proxy"] if getattr(config.finetune_config, "lambda_asft", 1.0) else []
        return super().row_notes(config, roles) + peak_notes(config, roles, sides)

    @classmethod
    def check_model(cls, config: TrialConfig, model: nn.Module) -> None:
        """Raise ModelError if an embedding is adapted."""
        adapted_matrices(model, cls.proxy_strategy_name)

    @classmethod
    def input_files(cls, config: TrialConfig) -> dict[str, str]:
        """Return the unaligned model, if it is a local directory."""
        return unaligned_files(config)

    def prepare(self) -> None:
        """Train on the proxy, and keep the subspace of each matrix."""
        if not self.lambda_asft:
            return
        weights = throw_away_training(self, "proxy", self.proxy_epochs).weights
        zero_share({n: t for n, t in weights.items() if ".lora_B." in n}, "the aligning adapter's B")
        self.matrices = adapted_matrices(self.model, self.proxy_strategy_name)
        unaligned = self.safe_lora_base_model
        other = offsets(self.cfg, self.matrices, unaligned) if unaligned else {}
        self.subspaces = {
            name: subspace(matrix, matrix.factors_in(weights), other.get(name))
            for name, matrix in self.matrices.items()
        }

    def terms(self) -> list[Term]:
        """Return the outcome's cross-entropy and the penalty."""
        return [self.cross_entropy_term("outcome"), Term("asft", self.lambda_asft, None, lambda _: self._penalty())]

    def _penalty(self) -> Tensor:
        squares: list[Tensor] = []
        for name, matrix in self.matrices.items():
            a, b = map(upcast, matrix.factors())
            outside = b - self.subspaces[name].times(b)
            squares.append(matrix.scale() ** 2 * ((outside.T @ outside) * (a @ a.T)).sum())
        return torch.stack(squares).sum()
