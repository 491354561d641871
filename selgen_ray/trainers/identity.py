"""Identity of a trial: hashes of its data, its model and every setting that can change its result."""

from __future__ import annotations

from typing import Any

from selgen_ray.config.trial import TrialConfig, identity
from selgen_ray.hashing import content_sha256, digest
from selgen_ray.trainers import catalogue, plugins

ID_LENGTH = 16
FILES = "files"
"""The key of `identity_of_trial` with the hashes of the files that decide the result besides the data."""
_IN_MODEL_HASH = ("model_revision", "adapter", "adapter_revision")


def identity_of_trial(config: TrialConfig, data_hashes: dict[str, str], model_hash: str) -> dict[str, Any]:
    """Return the identity of a trial as a nested dict: hashes of contents instead of paths, and no defaults.

    For example, {'proxy_strategy': 'kl_divergence', 'seed': 1, 'data': {'outcome': '3f...'}, 'finetune_config':
    {'beta_kl': 3.0, 'model': '9a...'}}. Only strategies from outside this package have `strategy_code`, and only
    those that read files have `files`.

    Args:
        config: the validated config.
        data_hashes: role -> `data_fingerprint` of its source, for every role of `config.data.sources()`.
        model_hash: `start_fingerprint` of the start model.

    Raises:
        OSError: a file that the strategy reads cannot be read.
    """
    settings = identity(config)
    data = settings.pop("data", {}) | {
        role: {"rows": data_hashes[role], **source.options} if source.options else data_hashes[role]
        for role, source in config.data.sources().items()
    }
    if config.world:  # `world: toy` says no more than a toy model without paths does
        data["world"] = config.world
    finetune = {k: v for k, v in settings.pop("finetune_config", {}).items() if k not in _IN_MODEL_HASH}
    if code := plugins.code_of(catalogue.get_trainer(config.proxy_strategy), config):
        settings["strategy_code"] = code
    if code := plugins.code_of_metrics(config.evals):
        settings["metric_code"] = code
    if files := input_files(config):
        settings[FILES] = {key: content_sha256(path) for key, path in files.items()}
        evals = dict(settings.pop("evals", {}))
        sections = {"finetune_config": finetune, "evals": evals}
        for key in files:  # the path does not change the result
            section, _, leaf = key.rpartition(".")
            sections.get(section, settings).pop(leaf, None)
        settings |= {"evals": evals} if evals else {}
    return {**settings, "data": data, "finetune_config": {**finetune, "model": model_hash}}


def input_files(config: TrialConfig) -> dict[str, str]:
    """Return config key -> path, of the files that decide the result besides the data: questions, and a strategy's."""
    questions = {"evals.questions": config.evals.questions} if config.evals.questions else {}
    return {**questions, **catalogue.get_trainer(config.proxy_strategy).input_files(config)}


def trial_id(config: TrialConfig, data_hashes: dict[str, str], model_hash: str) -> str:
    """Return the trial's id, 16 hex digits: two configs have the same id exactly if they must give the same result.

    Raises:
        OSError: a file that the strategy reads cannot be read.
    """
    return digest(identity_of_trial(config, data_hashes, model_hash))[:ID_LENGTH]
