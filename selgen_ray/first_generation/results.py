"""Results of the first generation as results of today."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from selgen_ray import hashing
from selgen_ray.errors import StorageError
from selgen_ray.evals.headlines import ALIGNMENT, CAPABILITY, headline
from selgen_ray.first_generation.convert import convert, nested_node
from selgen_ray.records.results import TrialResult, finite, flatten
from selgen_ray.records.status import TrialStatus
from selgen_ray.stats import is_number
from selgen_ray.syntax.keys import registered_keys
from selgen_ray.syntax.tree import Node, Origin, json_problem, show, written
from selgen_ray.trainers import catalogue
from selgen_ray.trainers.identity import ID_LENGTH

UNKNOWN_STEP = -1
PREFIX = "old_"
_SETS = {"align_test_minus": "align_test_minus_align_train"}
_METRICS = {"mcq_accuracy": "mcq_probability"}  # it was the mean probability of the right letter
_TERMS = {"proxy_train_losses": "proxy", "outcome_train_losses": "outcome", "proxy_neg_train_losses": "proxy_neg"}
_STRENGTHS = ("beta_kl", "lambda_dpo", "lambda_proxy", "steering_alpha", "lambda_1", "safe_lora_threshold")
# keys of a single run, which say nothing about its setting
_OF_THE_RUN = {
    *("seed", "data_seed", "model_seed", "timestamp", "experiment_name", "finetuned_model_id", "output_dir"),
    *("steering_vector_path", "proxy_plane_checkpoint_path", "loaded_results", "loaded_train_losses"),
}


def is_old_result(content: Any) -> bool:
    """Return whether the content of a results.json has the first generation's form."""
    return isinstance(content, dict) and "experiment_config" in content and not {"trial_id", "slug"} & content.keys()


def read_old_results(path: str | Path) -> TrialResult:
    """Read a results.json of the first generation.

    Args:
        path: the file, or the folder that holds it.

    Raises:
        StorageError: it cannot be read, or is not such a file; the message has line and column of broken JSON.
    """
    path = Path(path)
    path = path / "results.json" if path.is_dir() else path
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"{path} cannot be read: {error}") from error
    return old_result(text, str(path))


def old_result(text: str, source: str) -> TrialResult:
    """Convert the text of a first-generation results.json to a result of today.

    Its evaluations belong to the epochs 0 (before training), 1, 2, ...; their optimizer steps are unknown, written as
    -1. `mcq_accuracy`, which was a mean probability, becomes `mcq_probability`. Where there is a loss,
    `token_probability` is exp(-loss); the loss was a mean over batches, of prompts as well as replies. `trial_id` is a
    hash of the config without the keys that name a run, so that a run and its repetition are one trial.

    Args:
        text: the content of the file.
        source: where it was read, for messages and `imported_from`.

    Raises:
        StorageError: it is not such a result.
    """
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise StorageError(str(json_problem(Origin(source), text, error))) from error
    if not is_old_result(content):
        raise StorageError(f"{source} is no result of the first generation: it has no experiment_config")
    result = _result(content, source)
    result.capability_metric = headline(result.eval_results, ("task_test", "task_train"), CAPABILITY)
    result.alignment_metric = headline(result.eval_results, ("align_test", "align_train"), ALIGNMENT)
    result.capability = result.metric(result.capability_metric)
    result.alignment = result.metric(result.alignment_metric)
    return result


def _result(content: Mapping[str, Any], source: str) -> TrialResult:
    """Return the result without its headlines."""
    config, identity = _config(content["experiment_config"]), _identity(content["experiment_config"])
    series = dict(_series(content.get("eval_results") or content.get("outcome_results") or {}))
    count = max((len(values) for by_metric in series.values() for values in by_metric.values()), default=0)
    losses = _train_losses(content)
    status, error = _status(series, losses, count)
    return TrialResult(
        trial_id=hashing.digest({**identity, "seed": config["seed"]})[:ID_LENGTH],
        slug=_slug(config, hashing.digest(identity)),
        seed=config["seed"],
        status=status,
        error=error,
        config=config,
        imported_from=source,
        train_steps=[UNKNOWN_STEP] * max(map(len, losses.values()), default=0),
        train_losses=_even(losses),
        eval_epochs=[float(i) for i in range(count)],
        eval_steps=[0 if i == 0 else UNKNOWN_STEP for i in range(count)],
        eval_versions=[""] * count,
        eval_results={name: _even(by_metric, count) for name, by_metric in series.items()},
        started_at=_time(content),
    )


def of_preparation(path: str) -> bool:
    """Return whether a results.json is of a throw-away training: its folder is named after a side of the plane."""
    return PurePosixPath(path).parent.parent.name in (
        "positive_proxy",
        "negative_proxy",
        "proxy",
        "proxy_neg",
        "outcome",
    )


def folder_seed(path: str) -> int | None:
    """Return the N of the last folder seed_<N> in a path, or None."""
    numbers = re.findall(r"(?:^|[/\\])seed_(\d+)(?=[/\\])", path)
    return int(numbers[-1]) if numbers else None


# config -------------------------------------------------------------------------------------------------------


def _config(written_then: dict[str, Any]) -> dict[str, Any]:
    """Return the config in today's keys with the seeds that were read, complete with defaults if it is valid today."""
    keys = registered_keys()
    nowhere = Origin("")
    converted = convert(written(written_then, nowhere), keys)
    plain = nested_node(converted.values, nowhere).plain()
    seed = plain.get("data_seed", plain.get("seed", 0))
    seeds = {"seed": seed, "data_seed": seed, "model_seed": plain.get("model_seed", seed)}
    plain |= seeds
    strategy = converted.strategy
    if {"finetune_config.load_in_16bit"} & converted.sources.get("finetune_config.dtype", set()):
        # float16 ran, though bfloat16 is what it should have been
        converted.values["finetune_config.dtype"] = Node("float16", nowhere)
    if strategy in keys.by_strategy:  # the files listed the knobs of all strategies
        here = nested_node(
            {k: v for k, v in converted.values.items() if k in keys.by_strategy[strategy]}, nowhere
        ).plain()
        plain = here | seeds
    try:
        return catalogue.build_config(plain).model_dump(mode="json")
    except ValueError:  # what ran then may be forbidden today; it is only compared
        return plain


def _identity(written_then: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys that make a setting; as they were written, so that later versions of this module keep the ids."""
    flat = flatten(dict(written_then))
    return {key: v for key, v in flat.items() if v is not None and key.rpartition(".")[2] not in _OF_THE_RUN}


def _slug(config: Mapping[str, Any], setting: str) -> str:
    """Return 'old_<strategy>_<its strength>_<hash>'."""
    strategy = str(config["proxy_strategy"])
    knobs = config.get("finetune_config", {})
    names = [name for name in _STRENGTHS if name in knobs and knobs[name] is not None]
    parts = [f"{name}-{knobs[name]:g}" for name in names if isinstance(knobs[name], int | float)]
    return "_".join([f"{PREFIX}{strategy}", *parts, setting[:6]])


def _time(content: Mapping[str, Any]) -> str:
    """Return the time of a run in ISO form; the clock of its machine is taken for UTC."""
    parts = re.fullmatch(r"(\d{4})(\d\d)(\d\d)_(\d\d)(\d\d)(\d\d)", str(content.get("timestamp")))
    return "{}-{}-{}T{}:{}:{}+00:00".format(*parts.groups()) if parts else "1970-01-01T00:00:00+00:00"


# numbers ------------------------------------------------------------------------------------------------------

Series = dict[str, list[float | None]]


def _series(sets: Any) -> Iterator[tuple[str, Series]]:
    """Yield set and metric -> values by epoch, NaN included."""
    for name, by_metric in _items(sets):
        series_of: Series = {}
        for metric, values in _items(by_metric):
            if isinstance(values, list) and all(is_number(value) or value is None for value in values):
                series_of[_METRICS.get(metric, metric)] = list(values)
            elif isinstance(values, dict):
                _by_epoch(metric, values, series_of)
        if "loss" in series_of:
            series_of["token_probability"] = [None if v is None else math.exp(-v) for v in series_of["loss"]]
        yield _SETS.get(name, name), {metric: values for metric, values in series_of.items() if values}


def _items(content: Any) -> list[tuple[str, Any]]:
    return [(str(key), value) for key, value in content.items()] if isinstance(content, dict) else []


def _by_epoch(metric: str, values: Mapping[str, Any], series_of: Series) -> None:
    """Add {epoch: value} of a metric, or {metric: value} of an epoch, to `series_of`."""
    pairs = [(metric, epoch, value) for epoch, value in values.items() if str(epoch).isdigit()]
    if metric.isdigit():
        pairs = [(name, metric, value) for name, value in values.items()]
    for name, epoch, value in pairs:
        if is_number(value) and re.fullmatch(r"[^/\s]+", name):
            series = series_of.setdefault(_METRICS.get(name, name), [])
            series += [None] * (int(epoch) + 1 - len(series))
            series[int(epoch)] = value


def _train_losses(content: Mapping[str, Any]) -> Series:
    """Return term -> its losses by epoch; 'total' is the loss that was minimised."""
    listed = content.get("train_losses") or []
    by_term: dict[str, Any] = listed if isinstance(listed, dict) else {"total": listed}
    by_term = {"total" if name == "train" else name: values for name, values in by_term.items()}
    by_term |= {term: content[key] for key, term in _TERMS.items() if content.get(key)}
    return {name: [v if is_number(v) else None for v in values] for name, values in by_term.items() if values}


def _even(series: Series, count: int = 0) -> Series:
    """Pad the series to one length, with None where there is no finite value."""
    count = max([count, *map(len, series.values())])
    return {name: [finite(v) for v in values] + [None] * (count - len(values)) for name, values in series.items()}


def _status(series: Mapping[str, Series], losses: Series, count: int) -> tuple[TrialStatus, str | None]:
    """Return the status and its reason: a loss that is not finite means that the run diverged."""
    if count < 2:
        return TrialStatus.FAILED, "it has no evaluation after training"
    named = {f"train/{name}": values for name, values in losses.items()}
    named |= {f"{name}/loss": by_metric["loss"] for name, by_metric in series.items() if "loss" in by_metric}
    for name, values in named.items():
        for epoch, value in enumerate(values):
            if value is not None and not math.isfinite(value):
                return TrialStatus.DIVERGED, f"{name} is {show(value)} at epoch {epoch}"
    return TrialStatus.COMPLETED, None
