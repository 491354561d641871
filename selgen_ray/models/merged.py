"""A LoRA adapter added to the weights of its layers while no weight changes: one matrix product a layer, not three."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selgen_ray.models.loading import Model, base_of, has_adapter

EXACT = (torch.float32, torch.float64)
"""Precisions in which a weight and its adapter can be summed: the sum is exact to rounding."""
_MOST_BYTES = 2 << 30  # of the sums, on a CPU
_SHARE = 0.25  # of a GPU's free memory


class MergedAdapter:
    """The sums of a model's base weights and its active adapter; the weights themselves are not touched.

    Only plain LoRA on plain linear layers in float32 or float64 is summed, where a sum is exact to rounding; other
    layers, such as quantised ones, half-precision ones and those of DoRA, keep computing base and adapter apart. So do
    all layers if the sums would need too much memory.

    Args:
        model: a model whose weights do not change for as long as this object is used.
    """

    def __init__(self, model: Model):
        self._base: Any = base_of(model)
        # a packed trial's layers take part in the passes of others: its pack sums the weights
        is_alone = has_adapter(model) and not vars(self._base).get("is_packed")
        layers: list[Any] = [layer for layer in model.modules() if _is_plain(layer)] if is_alone else []
        needed = sum(layer.base_layer.weight.nbytes for layer in layers)
        self._layers: list[Any] = layers if needed <= room_for_sums(model) else []
        self._weights: list[Tensor] = []
        self._state = object()

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Let the layers compute with the sums inside this context; the model must be in evaluation mode.

        Inside it, the base's `steady_state` is equal as long as the weights are.
        """
        if not self._weights:
            with torch.no_grad():
                self._weights = [_sum(layer) for layer in self._layers]
        try:
            for layer, weight in zip(self._layers, self._weights, strict=True):
                vars(layer)["forward"] = functools.partial(_linear, layer.base_layer, weight)
            vars(self._base)["steady_state"] = self._state
            yield
        finally:
            vars(self._base).pop("steady_state", None)
            for layer in self._layers:
                vars(layer).pop("forward", None)


def _is_plain(layer: Any) -> bool:
    """Return whether a layer computes x W^T + b + scaling (x A^T) B^T of its active adapters, and nothing else."""
    from peft.tuners.lora import Linear as LoraLinear  # late: start-up, a plan has no adapter

    if type(layer) is not LoraLinear or "forward" in vars(layer) or layer.disable_adapters or layer.merged:
        return False
    base: Any = layer.base_layer
    plain = type(base) is nn.Linear and type(base.weight) is nn.Parameter and "forward" not in vars(base)
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    is_vanilla = not any(name in layer.lora_variant or layer.lora_bias[name] for name in names)
    weights = [base.weight, *(part[name].weight for name in names for part in (layer.lora_A, layer.lora_B))]
    inside: list[Any] = [base, *layer.lora_A.values(), *layer.lora_B.values()]
    hooks = ("_forward_hooks", "_forward_pre_hooks")  # torch has no public look at them
    has_hooks = any(getattr(module, name) for module in inside for name in hooks)
    precise = all(weight.dtype in EXACT for weight in weights)
    return plain and is_vanilla and precise and not has_hooks and not layer.fan_in_fan_out


def _sum(layer: Any) -> Tensor:
    weight = layer.base_layer.weight
    for name in layer.active_adapters:
        if name in layer.lora_A:
            weight = weight + layer.get_delta_weight(name).to(weight.dtype)
    return weight.detach()


def _linear(base: nn.Linear, weight: Tensor, x: Tensor) -> Tensor:
    return F.linear(x, weight, base.bias)


def room_for_sums(model: Model) -> float:
    """Return the bytes that sums of a model's weights and adapters may take."""
    device: Any = model.device
    return _SHARE * torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _MOST_BYTES
