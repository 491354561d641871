"""`safe_lora`: project the finished adapter onto what aligning the model changed."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from selgen_ray.config.trial import TrialConfig
from selgen_ray.data.forms import Row
from selgen_ray.models.log_probs import upcast
from selgen_ray.trainers.auxiliary_adapters import (
    TRAINED,
    UNALIGNED,
    AdaptedMatrix,
    adapted_matrices,
    check_unaligned,
    offsets,
    put_beside,
    save_joined,
    subspace,
    switch_on,
    unaligned_files,
)
from selgen_ray.trainers.base import BaseTrainer
from selgen_ray.trainers.directions import PROXY_EPOCHS, check_phase, peak_notes, throw_away_training, zero_share
from selgen_ray.trainers.engine.context import Edit
from selgen_ray.trainers.engine.loop import Term
from selgen_ray.trainers.registry import knob

_ALIGNED = "aligned"


@dataclass(frozen=True)
class Projection:
    """Safe LoRA's projection of one adapted matrix: cos(C B A, B A), and C B, [out, r]."""

    cosine: float
    projected: Tensor


class SafeLoRATrainer(BaseTrainer):
    """LoRA on P, merged: the aligned model; LoRA (B A) on O from there; then B <- C B where c = cos(C B A, B A) is low.

    Per adapted matrix V = W_aligned - W_unaligned and C = V V^T / ||V||_F; of a mixture of experts each expert has its
    own. `threshold`: where c <= the threshold; `number`: the matrices with the smallest c. W_unaligned is the start
    model, or `safe_lora_base_model`. Evaluated: the start model, the aligned model, each epoch, each of
    `safe_lora_sweep_thresholds`, and last the projected model.
    Logs the cosine of each matrix. The aligning adapter is kept beside the trained one instead of being merged into
    the weights: the same function, without rounding the update to a half-precision or quantised base.

    Source: Safe LoRA, Hsu et al. 2024 (arXiv 2405.16833), algorithm 1.
    """

    proxy_strategy_name = "safe_lora"
    required_roles = ("outcome", "proxy")
    safe_lora_type: Literal["threshold", "number"] = knob("threshold", "which matrices are projected")
    safe_lora_threshold: float = knob(0.35, "τ: the matrices with c <= τ", ge=-1, le=1)
    safe_lora_num_proj_layers: int | None = knob(None, "with safe_lora_type: number, how many matrices", ge=0)
    safe_lora_sweep_thresholds: list[float] | None = knob(None, "further τ, all evaluated on one trained adapter")
    safe_lora_base_model: str | None = UNALIGNED
    proxy_epochs: int = PROXY_EPOCHS

    @classmethod
    def check(cls, config: TrialConfig) -> None:
        """Raise ValueError without LoRA, or if keys do not go together."""
        cfg: Any = config.finetune_config
        if not cfg.is_peft:
            raise ValueError("safe_lora projects LoRA matrices: it needs is_peft true")
        if cfg.use_dora:
            raise ValueError("safe_lora adds and projects products B A, and use_dora rescales their sum: leave it out")
        if cfg.adapter:
            raise ValueError(
                "safe_lora trains two of them from one start, and both would continue the same adapter: merge it into "
                "its base first, and start from that"
            )
        if cfg.lora_bias != "none":
            raise ValueError(f"safe_lora keeps two adapters, which share no lora_bias {cfg.lora_bias!r}")
        check_unaligned(config)
        if cfg.safe_lora_type == "number" and cfg.safe_lora_num_proj_layers is None:
            raise ValueError("safe_lora_type number needs safe_lora_num_proj_layers")
        if cfg.safe_lora_type == "number" and cfg.safe_lora_sweep_thresholds:
            raise ValueError("safe_lora_sweep_thresholds needs safe_lora_type threshold")
        if any(not -1 <= threshold <= 1 for threshold in cfg.safe_lora_sweep_thresholds or []):
            raise ValueError(f"safe_lora_sweep_thresholds {cfg.safe_lora_sweep_thresholds}: allowed is -1 to 1")

    @classmethod
    def check_rows(cls, config: TrialConfig, roles: Mapping[str, Sequence[Row]]) -> None:
        """Raises DataError: a role is missing, or no step of the aligning training has a learning rate."""
        super().check_rows(config, roles)
        check_phase(config, roles, "proxy", "product")

    @classmethod
    def row_notes(cls, config: TrialConfig, roles: Mapping[str, Sequence[Row]]) -> list[str]:
        """Say where the aligning training never reaches its peak rate."""
        return super().row_notes(config, roles) + peak_notes(config, roles, ["proxy"])

    @classmethod
    def check_model(cls, config: TrialConfig, model: nn.Module) -> None:
        """Raise ModelError if an embedding is adapted."""
        adapted_matrices(model)

    @classmethod
    def input_files(cls, config: TrialConfig) -> dict[str, str]:
        """Return the unaligned model, if it is a local directory."""
        return unaligned_files(config)

    def prepare(self) -> None:
        """Train the aligning adapter, put it beside the one to be trained, and evaluate the aligned model."""
        aligned = throw_away_training(self, "proxy", self.proxy_epochs).weights
        # B is zero at first: of a matrix where it still is, the product B A is zero
        products = {name: tensor for name, tensor in aligned.items() if ".lora_B." in name}
        self.zero_share = zero_share(products, "the aligning adapter's B")
        model: Any = self.model
        put_beside(model, _ALIGNED, aligned)
        switch_on(model, [TRAINED, _ALIGNED])
        self.matrices = adapted_matrices(model)
        self.offsets = offsets(self.cfg, self.matrices, self.safe_lora_base_model) if self.safe_lora_base_model else {}
        if _ALIGNED not in self.record.eval_versions:
            self.evaluations.take(0, 0.0, _ALIGNED)

    def terms(self) -> list[Term]:
        """Return the outcome's cross-entropy."""
        return [self.cross_entropy_term("outcome")]

    def edits(self) -> Iterator[tuple[str, Edit]]:
        """Yield an edit for each of `safe_lora_sweep_thresholds`, then the projection that is kept."""
        projections = {name: self._projection(name, matrix) for name, matrix in self.matrices.items()}
        self.record.add_metrics({f"safe_lora_cosine/{name}": p.cosine for name, p in projections.items()})
        self.record.add_metrics({"plane_zero_share": self.zero_share} if self.zero_share else {})
        for threshold in self.safe_lora_sweep_thresholds or []:
            yield f"safe_lora_threshold={threshold:g}", self._edit(projections, self._below(projections, threshold))
        chosen = self._below(projections, self.safe_lora_threshold)
        if self.safe_lora_type == "number":
            chosen = sorted(projections, key=lambda name: projections[name].cosine)[: self.safe_lora_num_proj_layers]
        yield "projected", self._edit(projections, chosen)

    def save_adapter(self, folder: str | Path) -> None:
        """Write one ordinary adapter of the start model, of rank 2 r: the sum of the aligning and the projected one."""
        save_joined(self.model, self.tokenizer, Path(folder), (_ALIGNED, TRAINED), self.proxy_strategy_name)

    def _below(self, projections: dict[str, Projection], threshold: float) -> list[str]:
        return [name for name, projection in projections.items() if projection.cosine <= threshold]

    def _edit(self, projections: dict[str, Projection], chosen: Iterable[str]) -> Edit:
        projected = [(self.matrices[name], projections[name].projected) for name in chosen]
        return functools.partial(_replace_b, projected)

    @torch.no_grad()
    def _projection(self, name: str, matrix: AdaptedMatrix) -> Projection:
        """Compute cos(C B A, B A), by inner products of r x r matrices, and C B, in float32 at least."""
        a, b = map(upcast, matrix.factors())
        cb = subspace(matrix, matrix.factors(_ALIGNED), self.offsets.get(name)).times(b)
        inner = lambda x, y: ((x.T @ y) * (a @ a.T)).sum()  # noqa: E731  # <x a, y a>
        sizes = (inner(cb, cb) * inner(b, b)).clamp(min=0).sqrt()
        cosine = float(inner(cb, b) / sizes) if sizes > 0 else 0.0
        return Projection(min(max(cosine, -1.0), 1.0), cb)


@torch.no_grad()
def _replace_b(projected: Sequence[tuple[AdaptedMatrix, Tensor]], parameters: dict[str, nn.Parameter]) -> None:
    for matrix, tensor in projected:
        matrix.b_of(parameters[matrix.lora_b]).copy_(tensor)
