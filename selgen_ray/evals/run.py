"""Evaluation of one set: every selected metric, with one generated reply for each row."""

from __future__ import annotations

import torch

from selgen_ray.evals.generation import replies
from selgen_ray.evals.registry import EvalSet, selected


@torch.no_grad()
def evaluate(eval_set: EvalSet) -> dict[str, float]:
    """Compute every selected metric that applies to the set, in evaluation mode; the model's mode is restored.

    Replies for a judge are generated too, and kept in `eval_set.answers`.

    Returns:
        Metric -> value, such as {'loss': 1.2, 'exact_match': 0.5}.
    """
    was_training = eval_set.model.training
    eval_set.model.eval()
    try:
        values: dict[str, float] = {}
        metrics = selected(eval_set.config).values()
        eval_set.log_probs(tokens for metric in metrics if metric.scores for tokens in metric.scores(eval_set))
        for metric in metrics:
            values |= metric(eval_set)
        replies(eval_set, eval_set.asked)
        return values
    finally:
        eval_set.model.train(was_training)
