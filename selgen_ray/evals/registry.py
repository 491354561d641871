"""Metrics of an evaluation set. One metric per file; a metric registers itself by being defined."""

from __future__ import annotations

import functools
import importlib
import math
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from transformers import PreTrainedTokenizerBase

from selgen_ray.config.evals import EvalConfig
from selgen_ray.data.encode import Encoded
from selgen_ray.data.forms import Row
from selgen_ray.models.loading import Model


@dataclass
class Answers:
    """What the model answered to the rows of a set, by row number; each row is asked once, whoever wants to know.

    Attributes:
        replies: generated texts.
        picks: kind ('choice', 'letter', ...) -> what it took from what was offered.
        cut: numbers of the rows whose reply reached `max_new_tokens`.
        missing: metric -> why it cannot be given.
    """

    replies: dict[int, str] = field(default_factory=dict[int, str])
    cut: set[int] = field(default_factory=set[int])
    picks: dict[str, dict[int, Any]] = field(default_factory=dict[str, dict[int, Any]])
    missing: dict[str, str] = field(default_factory=dict[str, str])


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
        config: the section `evals`.
        asked: numbers of the rows whose replies are wanted besides, for a judge.
        answers: filled by the metrics.
    """

    model: Model
    tokenizer: PreTrainedTokenizerBase
    rows: Sequence[Row]
    encoded: Sequence[Encoded]
    batch_size: int
    max_new_tokens: int
    max_seq_length: int
    config: EvalConfig = field(default_factory=EvalConfig)
    asked: Sequence[int] = ()
    answers: Answers = field(default_factory=Answers)

    def numbers(self, wanted: Callable[[Row], Any]) -> list[int]:
        """The numbers of the rows that are wanted."""
        return [i for i, row in enumerate(self.rows) if wanted(row)]


Compute = Callable[[EvalSet], dict[str, float]]
Foresee = Callable[[Sequence[Row], EvalConfig], dict[str, int]]


@dataclass(frozen=True)
class Metric:
    """A registered metric.

    Attributes:
        name: of the function.
        compute: the function.
        shares: names of its values in [0, 1], of which more is better: what a trial's capability, alignment or
            coherence may be.
        others: names of its other values.
        foresee: (rows, config) -> value name -> number of rows it will be computed on, without a model; None: all rows.
        needs: of a row, in words.
    """

    name: str
    compute: Compute
    shares: tuple[str, ...]
    others: tuple[str, ...]
    foresee: Foresee | None = None
    needs: str = ""

    def applies(self, rows: Sequence[Row], config: EvalConfig) -> dict[str, int]:
        """Its values -> the number of rows that each will be of; without those that the rows do not allow."""
        names = (*self.shares, *self.others)
        counts = dict.fromkeys(names, len(rows)) if self.foresee is None else self.foresee(rows, config)
        return {name: count for name, count in counts.items() if count}

    def __call__(self, eval_set: EvalSet) -> dict[str, float]:
        """Its values; raises ValueError where they are not what was declared."""
        found = self.compute(eval_set)
        if unknown := found.keys() - {*self.shares, *self.others}:
            raise ValueError(f"the metric {self.name} gives {min(unknown)!r}, which it does not declare")
        for name in self.shares:
            value = found.get(name, 0.0)
            if math.isfinite(value) and not 0 <= value <= 1:
                raise ValueError(f"the metric {self.name} gives {name} = {value}, which is no share in [0, 1]")
        return found


_METRICS: dict[str, Metric] = {}


@overload
def metric(function: Compute) -> Compute: ...
@overload
def metric(
    *, shares: Sequence[str] = (), others: Sequence[str] = (), foresee: Foresee | None = None, needs: str = ""
) -> Callable[[Compute], Compute]: ...
def metric(
    function: Compute | None = None,
    *,
    shares: Sequence[str] = (),
    others: Sequence[str] = (),
    foresee: Foresee | None = None,
    needs: str = "",
) -> Any:
    """Register a metric: a function from an `EvalSet` to name -> value; {} where it does not apply.

    Plain `@metric` declares one value of the function's own name. A higher value is better, unless
    `results.less_is_better` knows the end of its name, as of 'toxicity_loss'.

    Args:
        function: the metric.
        shares, others, foresee, needs: as `Metric` has them.

    Raises:
        ValueError: another function has the name already.
    """

    def register(function: Compute) -> Compute:
        old = _METRICS.get(function.__name__)
        if old is not None and old.compute.__module__ != function.__module__:
            raise ValueError(f"the metric {function.__name__!r} is already taken by {old.compute.__module__}")
        own = () if shares or others else (function.__name__,)
        named = tuple(shares), (*others, *own)
        _METRICS[function.__name__] = Metric(function.__name__, function, *named, foresee, needs)
        return function

    return register if function is None else register(function)


@functools.cache
def _import_shipped() -> None:
    shipped = importlib.import_module("selgen_ray.evals.metrics")
    for module in pkgutil.iter_modules(shipped.__path__):
        importlib.import_module(f"{shipped.__name__}.{module.name}")


def all_metrics() -> dict[str, Metric]:
    """All registered metrics by name."""
    _import_shipped()
    return dict(sorted(_METRICS.items()))


def selected(config: EvalConfig) -> dict[str, Metric]:
    """Those that a trial computes, where they apply."""
    known = all_metrics()
    return known if config.metrics is None else {name: known[name] for name in known if name in config.metrics}


def forget(module: str) -> None:
    """Take back the metrics that a module defined."""
    for name in [name for name, one in _METRICS.items() if one.compute.__module__ == module]:
        del _METRICS[name]
