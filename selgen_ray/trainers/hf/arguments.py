"""The arguments of a Trainer: those that a config's own keys decide, and those that `trainer_args` adds."""

from __future__ import annotations

import dataclasses
import warnings
from typing import TYPE_CHECKING, Any

import torch
from pydantic import TypeAdapter, ValidationError

from selgen_ray.config.trial import TrialConfig
from selgen_ray.errors import nearest
from selgen_ray.trainers.engine.optim import warmup_steps
from selgen_ray.trainers.hf import classes

if TYPE_CHECKING:
    from transformers import Trainer

KEY = "finetune_config.trainer_args"


_SAME = (
    "learning_rate lr_scheduler_type warmup_steps warmup_ratio optim weight_decay max_grad_norm max_steps "
    "per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps output_dir save_steps "
    "logging_steps push_to_hub"
)
_INSTEAD = {
    "write finetune_config.epochs": "num_train_epochs",
    "write seeds, or seed": "seed",
    "write data_seed": "data_seed",
    "write finetune_config.dtype": "bf16 fp16 bf16_full_eval fp16_full_eval",
    "write finetune_config.use_gradient_checkpointing": "gradient_checkpointing gradient_checkpointing_kwargs "
    "activation_checkpointing activation_checkpointing_kwargs",
    "write finetune_config.max_seq_length: rows are cut at their end": "max_length truncation_mode",
    "write finetune_config.loss_on": "completion_only_loss assistant_only_loss",
    "write finetune_config.chat_template": "chat_template_path",
    "the rows come from data, with the model's tokenizer": "eos_token pad_token dataset_text_field dataset_kwargs",
    "write finetune_config.model": "model_init_kwargs ref_model_init_kwargs trust_remote_code",
    "write finetune_config.group_by_length": "group_by_length train_sampling_strategy length_column_name",
    "the rows lie in memory, in the order of every other strategy": "shuffle_dataset remove_unused_columns "
    "ignore_data_skip dataloader_drop_last dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers "
    "dataloader_prefetch_factor dataloader_multiprocessing_context dataloader_in_order",
    "rows are not packed, a step has those of every other strategy": "packing packing_strategy eval_packing",
    "write finetune_config.max_checkpoints_to_keep": "save_total_limit",
    "write finetune_config.save_steps": "save_strategy save_only_model save_on_each_node enable_jit_checkpoint "
    "resume_from_checkpoint restore_callback_states_from_checkpoint",
    "write finetune_config.logging_steps": "logging_strategy logging_first_step logging_dir logging_nan_inf_filter",
    "the sweep shows the progress": "disable_tqdm log_level log_level_replica log_on_each_node",
    "write trackers": "report_to run_name project trackio_space_id trackio_bucket_id trackio_static_space_id",
    "write finetune_config.push_to_hub": "hub_token hub_private_repo hub_model_id hub_strategy hub_always_push "
    "hub_revision",
    "write evals.during": "eval_strategy eval_steps eval_delay eval_on_start do_eval do_train do_predict",
    "the last weights stay, see evals.during": "load_best_model_at_end metric_for_best_model greater_is_better",
    "write evals": "batch_eval_metrics include_for_metrics eval_accumulation_steps prediction_loss_only "
    "eval_do_concat_batches eval_use_gather_object label_names",
    "write finetune_config.per_device_train_batch_size": "auto_find_batch_size",
    "the trial trains in one process, on the device that resources gives it": "fsdp fsdp_config deepspeed local_rank "
    "parallelism_config accelerator_config use_cpu ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers "
    "ddp_static_graph ddp_backend ddp_timeout",
    "it would change the process for later trials": "tf32 full_determinism use_liger_kernel liger_kernel_config",
}
_OWNED = {
    **{name: f"write finetune_config.{name}" for name in _SAME.split()},
    **{name: instead for instead, names in _INSTEAD.items() for name in names.split()},
}


def checked(trainer: type[Trainer], given: dict[str, Any]) -> dict[str, Any]:
    """Return `trainer_args` as the Trainer's own dataclass holds them, such as 1e-5 for '1e-5'.

    Raises:
        ValueError: a key is unknown, or is decided by a key of ours, or its value is of a wrong type. The message has
            all of them.
    """
    kind = classes.args_class(trainer)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    values: dict[str, Any] = {}
    problems: list[str] = []
    for key, value in given.items():
        if key in _OWNED:
            problems.append(f"{KEY}.{key} is not decided here: {_OWNED[key]}")
        elif key not in fields or not fields[key].init:
            hint = nearest(key, fields.keys() - _OWNED.keys())
            problems.append(f"{KEY}.{key}: unknown key, {kind.__name__} has no {key!r}.{hint}".rstrip("."))
        else:
            try:
                values[key] = _coerced(fields[key], value)
            except ValidationError as error:
                wanted = str(fields[key].type).removeprefix("<class '").removesuffix("'>")
                problems.append(f"{KEY}.{key}: found {value!r}; allowed: {wanted} ({error.errors()[0]['msg']})")
    if problems:
        raise ValueError("; ".join(problems))
    return values


def _coerced(field: dataclasses.Field[Any], value: Any) -> Any:
    kind: Any = field.type
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(kind)
    except Exception:  # a type that pydantic does not know: the dataclass itself checks it
        return value
    return adapter.validate_python(value)


def make(
    config: TrialConfig,
    trainer: type[Trainer],
    given: dict[str, Any],
    form: classes.Form,
    *,
    folder: str,
    num_steps: int,
    micro_batch: int,
) -> Any:
    """Return the Trainer's arguments: an object of its own dataclass.

    Args:
        given: `trainer_args`.
        folder: a local folder that the Trainer may write to.
        num_steps: optimizer steps of the whole training.
        micro_batch: rows of a micro-batch.

    Raises:
        ValueError: raised by `checked`, or the dataclass refuses the values.
    """
    cfg, kind = config.finetune_config, classes.args_class(trainer)
    values: dict[str, Any] = {
        "output_dir": folder,
        "num_train_epochs": cfg.epochs,
        "max_steps": cfg.max_steps or -1,
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": cfg.gradient_accumulation_steps,
        "learning_rate": cfg.learning_rate,
        "lr_scheduler_type": cfg.lr_scheduler_type,
        "warmup_steps": warmup_steps(cfg, num_steps),
        "optim": cfg.optim,
        "weight_decay": cfg.weight_decay,
        "max_grad_norm": cfg.max_grad_norm or 0.0,
        "seed": config.model_seed % 2**32,  # NumPy takes no larger one
        "data_seed": config.data_seed % 2**32,
        # the model comes in its data type, with gradient checkpointing as the config says
        "bf16": False,
        "fp16": False,
        "gradient_checkpointing": False,
        "use_cpu": not torch.cuda.is_available(),
        "logging_strategy": "no",
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
    }
    if "max_length" in {field.name for field in dataclasses.fields(kind)}:
        values["max_length"] = None if form == "tokens" else cfg.max_seq_length
    extra = checked(trainer, given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that will change in a later version
        try:
            args = kind(**values | extra)
        except Exception as error:
            shown = ", ".join(f"{key}: {value!r}" for key, value in extra.items())
            message = " ".join(str(error).split())
            raise ValueError(f"{KEY}: {kind.__name__} refuses {shown or 'its defaults'}: {message}") from error
    return args
