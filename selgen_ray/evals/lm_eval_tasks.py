"""Tasks of lm-evaluation-harness (the extra `lm_eval`), on the model in memory."""

from __future__ import annotations

import importlib.util
import math
from typing import Any

from transformers import PreTrainedTokenizerBase

from selgen_ray.config.evals import LmEvalConfig
from selgen_ray.errors import nearest
from selgen_ray.evals.generation import plain_greedy
from selgen_ray.models.loading import Model
from selgen_ray.seeding import keep_global_rng
from selgen_ray.stats import is_number


def is_installed() -> bool:
    """Return whether the package lm-eval is installed."""
    return importlib.util.find_spec("lm_eval") is not None


def unknown_tasks(config: LmEvalConfig) -> list[str]:
    """Return a sentence for each task that the installed lm-eval does not know."""
    from lm_eval.tasks import TaskManager  # type: ignore[import-not-found]

    manager = TaskManager()
    known = list(manager.all_tasks)
    return [
        f"evals.lm_eval.tasks: lm-eval has no task {task!r}.{nearest(task, known)}"
        for task in config.tasks
        if not manager.match_tasks([task])
    ]


def lm_eval_values(
    model: Model, tokenizer: PreTrainedTokenizerBase, config: LmEvalConfig, batch_size: int, max_length: int
) -> dict[str, float]:
    """Run lm-eval's tasks on the model in memory, and return their metrics.

    The model's mode and the global random state are restored. A task that generates does so by `plain_greedy`, unless
    the task itself asks for something else.

    Args:
        batch_size: number of requests in a batch.
        max_length: length limit of a request, in tokens.

    Returns:
        '<task>_<metric>' -> value, with lm-eval's names, such as {'arc_easy_acc': 0.7}; see `numbers`.
    """
    from lm_eval import simple_evaluate  # type: ignore[import-not-found]
    from lm_eval.models.huggingface import HFLM  # type: ignore[import-not-found]

    was_training = model.training
    model.eval()
    try:
        with keep_global_rng(), plain_greedy(model, tokenizer):
            wrapped: Any = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, max_length=max_length)
            evaluation: Any = simple_evaluate(
                model=wrapped,
                tasks=list(config.tasks),
                num_fewshot=config.num_fewshot,
                limit=config.limit,
                bootstrap_iters=0,
                log_samples=False,
            )
    finally:
        model.train(was_training)
    return numbers(evaluation["results"])


def numbers(results: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Return the metrics in lm-eval's results under flat names.

    Standard errors are left out, because they do not measure the variation between seeds.

    Example: {'gsm8k': {'exact_match,none': 0.5, 'exact_match,strict-match': 0.4}} gives {'gsm8k_exact_match': 0.5,
    'gsm8k_exact_match_strict-match': 0.4}.

    Args:
        results: task -> 'metric,filter' -> value.
    """
    values: dict[str, float] = {}
    for task, by_metric in results.items():
        for key, value in by_metric.items():
            name, _, filter_name = key.partition(",")
            if not is_number(value) or not math.isfinite(value) or name.endswith("_stderr") or not filter_name:
                continue
            ending = "" if filter_name == "none" else f"_{filter_name}"
            values[f"{task}_{name}{ending}".replace("/", "_").replace(" ", "_")] = float(value)
    return values
