"""Save a finished model: safetensors and a tokenizer that can be loaded without this package."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from selgen_ray.data.stop_tokens import saved_generation_config, unsaved_settings
from selgen_ray.errors import ModelError
from selgen_ray.models.loading import Model, base_of, has_adapter

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_SHARD = "4GB"  # each file passes through memory on its way to an object store
_PARTS_OF_LORA = ("lora_A.", "lora_B.", "lora_embedding_A.", "lora_embedding_B.", "lora_magnitude_vector.")


def save_model(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a PEFT adapter or a whole model to a folder, with the tokenizer and a generation_config.json.

    The generation config ends a reply at the tokens with which training ended it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if has_adapter(model):
        # PEFT writes all adapters of a model: one that was on only while training is no part of the result
        model.save_pretrained(str(folder), selected_adapters=list(model.active_adapters))
        save_beside_adapter(model, tokenizer, folder)
        return
    with _ends_replies(model, tokenizer):
        model.save_pretrained(str(folder), max_shard_size=_SHARD)
    tokenizer.save_pretrained(folder)


def save_beside_adapter(model: PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the files that generation with an adapter needs besides it: the tokenizer and a generation_config.json.

    PEFT writes neither, and the base's generation config may not end a reply where the adapter was trained to.
    """
    inner: Any = model.get_base_model()
    saved_generation_config(tokenizer, inner.generation_config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def left_out_of_generation(model: Model, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return a sentence on settings of the start model's generation_config that cannot be saved; None if all are."""
    inner: Any = base_of(model)
    names = unsaved_settings(tokenizer, inner.generation_config)
    if not names:
        return None
    return (
        f"the saved generation_config.json is that of the start model without {', '.join(names)}: transformers ignores "
        "such settings beside the others, and refuses to save them"
    )


@contextlib.contextmanager
def _ends_replies(model: Any, tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Give the model, inside the context, a generation config that ends a reply where training ended it."""
    before = model.generation_config
    model.generation_config = saved_generation_config(tokenizer, before)
    try:
        yield
    finally:
        model.generation_config = before


def save_merged(model: PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the whole model with its active adapters merged, in the base's data type; `model` itself is unchanged.

    The merged weights need memory on the CPU.

    Raises:
        ModelError: an adapted embedding is tied to the head, and the adapter changes only one of the two.
    """
    base: Any = model.get_base_model()
    weights = _merged_weights(base)
    with torch.device("meta"):
        merged_model = type(base)(base.config)
    merged_model.to(base.dtype)
    merged_model.load_state_dict(weights, assign=True)
    merged_model.tie_weights()
    merged_model.generation_config = saved_generation_config(tokenizer, base.generation_config)
    folder.mkdir(parents=True, exist_ok=True)
    merged_model.save_pretrained(str(folder), max_shard_size=_SHARD)
    tokenizer.save_pretrained(folder)


@torch.no_grad()
def _merged_weights(base: Any) -> dict[str, Tensor]:
    """Return name -> merged weight, on the CPU, under the names in the model without an adapter."""
    from peft.tuners.lora import LoraLayer  # late: start-up, a plan saves no model

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
    """Return the name of a weight in the model without its adapter: 'q_proj.base_layer.weight' is 'q_proj.weight'.

    With several adapted parameters of a module the wrappers, and so '.base_layer', are nested.
    """
    return re.sub(r"(\.base_layer)+(?=\.|$)", "", name)


def adapted_parameter(layer: Any) -> tuple[str, Tensor]:
    """Return name and value of the parameter that a LoRA layer adapts: 'weight', or a stacked matrix of experts."""
    from peft.tuners.lora.layer import ParamWrapper  # late: start-up, as above

    name = layer.parameter_name if isinstance(layer, ParamWrapper) else "weight"
    return name, getattr(layer.get_base_layer(), name)


@contextlib.contextmanager
def _merged(layer: Any, weight: Tensor) -> Iterator[None]:
    """Merge the active adapters into the layer's weight inside the context; then restore it bit for bit."""
    before = weight.detach().clone()
    layer.merge()
    try:
        yield
    finally:
        layer.unmerge()
        weight.data.copy_(before)  # through `data`: open graphs of trials that share this base keep their weight
