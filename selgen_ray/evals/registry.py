"""Registry of metrics, and the evaluation set that they see; a metric registers itself by being defined."""

from __future__ import annotations

import functools
import importlib
import math
import pkgutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from transformers import PreTrainedTokenizerBase

from selgen_ray.config.evals import EvalConfig
from selgen_ray.data.encode import Encoded, pad_id
from selgen_ray.data.forms import Row
from selgen_ray.data.streams import BatchLimits
from selgen_ray.evals.snapshot import Snapshot
from selgen_ray.evals.token_memo import TokenMemo
from selgen_ray.models.loading import Model
from selgen_ray.records.results import HEADLINES


@dataclass
class Answers:
    """Answers of the model to the rows of a set, shared by all metrics, so that each row is asked once.

    Attributes:
        replies: row number -> generated text.
        picks: kind ('choice', 'letter', ...) -> row number -> the option that the model picked.
        cut: numbers of the rows whose reply reached `max_new_tokens`.
        missing: metric -> why it has no value.
    """

    replies: dict[int, str] = field(default_factory=dict[int, str])
    cut: set[int] = field(default_factory=set[int])
    picks: dict[str, dict[int, Any]] = field(default_factory=dict[str, dict[int, Any]])
    missing: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Draw:
    """How a reply is drawn: at a temperature above 0, with the random numbers of a seed of its own."""

    temperature: float
    seed: int


@dataclass(frozen=True)
class EvalSet:
    """An evaluation set with its model: the argument of every metric.

    Attributes:
        model: the model, in evaluation mode.
        tokenizer: the model's tokenizer.
        rows: the rows of the set.
        encoded: their tokens, in the same order.
        batch_size: number of rows in a batch, for a metric that makes its own batches.
        max_new_tokens: length limit of a generated reply, in tokens.
        max_seq_length: number of tokens after which a row with a candidate reply is cut.
        config: the section `evals`.
        asked: numbers of further rows whose replies are needed, for a judge.
        answers: the model's answers so far; metrics add to it.
        limits: limits of a batch; default: `batch_size` rows.
        snapshot: what this model was asked already, also for other sets; default: nothing.
        tokens: tokens that were made already of these rows; default: none.
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
    limits: BatchLimits = None  # type: ignore[assignment]  # made below
    snapshot: Snapshot = None  # type: ignore[assignment]  # made below
    tokens: TokenMemo = field(default_factory=TokenMemo)

    def __post_init__(self) -> None:
        if self.limits is None:  # pyright: ignore[reportUnnecessaryComparison]  # see above
            object.__setattr__(self, "limits", BatchLimits(self.batch_size))
        if self.snapshot is None:  # pyright: ignore[reportUnnecessaryComparison]
            object.__setattr__(self, "snapshot", Snapshot(self.model))

    @property
    def is_open(self) -> bool:
        """Whether these are open questions: rows without a reference reply, of which nothing but replies is known."""
        return bool(self.rows) and not len(self.encoded)

    def draw(self, number: int) -> Draw | None:
        """Return how the reply to a row is drawn; None: the most likely one is taken."""
        row = self.rows[number]
        return Draw(float(row["temperature"]), int(row["draw"])) if "draw" in row else None

    def prompt(self, number: int) -> list[int]:
        """Return the token ids of everything before the reply of a row, for the model to go on from."""
        return self.tokens.prompt(self.rows[number], self.tokenizer)

    def log_probs(self, sequences: Iterable[Encoded]) -> list[float]:
        """Return for each token sequence the log-probability of its scored tokens, their sum in nats.

        Raises:
            ModelError: the model does not compute its logits token by token from its output embeddings.
        """
        return self.snapshot.log_probs(sequences, pad_id(self.tokenizer), self.limits)

    def numbers(self, wanted: Callable[[Row], Any]) -> list[int]:
        """Return the numbers of the rows for which `wanted` is true."""
        return [i for i, row in enumerate(self.rows) if wanted(row)]


Compute = Callable[[EvalSet], dict[str, float]]
Foresee = Callable[[Sequence[Row], EvalConfig], dict[str, int]]
Scores = Callable[[EvalSet], Sequence[Encoded]]


@dataclass(frozen=True)
class Metric:
    """A registered metric.

    Attributes:
        name: name of the function.
        compute: the function: evaluation set -> {name of a value: value}.
        shares: names of its values in [0, 1] of which more is better; a trial's capability, alignment or coherence must
            be one of these.
        others: names of its other values.
        foresee: (rows, section `evals`) -> {name of a value: number of rows that it will be computed from}, without a
            model; None: every value is computed from all rows.
        needs: what a row must have, in words.
        scores: (evaluation set) -> token sequences that the function asks the log-probabilities of; those of all
            metrics are computed together, so that a prompt is run once. None: it asks by itself.
        is_open: it looks at replies alone, so that it is computed of open questions too, where rows have no reply.
        named_only: it is left out unless `evals.metrics`, a headline or, of `language`, the key of its name asks.
    """

    name: str
    compute: Compute
    shares: tuple[str, ...]
    others: tuple[str, ...]
    foresee: Foresee | None = None
    needs: str = ""
    scores: Scores | None = None
    is_open: bool = False
    named_only: bool = False

    def applies(self, rows: Sequence[Row], config: EvalConfig) -> dict[str, int]:
        """Return the number of rows that each value will be computed from; values without any rows are left out.

        Example: {'choice_accuracy': 100}.
        """
        names = (*self.shares, *self.others)
        counts = dict.fromkeys(names, len(rows)) if self.foresee is None else self.foresee(rows, config)
        return {name: count for name, count in counts.items() if count}

    def __call__(self, eval_set: EvalSet) -> dict[str, float]:
        """Compute the metric's values.

        Raises:
            ValueError: a value was not declared, or one of `shares` is not in [0, 1].
        """
        values = self.compute(eval_set)
        if unknown := values.keys() - {*self.shares, *self.others}:
            raise ValueError(f"the metric {self.name} gives {min(unknown)!r}, which it does not declare")
        for name in self.shares:
            value = values.get(name, 0.0)
            if math.isfinite(value) and not 0 <= value <= 1:
                raise ValueError(f"the metric {self.name} gives {name} = {value}, which is no share in [0, 1]")
        return values


_METRICS: dict[str, Metric] = {}


@overload
def metric(function: Compute) -> Compute: ...
@overload
def metric(
    *,
    shares: Sequence[str] = (),
    others: Sequence[str] = (),
    foresee: Foresee | None = None,
    needs: str = "",
    scores: Scores | None = None,
    is_open: bool = False,
    named_only: bool = False,
) -> Callable[[Compute], Compute]: ...
def metric(
    function: Compute | None = None,
    *,
    shares: Sequence[str] = (),
    others: Sequence[str] = (),
    foresee: Foresee | None = None,
    needs: str = "",
    scores: Scores | None = None,
    is_open: bool = False,
    named_only: bool = False,
) -> Any:
    """Register a function as a metric: it takes an `EvalSet` and returns {name of a value: value}.

    The function returns {} if it does not apply to the set. Plain `@metric` declares one value with the function's
    name. Less is better of a value whose name ends as `results.less_is_better` says, such as 'toxicity_loss'; more is
    better of every other value.

    Args:
        function: the metric.
        shares, others, foresee, needs, scores, is_open, named_only: see `Metric`.

    Raises:
        ValueError: a function of another module has the name already.
    """

    def register(function: Compute) -> Compute:
        earlier = _METRICS.get(function.__name__)
        if earlier is not None and earlier.compute.__module__ != function.__module__:
            raise ValueError(f"the metric {function.__name__!r} is already taken by {earlier.compute.__module__}")
        default = () if shares or others else (function.__name__,)
        declared = tuple(shares), (*others, *default)
        options = (foresee, needs, scores, is_open, named_only)
        _METRICS[function.__name__] = Metric(function.__name__, function, *declared, *options)
        return function

    return register if function is None else register(function)


@functools.cache
def _import_shipped() -> None:
    shipped = importlib.import_module("selgen_ray.evals.metrics")
    for module in pkgutil.iter_modules(shipped.__path__):
        importlib.import_module(f"{shipped.__name__}.{module.name}")


def all_metrics() -> dict[str, Metric]:
    """Return all registered metrics by name; the shipped ones are imported first."""
    _import_shipped()
    return dict(sorted(_METRICS.items()))


def selected(config: EvalConfig) -> dict[str, Metric]:
    """Return the metrics that a trial computes where they apply, by name."""
    known = all_metrics()
    if config.metrics is not None:
        return {name: known[name] for name in known if name in config.metrics}
    headlines = {value.partition("/")[2] for key in HEADLINES if (value := getattr(config, key))}
    named = {name for name, one in known.items() if headlines & {*one.shares, *one.others}}
    named |= {"language"} if config.language else set()
    return {name: one for name, one in known.items() if name in named or not one.named_only}


def forget(module: str) -> None:
    """Remove the metrics that a module defined."""
    for name in [name for name, registered in _METRICS.items() if registered.compute.__module__ == module]:
        del _METRICS[name]
