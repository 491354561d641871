"""Saving a finished model: safetensors and a tokenizer that anybody can load without this package."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selgen_ray.data.stop_tokens import saved_generation_config
from selgen_ray.errors import ModelError

_SHARD = "4GB"  # a file goes through memory on its way to an object store
_PARTS_OF_LORA = ("lora_A.", "lora_B.", "lora_embedding_A.", "lora_embedding_B.", "lora_magnitude_vector.")


def save_model(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write an ordinary PEFT adapter, or a whole model, with its tokenizer and what ends a reply."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model, PeftModel):
        model.save_pretrained(str(folder))
        save_beside_adapter(model, tokenizer, folder)
        return
    with _ends_replies(model, tokenizer):
        model.save_pretrained(str(folder), max_shard_size=_SHARD)
    tokenizer.save_pretrained(folder)


def save_beside_adapter(model: PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write what generation with an adapter needs besides it: the tokenizer, and a generation_config.json.

    PEFT writes neither, and the adapter's base may not end a reply where the adapter does.
    """
    inner: Any = model.get_base_model()
    saved_generation_config(tokenizer, inner.generation_config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextlib.contextmanager
def _ends_replies(model: Any, tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """The model is saved with a generation_config that ends a reply where training taught it to."""
    own = model.generation_config
    model.generation_config = saved_generation_config(tokenizer, own)
    try:
        yield
    finally:
        model.generation_config = own


def save_merged(model: PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the model with its active adapters merged into it, in the base's data type; the model stays as it is.

    Takes the memory of the merged weights, on the CPU.

    Raises:
        ModelError: an adapted embedding is also the head, which the adapter does not change.
    """
    base: Any = model.get_base_model()
    weights = _merged_weights(base)
    with torch.device("meta"):
        whole = type(base)(base.config)
    whole.to(base.dtype)
    whole.load_state_dict(weights, assign=True)
    whole.tie_weights()
    whole.generation_config = saved_generation_config(tokenizer, base.generation_config)
    folder.mkdir(parents=True, exist_ok=True)
    whole.save_pretrained(str(folder), max_shard_size=_SHARD)
    tokenizer.save_pretrained(folder)


@torch.no_grad()
def _merged_weights(base: Any) -> dict[str, Tensor]:
    """The weights under the names they have without an adapter."""
    weights = {
        without_adapter(name): tensor.detach().cpu()
        for name, tensor in base.state_dict().items()
        if not any(f".{part}" in name for part in _PARTS_OF_LORA)
    }
    tied = {id(base.get_input_embeddings().weight)} & {id(base.get_output_embeddings().weight)}
    for name, layer in base.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        parameter, weight = adapted_parameter(layer)
        if id(weight) in tied:
            raise ModelError(
                f"finetune_config.save_merged: {name} is embedding and head in one, and the adapter changes it in one "
                "of the two places only: leave save_merged out, or leave it out of target_modules"
            )
        with _merged(layer, weight):
            merged = weight.detach().to("cpu", copy=True)
        weights[without_adapter(f"{name}.{parameter}")] = merged
    return weights


def without_adapter(name: str) -> str:
    """The name of a weight in the model without its adapter; wrappers of one module's parameters are nested."""
    return re.sub(r"(\.base_layer)+(?=\.|$)", "", name)


def adapted_parameter(layer: Any) -> tuple[str, Tensor]:
    """Name and value of what a LoRA layer adapts: a module's weight, or with experts one of their stacked matrices."""
    name = layer.parameter_name if isinstance(layer, ParamWrapper) else "weight"
    return name, getattr(layer.get_base_layer(), name)


@contextlib.contextmanager
def _merged(layer: Any, weight: Tensor) -> Iterator[None]:
    """The layer's own weight with its active adapters in it; afterwards as it was, bit for bit."""
    before = weight.detach().clone()
    layer.merge()
    try:
        yield
    finally:
        layer.unmerge()
        weight.copy_(before)
