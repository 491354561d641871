"""A search space: one YAML file in, a checked sweep with all its trials out."""

from selgen_ray.space.load import load_space
from selgen_ray.space.spec import Resources, SweepSpec, Trial

__all__ = ["Resources", "SweepSpec", "Trial", "load_space"]
