"""Read the results of a sweep, of either generation, as objects or as a table."""

from __future__ import annotations

import functools
import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import ValidationError

from selgen_ray.errors import StorageAwayError, StorageError, nearest
from selgen_ray.records.names import NAMES, is_slug, is_trial_id, is_trial_name
from selgen_ray.records.results import FILE_NAME, SUMMARIES, ResultHead, TrialResult, flatten
from selgen_ray.records.status import PREFERENCE, STORED, TrialStatus
from selgen_ray.records.text import first_line
from selgen_ray.storage import Folder
from selgen_ray.storage.parallel import in_parallel

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)
_ATTRIBUTES = (
    *("trial_id", "slug", "seed", "status", *SUMMARIES, *(f"{name}_metric" for name in SUMMARIES)),
    *("num_resumes", "error", "updated_at", "imported_from"),
)
_NUMBERS = (*SUMMARIES, *(f"base_{name}" for name in SUMMARIES))
_NUMBERS_OF = ("eval.", "timings.")
_DERIVED = ("proxy_strategy", *(f"base_{name}" for name in SUMMARIES), "folder", "label")
_ALL = "all"


@functools.cache
def _keys_of_every_trial() -> tuple[frozenset[str], frozenset[str]]:
    """Return the dotted config keys that every trial has, and those of them that make no setting (paths, seeds)."""
    from selgen_ray.config.finetune import FinetuneConfig  # late: start-up, a report that draws no table needs none
    from selgen_ray.config.trial import TrialConfig

    fields = {
        f"{section}{name}": info
        for section, model in (("", TrialConfig), ("finetune_config.", FinetuneConfig))
        for name, info in model.model_fields.items()
    }
    execution = {
        key
        for key, info in fields.items()
        if isinstance(info.json_schema_extra, dict) and info.json_schema_extra.get("identity") is False
    }
    return frozenset(fields), frozenset(execution | {"data_seed", "model_seed"})


def _trial_row(folder: Folder, result: TrialResult, label: str) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(result, name) for name in _ATTRIBUTES}
    base = (result.metric(result.metric_of(name), 0) for name in SUMMARIES)
    row |= zip(_DERIVED, (result.config.get("proxy_strategy"), *base, str(folder), label), strict=True)
    row |= {f"timings.{k}": v for k, v in result.timings.items()}
    row |= {f"tokens.{k}": v for k, v in result.tokens.items()}
    # a list is written out: one column must not hold lists beside texts
    config = {k: json.dumps(v) if isinstance(v, list) else v for k, v in flatten(result.config).items()}
    knobs = {k.removeprefix("finetune_config."): v for k, v in config.items() if _is_knob(k)}
    row |= {name: value for name, value in knobs.items() if name not in row}
    return row | {f"config.{k}": v for k, v in config.items()}


def _is_knob(key: str) -> bool:
    """Whether a dotted config key belongs to a strategy, or to a plugin, rather than to every trial."""
    head, _, rest = key.partition(".")
    section, _, _ = rest.partition(".")
    shared, _ = _keys_of_every_trial()
    return head not in shared or (head == "finetune_config" and f"{head}.{section}" not in shared)


def load_results(
    path: str | Folder, per: Literal["trial", "epoch"] = "trial", status: str | Iterable[str] = TrialStatus.COMPLETED
) -> pd.DataFrame:
    """Return a sweep's results as a table: those of completed trials, unless others are asked for.

    Args:
        path: the sweep folder, a path or URI.
        per: 'trial': one row a trial with its last evaluation; 'epoch': one row a trial and evaluation.
        status: 'completed', 'diverged', 'stopped', 'failed', 'running' (or cut off), several of them, or 'all'.

    Returns:
        Columns trial_id, slug, seed, status, proxy_strategy, capability, alignment, coherence, ..., 'config.<key>',
        'label' (the setting: its strategy, and in what it differs from others of that strategy), the knobs of
        strategies by their short names ('beta_kl' beside 'config.finetune_config.beta_kl'), and one
        'eval.<set>.<metric>' for each metric; per='epoch' adds 'epoch', 'step' and 'version'. Headlines, metrics and
        timings are float64, NaN where there is no value, whatever the trials; seeds and steps are int64.
        Rows with a version other than '' are edits or models on the way, no epochs of training.
        Columns and labels are those of all trials, whatever their status; whoever asks for others than completed
        ones and averages must look at `status`.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: a status that there is not.
        StorageError: the folder cannot be read. A results.json that is damaged is left out, and logged.
    """
    wanted = _statuses(status)
    folder = path if isinstance(path, Folder) else Folder(str(path))
    if not folder.exists():
        raise FileNotFoundError(f"no sweep folder at {folder}")
    table = as_table(read_trials(folder), per)
    return table.loc[table["status"].isin(wanted)].reset_index(drop=True)


def _statuses(status: str | Iterable[str]) -> list[str]:
    names = [status] if isinstance(status, str) else list(status)
    for name in names:
        if name not in (*STORED, _ALL):
            known = [*map(str, STORED), _ALL]
            raise ValueError(f"status {name!r}; allowed: {', '.join(known)}, or a list.{nearest(name, known)}")
    return [str(name) for name in (STORED if _ALL in names else names)]


def as_table(found: Iterable[tuple[Folder, TrialResult]], per: Literal["trial", "epoch"] = "trial") -> pd.DataFrame:
    """Return the table of `load_results` from results that were already read."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    results = list(found)
    labels = _labels(result for _, result in results)
    for folder, result in results:
        row = _trial_row(folder, result, labels[result.slug])
        if per == "trial":
            rows.append(row | _metrics(result, -1))
        else:
            rows += [row | _evaluation(result, i) | _metrics(result, i) for i in range(len(result.eval_epochs))]
    table = pd.DataFrame(rows, columns=None if rows else [*_ATTRIBUTES, *_DERIVED])
    numbers = [name for name in table.columns if name in _NUMBERS or name.startswith(_NUMBERS_OF)]
    return table.astype(dict.fromkeys(numbers, float))  # float64 also in columns without any value


def _labels(results: Iterable[TrialResult]) -> dict[str, str]:
    """Slug -> 'kl_divergence beta_kl=10': the strategy, and the values that differ between settings of it."""
    configs = {result.slug: flatten(result.config) for result in results}
    labels: dict[str, str] = {}
    for strategy in dict.fromkeys(config.get("proxy_strategy") for config in configs.values()):
        group = {slug: config for slug, config in configs.items() if config.get("proxy_strategy") == strategy}
        keys = dict.fromkeys(key for config in group.values() for key in config if key not in _keys_of_every_trial()[1])
        varying = [key for key in keys if len({repr(config.get(key)) for config in group.values()}) > 1]
        for slug, config in group.items():
            values = (f"{key.rpartition('.')[2]}={_short(config[key])}" for key in varying if key in config)
            labels[slug] = " ".join([str(strategy), *values])
    counts = Counter(labels.values())
    return {slug: label if counts[label] == 1 else slug for slug, label in labels.items()}


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


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
        **{name: result.metric(result.metric_of(name), i) for name in SUMMARIES},
    }


R = TypeVar("R", ResultHead, TrialResult)
_BATCH = 512  # files read at once
# folders without results that may hold many files
NOT_IN = ("attempts", "cache", "checkpoints", "control", "model")


@dataclass(frozen=True)
class Unreadable:
    """A results.json that cannot be read.

    Attributes:
        folder: the folder that holds it.
        why: what is wrong with it, in one line.
        trial_id: the trial that the file names, as far as it can be read; '' if it names none.
        name: '<slug>/seed_<N>' if it lies where a trial's result does; '' elsewhere.
    """

    folder: Folder
    why: str
    trial_id: str = ""
    name: str = ""

    def __str__(self) -> str:
        return f"{self.folder / FILE_NAME} cannot be read: {self.why}"


def _read_all(sweep: Folder, kind: type[R], unreadable: list[Unreadable] | None) -> Iterator[tuple[Folder, R]]:
    """Yield the results; add damaged files to `unreadable`, or warn of each where it is None."""
    paths = sweep.find(FILE_NAME, leave_out=NOT_IN)
    for start in range(0, len(paths), _BATCH):
        batch = paths[start : start + _BATCH]
        for path, content in zip(batch, in_parallel(functools.partial(_content, sweep), batch), strict=True):
            folder = sweep / path.rpartition("/")[0]
            if content is None:  # deleted meanwhile
                continue
            try:
                if isinstance(content, StorageError):
                    raise content
                yield from ((folder, result) for result in _parsed(folder, content, kind))
            except StorageError as error:
                damaged = _damaged(path, folder, b"" if isinstance(content, StorageError) else content, error)
                if unreadable is None:
                    logger.warning("%s", damaged)
                else:
                    unreadable.append(damaged)


def _content(sweep: Folder, path: str) -> bytes | StorageError | None:
    """Return a file's bytes, None if it is gone, or why this one file is refused; a storage that is away raises."""
    try:
        return sweep.read(path)
    except FileNotFoundError:
        return None
    except StorageAwayError:
        raise
    except StorageError as error:
        return error


def _parsed(folder: Folder, content: bytes, kind: type[R]) -> list[R]:
    """Return the result that a file holds, [] if it is one of a throw-away training. Raises StorageError."""
    try:
        result = kind.model_validate_json(content)
    except ValidationError as error:
        if b'"experiment_config"' in content:
            return list(_of_first_generation(folder / FILE_NAME, content, kind))
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise StorageError(f"it is not a trial's result: {where + ': ' if where else ''}{first['msg']}") from error
    if not (is_trial_id(result.trial_id) and is_slug(result.slug)):
        raise StorageError(f"it is of no trial: found id {result.trial_id!r:.80}, slug {result.slug!r:.80}; {NAMES}")
    return [result]


_ID_IN_TEXT = re.compile(rb'"trial_id"\s*:\s*"([0-9a-f]{16})"')


def _damaged(path: str, folder: Folder, content: bytes, error: StorageError) -> Unreadable:
    match = _ID_IN_TEXT.search(content)
    name = "/".join(path.split("/")[:2])
    why = str(error).removeprefix(f"{folder / FILE_NAME}").lstrip(": ")
    return Unreadable(folder, why, match[1].decode() if match else "", name if is_trial_name(name) else "")


def _of_first_generation(path: Folder, content: bytes, kind: type[R]) -> Iterator[R]:
    """Yield the result if the first generation wrote it; a throw-away training was no trial, and yields nothing."""
    from selgen_ray.first_generation.results import of_preparation, old_result  # late: it takes seconds to import

    if not of_preparation(str(path)):
        try:
            result = old_result(content.decode(), str(path)).model_dump(include=set(kind.model_fields))
            if not is_slug(result["slug"]):
                raise ValueError(f"found slug {result['slug']!r:.80}; {NAMES}")
            yield kind.model_validate(result)
        except Exception as error:  # of many kinds: nothing is known of the types in such a file
            raise StorageError(f"it is no result of the first generation: {first_line(error)}") from error


def one_each(
    results: Iterable[tuple[Folder, R]], others: list[tuple[Folder, R]] | None = None
) -> list[tuple[Folder, R]]:
    """Return one result for each trial id: the one whose status comes first in `PREFERENCE`, of those the first.

    Args:
        others: gets the results of these trials that are not returned.
    """
    kept: dict[str, tuple[Folder, R]] = {}
    left: list[tuple[Folder, R]] = []
    for folder, result in results:
        rival = kept.get(result.trial_id)
        if rival is None or PREFERENCE.index(result.status) < PREFERENCE.index(rival[1].status):
            left += [rival] if rival else []
            kept[result.trial_id] = (folder, result)
        else:
            left.append((folder, result))
    if others is not None:
        others += left
    return list(kept.values())


def read_sweep(sweep: Folder, unreadable: list[Unreadable] | None = None) -> Iterable[tuple[Folder, TrialResult]]:
    """Yield every result below a sweep folder, with the folder of its results.json, in the order of the paths.

    Args:
        unreadable: gets the files that are damaged, which yield nothing; None: they are only logged.

    Raises:
        StorageError: the folder cannot be read.
    """
    return _read_all(sweep, TrialResult, unreadable)


def read_trials(
    *sweeps: Folder,
    unreadable: list[Unreadable] | None = None,
    others: list[tuple[Folder, TrialResult]] | None = None,
) -> list[tuple[Folder, TrialResult]]:
    """Return the results of one or more sweeps, one for each trial id, with their folders.

    `unreadable` and errors are as in `read_sweep`, `others` is as in `one_each`.
    """
    return one_each((pair for sweep in sweeps for pair in read_sweep(sweep, unreadable)), others)


def every_head(sweep: Folder, unreadable: list[Unreadable] | None = None) -> list[tuple[Folder, ResultHead]]:
    """Return the results of `read_sweep` without their measurements, which is ten times as fast."""
    return list(_read_all(sweep, ResultHead, unreadable))


def read_heads(sweep: Folder, unreadable: list[Unreadable] | None = None) -> list[tuple[Folder, ResultHead]]:
    """Return the same trials as `read_trials` without their measurements, which is ten times as fast."""
    return one_each(_read_all(sweep, ResultHead, unreadable))
