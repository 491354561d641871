"""The details of a trial that the page shows on a click: config, curves, samples, events; packed to fit in one file."""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from selgen_ray.records.names import trial_name
from selgen_ray.records.results import TrialResult, flatten
from selgen_ray.records.status import TrialStatus
from selgen_ray.report.places import Places
from selgen_ray.storage import Folder

MOST_POINTS = 200
_CHUNK = 24  # trials packed together: opening one of them unpacks all
_ALL_SAMPLES = 300  # with more trials than this, only a few have their samples on the page
_MOST_SAMPLES = 8  # of each evaluation set
_MOST_EVENTS = 100
_MANY = 20  # from so many values on numpy is faster
_PLAIN = 0.1  # from here on six decimals are at least five significant digits


def rounded(value: float | None) -> float | None:
    """Round to five significant digits, or six decimals from 0.1 on, all that a picture shows; None if not finite."""
    if value is None or not math.isfinite(value):
        return None
    if value >= _PLAIN or value <= -_PLAIN:
        return round(value, 6)  # several times as fast as formatting, and there are millions of values
    return float(f"{value:.5g}")


def shortened(values: Sequence[float | None]) -> list[float | None]:
    """Round each value to five significant digits; None if not finite. Many at once are several times as fast."""
    if len(values) < _MANY:
        return [rounded(value) for value in values]
    array = np.array(values, dtype=float)
    good = np.isfinite(array) & (array != 0)
    scale = 10.0 ** (4 - np.floor(np.log10(np.abs(array, where=good, out=np.ones_like(array)))))
    short = np.where(good, np.round(array * scale) / scale, array)
    return [value if math.isfinite(value) else None for value in short.tolist()]


def thinned(length: int, most: int = MOST_POINTS) -> list[int]:
    """Return at most `most` indices of a list, evenly spread, with the first and the last."""
    if length <= most:
        return list(range(length))
    return sorted({round(i * (length - 1) / (most - 1)) for i in range(most)})


def packed(details: Sequence[Mapping[str, Any]]) -> list[str]:
    """Pack details in groups, each as base64 of gzip of JSON, which a browser unpacks when it needs them.

    Raises:
        ValueError: a number is NaN or infinite.
    """

    def pack(start: int) -> str:
        text = json.dumps(details[start : start + _CHUNK], separators=(",", ":"), allow_nan=False)
        return base64.b64encode(gzip.compress(text.encode(), compresslevel=2, mtime=0)).decode()

    with ThreadPoolExecutor() as pool:  # zlib releases the GIL
        return list(pool.map(pack, range(0, len(details), _CHUNK)))


def place_of(number: int) -> tuple[int, int]:
    """Return (group, index in the group) of a trial's details, by its number among all trials."""
    return divmod(number, _CHUNK)


def details_of(
    found: Sequence[tuple[Folder, TrialResult]],
    base: Mapping[str, Any],
    events: Mapping[str, Sequence[Mapping[str, Any]]],
    with_samples: frozenset[str],
    places: Places,
) -> list[dict[str, Any]]:
    """Return the details of each trial, in order; what models answered is as it was, all else without paths.

    Args:
        found: the folder and the result of each trial.
        base: dotted key -> value: the config that each trial's own is compared with.
        events: trial name -> its events.
        with_samples: ids of the trials whose samples are needed however many trials there are.
        places: takes paths out.
    """
    everyone = len(found) <= _ALL_SAMPLES
    return [
        _details(folder, result, base, events, everyone or result.trial_id in with_samples, places)
        for folder, result in found
    ]


def _details(
    folder: Folder,
    result: TrialResult,
    base: Mapping[str, Any],
    events: Mapping[str, Sequence[Mapping[str, Any]]],
    with_samples: bool,
    places: Places,
) -> dict[str, Any]:
    flat = flatten(result.config)
    diff = [[key, base.get(key), value] for key, value in flat.items() if key not in base or base[key] != value]
    return {
        "diff": places.anywhere(diff),
        "lacks": [key for key in base if key not in flat],
        "losses": _curves(result.train_steps, result.train_losses),
        "metrics": _curves(result.train_steps, result.train_metrics),
        "evals": _evaluations(result),
        "samples": {name: samples[:_MOST_SAMPLES] for name, samples in result.samples.items()}
        if with_samples
        else None,
        "events": places.anywhere(list(events.get(trial_name(result.slug, result.seed), ()))[-_MOST_EVENTS:]),
        "facts": places.anywhere(_facts(folder, result)),
        "flags": places.anywhere(result.flags),
        "missing": places.anywhere(result.missing),
        "error": places.anywhere(result.error),
        "versions": result.versions,
        "hardware": result.hardware,
    }


def _curves(steps: Sequence[int], table: Mapping[str, Sequence[float | None]]) -> dict[str, Any]:
    places = thinned(len(steps))
    return {
        "steps": [steps[i] for i in places],
        "of": {name: shortened([series[i] for i in places if i < len(series)]) for name, series in table.items()},
    }


def _evaluations(result: TrialResult) -> dict[str, Any]:
    places = thinned(len(result.eval_epochs))
    versions = result.eval_versions
    return {
        "epochs": [rounded(result.eval_epochs[i]) for i in places],
        "versions": [versions[i] if i < len(versions) else "" for i in places],
        "of": {
            f"{name}/{metric}": shortened([series[i] if i < len(series) else None for i in places])
            for name, by_metric in result.eval_results.items()
            for metric, series in by_metric.items()
        },
    }


def _facts(folder: Folder, result: TrialResult) -> dict[str, Any]:
    """Return what is neither a curve nor the config: checkpoints, times, sizes, hashes."""
    ended = result.status in (TrialStatus.COMPLETED, TrialStatus.DIVERGED)
    checkpoints = "deleted, since the trial is over" if ended else f"{folder}/checkpoints, until the trial is over"
    return {
        "folder": str(folder),
        "checkpoints": checkpoints,
        "resumed from a checkpoint": f"{result.num_resumes} times",
        "saved model": result.model_path or "not saved",
        **{f"{name.removesuffix('_s')} seconds": rounded(s) for name, s in result.timings.items()},
        **{f"tokens {name}": n for name, n in result.tokens.items()},
        **{f"rows {name}": n for name, n in result.num_rows.items()},
        **{f"sha256 of {role}": digest[:16] for role, digest in result.data_hashes.items()},
        "model hash": (result.model_hash or "unknown")[:16],
        "git commit": result.git_commit or "unknown",
        "imported from": result.imported_from or "",
        "started": result.started_at,
        "updated": result.updated_at,
        "trial id": result.trial_id,
    }


def common_config(trials: Iterable[TrialResult], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config that trials are compared with: the values they have in common, else those of `base`.

    Args:
        given: `base` of the search space, dotted key -> value. A value that no trial has (a path, which is resolved)
            does not count.

    Returns:
        Dotted key -> value. A key on which trials differ is missing where `base` does not settle it.
    """
    values: dict[str, dict[str, Any]] = defaultdict(dict)
    for result in trials:
        for key, value in flatten(result.config).items():
            values[key][repr(value)] = value
    common = {key: next(iter(by_text.values())) for key, by_text in values.items() if len(by_text) == 1}
    from_base = {
        key: by_text[repr(given[key])]
        for key, by_text in values.items()
        if len(by_text) > 1 and key in given and repr(given[key]) in by_text
    }
    return common | from_base
