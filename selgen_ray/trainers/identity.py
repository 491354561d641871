"""What makes two trials the same: hashes of data, model and every setting that can change a result."""

from __future__ import annotations

from typing import Any

from selgen_ray.config.trial import TrialConfig, identity
from selgen_ray.hashing import content_sha256, digest
from selgen_ray.trainers import catalogue, plugins

ID_LENGTH = 16
FILES = "files"
"""The section of `settings` with the content of the files that a strategy reads."""
_IN_MODEL_HASH = ("model_revision", "adapter", "adapter_revision")


def identity_of_trial(config: TrialConfig, data_hashes: dict[str, str], model_hash: str) -> dict[str, Any]:
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
    trainer = catalogue.get_trainer(config.proxy_strategy)
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
    return digest(identity_of_trial(config, data_hashes, model_hash))[:ID_LENGTH]
