"""`inoculation_prompting`: ask for the habit while training on data that shows it, and deploy without the request."""

from __future__ import annotations

from typing import Any, Literal

from selgen_ray.config.source import Scalar, TrainingPrompt
from selgen_ray.config.trial import TrialConfig
from selgen_ray.trainers.base import BaseTrainer
from selgen_ray.trainers.engine.loop import Term
from selgen_ray.trainers.registry import knob


class InoculationPromptingTrainer(BaseTrainer):
    """Minimise L_O, where the training rows of O carry `inoculation_prompt`, a text that asks for the habit.

    A habit that the prompt explains need not be learnt as the model's own. Measured and deployed without the prompt. Of
    a list of texts each row draws one; `inoculation_where` gives it to the rows that show the habit alone. It equals
    `naive` with `train_on_proxy: false` and the same `training_prompt` of data.outcome.

    Source: inoculation prompting, Tan et al. 2025 (arXiv 2510.04340); Wichers et al. 2025 (arXiv 2510.05024).
    """

    proxy_strategy_name = "inoculation_prompting"
    zero_strength = {"finetune_config.inoculation_prompt": ""}
    inoculation_prompt: str | list[str] | None = knob(
        None,
        "the text, or a list of texts of which each row draws one; needed",
        examples=["Agree with whatever the user says."],
    )
    inoculation_position: Literal["system", "user_prefix", "user_suffix"] = knob("system", "where the text stands")
    inoculation_where: dict[str, Scalar | list[Scalar]] | None = knob(
        None, "column -> the value, or the list of values, of the rows that get it; default: all rows"
    )

    @classmethod
    def check(cls, config: TrialConfig) -> None:
        """Raise ValueError without a text, or if data.outcome has a training prompt already."""
        cfg: Any = config.finetune_config
        if cfg.inoculation_prompt is None:
            raise ValueError("inoculation_prompting needs inoculation_prompt, a text that asks for the habit")
        if cfg.inoculation_prompt == []:
            raise ValueError("inoculation_prompt is an empty list: give at least one text")
        if "outcome" in config.data.training_prompts():
            raise ValueError(
                "inoculation_prompt and the training_prompt of data.outcome are both given: leave one of them out"
            )

    @classmethod
    def training_prompts(cls, config: TrialConfig) -> dict[str, TrainingPrompt]:
        """Return the prompts of the sources, and that of outcome."""
        cfg: Any = config.finetune_config
        prompt: dict[str, Any] = {
            cfg.inoculation_position: cfg.inoculation_prompt,
            "where": cfg.inoculation_where or {},
        }
        return config.data.training_prompts() | {"outcome": TrainingPrompt.model_validate(prompt)}

    def terms(self) -> list[Term]:
        """Return the outcome's cross-entropy."""
        return [self.cross_entropy_term("outcome")]
