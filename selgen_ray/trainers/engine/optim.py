"""Optimizer and learning-rate schedule of a run."""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import get_scheduler

from selgen_ray.config.finetune import FinetuneConfig
from selgen_ray.errors import ModelError


def build_optimizer(parameters: list[torch.nn.Parameter], cfg: FinetuneConfig) -> torch.optim.Optimizer:
    """Return the optimizer that `finetune_config.optim` names, with one group of all trainable tensors.

    Raises:
        ModelError: an 8-bit optimizer is asked for, and bitsandbytes is not installed.
    """
    common: dict[str, Any] = {"lr": cfg.learning_rate, "weight_decay": cfg.weight_decay}
    if cfg.optim == "sgd":
        return torch.optim.SGD(parameters, **common)
    if cfg.optim in ("adamw_torch", "adamw_torch_fused"):
        return torch.optim.AdamW(parameters, **common, fused=cfg.optim.endswith("fused"))
    try:
        import bitsandbytes as bnb  # type: ignore[import-not-found]  # an extra
    except ImportError as error:
        raise ModelError(f"finetune_config.optim {cfg.optim}: pip install bitsandbytes") from error
    eight_bit: Any = bnb.optim  # its stubs export nothing
    return (eight_bit.PagedAdamW8bit if cfg.optim.startswith("paged") else eight_bit.AdamW8bit)(parameters, **common)


def build_scheduler(
    optimizer: torch.optim.Optimizer, cfg: FinetuneConfig, num_steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Return the learning-rate schedule over `num_steps` optimizer steps (not micro-batches), warm-up included."""
    warmup = cfg.warmup_steps or math.ceil(num_steps * cfg.warmup_ratio)
    return get_scheduler(cfg.lr_scheduler_type, optimizer, num_warmup_steps=warmup, num_training_steps=num_steps)


def schedule(cfg: FinetuneConfig, num_steps: int) -> list[float]:
    """The learning rate of each of `num_steps` optimizer steps, as a share of `learning_rate`."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=cfg.learning_rate)
    scheduler: Any = build_scheduler(optimizer, cfg, num_steps)
    return [float(scheduler.lr_lambdas[0](step)) for step in range(num_steps)]
