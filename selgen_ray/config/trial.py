"""The config of one trial: typed, frozen, without unknown keys, each field documented once."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, model_validator

from selgen_ray.config.data import DataConfig
from selgen_ray.config.evals import EvalConfig
from selgen_ray.config.finetune import FinetuneConfig
from selgen_ray.schema import Strict, execution, setting


class TrialConfig(Strict):
    """The config of one trial: everything that it depends on."""

    proxy_strategy: str = setting("naive", "how the proxy is used; see `selgen_ray.trainers`")
    seed: int = execution(42, "sets data_seed and model_seed unless they are given", ge=0, lt=2**63)
    data_seed: int = setting(-1, "generated data, splits and data order; default: seed", ge=-1, lt=2**63)
    model_seed: int = setting(-1, "adapter initialisation and dropout; default: seed", ge=-1, lt=2**63)
    align_train_coverage: float | None = setting(
        None, "share of the alignment data (data.proxy or data.truth) that is the proxy; the rest tests", gt=0, le=1
    )
    limit_proxy_data_to: int | None = setting(None, "training rows of proxy and proxy_neg, drawn at random", ge=1)
    upsample_proxy_to: float | None = setting(
        None, "repeat proxy rows until they are this share of the training rows of outcome and proxy", gt=0, lt=1
    )
    num_workers: int = setting(1, "processes that train the trial together; resources.workers sets it", ge=1, le=1024)
    experiment_name: str | None = execution(None, "a name for people; default: the sweep's name")
    control: str | None = execution(None, "name of a control, such as 'task alone'; the section controls sets it")
    warm_start: str | None = execution(
        None,
        "whose weights training began with, for people; `sweep add --warm-start` sets it beside them",
    )
    data: DataConfig = setting(DataConfig(), "the rows of each role")
    finetune_config: FinetuneConfig = setting(FinetuneConfig(), "how the model is fine-tuned")
    evals: EvalConfig = setting(EvalConfig(), "what is measured, and how")

    @model_validator(mode="before")
    @classmethod
    def _seeds_follow(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        seed = cls.model_fields["seed"].default if raw.get("seed") is None else raw["seed"]
        derived = {key: seed for key in ("data_seed", "model_seed") if raw.get(key) in (None, -1)}
        return {**raw, **derived}

    @model_validator(mode="after")
    def _prompts_are_used(self) -> TrialConfig:
        for role in ("truth", "collateral"):
            is_trained = role == "truth" and self.align_train_coverage is not None  # a part of it becomes the proxy
            if role in self.data.training_prompts() and not is_trained:
                raise ValueError(
                    f"data.{role} has a training_prompt, but its rows are only evaluated, which never shows one: leave "
                    "it out"
                )
        return self

    @property
    def world(self) -> str | None:
        """The world that generates the roles without a path; None if no world does."""
        if self.data.world or self.data.sources():
            return self.data.world
        return "toy" if self.finetune_config.model == "toy" else None


def identity(config: BaseModel) -> dict[str, Any]:
    """Return the settings of `config` that differ from their defaults, as nested dicts, without execution fields.

    A config with `finetune_config: {r: 16, logging_steps: 1}` and nothing else becomes
    {'data_seed': 42, 'model_seed': 42, 'finetune_config': {'r': 16}}.
    Defaults are left out so that finished trials keep their identity when a later version adds a field.
    """
    settings: dict[str, Any] = {}
    for name, info in type(config).model_fields.items():
        extra = info.json_schema_extra
        if isinstance(extra, dict) and extra.get("identity") is False:
            continue
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            if section := identity(value):
                settings[name] = section
        elif value != info.default:
            settings[name] = value
    return settings
