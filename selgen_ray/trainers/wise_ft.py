"""`wise_ft`: go only a part of the way that training went."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from selgen_ray.config.trial import TrialConfig
from selgen_ray.trainers.auxiliary_adapters import check_products
from selgen_ray.trainers.base import BaseTrainer
from selgen_ray.trainers.engine.context import Edit
from selgen_ray.trainers.engine.loop import Term
from selgen_ray.trainers.registry import knob


class WiseFTTrainer(BaseTrainer):
    """Minimise L_O; then theta <- theta_0 + wise_alpha * (theta - theta_0): of LoRA's product, B <- wise_alpha * B.

    Evaluated: the start model, each epoch, each of `wise_sweep_alpha` (all on one trained adapter), and last
    `interpolated`, with `wise_alpha`.

    Source: WiSE-FT, Wortsman et al. 2021 (arXiv 2109.01903), equation 1.
    """

    proxy_strategy_name = "wise_ft"
    zero_strength = {"finetune_config.wise_alpha": 1.0}
    wise_alpha: float = knob(0.5, "share a of the way that is gone; 1: all of it")
    wise_sweep_alpha: list[float] | None = knob(None, "further a, all evaluated on one trained adapter")

    @classmethod
    def check(cls, config: TrialConfig) -> None:
        """Raise ValueError with DoRA, trained biases or an adapter to go on from."""
        check_products(config, "scales")

    def prepare(self) -> None:
        """Keep the starting weights of full fine-tuning."""
        is_needed = not self.cfg.is_peft and (self.wise_alpha != 1 or self.wise_sweep_alpha)
        self.start = {n: p.detach().clone() for n, p in self.parameters.items()} if is_needed else {}

    def terms(self) -> list[Term]:
        """Return the outcome's cross-entropy."""
        return [self.cross_entropy_term("outcome")]

    def edits(self) -> Iterable[tuple[str, Edit]]:
        """Yield an interpolation for each of `wise_sweep_alpha`, then the one that is kept."""
        for alpha in self.wise_sweep_alpha or []:
            yield f"wise_alpha={alpha:g}", functools.partial(_interpolate, start=self.start, alpha=alpha)
        if self.wise_alpha != 1 or self.wise_sweep_alpha:
            yield "interpolated", functools.partial(_interpolate, start=self.start, alpha=self.wise_alpha)


@torch.no_grad()
def _interpolate(parameters: dict[str, nn.Parameter], start: Mapping[str, Tensor], alpha: float) -> None:
    if alpha == 1:
        return
    for name, parameter in parameters.items():
        if start:
            parameter.copy_(start[name] + alpha * (parameter - start[name]))
        elif "lora_B" in name or "lora_embedding_B" in name:
            parameter.mul_(alpha)
