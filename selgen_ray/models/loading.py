"""Models: a base loaded once per process, an adapter or copy for each trial, the adapter switched off, saving."""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PreTrainedModel,
)

from selgen_ray.config import hardware
from selgen_ray.config.finetune import FinetuneConfig
from selgen_ray.errors import ModelError
from selgen_ray.models import adapters, sharding
from selgen_ray.models.files import cannot_load, model_location
from selgen_ray.seeding import derive_seed, keep_global_rng

Model = PreTrainedModel | PeftModel


@dataclass(frozen=True)
class _BaseKey:
    """All that decides which base is loaded, and how."""

    location: str
    revision: str | None
    dtype: str
    quantisation: str
    attention: str | None
    device: str


def _base_key(config: FinetuneConfig, device: str) -> _BaseKey:
    quantisation = next((k for k in ("load_in_4bit", "load_in_8bit") if getattr(config, k)), "")
    location = model_location(config.model)
    return _BaseKey(location, config.model_revision, config.dtype, quantisation, config.attn_implementation, device)


@functools.lru_cache(maxsize=1)  # one base in memory; the next trial with another one replaces it
def _load_base(key: _BaseKey) -> PreTrainedModel:
    options: dict[str, Any] = {"dtype": getattr(torch, key.dtype), "attn_implementation": key.attention}
    if key.quantisation:
        options |= {"quantization_config": _quantisation(key), "device_map": {"": key.device}}
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            key.location, revision=key.revision or "main", use_safetensors=True, **options
        )
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(cannot_load("model", key.location, error)) from error
    attention = model.config._attn_implementation
    if key.attention not in (None, attention):  # transformers may only warn, and take another
        raise ModelError(
            f"finetune_config.attn_implementation {key.attention}: {key.location} works with {attention} instead"
        )
    model.requires_grad_(False)
    if not key.quantisation:
        return model.to(device=key.device)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # evaluating would pack the 4-bit weights for inference, and no gradient passes through packed ones
            module.support_avx512bf16_for_cpu = False
    return model


def _quantisation(key: _BaseKey) -> BitsAndBytesConfig:
    if key.quantisation == "load_in_8bit":
        # it warns of every single product whose inputs are not float16
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return BitsAndBytesConfig(load_in_8bit=True)
    compute = getattr(torch, key.dtype)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)


@contextlib.contextmanager
def trainable_model(config: FinetuneConfig, model_seed: int, device: str, *, fsdp: bool = False) -> Iterator[Model]:
    """A model to train: the cached base with a LoRA adapter, or a copy of it when `is_peft` is false.

    The adapter is the one that `adapter` names, or a new one, whose values depend on `model_seed` alone. Leaving the
    context takes it off again, so that the base can serve the next trial; after an exception the base is dropped, its
    state being uncertain. With `fsdp` the ranks share the base out, and it serves one trial.

    Raises:
        ModelError: this device lacks what the config needs; the model cannot be loaded, or has no module that
            `target_modules` names; the adapter is not of this model.
    """
    if found := hardware.problems(config, hardware.this_device()):
        raise ModelError("; ".join(found))
    key = _base_key(config, "cpu" if fsdp else device)
    base = _load_base(key)
    if hasattr(base, "peft_config"):  # another trainer of this process is using it
        base = _load_base.__wrapped__(key)
    try:
        if config.is_peft:
            yield from _with_adapter(base, config, model_seed, device if fsdp else None)
        else:
            model = copy.deepcopy(base).requires_grad_(True)
            _set_checkpointing(model, config)
            yield model
    except BaseException:
        _load_base.cache_clear()
        raise


def new_lora_config(config: FinetuneConfig) -> LoraConfig:
    """The adapter that a trial begins with, where it does not continue from one."""
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=config.r,
        lora_alpha=config.lora_alpha,  # type: ignore[arg-type]  # PEFT divides by it, a float is as good
        lora_dropout=config.lora_dropout,
        bias=config.lora_bias,
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        target_modules=config.target_modules,
    )


def _with_adapter(
    base: PreTrainedModel, config: FinetuneConfig, model_seed: int, shard_on: str | None
) -> Iterator[PeftModel]:
    lora = new_lora_config(config)
    biases = {} if config.lora_bias == "none" else {n: p for n, p in base.named_parameters() if n.endswith("bias")}
    before = {name: p.detach().clone() for name, p in biases.items()}
    with keep_global_rng():
        torch.manual_seed(derive_seed(model_seed, "adapter"))
        try:
            model = adapters.load(base, config) if config.adapter else get_peft_model(base, lora)
        except ModelError:
            raise
        except ValueError as error:
            raise ModelError(f"finetune_config.target_modules {config.target_modules!r}: {error}") from error
    _set_checkpointing(base, config)
    if shard_on:
        sharding.shard(model, shard_on)
        _load_base.cache_clear()
        yield model
        return
    yield model
    with torch.no_grad():
        for name, bias in biases.items():  # lora_bias trains tensors of the base itself
            bias.copy_(before[name])
    model.unload()
    base.requires_grad_(False)
    _unset_checkpointing(base)
    _delete_peft_marks(base)


def _delete_peft_marks(base: PreTrainedModel) -> None:
    # PEFT leaves its config on the base and then warns that a second adapter is being stacked
    for name in ("peft_config", "_hf_peft_config_loaded"):
        if name in vars(base):
            delattr(base, name)


def _set_checkpointing(model: PreTrainedModel, config: FinetuneConfig) -> None:
    # model.config.use_cache stays as it is: training passes False, and a saved model is to generate with its cache
    if not config.use_gradient_checkpointing:
        return
    try:
        model.activation_checkpointing_enable({"use_reentrant": False})
    except ValueError as error:
        raise ModelError(f"finetune_config.use_gradient_checkpointing: {error}") from error


def _unset_checkpointing(model: PreTrainedModel) -> None:
    model.activation_checkpointing_disable()
    model.disable_input_require_grads()  # transformers leaves its hook on, where it sees no adapter of its own


def trainable_parameters(model: Model) -> dict[str, torch.nn.Parameter]:
    """Name -> parameter of everything that is trained, in the model's order."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def load_weights(model: str) -> dict[str, torch.Tensor]:
    """The weights of another model, a directory or hub id, by name, on the CPU. Raises ModelError."""
    location = model_location(model)
    try:
        return AutoModelForCausalLM.from_pretrained(location, use_safetensors=True).state_dict()
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(cannot_load("model", location, error)) from error
