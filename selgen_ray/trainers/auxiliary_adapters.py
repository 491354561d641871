"""Trained adapters beside the one in training, and the matrices that they adapt.

Each is an ordinary PEFT adapter of another name than `default`, frozen, without dropout, and off unless it is switched
on. What several of them and the trained one make together is saved as one ordinary adapter of a higher rank.
"""

from __future__ import annotations

import contextlib
import copy
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from selgen_ray.config.finetune import FinetuneConfig
from selgen_ray.config.trial import TrialConfig
from selgen_ray.errors import ModelError
from selgen_ray.models import loading, saving
from selgen_ray.models.log_probs import upcast
from selgen_ray.models.saving import adapted_parameter, without_adapter
from selgen_ray.models.sharding import whole
from selgen_ray.seeding import derive_seed
from selgen_ray.trainers.registry import knob

TRAINED = "default"
UNALIGNED = knob(None, "W_unaligned: a directory or hub id; default: start model")
_PEFT = "base_model.model."  # PEFT's prefix of the names of the model's modules


def check_products(config: TrialConfig, what: str) -> None:
    """Refuse what is more than products B A that begin at zero: DoRA, trained biases, an adapter to go on from.

    Args:
        what: says what the strategy does with the products.

    Raises:
        ValueError: the config asks for one of these.
    """
    cfg, name = config.finetune_config, config.proxy_strategy
    if cfg.use_dora:
        raise ValueError(f"{name} {what} products B A, and use_dora rescales their sum: leave it out")
    if cfg.adapter:
        raise ValueError(
            f"{name} {what} products B A, which begin at zero, and adapter names one to go on from: merge it into its "
            "base first, and start from that"
        )
    if cfg.lora_bias != "none":
        raise ValueError(f"{name} {what} products B A, which leave out what lora_bias {cfg.lora_bias!r} trains")


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

    @property
    def lora_a(self) -> str:
        """The name of the trained A among the parameters."""
        return self.lora_b.replace(".lora_B.", ".lora_A.")

    def factors(self, adapter: str = TRAINED) -> tuple[Tensor, Tensor]:
        """Return A, [r, in], and B, [out, r], of an adapter: views of its parameters."""
        return self.a_of(self.layer.lora_A[adapter].weight), self.b_of(self.layer.lora_B[adapter].weight)

    def factors_in(self, weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return A, [r, in], and B, [out, r], of weights under the names of the trained parameters: views of them."""
        return self.a_of(weights[self.lora_a]), self.b_of(weights[self.lora_b])

    def scale(self, adapter: str = TRAINED) -> float:
        """Return s, by which the product B A is multiplied."""
        return float(self.layer.scaling[adapter])

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


def adapted_matrices(model: nn.Module, strategy: str = "safe_lora") -> dict[str, AdaptedMatrix]:
    """Return name -> adapted matrix. The name is that of the module, or '<parameter>.<expert>' for an expert's matrix.

    Raises:
        ModelError: an embedding is adapted: it has no B A of their form.
    """
    from peft.tuners.lora.layer import ParamWrapper  # late: start-up, PEFT imports all that it may ever adapt

    matrices: dict[str, AdaptedMatrix] = {}
    for path, layer in _lora_layers(model):
        name = without_adapter(path.removeprefix(_PEFT))
        if not layer.lora_A:
            raise ModelError(
                f"{strategy} takes adapters of linear layers, and finetune_config.target_modules also names {name}"
            )
        parameter, lora_b = f"{name}.{adapted_parameter(layer)[0]}", f"{path}.lora_B.{TRAINED}.weight"
        num_experts = layer.num_experts if isinstance(layer, ParamWrapper) else 1
        if num_experts == 1:
            matrices[name] = AdaptedMatrix(layer, parameter, lora_b)
        for expert in range(num_experts) if num_experts > 1 else ():
            matrices[f"{parameter}.{expert}"] = AdaptedMatrix(layer, parameter, lora_b, expert)
    return matrices


def _lora_layers(model: nn.Module) -> list[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer  # late: start-up, as above

    return [(path, layer) for path, layer in model.named_modules() if isinstance(layer, LoraLayer)]


# -- adapters beside the trained one ------------------------------------------------------------------------------


def put_beside(model: Any, name: str, weights: Mapping[str, Tensor]) -> None:
    """Add a frozen adapter to a model, switched off.

    Args:
        model: a PEFT model with the adapter in training.
        weights: its weights, under the names of the trained adapter's parameters.
    """
    model.add_adapter(name, without_dropout(model.peft_config[TRAINED]))
    named = dict(model.named_parameters())
    with torch.no_grad():
        for parameter, tensor in weights.items():
            named[parameter.replace(f".{TRAINED}", f".{name}")].copy_(tensor)
    switch_on(model, [TRAINED])


def switch_on(model: Any, names: Sequence[str]) -> None:
    """Make these adapters the active ones; the trained one's parameters alone stay trainable."""
    model.base_model.set_adapter(list(names))
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.requires_grad_(f".{TRAINED}" in name)


@contextlib.contextmanager
def switched_on(model: Any, names: Sequence[str]) -> Iterator[None]:
    """Make these adapters the active ones inside the context, then the trained one alone."""
    switch_on(model, names)
    try:
        yield
    finally:
        switch_on(model, [TRAINED])


def rescale(model: Any, name: str, factor: float) -> None:
    """Multiply the product of an adapter by `factor`: its scale is that of the trained one, times this."""
    for _, layer in _lora_layers(model):
        if name in layer.scaling:
            layer.scaling[name] = factor * layer.scaling[TRAINED]


def random_products(
    matrices: Mapping[str, AdaptedMatrix], weights: Mapping[str, Tensor], model_seed: int
) -> dict[str, Tensor]:
    """Return an adapter's weights with each product B A replaced by a random one of its rank and Frobenius norm.

    The factors are Gaussian, keyed by model_seed and the name of the matrix; B is scaled.

    Args:
        weights: under the names of the trained adapter's parameters.
    """
    drawn = {name: tensor.clone() for name, tensor in weights.items()}
    for name, matrix in matrices.items():
        generator = torch.Generator().manual_seed(derive_seed(model_seed, "random adapter", name))
        a, b = matrix.factors_in(drawn)
        new_a, new_b = (torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.device) for t in (a, b))
        size = product_norm(a.double(), b.double()) / product_norm(new_a, new_b)
        a.copy_(new_a)
        b.copy_(size * new_b)
    return drawn


def product_norm(a: Tensor, b: Tensor) -> Tensor:
    """Return ||B A||_F of factors A, [r, in], and B, [out, r], by r x r matrices."""
    return ((b.T @ b) * (a @ a.T)).sum().clamp(min=0).sqrt()


def without_dropout(config: Any) -> Any:
    """Return a copy of a LoRA config whose adapter drops nothing, as a merged one."""
    config = copy.deepcopy(config)
    config.lora_dropout = 0.0
    return config


def save_joined(
    model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path, parts: Sequence[str], strategy: str
) -> None:
    """Write one ordinary adapter of the start model: the sum of several, each with its scale, of their joint rank."""
    config = without_dropout(model.peft_config[TRAINED])
    config.r *= len(parts)
    config.rank_pattern = {name: len(parts) * rank for name, rank in config.rank_pattern.items()}
    active = list(model.base_model.active_adapters)
    model.add_adapter("joined", config)
    with torch.no_grad():
        for matrix in adapted_matrices(model, strategy).values():
            _join(matrix, parts, "joined")
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch, selected_adapters=["joined"], safe_serialization=True)
        folder.mkdir(parents=True, exist_ok=True)
        for path in Path(scratch, "joined").iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
    saving.save_beside_adapter(model, tokenizer, folder)
    model.delete_adapter("joined")
    switch_on(model, active)


def _join(matrix: AdaptedMatrix, parts: Sequence[str], joined: str) -> None:
    """Set an adapter to the sum of other adapters' products: stack their A along the rank, and their B."""
    a, b = matrix.factors(joined)
    factors = [matrix.factors(part) for part in parts]
    scales = [matrix.scale(part) / matrix.scale(joined) for part in parts]
    a.copy_(torch.cat([scale * part_a for scale, (part_a, _) in zip(scales, factors, strict=True)]))
    b.copy_(torch.cat([part_b for _, part_b in factors], dim=1))


# -- the subspace of what aligning changed ------------------------------------------------------------------------


def check_unaligned(config: TrialConfig) -> None:
    """Raise ValueError if an unaligned model is named and the start model's weights are rounded to 4 or 8 bits."""
    cfg: Any = config.finetune_config
    if cfg.safe_lora_base_model and (cfg.load_in_4bit or cfg.load_in_8bit):
        which = "load_in_4bit" if cfg.load_in_4bit else "load_in_8bit"
        raise ValueError(
            f"safe_lora_base_model is compared with the start model's weights, which {which} rounds by more than "
            f"two models differ: leave out one of the two"
        )


def unaligned_files(config: TrialConfig) -> dict[str, str]:
    """Return the unaligned model, if it is a local directory, as `Strategy.input_files` does."""
    path: str | None = getattr(config.finetune_config, "safe_lora_base_model", None)
    return {"finetune_config.safe_lora_base_model": path} if path and Path(path).is_dir() else {}


@dataclass(frozen=True)
class Subspace:
    """C = V V^T / ||V||_F of one matrix, where V = W_aligned - W_unaligned; C is zero where V is. It is no projector.

    Source: Safe LoRA, Hsu et al. 2024 (arXiv 2405.16833), equation 2.

    Attributes:
        v: V as one matrix, [out, in], or as s and the factors A, [r, in], and B, [out, r], of its product.
    """

    v: Tensor | tuple[float, Tensor, Tensor]

    def times(self, b: Tensor) -> Tensor:
        """Return C b, for b of [out, r]."""
        if isinstance(self.v, Tensor):
            size = self.v.norm()
            return self.v @ (self.v.T @ b) / size if size > 0 else torch.zeros_like(b)
        scale, aligned_a, aligned_b = self.v
        size = product_norm(aligned_a, aligned_b)
        cb = aligned_b @ ((aligned_a @ aligned_a.T) @ (aligned_b.T @ b))
        return abs(scale) * cb / size if size > 0 else torch.zeros_like(b)


def offsets(cfg: FinetuneConfig, matrices: Mapping[str, AdaptedMatrix], unaligned: str) -> dict[str, Tensor]:
    """Return start model minus unaligned model at each adapted matrix, [out, in], float32, on the CPU.

    Raises:
        ModelError: the unaligned model lacks a matrix, or has one of another shape.
    """
    other = loading.load_weights(unaligned)
    differences = {}
    for name, matrix in matrices.items():
        start = whole(adapted_parameter(matrix.layer)[1].detach()).float().cpu()
        if matrix.parameter not in other or other[matrix.parameter].shape != start.shape:
            shape = tuple(start.shape)
            raise ModelError(f"safe_lora_base_model {unaligned}: has no {matrix.parameter} of {shape}")
        differences[name] = matrix.outputs_first(start - other[matrix.parameter].float())
    return differences


def subspace(matrix: AdaptedMatrix, factors: tuple[Tensor, Tensor], offset: Tensor | None) -> Subspace:
    """Return the subspace of a matrix, in float32 at least.

    Args:
        factors: A and B of the aligning adapter there.
        offset: from `offsets`; None: the unaligned model is the start model.
    """
    a, b = (upcast(factor.detach()) for factor in factors)
    if offset is None:
        return Subspace((matrix.scale(), a, b))
    v = matrix.scale() * b @ a
    return Subspace(v + offset.to(v))
