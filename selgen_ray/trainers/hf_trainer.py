"""`hf_trainer`: any Trainer of Transformers or TRL, or one of one's own, beside the other strategies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from torch import nn

from selgen_ray.config.trial import TrialConfig
from selgen_ray.data.forms import Row
from selgen_ray.errors import DataError, ModelError
from selgen_ray.models.loading import forget_base
from selgen_ray.seeding import keep_global_rng
from selgen_ray.storage.scratch import scratch
from selgen_ray.trainers.base import BaseTrainer
from selgen_ray.trainers.dpo import check_pairs
from selgen_ray.trainers.engine.context import Training
from selgen_ray.trainers.registry import knob


class HfTrainer(BaseTrainer):
    """Minimise the loss of `trainer_class`, a Trainer of Transformers, TRL or a plugin, on the rows that `train` names.

    The Trainer gets the model, the rows, the seeds and the settings of the config, and runs its own loop. Evaluations,
    results, checkpoints (its own), stops, trackers and the report are those of every strategy. `trainer_args` are
    further arguments of its own, such as `{beta: 0.1}` of a DPOTrainer.

    Source: https://huggingface.co/docs/transformers/main_classes/trainer, https://huggingface.co/docs/trl
    """

    proxy_strategy_name = "hf_trainer"
    cannot_promise = {
        "accumulation": "the Trainer's own loss decides how micro-batches are weighted",
        "workers": "a Trainer trains in one process",
    }
    trainer_class: str = knob("trl.SFTTrainer", "such as trl.DPOTrainer, or my_file.MyTrainer of a plugin my_file.py")
    trainer_args: dict[str, Any] = knob({}, "arguments of the Trainer's own config, such as beta of a DPOTrainer")
    train_roles: Literal["outcome", "outcome+proxy", "proxy"] = knob(
        "outcome+proxy",
        "rows that are trained on; pairs of proxy and proxy_neg for DPO, ORPO and KTO, which need proxy. Also written "
        "train",
        validation_alias="train",
    )

    @classmethod
    def check(cls, config: TrialConfig) -> None:
        """Raise ValueError if there is no such Trainer, it does not take the arguments, or cannot use a key."""
        from selgen_ray.trainers.hf import arguments, classes  # late: start-up, other strategies need no TRL

        cfg: Any = config.finetune_config
        kind = classes.find(cfg.trainer_class)
        form = classes.form_of(kind, cfg.trainer_class)
        if form != "tokens" and cfg.train_roles != "proxy":
            raise ValueError(
                f"trainer_class {cfg.trainer_class} learns from answers that are preferred to others, which proxy and "
                f"proxy_neg make: found train_roles {cfg.train_roles!r}, allowed: 'proxy'"
            )
        if cfg.lora_bias != "none" and classes.has_reference(kind):
            raise ValueError(
                f"lora_bias {cfg.lora_bias}: {cfg.trainer_class} puts an adapter for its reference beside the trained "
                "one, and PEFT takes biases in one alone: write lora_bias none"
            )
        if config.num_workers > 1:
            raise ValueError(f"num_workers {config.num_workers}: proxy_strategy hf_trainer trains in one process")
        if cfg.auto_batch:
            raise ValueError(
                "auto_batch true: only the package's own loop splits a micro-batch, and hf_trainer runs another: lower "
                "per_device_train_batch_size"
            )
        if cfg.dtype == "float16":
            raise ValueError("dtype float16 needs loss scaling, which hf_trainer does not do: take bfloat16")
        sizes = {"num_steps": 1, "micro_batch": cfg.per_device_train_batch_size}
        arguments.make(config, kind, cfg.trainer_args, form, folder=".", **sizes)

    @classmethod
    def needed_roles(cls, config: TrialConfig) -> tuple[str, ...]:
        """Return outcome, and the roles that are trained on."""
        roles = ("outcome", "proxy", "proxy_neg") if cls._form(config) != "tokens" else ()
        cfg: Any = config.finetune_config
        return roles or tuple(dict.fromkeys(["outcome", *cfg.train_roles.split("+")]))

    @classmethod
    def check_rows(cls, config: TrialConfig, roles: Mapping[str, Sequence[Row]]) -> None:
        """Raise DataError if a role is missing, or a Trainer that compares answers does not get comparable ones."""
        super().check_rows(config, roles)
        form = cls._form(config)
        if form == "pairs":
            check_pairs(cls.proxy_strategy_name, roles)
        for role in ("proxy", "proxy_neg") if form != "tokens" else ():
            if number := next((i for i, row in enumerate(roles[role], start=1) if row.get("text") is not None), None):
                raise DataError(f"hf_trainer: row {number} of data.{role} is a 'text', which has no prompt and answer")

    @classmethod
    def check_model(cls, config: TrialConfig, model: nn.Module) -> None:
        """Raise ModelError if the adapter is on the head and the Trainer is one of TRL, which would not train it."""
        from peft.tuners.tuners_utils import BaseTunerLayer  # late: start-up, PEFT imports all that it may adapt

        from selgen_ray.trainers.hf import classes  # late: start-up, as above

        cfg, untyped = cast("Any", config.finetune_config), cast("Any", model)
        if isinstance(untyped.get_output_embeddings(), BaseTunerLayer) and classes.is_of_trl(
            classes.find(cfg.trainer_class)
        ):
            raise ModelError(
                f"finetune_config.target_modules {cfg.target_modules!r}: Trainers of TRL compute from the head's own "
                "weight, so that an adapter on it would not be trained: leave it out"
            )

    @classmethod
    def named_classes(cls, config: TrialConfig) -> tuple[type, ...]:
        """Return the Trainer's class: where a plugin defines it, its text is part of a trial's identity."""
        from selgen_ray.trainers.hf import classes  # late: start-up, as above

        cfg: Any = config.finetune_config
        return (classes.find(cfg.trainer_class),)

    @classmethod
    def why_alone(cls) -> str | None:
        """Return why its trials are not packed."""
        return "hf_trainer: a Trainer runs its own passes, and may change the base"

    @staticmethod
    def _form(config: TrialConfig) -> str:
        from selgen_ray.trainers.hf import classes  # late: start-up, as above

        cfg: Any = config.finetune_config
        return classes.form_of(classes.find(cfg.trainer_class), cfg.trainer_class)

    def main_phase(self) -> Training:
        """Return the training by the Trainer's own loop."""
        from selgen_ray.trainers.hf import classes, training  # late: start-up, as above

        self._open.callback(forget_base)
        self._open.enter_context(keep_global_rng())
        folder = self._open.enter_context(scratch("train"))
        kind = classes.find(self.trainer_class)
        return training.HfTraining(
            self.run, self, kind, self.trainer_class, self.trainer_args, self.train_roles, folder
        )
