"""The adapter that training continues from: reading its settings, checking that it fits a model, loading it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from selgen_ray.config.finetune import FinetuneConfig
from selgen_ray.errors import nearest
from selgen_ray.models.files import ModelFiles, find_files, read_header
from selgen_ray.worlds.toy import MODEL_DIR

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from torch import nn
    from transformers import PreTrainedModel

KEY = "finetune_config.adapter"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_LORA_KEYS = {"lora_bias": "bias"} | {
    key: key for key in ("r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "target_modules")
}
"""Key of `finetune_config` -> key of adapter_config.json."""
DECIDED = frozenset(_LORA_KEYS)
"""The keys of `finetune_config` that an adapter decides."""
_WRAPPED = ".base_layer"
_CHANGES_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")  # values of init_lora_weights
_WHOLE_LAYERS = ("modules_to_save", "trainable_token_indices")


def open_adapter(name: str, revision: str | None) -> ModelFiles:
    """Return the files of an adapter. Raises ModelError: they are missing, or the weights are not safetensors."""
    files = find_files(KEY, name, revision)
    if CONFIG not in files:
        is_model = "config.json" in files
        hint = (
            ": it is a whole model, name it finetune_config.model" if is_model else ", which PEFT writes beside weights"
        )
        raise files.error(f"has no {CONFIG}{hint}")
    if WEIGHTS not in files:
        pickled = sorted(name for name in files.names if name.endswith((".bin", ".pt", ".pth")))
        advice = ", and pickled weights are not read: load and save it once with PEFT"
        raise files.error(f"has no {WEIGHTS}{f'; found {pickled[0]}{advice}' if pickled else ''}")
    return files


def lora_settings_of(name: str, revision: str | None) -> dict[str, Any]:
    """Return the keys of `finetune_config` that an adapter decides, with its values: {'r': 8, 'use_dora': False, ...}.

    Raises:
        ModelError: there is no such adapter, or it is of a kind that cannot be trained here.
    """
    files = open_adapter(name, revision)
    adapter = files.json(CONFIG)
    if adapter.get("peft_type") != "LORA":
        raise files.error(f"{CONFIG} has peft_type {adapter.get('peft_type')!r}; allowed: 'LORA'")
    if adapter.get("task_type") not in ("CAUSAL_LM", None):
        raise files.error(f"{CONFIG} has task_type {adapter['task_type']!r}; allowed: 'CAUSAL_LM'")
    for key in _WHOLE_LAYERS:
        if adapter.get(key):
            raise files.error(
                f"{CONFIG} has {key} {adapter[key]!r}, which are more than LoRA matrices: merge it into its model with "
                "PEFT, and name that as finetune_config.model"
            )
    if adapter.get("target_parameters") and not adapter.get("target_modules"):
        raise files.error(f"{CONFIG} has target_parameters alone; allowed: target_modules, and of experts both")
    init = adapter.get("init_lora_weights")
    if isinstance(init, str) and init.lower().startswith(_CHANGES_BASE):
        raise files.error(
            f"{CONFIG} has init_lora_weights {init!r}, which changes the model itself: save it as ordinary LoRA "
            "with PEFT's path_initial_model_for_weight_conversion"
        )
    defaults = FinetuneConfig.model_fields
    settings = {
        key: adapter[peft_key] if peft_key in adapter else defaults[key].default for key, peft_key in _LORA_KEYS.items()
    }
    if isinstance(settings["target_modules"], list):
        settings["target_modules"] = sorted(settings["target_modules"])
    return settings


def contradictions(config: FinetuneConfig, own: Mapping[str, Any], written: Iterable[str] = ()) -> dict[str, str]:
    """Return key -> message, for the keys of a config that contradict its adapter.

    A key that has its default value and was not written counts as left out, and contradicts nothing.

    Args:
        own: settings of the adapter, from `lora_settings_of`.
        written: keys that are written in the search space, even with their default value.
    """
    messages = {}
    for key, value in own.items():
        given, default = getattr(config, key), FinetuneConfig.model_fields[key].default
        same = sorted(given) == value if isinstance(given, list) else given == value
        if not same and (given != default or key in written):
            messages[key] = f"found {given!r}, but the adapter has {value!r}, and keeps it: leave the key out."
    return messages


def check_fit(files: ModelFiles, base: nn.Module) -> None:
    """Check that an adapter belongs to a model.

    Args:
        files: the adapter's.
        base: the model without an adapter; its weights may be on the meta device.

    Raises:
        ModelError: the adapter has matrices for modules that the model lacks, or of other sizes.
    """
    modules = dict(base.named_modules())
    for key, tensor in read_header(files, WEIGHTS).items():
        name, _, part = key.removeprefix("base_model.model.").partition(".lora_")
        side = {"A.weight": 1, "B.weight": 0, "embedding_A": 1, "embedding_B": 0}.get(part)
        if side is None:
            continue
        module = name
        while module.endswith(_WRAPPED):  # with several adapted parameters of a module the wrappers are nested
            module = module.removesuffix(_WRAPPED)
        if module not in modules:
            near = nearest(module, modules)
            raise files.error(f"is not of this model, which has no module {module!r}.{near}")
        shape = _shape(modules[module], part.startswith("embedding"))
        if shape and tensor["shape"][side] != shape[side]:
            what = "inputs" if side else "outputs"
            raise files.error(
                f"is not of this model: {name} has {shape[side]} {what}, and {tensor['shape'][side]} in the adapter"
            )


def _shape(module: Any, is_embedding: bool) -> tuple[int, int] | None:
    """Return (outputs, inputs) of a module; None if they are not known."""
    if is_embedding:
        return module.embedding_dim, module.num_embeddings
    if hasattr(module, "nf"):  # transformers' Conv1D, whose weight is [inputs, outputs]
        return module.nf, module.nx
    return (module.out_features, module.in_features) if hasattr(module, "in_features") else None


def adapter_notes(configs: Iterable[FinetuneConfig]) -> list[str]:
    """Return notes for people: adapters that name another base than the config does, though they may fit it too."""
    messages: dict[str, None] = {}
    pairs = dict.fromkeys((cfg.model, str(cfg.adapter), cfg.adapter_revision) for cfg in configs if cfg.adapter)
    for model, adapter, revision in pairs:
        named_base = str(open_adapter(adapter, revision).json(CONFIG).get("base_model_name_or_path") or "")
        base = str(MODEL_DIR) if model == "toy" else model
        names = [name.rstrip("/").rpartition("/")[2].lower() for name in (named_base, base)]
        if named_base and names[0] != names[1]:
            messages[
                f"{KEY} {adapter!r} says it is of {named_base!r}, and model is {model!r}: is that the same model?"
            ] = None
    return list(messages)


def lora_config(files: ModelFiles) -> LoraConfig:
    """Return PEFT's configuration of an adapter, set up to continue training."""
    from peft import LoraConfig

    lora: Any = LoraConfig.from_pretrained(str(files.path(CONFIG).parent))
    lora.inference_mode, lora.task_type = False, "CAUSAL_LM"
    return lora


def load_adapter(base: PreTrainedModel, config: FinetuneConfig) -> PeftModel:
    """Return the model with the adapter that the config names, whose LoRA weights are trainable.

    Raises:
        ModelError: there is no such adapter, or it does not belong to this model.
    """
    from peft import PeftModel

    files = open_adapter(str(config.adapter), config.adapter_revision)
    check_fit(files, base)
    lora = lora_config(files)
    folder = str(files.path(WEIGHTS).parent)
    try:
        return PeftModel.from_pretrained(base, folder, is_trainable=True, config=lora)
    except (ValueError, RuntimeError, OSError) as error:
        raise files.error(f"cannot be put on {config.model!r}: {error}") from error
