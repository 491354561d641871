"""Metrics of an evaluation set. One metric per file; a metric registers itself by being defined."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from selgen_ray.data.encode import Encoded
from selgen_ray.data.forms import Row
from selgen_ray.models import Model


@dataclass(frozen=True)
class EvalSet:
    """What a metric sees.

    Attributes:
        model: in evaluation mode.
        tokenizer: of the model.
        rows: the rows of the set.
        encoded: their tokens, in the same order.
        batch_size: rows of a batch.
        max_new_tokens: length limit of a generated answer.
        max_seq_length: tokens after which a candidate reply is cut.
    """

    model: Model
    tokenizer: PreTrainedTokenizerBase
    rows: Sequence[Row]
    encoded: Sequence[Encoded]
    batch_size: int
    max_new_tokens: int
    max_seq_length: int


Metric = Callable[[EvalSet], dict[str, float]]
_METRICS: dict[str, Metric] = {}


def metric(function: Metric) -> Metric:
    """Register a metric: a function from an `EvalSet` to name -> value; {} where it does not apply."""
    _METRICS[function.__name__] = function
    return function


@functools.cache
def _import_shipped() -> None:
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")


def metrics() -> dict[str, Metric]:
    """All registered metrics by name."""
    _import_shipped()
    return dict(sorted(_METRICS.items()))


@torch.no_grad()
def evaluate(eval_set: EvalSet) -> dict[str, float]:
    """Every metric that applies to the set, in evaluation mode; the model's mode is restored."""
    was_training = eval_set.model.training
    eval_set.model.eval()
    try:
        return {name: value for compute in metrics().values() for name, value in compute(eval_set).items()}
    finally:
        eval_set.model.train(was_training)


def by_length(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Row numbers in batches of similar length, longest first: out-of-memory shows at once, padding stays small."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


# The first of these that a set has is the trial's capability (on task_test) or alignment (on align_test).
CAPABILITY = ("exact_match", "choice_accuracy", "token_probability")
ALIGNMENT = ("balanced_accuracy", "choice_accuracy", "exact_match", "token_probability")


def headline(results: Mapping[str, Mapping[str, object]], sets: Sequence[str], names: Sequence[str]) -> str | None:
    """'set/metric' of the first of `sets` that was evaluated and the first of `names` that it has."""
    for name in sets:
        for wanted in names if name in results else ():
            if wanted in results[name]:
                return f"{name}/{wanted}"
    return None
