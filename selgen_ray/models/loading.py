"""Load models: one base for each process, with an adapter or a copy for each trial."""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from typing_extensions import TypeIs

from selgen_ray.config import hardware
from selgen_ray.config.finetune import FinetuneConfig
from selgen_ray.errors import ModelError
from selgen_ray.models import adapters, sharding
from selgen_ray.models.files import cannot_load, model_location
from selgen_ray.seeding import derive_seed, keep_global_rng, seed_global_rng

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import BitsAndBytesConfig, PreTrainedModel

Model: TypeAlias = "PreTrainedModel | PeftModel"


@dataclass(frozen=True)
class _BaseKey:
    """The settings that decide which base is loaded, and how."""

    location: str
    revision: str | None
    dtype: str
    quantisation: str
    attention: str | None
    device: str


def _base_key(config: FinetuneConfig, device: str) -> _BaseKey:
    quantisation = next((key for key in ("load_in_4bit", "load_in_8bit") if getattr(config, key)), "")
    location = model_location(config.model)
    return _BaseKey(location, config.model_revision, config.dtype, quantisation, config.attn_implementation, device)


@functools.lru_cache(maxsize=1)  # one base in memory, until a trial needs another one
def _load_base(key: _BaseKey) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM  # late: start-up, a plan loads no model

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
    if key.attention not in (None, attention):  # transformers may only warn and use another one
        raise ModelError(
            f"finetune_config.attn_implementation {key.attention}: {key.location} works with {attention} instead"
        )
    model.requires_grad_(False)
    if not key.quantisation:
        return model.to(device=key.device)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # an evaluation would pack the 4-bit weights for inference, and packed ones pass no gradient on
            module.support_avx512bf16_for_cpu = False
    return model


def _quantisation(key: _BaseKey) -> BitsAndBytesConfig:
    from transformers import BitsAndBytesConfig  # late: start-up, as above

    if key.quantisation == "load_in_8bit":
        # it warns at every matrix product whose inputs are not float16
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return BitsAndBytesConfig(load_in_8bit=True)
    compute = getattr(torch, key.dtype)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)


class Source:
    """Supplies the models of trials, and runs their backward passes; this one serves one trial at a time."""

    def model(
        self, config: FinetuneConfig, model_seed: int, device: str, *, fsdp: bool = False
    ) -> contextlib.AbstractContextManager[Model]:
        """Provide a model to train; see `trainable_model`."""
        return trainable_model(config, model_seed, device, fsdp=fsdp)

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of a scalar to the `grad` of the parameters that it depends on."""
        loss.backward()


def forget_base() -> None:
    """Let the next trial of this process load its base anew, since code from outside may have changed this one."""
    _load_base.cache_clear()


def load_base(config: FinetuneConfig, device: str) -> PreTrainedModel:
    """Return the process's base for a config, frozen and without an adapter; load it if there is none that is free.

    Raises:
        ModelError: this device does not meet the config's needs, or the model cannot be loaded.
    """
    if problems := hardware.hardware_problems(config, hardware.this_device()):
        raise ModelError("; ".join(problems))
    key = _base_key(config, device)
    base = _load_base(key)
    if hasattr(base, "peft_config"):  # another trainer of this process is using it
        base = _load_base.__wrapped__(key)
    return base


@contextlib.contextmanager
def trainable_model(config: FinetuneConfig, model_seed: int, device: str, *, fsdp: bool = False) -> Iterator[Model]:
    """Provide a model to train: the cached base with a LoRA adapter, or a copy of the base if `is_peft` is false.

    The adapter is the one that `adapter` names, or a new one whose initial values depend on `model_seed` alone. It is
    removed at the end of the context, so that the next trial can use the base. After an exception the state of the base
    is uncertain, and it is dropped from the cache. With `fsdp` the base is sharded over the ranks and serves one trial.

    Raises:
        ModelError: this device does not meet the config's needs; the model cannot be loaded, or has no module that
            `target_modules` names; the adapter does not belong to this model.
    """
    base = load_base(config, "cpu" if fsdp else device)
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
    """Return the configuration of the adapter of a trial that does not continue from one."""
    from peft import LoraConfig  # late: start-up, PEFT imports all that it may ever adapt

    return LoraConfig(
        task_type="CAUSAL_LM",
        r=config.r,
        lora_alpha=config.lora_alpha,  # type: ignore[arg-type]  # PEFT only divides it: a float works as well
        lora_dropout=config.lora_dropout,
        bias=config.lora_bias,
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        target_modules=config.target_modules,
    )


def put_adapter(base: PreTrainedModel, config: FinetuneConfig, model_seed: int) -> PeftModel:
    """Put on a base the adapter that `adapter` names, or a new one, and switch on gradient checkpointing if asked for.

    Raises:
        ModelError: the base has no module that `target_modules` names; the adapter does not belong to it.
    """
    from peft import get_peft_model  # late: start-up, as above

    lora = new_lora_config(config)
    with keep_global_rng():
        seed_global_rng(derive_seed(model_seed, "adapter"))
        try:
            model = adapters.load_adapter(base, config) if config.adapter else get_peft_model(base, lora)
        except ModelError:
            raise
        except ValueError as error:
            raise ModelError(f"finetune_config.target_modules {config.target_modules!r}: {error}") from error
    _set_checkpointing(base, config)
    return model


def _with_adapter(
    base: PreTrainedModel, config: FinetuneConfig, model_seed: int, shard_on: str | None
) -> Iterator[PeftModel]:
    biases = {} if config.lora_bias == "none" else {n: p for n, p in base.named_parameters() if n.endswith("bias")}
    before = {name: p.detach().clone() for name, p in biases.items()}
    model = put_adapter(base, config, model_seed)
    if shard_on:
        sharding.shard(model, shard_on)
        _load_base.cache_clear()
        yield model
        return
    yield model
    with torch.no_grad():
        for name, bias in biases.items():  # lora_bias trains tensors of the base: undo it
            bias.copy_(before[name])
    model.unload()
    base.requires_grad_(False)
    _unset_checkpointing(base)
    _delete_peft_marks(base)


def _delete_peft_marks(base: PreTrainedModel) -> None:
    # PEFT leaves its config on the base, and would then warn of a second adapter
    for name in ("peft_config", "_hf_peft_config_loaded"):
        if name in vars(base):
            delattr(base, name)


def _set_checkpointing(model: PreTrainedModel, config: FinetuneConfig) -> None:
    # model.config.use_cache is not changed: training passes use_cache=False, and a saved model should use its cache
    if not config.use_gradient_checkpointing:
        return
    try:
        model.activation_checkpointing_enable({"use_reentrant": False})
    except ValueError as error:
        raise ModelError(f"finetune_config.use_gradient_checkpointing: {error}") from error


def _unset_checkpointing(model: PreTrainedModel) -> None:
    model.activation_checkpointing_disable()
    model.disable_input_require_grads()  # transformers leaves this hook on if it did not add the adapter itself


def has_adapter(model: Model) -> TypeIs[PeftModel]:
    """Return whether a model has an adapter."""
    from peft import PeftModel  # late: start-up; a model with an adapter has it imported already

    return isinstance(model, PeftModel)


def base_of(model: Model) -> PreTrainedModel:
    """Return the transformers model of a model with or without adapter."""
    base: Any = model.get_base_model() if has_adapter(model) else model
    return base


def trainable_parameters(model: Model) -> dict[str, torch.nn.Parameter]:
    """Return name -> parameter of everything that is trained, in the model's order."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def load_weights(model: str) -> dict[str, torch.Tensor]:
    """Return name -> weight of another model, on the CPU.

    Args:
        model: 'toy', a local directory or a hub id.

    Raises:
        ModelError: it cannot be loaded.
    """
    from transformers import AutoModelForCausalLM  # late: start-up, a plan loads no model

    location = model_location(model)
    try:
        return AutoModelForCausalLM.from_pretrained(location, use_safetensors=True).state_dict()
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(cannot_load("model", location, error)) from error
