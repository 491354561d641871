"""A sweep's results as a table."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from selgen_ray.results import HEADLINES, TrialResult, flatten, read_trials
from selgen_ray.storage import Folder

if TYPE_CHECKING:
    import pandas as pd

_ATTRIBUTES = (
    *("trial_id", "slug", "seed", "status", *HEADLINES, *(f"{name}_metric" for name in HEADLINES)),
    *("num_resumes", "error", "updated_at", "imported_from"),
)
_NUMBERS = (*HEADLINES, *(f"base_{name}" for name in HEADLINES))
_NUMBERS_OF = ("eval.", "timings.")
_DERIVED = ("proxy_strategy", *(f"base_{name}" for name in HEADLINES), "folder")


def _trial_row(folder: Folder, result: TrialResult) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(result, name) for name in _ATTRIBUTES}
    base = (result.metric(result.metric_of(name), 0) for name in HEADLINES)
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
        Columns trial_id, slug, seed, status, proxy_strategy, capability, alignment, coherence, ..., 'config.<key>',
        and one 'eval.<set>.<metric>' for each metric; per='epoch' adds 'epoch', 'step' and 'version'. Headlines,
        metrics and timings are float64, NaN where there is no value, whatever the trials; seeds and steps are int64.
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
    table = pd.DataFrame(rows, columns=None if rows else [*_ATTRIBUTES, *_DERIVED])
    numbers = [name for name in table.columns if name in _NUMBERS or name.startswith(_NUMBERS_OF)]
    return table.astype(dict.fromkeys(numbers, float))  # also where nobody has a value


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
        **{name: result.metric(result.metric_of(name), i) for name in HEADLINES},
    }
