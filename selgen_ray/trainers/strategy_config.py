"""The trial config model of one strategy: `TrialConfig` with the strategy's knobs."""

from __future__ import annotations

import functools
from typing import Any

from pydantic import create_model, model_validator
from pydantic.fields import FieldInfo

from selgen_ray.config.finetune import FinetuneConfig
from selgen_ray.config.trial import TrialConfig
from selgen_ray.schema import setting
from selgen_ray.trainers.registry import Strategy


def path_of_knob(key: str, info: FieldInfo) -> str:
    """Return the dotted config key of a knob, such as finetune_config.beta_kl."""
    extra = info.json_schema_extra
    section = extra.get("section", "") if isinstance(extra, dict) else ""
    return f"{section}.{key}" if section else key


@functools.cache
def config_model(trainer: type[Strategy]) -> type[TrialConfig]:
    """Return the trial config model of a strategy: `TrialConfig` plus the strategy's knobs."""

    def check(config: TrialConfig) -> TrialConfig:
        from selgen_ray.evals.checking import check_evals  # late: metrics need PyTorch, seconds of start-up

        trainer.check(config)
        check_evals(config.evals)
        return config

    name, knobs = trainer.proxy_strategy_name, trainer.knobs()
    inside: dict[str, Any] = {k: v for k, v in knobs.items() if path_of_knob(k, v[1]) != k}
    top: dict[str, Any] = {k: v for k, v in knobs.items() if k not in inside}
    finetune: type[FinetuneConfig] = create_model(f"FinetuneConfig_{name}", __base__=FinetuneConfig, **inside)
    return create_model(
        f"TrialConfig_{name}",
        __base__=TrialConfig,
        __validators__={"check": model_validator(mode="after")(check)},  # type: ignore[dict-item]
        finetune_config=(finetune, setting(finetune(), "how the model is fine-tuned")),
        **top,
    )
