"""`inoculation_adapter`: learn the task on top of an adapter that has the habit already, and deploy without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

from torch import nn

from selgen_ray.config.trial import TrialConfig
from selgen_ray.data.forms import Row
from selgen_ray.trainers.auxiliary_adapters import (
    TRAINED,
    adapted_matrices,
    check_products,
    put_beside,
    random_products,
    rescale,
    switch_on,
    switched_on,
)
from selgen_ray.trainers.base import BaseTrainer
from selgen_ray.trainers.directions import check_phase, peak_notes, throw_away_training, zero_share
from selgen_ray.trainers.engine.loop import Term
from selgen_ray.trainers.registry import knob

_TRAIT = "trait"
_EPOCHS = "trait_epochs"


class InoculationAdapterTrainer(BaseTrainer):
    """LoRA W_t on trait; then L_O of W_0 + trait_scale * W_t + Delta W, W_t frozen. Deployed: W_0 + Delta W.

    Both adapters start from the run's own initial values. W_t is on while Delta W is trained, and off when it is
    measured. Evaluated: the start model, `trait` (W_0 + W_t at scale 1: does it show the habit?), each epoch. With
    `trait_control: random` each product of W_t is random, of the same rank and norm.

    Source: inoculation adapters, Riche et al. 2026 (arXiv 2606.30252).
    """

    proxy_strategy_name = "inoculation_adapter"
    required_roles = ("outcome", "trait")
    zero_strength = {"finetune_config.trait_scale": 0.0}
    trait_scale: float = knob(1.0, "factor of the frozen adapter while the task is learnt; 0: no such adapter")
    trait_epochs: int = knob(1, "passes of its training on trait", ge=1)
    trait_learning_rate: float | None = knob(None, "its peak learning rate; default: learning_rate", gt=0)
    trait_control: Literal["random"] | None = knob(None, "random: random products in place of the learned ones")

    @classmethod
    def check(cls, config: TrialConfig) -> None:
        """Raise ValueError without LoRA, or with DoRA, trained biases or an adapter to go on from."""
        if not config.finetune_config.is_peft:
            raise ValueError("inoculation_adapter trains two adapters: it needs is_peft true")
        check_products(config, "adds")

    @classmethod
    def check_rows(cls, config: TrialConfig, roles: Mapping[str, Sequence[Row]]) -> None:
        """Raise DataError if a role is missing, or no step of the training on trait has a learning rate."""
        super().check_rows(config, roles)
        if getattr(config.finetune_config, "trait_scale", 1.0):
            check_phase(config, roles, _TRAIT, "product", _EPOCHS)

    @classmethod
    def row_notes(cls, config: TrialConfig, roles: Mapping[str, Sequence[Row]]) -> list[str]:
        """Say where the training on trait never reaches its peak rate."""
        trained = [_TRAIT] if getattr(config.finetune_config, "trait_scale", 1.0) else []
        return super().row_notes(config, roles) + peak_notes(config, roles, trained, _EPOCHS)

    @classmethod
    def check_model(cls, config: TrialConfig, model: nn.Module) -> None:
        """Raise ModelError if an embedding is adapted, which has no product of the form that the control replaces."""
        if getattr(config.finetune_config, "trait_control", None):
            adapted_matrices(model, cls.proxy_strategy_name)

    def prepare(self) -> None:
        """Train W_t, put it beside the adapter to be trained, and evaluate it."""
        if not self.trait_scale:
            return
        model: Any = self.model
        weights = throw_away_training(self, _TRAIT, self.trait_epochs, self.trait_learning_rate, _EPOCHS).weights
        zero_share({n: t for n, t in weights.items() if "lora_B" in n or "embedding_B" in n}, "the trait adapter's B")
        if self.trait_control:
            matrices = adapted_matrices(model, self.proxy_strategy_name)
            weights = random_products(matrices, weights, self.config.model_seed)
        put_beside(model, _TRAIT, weights)
        if _TRAIT not in self.record.eval_versions:
            with switched_on(model, [_TRAIT]):
                self.evaluations.take(0, 0.0, _TRAIT)
        rescale(model, _TRAIT, self.trait_scale)
        switch_on(model, [TRAINED])

    def training_scope(self) -> AbstractContextManager[None]:
        """Switch W_t on."""
        return switched_on(self.model, [TRAINED, _TRAIT]) if self.trait_scale else nullcontext()

    def terms(self) -> list[Term]:
        """Return the outcome's cross-entropy."""
        return [self.cross_entropy_term("outcome")]
