"""The strategies: one file each, on one training loop."""

from selgen_ray.trainers.catalogue import build_config, get_trainer, strategies
from selgen_ray.trainers.registry import knob

__all__ = ["build_config", "get_trainer", "knob", "strategies"]
