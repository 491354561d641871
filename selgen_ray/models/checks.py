"""Checks of a trial's model, tokenizer and adapter that run before any weights are loaded.

They read the small files and the headers of safetensors, and build the model's modules on the meta device.
"""

from __future__ import annotations

import copy
import functools
import json
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from selgen_ray.config.finetune import FinetuneConfig
from selgen_ray.config.trial import TrialConfig
from selgen_ray.data.positions import Positions
from selgen_ray.errors import DataError, ModelError, nearest
from selgen_ray.models import adapters, blocks, hub
from selgen_ray.models.files import ModelFiles, find_files, model_location, read_header
from selgen_ray.models.loading import new_lora_config
from selgen_ray.models.tokenizer import load_tokenizer
from selgen_ray.storage.secrets import masked
from selgen_ray.worlds.toy import MODEL_DIR

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

_KEY = "finetune_config.model"
_UNALIGNED = "finetune_config.safe_lora_base_model"
_INDEX = "model.safetensors.index.json"
_DECIDE_ADAPTER = {
    *("is_peft", "r", "lora_alpha", "lora_dropout", "lora_bias", "use_rslora", "use_dora", "target_modules")
}
_ASKED_AGAIN_S = 60.0
_TOKENIZERS = ("tokenizer.json", ".model", "vocab.json", "vocab.txt", ".tiktoken", "tekken.json")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")


def model_problems(config: TrialConfig) -> list[str]:
    """Return all problems of a trial's model, tokenizer and adapter, and of saving and pushing the result, in words."""
    cfg = config.finetune_config
    problems = list(_problems_of(lambda: hub.check_push(cfg)))
    if is_shipped(cfg):  # tests hold what of it is checked below but for the sizes
        return [*problems, *_problems_of(lambda: _check_tokenizer(cfg)), *_problems_of(lambda: _check_layers(cfg))]
    place = model_location(cfg.model), cfg.model_revision, _stamp(cfg.model)
    for check in (lambda: _check_files(_KEY, *place), lambda: _on_meta(*place)):
        if blocking := list(_problems_of(check)):  # nothing else can be checked then
            return [*problems, *blocking]
    problems += _problems_of(lambda: _check_tokenizer(cfg))
    problems += _problems_of(lambda: _check_modules(cfg))
    problems += _problems_of(lambda: _check_layers(cfg))
    problems += _problems_of(lambda: _check_adapter(cfg))
    if cfg.is_peft and not problems:
        problems += _problems_of(lambda: _check_shapes(cfg))
        problems += _problems_of(lambda: _check_merge(cfg, adapted_skeleton(cfg)))
    if unaligned := getattr(cfg, "safe_lora_base_model", None):
        problems += _problems_of(lambda: _check_files(_UNALIGNED, model_location(unaligned), None, _stamp(unaligned)))
    return problems


def is_shipped(cfg: FinetuneConfig) -> bool:
    """Return whether a trial trains the shipped model, whole or with a new adapter on all linear layers.

    Tests hold that it can be built and adapted so; a plan need not import what builds models, which takes seconds.
    """
    keys = ("model", "adapter", "target_modules", "lora_bias", "use_dora", "save_merged")
    is_plain = all(getattr(cfg, key) == FinetuneConfig.model_fields[key].default for key in keys)
    return is_plain and getattr(cfg, "safe_lora_base_model", None) is None


@functools.cache
def _shipped_config() -> dict[str, Any]:
    return json.loads((MODEL_DIR / "config.json").read_text(encoding="utf-8"))


def _problems_of(check: Callable[[], Any]) -> Iterator[str]:
    try:
        check()
    except (ModelError, DataError) as error:
        yield from str(error).split("\n")


def _stamp(model: str) -> tuple[Any, ...]:
    """Return a key for caching checks: it changes with the files of a local model, and every minute for a hub id."""
    folder = model_location(model)
    try:
        with os.scandir(folder) as entries:
            return tuple(sorted((e.name, e.stat().st_size, e.stat().st_mtime_ns) for e in entries))
    except OSError:
        return (time.monotonic() // _ASKED_AGAIN_S,)


# files ------------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=32)  # only success is cached: an error is raised, so the next call checks again
def _check_files(key: str, location: str, revision: str | None, stamp: tuple[Any, ...]) -> None:
    files = find_files(key, location, revision)
    _check_config(files)
    _check_weights(files)
    if key == _KEY and not any(name.endswith(_TOKENIZERS) for name in files.names):
        raise files.error("has no tokenizer (tokenizer.json, tokenizer.model or vocab.json): copy its files there")


def _check_config(files: ModelFiles) -> None:
    if "config.json" not in files:
        if adapters.CONFIG in files:
            raise files.error("is an adapter: name it finetune_config.adapter, and the model it is of as model")
        raise files.error("has no config.json, which every model of transformers has")
    # late: start-up, they import every model's base
    from transformers.models.auto.configuration_auto import (
        CONFIG_MAPPING_NAMES,  # pyright: ignore[reportPrivateImportUsage]
    )
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    content = files.json("config.json")
    kind, names = content.get("model_type"), content.get("architectures") or []
    known = isinstance(kind, str) and kind in CONFIG_MAPPING_NAMES
    if content.get("auto_map") and not known:
        raise files.error(
            f"config.json has auto_map: the model {kind!r} needs trust_remote_code, which would run code out of it. "
            "It is off, and there is no key that turns it on: use a model that transformers has itself"
        )
    if not isinstance(kind, str) or not known:
        near = nearest(str(kind), CONFIG_MAPPING_NAMES)
        raise files.error(f"config.json has model_type {kind!r}, which transformers does not know.{near}")
    if content.get("is_encoder_decoder"):
        raise files.error(f"is an encoder-decoder ({kind}); allowed: causal language models, which are decoders alone")
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        is_a = f" ({', '.join(names)})" if names else ""
        raise files.error(f"is no causal language model: transformers has none of model_type {kind!r}{is_a}")


def _check_weights(files: ModelFiles) -> None:
    shards = ["model.safetensors"]
    if "model.safetensors" not in files:
        if _INDEX not in files:
            _refuse_without_safetensors(files)
        listed = files.json(_INDEX).get("weight_map")
        if not isinstance(listed, dict) or not listed:
            raise files.error(f"{_INDEX} has no weight_map")
        shards = sorted(set(map(str, listed.values())))
    if missing := [name for name in shards if name not in files]:
        raise files.error(f"{_INDEX} names {len(shards)} files, of which are missing: {', '.join(missing[:3])}")
    for name in shards if files.folder else ():
        read_header(files, name)


def _refuse_without_safetensors(files: ModelFiles) -> None:
    pickled = sorted(name for name in files.names if name.endswith(_PICKLED) and "/" not in name)
    if pickled:
        raise files.error(
            f"has its weights in {pickled[0]} alone, and pickled weights are not read: save the model once with "
            "save_pretrained, which writes safetensors"
        )
    others = sorted(name for name in files.names if name.endswith((".safetensors", ".gguf")))
    raise files.error(f"has no weights: no model.safetensors{'; found ' + others[0] if others else ''}")


# tokenizer --------------------------------------------------------------------------------------------------------


def _check_tokenizer(cfg: FinetuneConfig) -> None:
    tokenizer: Any = load_tokenizer(cfg)
    last, size = max(tokenizer.get_vocab().values(), default=0), _vocabulary(cfg)
    if last >= size:
        raise ModelError(
            f"{_KEY} {cfg.model!r}: its tokenizer has ids up to {last}, its embedding {size} rows: they are not of one "
            "model, or tokens were added and the embedding was not resized"
        )


def _vocabulary(cfg: FinetuneConfig) -> int:
    if is_shipped(cfg):
        return int(_shipped_config()["vocab_size"])
    embedding: Any = _skeleton(cfg).get_input_embeddings()
    return int(embedding.weight.shape[0])


# modules ----------------------------------------------------------------------------------------------------------


def _skeleton(cfg: FinetuneConfig) -> PreTrainedModel:
    return _on_meta(model_location(cfg.model), cfg.model_revision, _stamp(cfg.model))


@functools.lru_cache(maxsize=4)
def _on_meta(location: str, revision: str | None, stamp: tuple[Any, ...]) -> PreTrainedModel:
    """Return the model without weights. Raises ModelError if no model can be built from its config."""
    from transformers import AutoConfig, AutoModelForCausalLM  # late: start-up, as above

    try:
        config = AutoConfig.from_pretrained(location, revision=revision or "main")
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except Exception as error:  # many kinds, from sizes that do not fit to missing packages
        raise ModelError(f"{_KEY} {location!r}: config.json makes no model: {masked(str(error))}") from error


def positions_of(cfg: FinetuneConfig) -> Positions | None:
    """Return the positions that a model has; None if its config names no number.

    Raises:
        ModelError: no model can be built from its config.
    """
    if is_shipped(cfg):  # a Llama, which rotates and so has no table
        return Positions(int(_shipped_config()["max_position_embeddings"]), is_table=False)
    model = _skeleton(cfg)
    count = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(count, int) or count < 1:
        return None
    words = model.get_input_embeddings()
    learned = (m.weight.shape[0] for m in model.modules() if isinstance(m, torch.nn.Embedding) and m is not words)
    fixed = (b.shape[0] for name, b in model.named_buffers() if name.endswith("embed_positions") and b.ndim > 1)
    # some tables have up to two more entries, before that of the first position
    return Positions(count, any(count <= size <= count + 2 for size in (*learned, *fixed)))


def _is_adaptable(module: Any) -> bool:
    from transformers.pytorch_utils import Conv1D  # late: start-up, as above

    nn = torch.nn
    return isinstance(module, (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d, Conv1D))


def _check_modules(cfg: FinetuneConfig) -> None:
    if not cfg.is_peft or cfg.adapter:
        return
    model = _skeleton(cfg)
    modules = {name: module for name, module in model.named_modules() if name}
    chosen = _chosen(cfg.target_modules, modules)
    for name in chosen:
        if not _is_adaptable(modules[name]):
            kind = type(modules[name]).__name__
            inside = sorted({inner.rpartition(".")[2] for inner in modules if inner.startswith(f"{name}.")})
            hint = f" Name what is in it: {', '.join(inside[:8])}." if inside else ""
            raise ModelError(f"finetune_config.target_modules: {name} is a {kind}, which takes no LoRA.{hint}")


def adapted_skeleton(cfg: FinetuneConfig) -> PeftModel:
    """Return the trial's model with its adapter, both without weights (on the meta device).

    Raises:
        ModelError: PEFT cannot put the adapter on the model.
    """
    keys = {"model", "model_revision", "adapter", "adapter_revision", *_DECIDE_ADAPTER}
    return _adapted(cfg.model_dump_json(include=keys), _stamp(cfg.model), _stamp(cfg.adapter or cfg.model))


@functools.lru_cache(maxsize=4)
def _adapted(content: str, *stamps: tuple[Any, ...]) -> PeftModel:
    from peft import PeftModel  # late: start-up, as above

    cfg = FinetuneConfig.model_validate_json(content)
    base = copy.deepcopy(_skeleton(cfg))
    if cfg.adapter is None:
        lora = new_lora_config(cfg)
    else:
        lora = adapters.lora_config(adapters.open_adapter(cfg.adapter, cfg.adapter_revision))
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return PeftModel(base, lora, low_cpu_mem_usage=True)
    except Exception as error:  # many kinds, and each would end the trial
        message = " ".join(str(error).split())
        key = next((key for key in ("use_dora", "lora_dropout", "lora_bias") if key in message), None)
        if key is None or cfg.adapter:
            key = "adapter" if cfg.adapter else "target_modules"
            raise ModelError(f"finetune_config.{key}: cannot be put on {cfg.model!r}: {message}") from error
        value = getattr(cfg, key)
        hint = f"leave {key} out, or name the modules in target_modules that take it"
        if "ParamWrapper" in message:
            hint = f"leave {key} out, or name target_modules that are no experts, such as [q_proj, v_proj]"
            message = f"experts, whose matrices are stacked in one parameter, do not take it ({message.rstrip('.')})"
        raise ModelError(f"finetune_config.{key} {value}: {message}: {hint}") from error


def _check_shapes(cfg: FinetuneConfig) -> None:
    """Check the shapes of a continued adapter's matrices; `check_fit` knows only those of plain layers.

    Raises:
        ModelError: a matrix has another shape.
    """
    if cfg.adapter is None:
        return
    files = adapters.open_adapter(cfg.adapter, cfg.adapter_revision)
    shapes = {name.replace(".default", ""): list(p.shape) for name, p in adapted_skeleton(cfg).named_parameters()}
    for name, tensor in read_header(files, adapters.WEIGHTS).items():
        if name in shapes and tensor["shape"] != shapes[name]:
            matrix = name.removeprefix("base_model.model.")
            raise files.error(f"is not of this model: {matrix} would be {shapes[name]}, and is {tensor['shape']}")


def _check_merge(cfg: FinetuneConfig, model: Any) -> None:
    from peft.tuners.lora import LoraLayer  # late: start-up, as above

    base = model.get_base_model()
    if not cfg.save_merged or not base.config.get_text_config().tie_word_embeddings:
        return
    ends = {id(base.get_input_embeddings()), id(base.get_output_embeddings())}
    for name, module in base.named_modules():
        if id(module) in ends and isinstance(module, LoraLayer):
            where = "of adapter" if cfg.adapter else "of target_modules"
            raise ModelError(
                f"finetune_config.save_merged: {name}, {where}, is embedding and head in one, and the "
                "adapter changes it in one of the two places only: leave one of the two keys out"
            )


def _chosen(target: list[str] | str, modules: Mapping[str, Any]) -> list[str]:
    """Return the modules that `target_modules` names, as PEFT reads it. Raises ModelError: an entry names none."""
    if target == "all-linear":
        return []
    if isinstance(target, str):
        try:
            names = [name for name in modules if re.fullmatch(target, name)]
        except re.error as error:
            raise ModelError(f"finetune_config.target_modules {target!r}: is no regular expression: {error}") from error
        return names or _refuse_target(target, modules)
    names = []
    for entry in target:
        matched = [name for name in modules if name == entry or name.endswith(f".{entry}")]
        names += matched or _refuse_target(entry, modules)
    return names


def _refuse_target(entry: str, modules: Mapping[str, Any]) -> list[str]:
    leaves = sorted({name.rpartition(".")[2] for name, m in modules.items() if _is_adaptable(m)})
    raise ModelError(
        f"finetune_config.target_modules: found {entry!r}, which no module of the model is called; allowed: "
        f"'all-linear', a regular expression for whole names, or a list of {', '.join(leaves[:12])}."
        f"{nearest(entry, leaves)}"
    )


def _check_layers(cfg: FinetuneConfig) -> None:
    for key in blocks.LAYER_KEYS:
        if layers := getattr(cfg, key, None):
            shipped = is_shipped(cfg)
            count = _shipped_config()["num_hidden_layers"] if shipped else blocks.num_layers(_skeleton(cfg))
            blocks.check_layers(key, layers, int(count))


def _check_adapter(cfg: FinetuneConfig) -> None:
    if cfg.adapter is None:
        return
    files = adapters.open_adapter(cfg.adapter, cfg.adapter_revision)
    adapters.check_fit(files, _skeleton(cfg))
