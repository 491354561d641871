"""`weight_steering`: add to the finished weights what the proxy teaches, and take away what its opposite does."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from selgen_ray.config.trial import TrialConfig
from selgen_ray.data.forms import Row
from selgen_ray.trainers.auxiliary_adapters import (
    TRAINED,
    adapted_matrices,
    check_products,
    put_beside,
    rescale,
    save_joined,
    switch_on,
)
from selgen_ray.trainers.base import BaseTrainer
from selgen_ray.trainers.directions import PROXY_EPOCHS, check_phase, peak_notes, throw_away_training, zero_share
from selgen_ray.trainers.engine.context import Edit
from selgen_ray.trainers.engine.loop import Term
from selgen_ray.trainers.registry import knob

_SIDES = {"proxy": 1.0, "proxy_neg": -1.0}


class WeightSteeringTrainer(BaseTrainer):
    """Minimise L_O; then theta <- theta + steer_k * (tau_P - tau_N), tau_X the change by a throw-away training on X.

    Of LoRA tau_X is the product s B_X A_X: products are added, as frozen adapters, never the factors. Evaluated: the
    start model, each epoch, each of `steer_sweep_k` (all on one trained adapter), and last `steered`, with `steer_k`.
    One adapter of rank 3 r is saved.

    Source: Fierro and Roger 2025 (arXiv 2511.05408), contrastive weight steering.
    """

    proxy_strategy_name = "weight_steering"
    required_roles = ("outcome", "proxy", "proxy_neg")
    zero_strength = {"finetune_config.steer_k": 0.0}
    steer_k: float = knob(1.0, "strength k of the edit")
    steer_sweep_k: list[float] | None = knob(None, "further k, all evaluated on one trained adapter")
    proxy_epochs: int = PROXY_EPOCHS

    @classmethod
    def check(cls, config: TrialConfig) -> None:
        """Raise ValueError with DoRA, trained biases or an adapter to go on from."""
        check_products(config, "adds")

    @classmethod
    def check_rows(cls, config: TrialConfig, roles: Mapping[str, Sequence[Row]]) -> None:
        """Raise DataError if a role is missing, or no step of a throw-away training has a learning rate."""
        super().check_rows(config, roles)
        for role in _SIDES if _steers(config.finetune_config) else ():
            check_phase(config, roles, role, "product")

    @classmethod
    def row_notes(cls, config: TrialConfig, roles: Mapping[str, Sequence[Row]]) -> list[str]:
        """Name the sides on which a throw-away training never reaches its peak rate."""
        sides = list(_SIDES) if _steers(config.finetune_config) else []
        return super().row_notes(config, roles) + peak_notes(config, roles, sides)

    @classmethod
    def check_model(cls, config: TrialConfig, model: nn.Module) -> None:
        """Raise ModelError if an embedding is adapted."""
        adapted_matrices(model, cls.proxy_strategy_name)

    def prepare(self) -> None:
        """Train on proxy and on proxy_neg, each from the run's initial weights."""
        self.learned: dict[str, dict[str, Tensor]] = {}
        for role in _SIDES if _steers(self) else ():
            weights = throw_away_training(self, role, self.proxy_epochs).weights
            moved = {n: t - self.parameters[n].detach() for n, t in weights.items() if self._shows_change(n)}
            zero_share(moved, f"what the throw-away training on {role} learned")
            self.learned[role] = weights

    def _shows_change(self, name: str) -> bool:
        return not self.cfg.is_peft or ".lora_B." in name  # B is zero at first: where it still is, the product is

    def terms(self) -> list[Term]:
        """Return the outcome's cross-entropy."""
        return [self.cross_entropy_term("outcome")]

    def edits(self) -> Iterator[tuple[str, Edit]]:
        """Yield an edit for each of `steer_sweep_k`, then the one that is kept."""
        if not self.learned:
            return
        model: Any = self.model
        if self.cfg.is_peft:
            for role, weights in self.learned.items():
                put_beside(model, role, weights)
        edit = self._add_products if self.cfg.is_peft else self._add_weights
        for k in self.steer_sweep_k or []:
            yield f"steer_k={k:g}", functools.partial(edit, k)
        yield "steered", functools.partial(edit, self.steer_k)

    def _add_products(self, k: float, _parameters: dict[str, nn.Parameter]) -> None:
        for role, sign in _SIDES.items():
            rescale(self.model, role, sign * k)
        switch_on(self.model, [TRAINED, *(_SIDES if k else ())])

    @torch.no_grad()
    def _add_weights(self, k: float, parameters: dict[str, nn.Parameter]) -> None:
        for name, parameter in parameters.items():
            parameter.add_(self.learned["proxy"][name] - self.learned["proxy_neg"][name], alpha=k)

    def save_adapter(self, folder: str | Path) -> None:
        """Write one ordinary adapter of the start model, of rank 3 r: the trained one and the two that steer it."""
        model: Any = self.model
        if self.cfg.is_peft and _SIDES.keys() <= model.peft_config.keys():
            save_joined(model, self.tokenizer, Path(folder), (TRAINED, *_SIDES), self.proxy_strategy_name)
        else:
            super().save_adapter(folder)


def _steers(knobs: Any) -> bool:
    return bool(knobs.steer_k or knobs.steer_sweep_k)
