"""The configuration of one trial: typed, frozen, unknown keys forbidden, each field documented once."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, model_validator

from selgen_ray.config.data import DataConfig
from selgen_ray.config.evals import EvalConfig
from selgen_ray.config.finetune import FinetuneConfig
from selgen_ray.schema import Strict, execution, setting


class TrialConfig(Strict):
    """Everything one trial depends on."""

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
    data: DataConfig = setting(DataConfig(), "the rows of each role")
    finetune_config: FinetuneConfig = setting(FinetuneConfig(), "how the model is fine-tuned")
    evals: EvalConfig = setting(EvalConfig(), "what is measured, and how")

    @model_validator(mode="before")
    @classmethod
    def _seeds_follow(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        seed = cls.model_fields["seed"].default if raw.get("seed") is None else raw["seed"]
        follow = {k: seed for k in ("data_seed", "model_seed") if raw.get(k) in (None, -1)}
        return {**raw, **follow}

    @property
    def world(self) -> str | None:
        """The generator of the roles without a path, or None."""
        if self.data.world or self.data.sources():
            return self.data.world
        return "toy" if self.finetune_config.model == "toy" else None


def identity(config: BaseModel) -> dict[str, Any]:
    """The settings of `config` that differ from their defaults, nested, without execution fields.

    Leaving defaults out keeps the identity of finished trials when a later version adds a field.
    """
    found: dict[str, Any] = {}
    for name, info in type(config).model_fields.items():
        extra = info.json_schema_extra
        if isinstance(extra, dict) and extra.get("identity") is False:
            continue
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            if inner := identity(value):
                found[name] = inner
        elif value != info.default:
            found[name] = value
    return found
