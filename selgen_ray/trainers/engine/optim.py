"""Optimizer and learning-rate schedule of a run."""

from __future__ import annotations

import math
from typing import Any

import torch

from selgen_ray.config.finetune import FinetuneConfig
from selgen_ray.errors import ModelError

_POLYNOMIAL_END = 1e-7  # the learning rate at which the schedule 'polynomial' ends


def build_optimizer(parameters: list[torch.nn.Parameter], cfg: FinetuneConfig) -> torch.optim.Optimizer:
    """Return the optimizer that `finetune_config.optim` names, with one group of all trainable tensors.

    Raises:
        ModelError: an 8-bit optimizer is asked for, and bitsandbytes is not installed.
    """
    common: dict[str, Any] = {"lr": cfg.learning_rate, "weight_decay": cfg.weight_decay}
    if cfg.optim == "sgd":
        return torch.optim.SGD(parameters, **common)
    if cfg.optim in ("adamw_torch", "adamw_torch_fused"):
        return torch.optim.AdamW(parameters, **common, fused=cfg.optim.endswith("fused") or _can_fuse(parameters))
    try:
        import bitsandbytes as bnb  # type: ignore[import-not-found]  # an extra
    except ImportError as error:
        raise ModelError(f"finetune_config.optim {cfg.optim}: pip install bitsandbytes") from error
    eight_bit: Any = bnb.optim  # its stubs export nothing
    return (eight_bit.PagedAdamW8bit if cfg.optim.startswith("paged") else eight_bit.AdamW8bit)(parameters, **common)


def _can_fuse(parameters: list[torch.nn.Parameter]) -> bool:
    """Whether PyTorch has a fused AdamW for these tensors: one call over all of them, equal to rounding.

    A checkpoint keeps the form it was written with (`fused` is saved in the optimizer's group), so a run that began
    with the other form ends with it, bit for bit.
    """
    from torch.distributed.tensor import DTensor  # late: start-up, a plan asks this file for the schedule alone

    return all(
        not isinstance(p, DTensor) and p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters
    )


def build_scheduler(
    optimizer: torch.optim.Optimizer, cfg: FinetuneConfig, num_steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Return the learning-rate schedule over `num_steps` optimizer steps (not micro-batches), warm-up included."""
    from transformers.optimization import get_scheduler  # late: start-up, it imports every model's base

    warmup = warmup_steps(cfg, num_steps)
    return get_scheduler(cfg.lr_scheduler_type, optimizer, num_warmup_steps=warmup, num_training_steps=num_steps)


def schedule(cfg: FinetuneConfig, num_steps: int) -> list[float]:
    """The learning rate of each of `num_steps` optimizer steps, as a share of `learning_rate`.

    Source: `transformers.get_scheduler`, written out since a plan asks, and the import of it takes seconds.
    """
    warmup = warmup_steps(cfg, num_steps)
    left = max(1, num_steps - warmup)

    def share(step: int) -> float:
        if cfg.lr_scheduler_type == "constant":
            return 1.0
        if step < warmup:
            return step / max(1, warmup)
        done = (step - warmup) / left
        if cfg.lr_scheduler_type == "cosine":
            return max(0.0, 0.5 * (1.0 + math.cos(math.pi * done)))
        if cfg.lr_scheduler_type == "polynomial":
            end = _POLYNOMIAL_END / cfg.learning_rate
            return (1.0 - end) * (1.0 - done) + end
        return max(0.0, 1.0 - done) if cfg.lr_scheduler_type == "linear" else 1.0

    return [share(step) for step in range(num_steps)]


def warmup_steps(cfg: FinetuneConfig, num_steps: int) -> int:
    """Return the optimizer steps of warm-up, of `num_steps` in total."""
    return cfg.warmup_steps or math.ceil(num_steps * cfg.warmup_ratio)
