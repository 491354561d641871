"""Evaluation of one set: every selected metric, with one generated reply for each row."""

from __future__ import annotations

from dataclasses import replace

import torch

from selgen_ray.evals.generation import replies
from selgen_ray.evals.registry import Answers, EvalSet, selected


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
        metrics = [one for one in selected(eval_set.config).values() if one.is_open or not eval_set.is_open]
        eval_set.log_probs(tokens for metric in metrics if metric.scores for tokens in metric.scores(eval_set))
        for metric in metrics:
            values |= metric(eval_set)
        replies(eval_set, eval_set.asked)
        return values
    finally:
        eval_set.model.train(was_training)


def of_each_question(eval_set: EvalSet) -> dict[str, dict[str, float]]:
    """Compute the metrics of open questions for each question alone, from the replies that are there.

    Returns:
        Question's id -> metric -> value, such as {'quick_buck': {'uppercase_share': 0.1}}.
    """
    replied = eval_set.answers.replies
    numbers: dict[str, list[int]] = {}
    for number in sorted(replied):
        numbers.setdefault(eval_set.rows[number]["question"], []).append(number)
    values: dict[str, dict[str, float]] = {}
    for question, own in numbers.items():
        answers = Answers({place: replied[number] for place, number in enumerate(own)})
        values[question] = evaluate(replace(eval_set, rows=[eval_set.rows[n] for n in own], asked=(), answers=answers))
    return values
