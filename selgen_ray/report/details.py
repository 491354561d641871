"""What a trial's own page shows: config, curves, samples, events; packed so that thousands fit in one file."""

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
from selgen_ray.storage import Folder

MOST_POINTS = 200
_CHUNK = 24  # trials packed together: opening one unpacks the others
_ALL_SAMPLES = 300  # up to so many trials each has its samples on the page
_MOST_SAMPLES = 8  # of each evaluation set
_MOST_EVENTS = 100
_MANY = 20
_PLAIN = 0.1  # from here on six decimals are at least five digits


def rounded(value: float | None) -> float | None:
    """Five significant digits, or six decimals where that is more: nobody sees more in a picture."""
    if value is None or not math.isfinite(value):
        return None
    if value >= _PLAIN or value <= -_PLAIN:
        return round(value, 6)  # several times as fast as by way of text, and there are millions
    return float(f"{value:.5g}")


def shortened(values: Sequence[float | None]) -> list[float | None]:
    """`rounded` of each: many at once are several times as fast."""
    if len(values) < _MANY:
        return [rounded(value) for value in values]
    array = np.array(values, dtype=float)
    good = np.isfinite(array) & (array != 0)
    scale = 10.0 ** (4 - np.floor(np.log10(np.abs(array, where=good, out=np.ones_like(array)))))
    short = np.where(good, np.round(array * scale) / scale, array)
    return [value if math.isfinite(value) else None for value in short.tolist()]


def thinned(length: int, most: int = MOST_POINTS) -> list[int]:
    """At most `most` places of a list, evenly spread, with the first and the last."""
    if length <= most:
        return list(range(length))
    return sorted({round(i * (length - 1) / (most - 1)) for i in range(most)})


def packed(details: Sequence[Mapping[str, Any]]) -> list[str]:
    """Groups of details as gzip in base64, which a browser unpacks when it needs them."""

    def pack(start: int) -> str:
        text = json.dumps(details[start : start + _CHUNK], separators=(",", ":"), allow_nan=False)
        return base64.b64encode(gzip.compress(text.encode(), compresslevel=2, mtime=0)).decode()

    with ThreadPoolExecutor() as pool:  # zlib works without holding up the others
        return list(pool.map(pack, range(0, len(details), _CHUNK)))


def place_of(number: int) -> tuple[int, int]:
    """In which group, and where in it, the details of a trial are."""
    return divmod(number, _CHUNK)


def details_of(
    found: Sequence[tuple[Folder, TrialResult]],
    base: Mapping[str, Any],
    events: Mapping[str, Sequence[Mapping[str, Any]]],
    with_samples: frozenset[str],
) -> list[dict[str, Any]]:
    """The details of each trial, in order.

    Args:
        base: dotted key -> value, what the sweep's trials are compared with.
        events: trial name -> its events.
        with_samples: ids of the trials whose samples are needed whatever the size.
    """
    everyone = len(found) <= _ALL_SAMPLES
    return [_details(f, r, base, events, everyone or r.trial_id in with_samples) for f, r in found]


def _details(
    folder: Folder,
    result: TrialResult,
    base: Mapping[str, Any],
    events: Mapping[str, Sequence[Mapping[str, Any]]],
    with_samples: bool,
) -> dict[str, Any]:
    flat = flatten(result.config)
    return {
        "diff": [[key, base.get(key), value] for key, value in flat.items() if key not in base or base[key] != value],
        "lacks": [key for key in base if key not in flat],
        "losses": _curves(result.train_steps, result.train_losses),
        "metrics": _curves(result.train_steps, result.train_metrics),
        "evals": _evaluations(result),
        "samples": {name: some[:_MOST_SAMPLES] for name, some in result.samples.items()} if with_samples else None,
        "events": list(events.get(trial_name(result.slug, result.seed), ()))[-_MOST_EVENTS:],
        "facts": _facts(folder, result),
        "flags": result.flags,
        "missing": result.missing,
        "error": result.error,
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
    """Checkpoints, times, sizes: what is neither a curve nor the config."""
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
    """What the sweep's trials have in common, and where they differ what the search space's `base` says.

    Args:
        given: `base` of the search space, dotted; what no trial has as it stands there (a path) does not count.
    """
    values: dict[str, dict[str, Any]] = defaultdict(dict)
    for result in trials:
        for key, value in flatten(result.config).items():
            values[key][repr(value)] = value
    common = {key: next(iter(by_text.values())) for key, by_text in values.items() if len(by_text) == 1}
    told = {
        key: by_text[repr(given[key])]
        for key, by_text in values.items()
        if len(by_text) > 1 and key in given and repr(given[key]) in by_text
    }
    return common | told
