"""The strategies: one file each, on one training loop."""

from selgen_ray.trainers.registry import build_config, get_trainer, knob, strategies

__all__ = ["build_config", "get_trainer", "knob", "strategies"]
