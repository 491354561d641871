"""Models: a base loaded once per process, an adapter or copy for each trial, the adapter switched off, saving."""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from selgen_ray import adapters, sharding
from selgen_ray.config import hardware
from selgen_ray.config.finetune import FinetuneConfig
from selgen_ray.data.encode import Batch
from selgen_ray.errors import ModelError
from selgen_ray.seeding import derive_seed, keep_global_rng
from selgen_ray.worlds.toy import MODEL_DIR

Model = PreTrainedModel | PeftModel


def model_location(model: str) -> str:
    """Where `from_pretrained` finds a model named in a config: the shipped folder for 'toy'."""
    return str(MODEL_DIR) if model == "toy" else str(Path(model).expanduser()) if model.startswith("~") else model


def load_tokenizer(config: FinetuneConfig) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with `chat_template` where it is given; without a pad token its end token pads.

    Pads are masked and never scored.

    Raises:
        ModelError: it cannot be loaded, or has neither a pad nor an end token.
    """
    return _load_tokenizer(model_location(config.model), config.model_revision, config.chat_template)


@functools.lru_cache(maxsize=2)
def _load_tokenizer(location: str, revision: str | None, chat_template: str | None) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(location, revision=revision or "main")
    except Exception as error:  # a broken tokenizer.json raises plain Exception
        raise ModelError(_cannot_load("tokenizer", location, error)) from error
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ModelError(
                f"the tokenizer of {location} has neither a pad nor an end token: add pad_token and eos_token to its "
                "tokenizer_config.json"
            )
        tokenizer.pad_token = tokenizer.eos_token
    if chat_template:
        tokenizer.chat_template = chat_template
    return tokenizer


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
        raise ModelError(_cannot_load("model", key.location, error)) from error
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


def _cannot_load(what: str, location: str, error: Exception) -> str:
    offline = " (HF_HUB_OFFLINE is set: only local directories work)" if os.environ.get("HF_HUB_OFFLINE") else ""
    return f"cannot load the {what} of {location!r}{offline}: {' '.join(str(error).split())}"


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


def _with_adapter(
    base: PreTrainedModel, config: FinetuneConfig, model_seed: int, shard_on: str | None
) -> Iterator[PeftModel]:
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.r,
        lora_alpha=config.lora_alpha,  # type: ignore[arg-type]  # PEFT divides by it, a float is as good
        lora_dropout=config.lora_dropout,
        bias=config.lora_bias,
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        target_modules=config.target_modules,
    )
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


@contextlib.contextmanager
def adapter_off(model: Model) -> Iterator[None]:
    """The base model's own predictions, for as long as the context lasts; full fine-tuning has no adapter."""
    with model.disable_adapter() if isinstance(model, PeftModel) else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def _head_gets(model: Model, part: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """The head is given `part` of the last hidden states instead of all, for as long as the context lasts."""
    head: Any = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, inputs: (part(inputs[0]), *inputs[1:]))
    try:
        yield
    finally:
        hook.remove()


def scored_logits(model: Model, batch: Batch) -> torch.Tensor:
    """The logits of the scored tokens alone, [scored, vocab], in the order of the rows; differentiable.

    The head, often the largest matrix, skips prompts and pads.

    Raises:
        ModelError: the model reshapes its logits, so that the scored ones cannot be told apart.
    """
    with _head_gets(model, lambda hidden: hidden[batch.scored]):
        logits = model(**batch.inputs, use_cache=False).logits
    if logits.shape[:-1] != (batch.num_scored,):
        raise ModelError(f"{type(model).__name__} does not compute its logits by its output embeddings token by token")
    return logits


def hidden_states(model: Model, batch: Batch, **options: Any) -> tuple[torch.Tensor, Any]:
    """A forward pass without the head, but for the first token of each row.

    Args:
        **options: of the model's forward, such as `output_hidden_states`.

    Returns:
        What the head would have been given, [batch, tokens, features], and the model's output, its logits
        [batch, 1, vocab].
    """
    seen: list[torch.Tensor] = []

    def first(hidden: torch.Tensor) -> torch.Tensor:
        seen.append(hidden)
        return hidden[:, :1]

    with _head_gets(model, first):
        output = model(**batch.inputs, use_cache=False, **options)
    return seen[0], output


def load_weights(model: str) -> dict[str, torch.Tensor]:
    """The weights of another model, a directory or hub id, by name, on the CPU. Raises ModelError."""
    location = model_location(model)
    try:
        return AutoModelForCausalLM.from_pretrained(location, use_safetensors=True).state_dict()
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(_cannot_load("model", location, error)) from error
