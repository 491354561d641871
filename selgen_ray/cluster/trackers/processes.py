"""Processes for what cannot live in the driver's."""

from __future__ import annotations

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def beside_driver(kind: type) -> Any:
    """A Ray actor class of `kind` on the driver's node, where its files are; it takes no CPU from trials."""
    here: Any = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(kind)
