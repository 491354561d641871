"""results.json: its schema, and writing it; `selgen_ray.reading` reads those of a sweep."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, WithJsonSchema, field_validator

from selgen_ray.records.status import STORED, TrialStatus
from selgen_ray.storage import Folder
from selgen_ray.storage.folder import to_json
from selgen_ray.storage.leases import MOST

SCHEMA_VERSION = 1
FILE_NAME = "results.json"


def _on_storage(status: TrialStatus) -> TrialStatus:
    if status not in STORED:
        raise ValueError(f"a result is never {status}; allowed: {', '.join(STORED)}")
    return status


StoredStatus = Annotated[
    TrialStatus,
    AfterValidator(_on_storage),
    WithJsonSchema({"enum": [str(status) for status in STORED], "title": "Status", "type": "string"}),
]
"""The status that a results.json may have."""


_WHOLE = 2**63  # what a whole number stays below: the tables of a report hold no more


def _plain(value: Any) -> Any:
    """Return plain data whose numbers are finite and bounded. Raises ValueError: one is not."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            _plain(inner)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"holds {value}, which is no finite number")
    elif isinstance(value, int) and not -_WHOLE <= value < _WHOLE:
        raise ValueError("holds a whole number of more than 64 bits")
    return value


def _with_step(change: dict[str, Any]) -> dict[str, Any]:
    values = change.get("values")
    if type(change.get("step")) is not int or not isinstance(values, dict):
        raise ValueError("a change has no step, or no values by key")
    if not all(isinstance(value, int | float) for value in values.values()):
        raise ValueError("a change has a value that is no number")
    return change


class _Section(BaseModel):
    """Stands for a section of a config, of which nothing is read here."""


class ReadKeys(BaseModel):
    """The keys of a config that reports and plans read, with their types."""

    proxy_strategy: str = ""
    experiment_name: str | None = None
    control: str | None = None
    warm_start: str | None = None
    num_workers: Annotated[int, Field(ge=1, lt=_WHOLE)] = 1
    finetune_config: _Section = _Section()
    data: _Section = _Section()
    evals: _Section = _Section()


def _readable(config: dict[str, Any]) -> dict[str, Any]:
    ReadKeys.model_validate(config)
    return config


Plain = Annotated[dict[str, Any], AfterValidator(_plain)]
Whole = Annotated[int, Field(ge=-_WHOLE, lt=_WHOLE)]
Config = Annotated[Plain, AfterValidator(_readable)]
Number = Annotated[int, Field(ge=1, lt=MOST)]
"""Of a generation or an attempt."""

HEADLINES = ("capability", "alignment", "coherence")
"""The headline numbers of a trial: shares in [0, 1], each equal to one 'set/metric' of it."""
SUMMARIES = (*HEADLINES, "alignment_worst")
"""The headlines, and the alignment in the worst of `evals.contexts`, which only trials with contexts have."""


def now() -> str:
    """Return the time in UTC as ISO 8601, to the second: '2026-01-31T12:00:00+00:00'."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def finite(value: float | None) -> float | None:
    """Return `value`, or None if it is NaN or infinite, which JSON cannot hold."""
    return value if value is not None and math.isfinite(value) else None


def _finite_number(value: Any) -> Any:
    """Return `finite` of a number, and anything else unchanged, for pydantic to refuse."""
    return finite(value) if isinstance(value, int | float) else value


_LESS_IS_BETTER = re.compile(
    r"(^|[/_])(loss|perplexity|kl|sycophancy|sycophancy_all|false_rejection|errors?|refusals|unparsable"
    r"|unreadable|(misaligned|dropped)_share(_30_50|_50_30)?|trait_score|without_letters"
    r"|bits_per_byte|brier(_score)?|ter)$"  # of lm-eval's tasks, as it says itself
)


# the likelihood of text that shows the habit, which turns the direction round
_OF_THE_HABIT = re.compile(r"^(trait_train|align_train_minus)(@[^/]+)?/(loss|perplexity|token_probability)$")


def less_is_better(metric: str) -> bool:
    """Return whether a lower value of a metric is better, judged by the end of its name: true of 'align_test/loss'.

    The habit's own text should be unlikely: of 'trait_train/loss' less is worse, of 'trait_train/token_probability'
    less is better.
    """
    return bool(_LESS_IS_BETTER.search(metric)) != bool(_OF_THE_HABIT.search(metric))


_VERSIONS = (
    "'' for the weights in training at that step; else the name of an edit of them ('steered', 'projected', or "
    "'key=value' for another value of a knob), or of a model on the way ('aligned')"
)


class TrainingRecord(BaseModel):
    """The record of a training run. Lists over evaluations start with epoch 0, the model before training."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    train_steps: list[int] = Field(default=[], description="optimizer steps at which the train_losses were read")
    train_losses: dict[str, list[float | None]] = Field(
        default={}, description="term -> mean since the reading before (unweighted); 'total': their weighted sum"
    )
    train_metrics: dict[str, list[float | None]] = Field(
        default={}, description="what else the strategy logged: name -> mean since the reading before"
    )
    eval_epochs: list[FiniteFloat] = Field(default=[], description="epochs finished at each evaluation")
    eval_steps: list[int] = Field(default=[], description="optimizer steps finished at each evaluation")
    eval_versions: list[str] = Field(default=[], description=_VERSIONS)
    eval_results: dict[str, dict[str, list[float | None]]] = Field(
        default={}, description="set -> metric -> one value per evaluation"
    )
    eval_digests: list[str] = Field(
        default=[], description="of each evaluation: hash of the answers ('' where there are none), ':', of the values"
    )
    missing: dict[str, str] = Field(default={}, description="'set/metric' -> why the last evaluation lacks it")
    samples: dict[str, list[Plain]] = Field(
        default={}, description="set -> answers of the last evaluation: prompt, reply, the base model's, the right one"
    )
    judge: dict[str, str] = Field(
        default={}, description="id of the judge, sha256 of its prompts, what counts as misaligned; {}: none"
    )
    per_question: dict[str, dict[str, dict[str, FiniteFloat]]] = Field(
        default={}, description="set of open questions -> id of a question -> metric -> value at the last evaluation"
    )
    flags: list[str] = Field(default=[], description="what makes the last evaluation doubtful, for people")
    notes: list[str] = Field(default=[], description="what to know of the evaluation before training, for people")
    chosen_rows: dict[str, list[int]] = Field(
        default={}, description="role -> rows of its source, from 0, that the strategy chose to train on; {}: all"
    )
    timings: dict[str, FiniteFloat] = Field(default={}, description="seconds, summed over resumes")
    tokens: dict[str, Whole] = Field(default={}, description="tokens trained on: 'processed' with padding, 'scored'")

    def metric(self, name: str | None, evaluation: int = -1) -> float | None:
        """Return 'set/metric' at an evaluation (0: before training, -1: the last one); None if it is missing."""
        if not name or "/" not in name:
            return None
        series = self.eval_results.get(name.split("/", 1)[0], {}).get(name.split("/", 1)[1], [])
        return finite(series[evaluation]) if -len(series) <= evaluation < len(series) else None

    def add_reading(self, step: int, losses: dict[str, float], metrics: dict[str, float]) -> None:
        """Append a reading of the training losses and metrics.

        Every series then has one value for each reading: None where a reading lacks the loss or metric.
        """
        before = len(self.train_steps)
        self.train_steps.append(step)
        for table, values in ((self.train_losses, losses), (self.train_metrics, metrics)):
            for name, value in values.items():
                table.setdefault(name, [None] * before).append(finite(value))
            for series in table.values():
                series += [None] * (before + 1 - len(series))

    def add_metrics(self, metrics: dict[str, float]) -> None:
        """Add metrics of the finished weights to the last reading."""
        for name, value in metrics.items():
            self.train_metrics.setdefault(name, [None] * len(self.train_steps))[-1] = finite(value)

    def add_evaluation(self, step: int, epoch: float, version: str, results: dict[str, dict[str, float]]) -> None:
        """Append an evaluation.

        Every series then has one value for each evaluation: None where an evaluation lacks the metric.

        Args:
            step: optimizer steps finished.
            epoch: epochs finished.
            version: '' for the weights in training, else the name of an edit or of an intermediate model.
            results: set -> metric -> value.
        """
        before = len(self.eval_steps)
        self.eval_steps.append(step)
        self.eval_epochs.append(epoch)
        self.eval_versions.append(version)
        for name, by_metric in results.items():
            for metric, value in by_metric.items():
                self.eval_results.setdefault(name, {}).setdefault(metric, [None] * before).append(finite(value))
        for by_metric in self.eval_results.values():
            for series in by_metric.values():
                series += [None] * (before + 1 - len(series))


class TrialResult(TrainingRecord):
    """One trial's results.json."""

    schema_version: Literal[1] = SCHEMA_VERSION
    trial_id: str = Field(description="content hash of everything that can change the result")
    slug: str = Field(description="readable name of the setting, shared by its seeds")
    seed: Whole
    status: StoredStatus
    error: str | None = Field(
        default=None,
        description="failed: the last lines of the traceback; diverged: what and where; stopped: why",
    )
    config: Config = Field(description="the full resolved trial config")
    capability: float | None = Field(default=None, description="in [0, 1], at the last evaluation", ge=0, le=1)
    alignment: float | None = Field(default=None, description="in [0, 1], at the last evaluation", ge=0, le=1)
    coherence: float | None = Field(default=None, description="in [0, 1], at the last evaluation", ge=0, le=1)
    alignment_worst: float | None = Field(
        default=None, description="the least alignment over evals.contexts, without a context included", ge=0, le=1
    )
    capability_metric: str | None = Field(default=None, description="'set/metric' in eval_results that capability is")
    alignment_metric: str | None = Field(default=None, description="'set/metric' in eval_results that alignment is")
    coherence_metric: str | None = Field(default=None, description="'set/metric' in eval_results that coherence is")
    alignment_worst_metric: str | None = Field(
        default=None,
        description="'set/metric' in eval_results that alignment_worst is, as align_test@worst/aligned",
    )
    num_resumes: int = Field(default=0, description="how often the trial went on from a checkpoint")
    num_rows: dict[str, Whole] = Field(
        default={},
        description="rows per training role and evaluation set; of a metric of fewer rows under its name, too",
    )
    row_lengths: dict[str, dict[str, Whole | FiniteFloat]] = Field(
        default={}, description="role -> number of rows, their lengths in tokens, those scored, rows that were cut"
    )
    hardware: Plain = {}
    versions: dict[str, str] = {}
    git_commit: str | None = None
    data_hashes: dict[str, str] = Field(default={}, description="role -> sha256 of its rows")
    changes: list[Annotated[Plain, AfterValidator(_with_step)]] = Field(
        default=[],
        description="strengths that a scheduler changed while it trained: step, and values by key; config has the last",
    )
    model_hash: str | None = None
    imported_from: str | None = Field(
        default=None, description="the file of the first generation that this was; steps that it did not say are -1"
    )
    model_path: str | None = Field(default=None, description="where the finished model was saved, when it was")
    model_url: str | None = Field(default=None, description="where the finished model was pushed, when it was")
    generation: Number | None = Field(
        default=None,
        description="number of its driver's lease on the sweep; a later driver's is higher",
    )
    attempt: Number | None = Field(
        default=None, description="how often that driver had handed the trial out, when this was written"
    )
    packed_with: list[str] = Field(
        default=[], description="names of the trials that its process had to run beside it; results differ by rounding"
    )
    started_at: str = Field(default_factory=now)
    updated_at: str = Field(default_factory=now)

    @field_validator(*SUMMARIES, mode="before")
    @classmethod
    def _no_nan(cls, value: Any) -> Any:
        return _finite_number(value)

    def value(self, name: str) -> float | None:
        """Return a headline or 'set/metric' at the last evaluation; None if it is missing or not finite."""
        return finite(getattr(self, name) if name in SUMMARIES else self.metric(name))

    def metric_of(self, name: str) -> str | None:
        """Return the 'set/metric' that is this trial's headline of that name; return any other name unchanged."""
        return getattr(self, f"{name}_metric") if name in SUMMARIES else name

    def readings(self) -> list[dict[str, float | None]]:
        """Return the evaluations of the weights in training, for schedulers and trackers; edits are left out.

        Each is {'epoch': 1.0, 'step': 10, 'capability': 0.6, ..., 'align_test/loss': 2.0, ...}; the first one is of
        the model before training.
        """
        evaluations: list[dict[str, float | None]] = []
        for i in (i for i, version in enumerate(self.eval_versions) if version == ""):
            names = [f"{name}/{metric}" for name, by_metric in self.eval_results.items() for metric in by_metric]
            named = [*HEADLINES, *(["alignment_worst"] if self.alignment_worst_metric else [])]
            headlines = {name: self.metric(self.metric_of(name), i) for name in named}
            times = {"epoch": self.eval_epochs[i], "step": self.eval_steps[i]}
            evaluations.append({**times, **headlines, **{name: self.metric(name, i) for name in names}})
        return evaluations

    def publish(self, folder: Folder) -> None:
        """Write results.json to the trial's folder, atomically, whatever is there. Raises StorageError."""
        folder.write(FILE_NAME, self.content())

    def content(self) -> bytes:
        """Return what results.json holds, and note the time as that of the update."""
        self.updated_at = now()
        content = self.model_dump(mode="json")
        order = ["schema_version", "trial_id", "slug", "seed", "status", "error", *HEADLINES, "flags", *content]
        return to_json({key: content[key] for key in order})  # people look at the first keys


def same_training(one: TrialResult, other: TrialResult) -> bool:
    """Return whether two results have equal losses and evaluations, to the last digit: one training under two names."""
    return bool(one.train_losses) and (one.train_losses, one.eval_results) == (other.train_losses, other.eval_results)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of results.json."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **TrialResult.model_json_schema()}


class ResultHead(BaseModel):
    """The part of a results.json that a plan needs: the trial and how it ended. Parsing it is ten times as fast.

    Its headlines are there to be refused where `TrialResult` refuses them.
    """

    schema_version: Literal[1]
    trial_id: str
    slug: str
    seed: Whole
    status: StoredStatus
    error: str | None = None
    config: ReadKeys = Field(exclude=True)
    generation: Number | None = None
    attempt: Number | None = None
    capability: float | None = Field(default=None, ge=0, le=1)
    alignment: float | None = Field(default=None, ge=0, le=1)
    coherence: float | None = Field(default=None, ge=0, le=1)

    @field_validator(*HEADLINES, mode="before")
    @classmethod
    def _no_nan(cls, value: Any) -> Any:
        return _finite_number(value)


def flatten(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested dict as a flat one with dotted keys: {'a': {'b': 1}} becomes {'a.b': 1}; lists stay values."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
