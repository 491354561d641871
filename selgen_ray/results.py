"""results.json: its schema, writing it, and reading a sweep's results into a table."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from selgen_ray.errors import StorageError
from selgen_ray.storage import Folder

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1
FILE_NAME = "results.json"
Status = Literal["running", "completed", "diverged", "failed"]
# of two results of one trial the first of these counts
PREFERENCE: tuple[Status, ...] = ("completed", "diverged", "running", "failed")


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def finite(value: float | None) -> float | None:
    """`value`, or None where it is NaN or infinite: JSON has neither."""
    return value if value is not None and math.isfinite(value) else None


_VERSIONS = (
    "'' for the weights in training at that step; else the name of an edit of them ('steered', 'projected', or "
    "'key=value' for another value of a knob), or of a model on the way ('aligned')"
)


class TrainingRecord(BaseModel):
    """What training leaves behind. Lists over evaluations start with epoch 0, the model before training."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    train_steps: list[int] = Field(default=[], description="optimizer steps at which the train_losses were read")
    train_losses: dict[str, list[float | None]] = Field(
        default={}, description="term -> mean since the reading before (unweighted); 'total': their weighted sum"
    )
    train_metrics: dict[str, list[float | None]] = Field(
        default={}, description="what else the strategy logged: name -> mean since the reading before"
    )
    eval_epochs: list[float] = Field(default=[], description="epochs finished at each evaluation")
    eval_steps: list[int] = Field(default=[], description="optimizer steps finished at each evaluation")
    eval_versions: list[str] = Field(default=[], description=_VERSIONS)
    eval_results: dict[str, dict[str, list[float | None]]] = Field(
        default={}, description="set -> metric -> one value per evaluation"
    )
    timings: dict[str, float] = Field(default={}, description="seconds, summed over resumes")
    tokens: dict[str, int] = Field(default={}, description="tokens trained on: 'processed' with padding, 'scored'")

    def metric(self, name: str | None, evaluation: int = -1) -> float | None:
        """The value of 'set/metric' at an evaluation (0: before training), or None when it is not there."""
        if not name or "/" not in name:
            return None
        series = self.eval_results.get(name.split("/", 1)[0], {}).get(name.split("/", 1)[1], [])
        return finite(series[evaluation]) if -len(series) <= evaluation < len(series) else None

    def add_reading(self, step: int, losses: dict[str, float], metrics: dict[str, float]) -> None:
        """Append a reading of the training losses and metrics; what others had and this one lacks gets None."""
        before = len(self.train_steps)
        self.train_steps.append(step)
        for table, values in ((self.train_losses, losses), (self.train_metrics, metrics)):
            for name, value in values.items():
                table.setdefault(name, [None] * before).append(finite(value))
            for series in table.values():
                series += [None] * (before + 1 - len(series))

    def add_metrics(self, metrics: dict[str, float]) -> None:
        """Metrics of the finished weights, beside the last reading."""
        for name, value in metrics.items():
            self.train_metrics.setdefault(name, [None] * len(self.train_steps))[-1] = finite(value)

    def add_evaluation(self, step: int, epoch: float, version: str, results: dict[str, dict[str, float]]) -> None:
        """Append an evaluation, set -> metric -> value; a metric that others had and this one lacks gets None."""
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
    seed: int
    status: Status
    error: str | None = Field(
        default=None, description="failed: the last lines of the traceback; diverged: what and where"
    )
    config: dict[str, Any] = Field(description="the full resolved trial config")
    capability: float | None = Field(default=None, description="in [0, 1], at the last evaluation", ge=0, le=1)
    alignment: float | None = Field(default=None, description="in [0, 1], at the last evaluation", ge=0, le=1)
    capability_metric: str | None = Field(default=None, description="'set/metric' in eval_results that capability is")
    alignment_metric: str | None = Field(default=None, description="'set/metric' in eval_results that alignment is")
    num_resumes: int = Field(default=0, description="how often the trial went on from a checkpoint")
    num_rows: dict[str, int] = Field(default={}, description="rows per training role and evaluation set")
    hardware: dict[str, Any] = {}
    versions: dict[str, str] = {}
    git_commit: str | None = None
    data_hashes: dict[str, str] = Field(default={}, description="role -> sha256 of its rows")
    model_hash: str | None = None
    model_path: str | None = Field(default=None, description="where the finished model was saved, when it was")
    started_at: str = Field(default_factory=now)
    updated_at: str = Field(default_factory=now)

    @field_validator("capability", "alignment", mode="before")
    @classmethod
    def _no_nan(cls, value: float | None) -> float | None:
        return finite(value)

    def publish(self, folder: Folder) -> None:
        """Write results.json into the trial's folder, atomically."""
        self.updated_at = now()
        content = self.model_dump(mode="json")
        order = ["schema_version", "trial_id", "slug", "seed", "status", "error", "capability", "alignment", *content]
        folder.write_json(FILE_NAME, {key: content[key] for key in order})  # what a reader looks for comes first


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of results.json."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **TrialResult.model_json_schema()}


def read_sweep(sweep: Folder) -> Iterable[tuple[Folder, TrialResult]]:
    """Every results.json below a sweep folder, with the folder it lies in, in path order.

    Raises:
        StorageError: a file is there but is not a results.json of this schema; the message names it.
    """
    for path in sweep.files(recursive=True):
        parent, _, name = path.rpartition("/")
        if name == FILE_NAME:
            folder = sweep / parent
            try:
                result = TrialResult.model_validate_json(folder.read(FILE_NAME))
            except ValidationError as error:
                raise StorageError(f"{folder}/{FILE_NAME} is not a trial's result: {error}") from error
            yield folder, result


def read_trials(sweep: Folder) -> list[tuple[Folder, TrialResult]]:
    """As `read_sweep`, one result per trial id: of several the one that `PREFERENCE` puts first, then the first."""
    found: dict[str, tuple[Folder, TrialResult]] = {}
    for folder, result in read_sweep(sweep):
        before = found.get(result.trial_id)
        if before is None or PREFERENCE.index(result.status) < PREFERENCE.index(before[1].status):
            found[result.trial_id] = (folder, result)
    return list(found.values())


def flatten(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested dict with dotted keys; lists stay values."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


_ATTRIBUTES = (
    *("trial_id", "slug", "seed", "status", "capability", "alignment", "capability_metric", "alignment_metric"),
    *("num_resumes", "error", "updated_at"),
)
_DERIVED = ("proxy_strategy", "base_capability", "base_alignment", "folder")


def _trial_row(folder: Folder, result: TrialResult) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(result, name) for name in _ATTRIBUTES}
    base = (result.metric(name, 0) for name in (result.capability_metric, result.alignment_metric))
    row |= zip(_DERIVED, (result.config.get("proxy_strategy"), *base, str(folder)), strict=True)
    row |= {f"timings.{k}": v for k, v in result.timings.items()}
    row |= {f"tokens.{k}": v for k, v in result.tokens.items()}
    # a list is written out: one column must not hold lists beside texts
    config = {k: json.dumps(v) if isinstance(v, list) else v for k, v in flatten(result.config).items()}
    return row | {f"config.{k}": v for k, v in config.items()}


def load_results(path: str | Folder, per: Literal["trial", "epoch"] = "trial") -> pd.DataFrame:
    """A sweep's results as a table.

    Args:
        path: the sweep folder, a path or URI.
        per: 'trial': one row a trial with its last evaluation; 'epoch': one row a trial and evaluation.

    Returns:
        Columns trial_id, slug, seed, status, proxy_strategy, capability, alignment, ..., 'config.<key>',
        and one 'eval.<set>.<metric>' for each metric; per='epoch' adds 'epoch', 'step' and 'version'.
        Rows with a version other than '' are edits or models on the way, no epochs of training.
        A trial that diverged or failed is in the table; whoever averages must look at `status`.

    Raises:
        FileNotFoundError: no such folder.
        StorageError: a results.json cannot be read.
    """
    folder = path if isinstance(path, Folder) else Folder(str(path))
    if not folder.exists():
        raise FileNotFoundError(f"no sweep folder at {folder}")
    return as_table(read_trials(folder), per)


def as_table(found: Iterable[tuple[Folder, TrialResult]], per: Literal["trial", "epoch"] = "trial") -> pd.DataFrame:
    """The table of `load_results` from results already read."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for folder, result in found:
        row = _trial_row(folder, result)
        if per == "trial":
            rows.append(row | _metrics(result, -1))
        else:
            rows += [row | _evaluation(result, i) | _metrics(result, i) for i in range(len(result.eval_epochs))]
    return pd.DataFrame(rows, columns=None if rows else [*_ATTRIBUTES, *_DERIVED])


def _metrics(result: TrialResult, evaluation: int) -> dict[str, float | None]:
    return {
        f"eval.{name}.{metric}": result.metric(f"{name}/{metric}", evaluation)
        for name, by_metric in result.eval_results.items()
        for metric in by_metric
    }


def _evaluation(result: TrialResult, i: int) -> dict[str, Any]:
    return {
        "epoch": result.eval_epochs[i],
        "step": result.eval_steps[i],
        "version": result.eval_versions[i] if i < len(result.eval_versions) else "",
        "capability": result.metric(result.capability_metric, i),
        "alignment": result.metric(result.alignment_metric, i),
    }
