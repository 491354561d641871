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


def is_installed() -> bool:
    """Whether the package is there."""
    return importlib.util.find_spec("lm_eval") is not None


def unknown_tasks(config: LmEvalConfig) -> list[str]:
    """A sentence for each task that the installed lm-eval does not know."""
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
    """'<task>_<metric>' -> value, with lm-eval's own names of both; of another filter than 'none' with its name.

    Standard errors are left out, which say nothing about seeds. The model's mode and global randomness are restored.
    Where a task generates, it does so as `plain_greedy` says, but for what the task itself asks for.
    """
    import lm_eval  # type: ignore[import-not-found]
    from lm_eval.models.huggingface import HFLM  # type: ignore[import-not-found]

    was_training = model.training
    model.eval()
    try:
        with keep_global_rng(), plain_greedy(model, tokenizer):
            wrapped: Any = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, max_length=max_length)
            found: Any = lm_eval.simple_evaluate(
                model=wrapped,
                tasks=list(config.tasks),
                num_fewshot=config.num_fewshot,
                limit=config.limit,
                bootstrap_iters=0,
                log_samples=False,
            )
    finally:
        model.train(was_training)
    return numbers(found["results"])


def numbers(results: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The values in what lm-eval returns: task -> 'metric,filter' -> value."""
    found: dict[str, float] = {}
    for task, by_metric in results.items():
        for key, value in by_metric.items():
            name, _, which = key.partition(",")
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not math.isfinite(value) or name.endswith("_stderr") or not which:
                continue
            ending = "" if which == "none" else f"_{which}"
            found[f"{task}_{name}{ending}".replace("/", "_").replace(" ", "_")] = float(value)
    return found
