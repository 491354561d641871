"""`safe_lora`: project the finished adapter onto what aligning the model changed."""

from __future__ import annotations

import copy
import functools
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from selgen_ray.config.trial import TrialConfig
from selgen_ray.data.forms import Row
from selgen_ray.errors import ModelError
from selgen_ray.models import loading, saving
from selgen_ray.models.log_probs import upcast
from selgen_ray.models.saving import adapted_parameter, without_adapter
from selgen_ray.models.sharding import whole
from selgen_ray.trainers.base import BaseTrainer
from selgen_ray.trainers.directions import PROXY_EPOCHS, check_phase, peak_notes, throw_away_training, zero_share
from selgen_ray.trainers.engine.context import Edit
from selgen_ray.trainers.engine.loop import Term
from selgen_ray.trainers.registry import knob

_ALIGNED = "aligned"
_PEFT = "base_model.model."  # PEFT's prefix of the names of the model's modules


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
    safe_lora_base_model: str | None = knob(None, "W_unaligned: a directory or hub id; default: start model")
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
        if cfg.safe_lora_base_model and (cfg.load_in_4bit or cfg.load_in_8bit):
            which = "load_in_4bit" if cfg.load_in_4bit else "load_in_8bit"
            raise ValueError(
                f"safe_lora_base_model is compared with the start model's weights, which {which} rounds by more than "
                f"two models differ: leave out one of the two"
            )
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
        _adapted(model)

    @classmethod
    def input_files(cls, config: TrialConfig) -> dict[str, str]:
        """Return the unaligned model, if it is a local directory."""
        path: str | None = getattr(config.finetune_config, "safe_lora_base_model", None)
        return {"finetune_config.safe_lora_base_model": path} if path and Path(path).is_dir() else {}

    def prepare(self) -> None:
        """Train the aligning adapter, put it beside the one to be trained, and evaluate the aligned model."""
        aligned = throw_away_training(self, "proxy", self.proxy_epochs).weights
        # B is zero at first: of a matrix where it still is, the product B A is zero
        products = {name: tensor for name, tensor in aligned.items() if ".lora_B." in name}
        self.zero_share = zero_share(products, "the aligning adapter's B")
        model: Any = self.model
        model.add_adapter(_ALIGNED, _without_dropout(model.peft_config["default"]))
        named = dict(model.named_parameters())
        with torch.no_grad():
            for name, tensor in aligned.items():
                named[name.replace(".default", f".{_ALIGNED}")].copy_(tensor)
        model.base_model.set_adapter(["default", _ALIGNED])
        for name, parameter in named.items():
            if f".{_ALIGNED}" in name:
                parameter.requires_grad_(False)
        self.matrices = _adapted(model)
        self.offsets = self._offsets() if self.safe_lora_base_model else {}
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
        model: Any = self.model
        model.add_adapter("joined", _of_twice_the_rank(model.peft_config["default"]))
        with torch.no_grad():
            for matrix in self.matrices.values():
                _join(matrix, (_ALIGNED, "default"), "joined")
        with tempfile.TemporaryDirectory() as scratch:
            model.save_pretrained(scratch, selected_adapters=["joined"], safe_serialization=True)
            Path(folder).mkdir(parents=True, exist_ok=True)
            for path in Path(scratch, "joined").iterdir():
                (Path(folder) / path.name).write_bytes(path.read_bytes())
        saving.save_beside_adapter(model, self.tokenizer, Path(folder))
        model.delete_adapter("joined")

    def _below(self, projections: dict[str, Projection], threshold: float) -> list[str]:
        return [name for name, projection in projections.items() if projection.cosine <= threshold]

    def _edit(self, projections: dict[str, Projection], chosen: Iterable[str]) -> Edit:
        projected = [(self.matrices[name], projections[name].projected) for name in chosen]
        return functools.partial(_replace_b, projected)

    @torch.no_grad()
    def _projection(self, name: str, matrix: AdaptedMatrix) -> Projection:
        """Compute cos(C B A, B A), by inner products of r x r matrices, and C B, in float32 at least."""
        a, b = map(upcast, matrix.factors("default"))
        aligned_a, aligned_b = map(upcast, matrix.factors(_ALIGNED))
        v = matrix.layer.scaling[_ALIGNED] * aligned_b @ aligned_a
        if name in self.offsets:
            v = v + self.offsets[name].to(v)
        size = v.norm()
        cb = v @ (v.T @ b) / size if size > 0 else torch.zeros_like(b)
        inner = lambda x, y: ((x.T @ y) * (a @ a.T)).sum()  # noqa: E731  # <x a, y a>
        sizes = (inner(cb, cb) * inner(b, b)).clamp(min=0).sqrt()
        cosine = float(inner(cb, b) / sizes) if sizes > 0 else 0.0
        return Projection(min(max(cosine, -1.0), 1.0), cb)

    def _offsets(self) -> dict[str, Tensor]:
        """Return start model minus unaligned model at each adapted matrix, [out, in], float32, on the CPU."""
        other = loading.load_weights(str(self.safe_lora_base_model))
        offsets = {}
        for name, matrix in self.matrices.items():
            start = whole(adapted_parameter(matrix.layer)[1].detach()).float().cpu()
            if matrix.parameter not in other or other[matrix.parameter].shape != start.shape:
                shape = tuple(start.shape)
                raise ModelError(
                    f"safe_lora_base_model {self.safe_lora_base_model}: has no {matrix.parameter} of {shape}"
                )
            offsets[name] = matrix.outputs_first(start - other[matrix.parameter].float())
        return offsets


@dataclass(frozen=True)
class AdaptedMatrix:
    """A matrix with a product B A added to it.

    Attributes:
        layer: PEFT's layer around it.
        parameter: its name in the model without an adapter.
        lora_b: the name of the trained B among the parameters.
        expert: number of the expert, if PEFT packs the factors of all experts in one A and one B; None: it does not.
    """

    layer: Any
    parameter: str
    lora_b: str
    expert: int | None = None

    def factors(self, adapter: str) -> tuple[Tensor, Tensor]:
        """Return A, [r, in], and B, [out, r], of an adapter: views of its parameters."""
        return self.a_of(self.layer.lora_A[adapter].weight), self.b_of(self.layer.lora_B[adapter].weight)

    def a_of(self, weight: Tensor) -> Tensor:
        """Return this matrix's part, [r, in], of the layer's A."""
        if self.expert is None:
            return weight
        return weight.view(self.layer.num_experts, -1, weight.shape[1])[self.expert]  # as PEFT's ParamWrapper packs it

    def b_of(self, weight: Tensor) -> Tensor:
        """Return this matrix's part, [out, r], of the layer's B."""
        return (
            weight if self.expert is None else weight.view(len(weight), -1, self.layer.num_experts)[:, :, self.expert]
        )

    def outputs_first(self, whole: Tensor) -> Tensor:
        """Return this matrix, [out, in], from the module's whole parameter."""
        if self.expert is None:
            return whole.T if self.layer.fan_in_fan_out else whole
        of_expert = whole[self.expert]
        return of_expert.T if getattr(self.layer.get_base_layer(), "is_transposed", False) else of_expert


def _without_dropout(config: Any) -> Any:
    config = copy.deepcopy(config)
    config.lora_dropout = 0.0  # a merged adapter drops nothing
    return config


def _of_twice_the_rank(config: Any) -> Any:
    config = _without_dropout(config)
    config.r *= 2
    config.rank_pattern = {name: 2 * rank for name, rank in config.rank_pattern.items()}
    return config


def _join(matrix: AdaptedMatrix, parts: Sequence[str], joined: str) -> None:
    """Set an adapter to the sum of other adapters' products: stack their A along the rank, and their B."""
    a, b = matrix.factors(joined)
    factors = [matrix.factors(part) for part in parts]
    scales = [matrix.layer.scaling[part] / matrix.layer.scaling[joined] for part in parts]
    a.copy_(torch.cat([scale * part_a for scale, (part_a, _) in zip(scales, factors, strict=True)]))
    b.copy_(torch.cat([part_b for _, part_b in factors], dim=1))


def _adapted(model: nn.Module) -> dict[str, AdaptedMatrix]:
    """Return name -> adapted matrix. The name is that of the module, or '<parameter>.<expert>' for an expert's matrix.

    Raises:
        ModelError: an embedding is adapted: it has no B A of the form that is projected.
    """
    # late: start-up, PEFT imports all that it may ever adapt
    from peft.tuners.lora import LoraLayer
    from peft.tuners.lora.layer import ParamWrapper

    matrices: dict[str, AdaptedMatrix] = {}
    for path, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        name = without_adapter(path.removeprefix(_PEFT))
        if not layer.lora_A:
            raise ModelError(f"safe_lora projects linear layers, finetune_config.target_modules also names {name}")
        parameter, lora_b = f"{name}.{adapted_parameter(layer)[0]}", f"{path}.lora_B.default.weight"
        num_experts = layer.num_experts if isinstance(layer, ParamWrapper) else 1
        if num_experts == 1:
            matrices[name] = AdaptedMatrix(layer, parameter, lora_b)
        for expert in range(num_experts) if num_experts > 1 else ():
            matrices[f"{parameter}.{expert}"] = AdaptedMatrix(layer, parameter, lora_b, expert)
    return matrices


@torch.no_grad()
def _replace_b(projected: Sequence[tuple[AdaptedMatrix, Tensor]], parameters: dict[str, nn.Parameter]) -> None:
    for matrix, tensor in projected:
        matrix.b_of(parameters[matrix.lora_b]).copy_(tensor)
