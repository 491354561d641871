"""Evaluate one set: every selected metric, each row asked once."""

from __future__ import annotations

import torch

from selgen_ray.evals.generation import replies
from selgen_ray.evals.registry import EvalSet, selected


@torch.no_grad()
def evaluate(eval_set: EvalSet) -> dict[str, float]:
    """Every selected metric that applies to the set, in evaluation mode; the model's mode is restored."""
    was_training = eval_set.model.training
    eval_set.model.eval()
    try:
        found: dict[str, float] = {}
        for compute in selected(eval_set.config).values():
            found |= compute(eval_set)
        replies(eval_set, eval_set.asked)
        return found
    finally:
        eval_set.model.train(was_training)
