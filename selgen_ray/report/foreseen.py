"""Estimate and truth side by side: what `--estimate` said that trials would take, and what they took."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from selgen_ray.records.estimate import Estimate, Span, read_estimate
from selgen_ray.records.events import read_events
from selgen_ray.records.results import TrialResult
from selgen_ray.records.status import TrialStatus
from selgen_ray.records.text import duration
from selgen_ray.storage import Folder

HEAD = ("kind of trial", "trials", "estimate", "truth", "truth / estimate")


@dataclass(frozen=True)
class Foreseen:
    """Estimate and truth of a sweep.

    Attributes:
        rows: cells under `HEAD`, one row a kind of trial, one for all of them, and one for the wall time once all
            trials of the estimate are done.
        note: what is compared, in words.
    """

    rows: tuple[tuple[str, ...], ...]
    note: str


def foreseen(folders: Iterable[Folder], trials: Sequence[TrialResult]) -> Foreseen | None:
    """Compare the estimates in sweeps' folders with the trials that are completed; None without any of either.

    Raises:
        StorageError: the storage refused.
    """
    done = {result.trial_id: result for result in trials if result.status == TrialStatus.COMPLETED}
    rows: list[tuple[str, ...]] = []
    notes: list[str] = []
    for folder in folders:
        found = read_estimate(folder)
        if found is None or not any(done.keys() & kind.trials.keys() for kind in found.kinds):
            continue
        rows += _rows(found, done, read_events(folder))
        notes.append(_note(found))
    return Foreseen(tuple(rows), " ".join(dict.fromkeys(notes))) if rows else None


def _rows(
    found: Estimate, done: Mapping[str, TrialResult], events: Iterable[Mapping[str, Any]]
) -> Iterable[tuple[str, ...]]:
    expected_s = took_s = 0.0
    for kind in found.kinds:
        ended = [trial_id for trial_id in kind.trials if trial_id in done]
        if not ended:
            continue
        expected = sum(kind.trials[trial_id] for trial_id in ended)
        took = sum(done[trial_id].timings.get("total_s", 0.0) for trial_id in ended)
        expected_s, took_s = expected_s + expected, took_s + took
        count = f"{len(ended)} of {len(kind.trials)}" if len(ended) < len(kind.trials) else str(len(ended))
        cells = (f"{seconds / len(ended):.3g} s a trial" for seconds in (expected, took))
        yield kind.label, count, *cells, _ratio(took, expected)
    expected_ids = [trial_id for kind in found.kinds for trial_id in kind.trials]
    ended = [trial_id for trial_id in expected_ids if trial_id in done]
    factor, unit = (found.gpus, "GPU-hours") if found.gpus else (found.cpus, "CPU-hours")
    hours = [f"{seconds * factor / 3600:.3g} {unit}" for seconds in (expected_s, took_s)]
    if len(ended) == len(expected_ids):
        hours[0] += _between(found.gpu_hours if found.gpus else found.cpu_hours)
    yield "all of them", str(len(ended)), *hours, _ratio(took_s, expected_s)
    wall_s = _wall_seconds(found.at, events)
    if len(ended) == len(expected_ids) and wall_s is not None:
        whole_s = found.start_seconds + found.wall_seconds.value
        yield "wall time", "", duration(whole_s), duration(wall_s), _ratio(wall_s, whole_s)


def _between(span: Span) -> str:
    return f" ({span.low:.3g} to {span.high:.3g})"


def _ratio(took: float, expected: float) -> str:
    return f"{took / expected:.2f}" if expected > 0 else "-"


def _wall_seconds(since: str, events: Iterable[Mapping[str, Any]]) -> float | None:
    """Return the seconds that drivers ran the sweep after `since`; None where one has no end, or none ran."""
    total, start = 0.0, None
    for event in events:
        at = str(event.get("at", ""))
        if at < since:  # both ISO 8601 in UTC, to the second
            continue
        if event.get("event") == "sweep_started":
            start = _time(at)
        elif event.get("event") == "sweep_ended" and start is not None:
            end = _time(at)
            total, start = total + (end - start).total_seconds() if end else total, None
    return total if total and start is None else None


def _time(text: str) -> datetime | None:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at if at.tzinfo else None  # of a damaged line: it compares with no other


def _note(found: Estimate) -> str:
    at_a_time = f"{found.places} trial{'s' if found.places != 1 else ''} at a time"
    return (
        f"Estimated {found.at} for {at_a_time}. The seconds of a trial hold what it computes for others too, and the "
        "wall time the start of Ray; trials that are not completed count on neither side."
    )
