"""Read the results of a sweep, of either generation, as objects or as a table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import ValidationError

from selgen_ray.errors import StorageError
from selgen_ray.records.results import FILE_NAME, HEADLINES, ResultHead, TrialResult, flatten
from selgen_ray.records.status import PREFERENCE
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
    """Return a sweep's results as a table.

    Args:
        path: the sweep folder, a path or URI.
        per: 'trial': one row for each trial, with its last evaluation; 'epoch': one row for each evaluation of each
            trial.

    Returns:
        Columns trial_id, slug, seed, status, proxy_strategy, capability, alignment, coherence, ..., 'config.<key>',
        and one 'eval.<set>.<metric>' for each metric; per='epoch' adds 'epoch', 'step' and 'version'. Headlines,
        metrics and timings are always float64, with NaN where there is no value; seeds and steps are int64.
        Rows with a version other than '' are evaluations of edited weights or of intermediate models, not epochs of
        training. Trials that diverged or failed are in the table too: filter by `status` before you average.

    Raises:
        FileNotFoundError: no such folder.
        StorageError: a results.json cannot be read.
    """
    folder = path if isinstance(path, Folder) else Folder(str(path))
    if not folder.exists():
        raise FileNotFoundError(f"no sweep folder at {folder}")
    return as_table(read_trials(folder), per)


def as_table(found: Iterable[tuple[Folder, TrialResult]], per: Literal["trial", "epoch"] = "trial") -> pd.DataFrame:
    """Return the table of `load_results` from results that were already read."""
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
    return table.astype(dict.fromkeys(numbers, float))  # float64 also in columns without any value


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


R = TypeVar("R", ResultHead, TrialResult)
_BATCH = 512  # files read at once
# folders without results that may hold many files
NOT_IN = ("cache", "checkpoints", "control", "model")


def _read_all(sweep: Folder, kind: type[R]) -> Iterator[tuple[Folder, R]]:
    paths = sweep.find(FILE_NAME, leave_out=NOT_IN)
    for start in range(0, len(paths), _BATCH):
        batch = paths[start : start + _BATCH]
        for path, content in zip(batch, sweep.read_many(batch), strict=True):
            folder = sweep / path.rpartition("/")[0]
            if content is None:  # deleted meanwhile
                continue
            try:
                yield folder, kind.model_validate_json(content)
            except ValidationError as error:
                if b'"experiment_config"' not in content:
                    raise StorageError(f"{folder / FILE_NAME} is not a trial's result: {error}") from error
                yield from ((folder, old) for old in _of_first_generation(folder / FILE_NAME, content, kind))


def _of_first_generation(path: Folder, content: bytes, kind: type[R]) -> Iterator[R]:
    """Yield the result if the first generation wrote it; a throw-away training was no trial, and yields nothing."""
    from selgen_ray.first_generation.results import of_preparation, old_result  # late: it takes seconds to import

    if not of_preparation(str(path)):
        result = old_result(content.decode(), str(path)).model_dump(include=set(kind.model_fields))
        yield kind.model_validate(result)


def _one_each(results: Iterable[tuple[Folder, R]]) -> list[tuple[Folder, R]]:
    kept: dict[str, tuple[Folder, R]] = {}
    for folder, result in results:
        rival = kept.get(result.trial_id)
        if rival is None or PREFERENCE.index(result.status) < PREFERENCE.index(rival[1].status):
            kept[result.trial_id] = (folder, result)
    return list(kept.values())


def read_sweep(sweep: Folder) -> Iterable[tuple[Folder, TrialResult]]:
    """Yield every result below a sweep folder, with the folder of its results.json, in the order of the paths.

    Raises:
        StorageError: a results.json does not follow the schema; the message names the file.
    """
    return _read_all(sweep, TrialResult)


def read_trials(*sweeps: Folder) -> list[tuple[Folder, TrialResult]]:
    """Return the results of one or more sweeps, one for each trial id, with their folders.

    Of several results of a trial the one whose status comes first in `PREFERENCE` is kept; of those the first one read.

    Raises:
        StorageError: as `read_sweep`.
    """
    return _one_each(pair for sweep in sweeps for pair in read_sweep(sweep))


def read_heads(sweep: Folder) -> list[tuple[Folder, ResultHead]]:
    """Return the same trials as `read_trials` without their measurements, which is ten times as fast.

    Raises:
        StorageError: as `read_sweep`.
    """
    return _one_each(_read_all(sweep, ResultHead))
