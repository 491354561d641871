"""`concept_ablation`: learn without the directions in which the habit shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Literal

from selgen_ray.config.trial import TrialConfig
from selgen_ray.data.forms import Row
from selgen_ray.errors import DataError
from selgen_ray.models import blocks
from selgen_ray.trainers.activations import (
    DIRECTION_CONTROL,
    Control,
    chosen_layers,
    layers_knob,
    pair_differences,
    principal_directions,
    random_basis,
    tuned_differences,
)
from selgen_ray.trainers.base import BaseTrainer
from selgen_ray.trainers.directions import PROXY_EPOCHS, check_phase, peak_notes
from selgen_ray.trainers.engine.loop import Term
from selgen_ray.trainers.registry import knob


class ConceptAblationTrainer(BaseTrainer):
    """Minimise L_O where h_l <- h_l - Q_l Q_l^T h_l at every position of `ablate_layers`, while training only.

    Q_l holds the first `ablate_components` right singular vectors of a matrix, uncentred. `ablate_from: pairs`: its
    rows are the differences of proxy_neg and proxy, row by row, each the start model's mean activation. `tuned`: they
    are, at each scored token of the proxy, a model tuned on the outcome minus the start model. Deployed and evaluated
    without it. With `direction_control: random` Q_l is random.

    Source: CAFT, Casademunt et al. 2025 (arXiv 2507.16795).
    """

    proxy_strategy_name = "concept_ablation"
    required_roles = ("outcome", "proxy", "proxy_neg")
    zero_strength = {"finetune_config.ablate_components": 0}
    ablate_components: int = knob(1, "number k of directions that are ablated at each layer; 0: none", ge=0)
    ablate_layers: list[int] | None = layers_knob("at which they are ablated")
    ablate_from: Literal["pairs", "tuned"] = knob(
        "pairs", "differences of proxy_neg and proxy, or of a model tuned on outcome and the start model"
    )
    direction_control: Control = DIRECTION_CONTROL
    proxy_epochs: int = PROXY_EPOCHS

    @classmethod
    def needed_roles(cls, config: TrialConfig) -> tuple[str, ...]:
        """Return the roles; a tuned model needs no proxy_neg."""
        is_tuned = getattr(config.finetune_config, "ablate_from", "pairs") == "tuned"
        return ("outcome", "proxy") if is_tuned else cls.required_roles

    @classmethod
    def check_rows(cls, config: TrialConfig, roles: Mapping[str, Sequence[Row]]) -> None:
        """Raise DataError if a role is missing, pairs are no pairs, or no step of the tuning has a learning rate."""
        super().check_rows(config, roles)
        if _tunes(config):
            check_phase(config, roles, "outcome", "product")
        if "proxy_neg" in cls.needed_roles(config) and len(roles["proxy"]) != len(roles["proxy_neg"]):
            raise DataError(
                f"ablate_from pairs takes the rows of data.proxy and data.proxy_neg as pairs, and they have "
                f"{len(roles['proxy'])} and {len(roles['proxy_neg'])}"
            )

    @classmethod
    def row_notes(cls, config: TrialConfig, roles: Mapping[str, Sequence[Row]]) -> list[str]:
        """Say where the tuning never reaches its peak rate."""
        return super().row_notes(config, roles) + peak_notes(config, roles, ["outcome"] if _tunes(config) else [])

    def prepare(self) -> None:
        """Compute the directions once.

        Raises:
            DataError: a matrix has a lower rank than `ablate_components`.
        """
        layers, count = chosen_layers(self, "ablate_layers"), self.ablate_components
        self.bases = {}
        if not count:
            return
        matrices = (
            pair_differences(self, layers)
            if self.ablate_from == "pairs"
            else tuned_differences(self, layers, self.proxy_epochs)
        )
        self.bases = {layer: principal_directions(layer, matrix, count) for layer, matrix in matrices.items()}
        if self.direction_control:
            self.bases = {layer: random_basis(self, layer, basis) for layer, basis in self.bases.items()}

    def training_scope(self) -> AbstractContextManager[None]:
        """Project the directions out of the residual stream."""
        return blocks.changing(self.model, {layer: blocks.ablating(basis) for layer, basis in self.bases.items()})

    def terms(self) -> list[Term]:
        """Return the outcome's cross-entropy."""
        return [self.cross_entropy_term("outcome")]


def _tunes(config: TrialConfig) -> bool:
    cfg = config.finetune_config
    return getattr(cfg, "ablate_from", "pairs") == "tuned" and bool(getattr(cfg, "ablate_components", 1))
