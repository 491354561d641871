"""Saving a finished model: safetensors and a tokenizer that anybody can load without this package."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selgen_ray.errors import ModelError

_SHARD = "4GB"  # a file goes through memory on its way to an object store
_PARTS_OF_LORA = ("lora_A.", "lora_B.", "lora_embedding_A.", "lora_embedding_B.", "lora_magnitude_vector.")


def save_model(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write an ordinary PEFT adapter, or a whole model, with its tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {} if isinstance(model, PeftModel) else {"max_shard_size": _SHARD}
    model.save_pretrained(str(folder), **options)
    tokenizer.save_pretrained(folder)


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
    whole.generation_config = base.generation_config
    folder.mkdir(parents=True, exist_ok=True)
    whole.save_pretrained(str(folder), max_shard_size=_SHARD)
    tokenizer.save_pretrained(folder)


@torch.no_grad()
def _merged_weights(base: Any) -> dict[str, Tensor]:
    """The weights under the names they have without an adapter."""
    weights = {
        name.replace(".base_layer.", "."): tensor.detach().cpu()
        for name, tensor in base.state_dict().items()
        if not any(f".{part}" in name for part in _PARTS_OF_LORA)
    }
    tied = {id(base.get_input_embeddings().weight)} & {id(base.get_output_embeddings().weight)}
    for name, layer in base.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        inner: Any = layer.get_base_layer()
        if id(inner.weight) in tied:
            raise ModelError(
                f"finetune_config.save_merged: {name} is embedding and head in one, and the adapter changes it in one "
                "of the two places only: leave save_merged out, or leave it out of target_modules"
            )
        with _merged(layer):
            weights[f"{name}.weight"] = inner.weight.detach().to("cpu", copy=True)
    return weights


@contextlib.contextmanager
def _merged(layer: Any) -> Iterator[None]:
    """The layer's own weight with its active adapters in it; afterwards as it was, bit for bit."""
    weight = layer.get_base_layer().weight
    before = weight.detach().clone()
    layer.merge()
    try:
        yield
    finally:
        layer.unmerge()
        weight.copy_(before)
