"""What makes two trials the same: hashes of data, model and every setting that can change a result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selgen_ray import adapters
from selgen_ray.config.hub_names import is_dataset_id
from selgen_ray.config.trial import TrialConfig, identity
from selgen_ray.hashing import content_sha256, digest, folder_sha256, list_files
from selgen_ray.trainers import plugins, registry
from selgen_ray.worlds import toy

ID_LENGTH = 16
FILES = "files"
"""The section of `settings` with the content of the files that a strategy reads."""
_IN_MODEL_HASH = ("model_revision", "adapter", "adapter_revision")


def model_fingerprint(model: str, revision: str | None = None) -> str:
    """What identifies the start model: its content where it is local, its id and revision on the hub.

    Args:
        model: 'toy', a local directory, or a hub id.
        revision: of the hub id; default: main. A local directory has none.

    Raises:
        OSError: a file of the directory cannot be read.
    """
    folder = toy.MODEL_DIR if model == "toy" else Path(model).expanduser()
    if model == "toy" or folder.is_dir():
        return folder_sha256(folder, list_files(folder))
    return f"hub:{model}@{revision or 'main'}"


def start_fingerprint(
    model: str, revision: str | None, adapter: str | None = None, adapter_revision: str | None = None
) -> str:
    """What identifies the model that training starts from: that of `model`, with the adapter it continues from.

    Raises:
        OSError: a file cannot be read.
    """
    base = model_fingerprint(model, revision)
    if adapter is None:
        return base
    folder = Path(adapter).expanduser()
    if folder.is_dir():
        listing = tuple(file for file in list_files(folder) if file[0] in (adapters.CONFIG, adapters.WEIGHTS))
        return digest({"model": base, "adapter": folder_sha256(folder, listing)})
    return digest({"model": base, "adapter": f"hub:{adapter}@{adapter_revision or 'main'}"})


def data_fingerprint(path: str, revision: str | None = None) -> str:
    """What identifies the rows at a path: their content where they are local, id and revision on the hub.

    Raises:
        OSError: a file cannot be read.
    """
    if is_dataset_id(path):
        return f"hub:{path}@{revision or 'main'}"
    return content_sha256(path)


def settings(config: TrialConfig, data_hashes: dict[str, str], model_hash: str) -> dict[str, Any]:
    """The identity of a trial as a nested dict: content in the place of paths, defaults left out.

    `strategy_code` is there for strategies from outside this package only, and `files` for those that read any.

    Args:
        config: the validated config.
        data_hashes: role -> `data_fingerprint` of its source, for every role of `config.data.sources()`.
        model_hash: `start_fingerprint` of the start model.

    Raises:
        OSError: a file that the strategy reads cannot be read.
    """
    found = identity(config)
    data = found.pop("data", {}) | {
        role: {"rows": data_hashes[role], **source.options} if source.options else data_hashes[role]
        for role, source in config.data.sources().items()
    }
    if config.world:  # `world: toy` says no more than a toy model without paths does
        data["world"] = config.world
    finetune = {k: v for k, v in found.pop("finetune_config", {}).items() if k not in _IN_MODEL_HASH}
    trainer = registry.get_trainer(config.proxy_strategy)
    if code := plugins.code_of(trainer):
        found["strategy_code"] = code
    if code := plugins.code_of_metrics(config.evals):
        found["metric_code"] = code
    if files := trainer.input_files(config):
        found[FILES] = {key: content_sha256(path) for key, path in files.items()}
        for key in files:  # the path itself says nothing
            (finetune if key.startswith("finetune_config.") else found).pop(key.rpartition(".")[2], None)
    return {**found, "data": data, "finetune_config": {**finetune, "model": model_hash}}


def trial_id(config: TrialConfig, data_hashes: dict[str, str], model_hash: str) -> str:
    """The trial's id, 16 hex digits: equal for two configs exactly when they must give the same result.

    Raises:
        OSError: a file that the strategy reads cannot be read.
    """
    return digest(settings(config, data_hashes, model_hash))[:ID_LENGTH]
