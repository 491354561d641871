"""The card of a finished model: what it is, what it was trained on, what was measured; no path of this machine."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath
from typing import TYPE_CHECKING

from selgen_ray.config.hub_names import is_hub_id
from selgen_ray.config.trial import TrialConfig, identity
from selgen_ray.records.names import trial_name
from selgen_ray.records.results import SUMMARIES, TrialResult, flatten
from selgen_ray.records.text import markdown_table

if TYPE_CHECKING:
    from selgen_ray.config.source import Source

_LONGEST = 120  # characters of a value; a longer one is cut
_SAID_ELSEWHERE = {
    *("proxy_strategy", "seed", "data_seed", "model_seed"),
    *(f"finetune_config.{key}" for key in ("model", "model_revision", "adapter", "adapter_revision")),
}
_LIBRARIES = ("selgen-ray", "torch", "transformers", "peft", "tokenizers", "python")


def model_card(config: TrialConfig, result: TrialResult) -> str:
    """Return the README.md of a finished model, with the hub's metadata at its head, and without a licence."""
    from huggingface_hub import ModelCardData  # late: it is needed once, at the end

    cfg = config.finetune_config
    is_adapter = cfg.is_peft and not cfg.save_merged
    data = ModelCardData(
        base_model=cfg.model if is_hub_id(cfg.model) and cfg.model != "toy" else None,
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["selgen_ray", config.proxy_strategy, *(["lora"] if is_adapter else [])],
        eval_results=None,
    )
    kind = "A LoRA adapter" if is_adapter else "A model with its LoRA adapter merged in" if cfg.is_peft else "A model"
    sections = [
        f"---\n{data.to_yaml()}\n---",
        f"# {trial_name(result.slug, result.seed)}",
        f"{kind}, fine-tuned by `selgen_ray` with the strategy `{config.proxy_strategy}`.",
        _bullets(_origin(config, result)),
        "## Settings",
        _bullets(_settings(config)),
        "## Data",
        markdown_table(("role", "from", "sha256 of the rows"), _data(config, result)),
        "## Metrics",
        f"At the last evaluation, {_when(result)}.",
        markdown_table(("metric", "value"), _metrics(result)),
        "## Versions",
        _bullets((name, result.versions[name]) for name in _LIBRARIES if name in result.versions),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _origin(config: TrialConfig, result: TrialResult) -> Iterable[tuple[str, str]]:
    cfg = config.finetune_config
    yield "base model", _named(cfg.model, cfg.model_revision)
    if cfg.adapter:
        yield "continued from the adapter", _named(cfg.adapter, cfg.adapter_revision)
    yield "sha256 of what it started from", f"`{result.model_hash}`" if result.model_hash else "not known"
    seeds = {"data_seed": config.data_seed, "model_seed": config.model_seed}
    yield "seed", ", ".join([str(config.seed), *(f"{k} {v}" for k, v in seeds.items() if v != config.seed)])
    yield "trial", f"`{result.trial_id}`"
    if result.eval_versions and (version := result.eval_versions[-1]):
        yield "version of the weights", version


def _named(name: str, revision: str | None) -> str:
    if not is_hub_id(name):
        return f"`{PurePath(name).name}`" + (" (shipped with selgen_ray)" if name == "toy" else " (a local directory)")
    return f"`{name}`" + (f" at `{revision}`" if revision else "")


def _settings(config: TrialConfig) -> Iterable[tuple[str, str]]:
    """Yield (key, value) of the settings that differ from their defaults; of a local path the last part."""
    for key, value in flatten({k: v for k, v in identity(config).items() if k != "data"}).items():
        if key in _SAID_ELSEWHERE:
            continue
        text = str(value)
        if isinstance(value, str) and PurePath(value).is_absolute():
            text = PurePath(value).name
        yield key, f"`{_line(text)}`"


def _data(config: TrialConfig, result: TrialResult) -> Iterable[tuple[str, str, str]]:
    sources = config.data.sources()
    for role, digest in result.data_hashes.items():
        yield role, _source(sources[role]) if role in sources else f"world `{config.world}`", f"`{digest}`"


def _source(source: Source) -> str:
    named = f"`{source.path}`" if is_hub_id(source.path) else f"`{PurePath(source.path).name}`"
    parts = [f"{key} {getattr(source, key)}" for key in ("split", "revision", "limit") if getattr(source, key)]
    return _line(" ".join([named, *parts]))


def _metrics(result: TrialResult) -> Iterable[tuple[str, str]]:
    for name in SUMMARIES:
        if (value := result.value(name)) is not None:
            yield f"{name} (`{result.metric_of(name)}`)", f"{value:.4g}"
    for name, by_metric in result.eval_results.items():
        for metric in by_metric:
            if (value := result.metric(f"{name}/{metric}")) is not None:
                yield f"`{name}/{metric}`", f"{value:.4g}"


def _when(result: TrialResult) -> str:
    if not result.eval_steps:
        return "of which there was none"
    return f"after step {result.eval_steps[-1]} ({result.eval_epochs[-1]:g} epochs)"


def _line(text: str) -> str:
    text = " ".join(text.split()).replace("|", "\\|").replace("`", "'") if len(text) > _LONGEST else text
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"


def _bullets(pairs: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in pairs)
