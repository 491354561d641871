"""The page of a report: one HTML file that holds everything it needs and loads nothing from anywhere."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from typing import Any

from selgen_ray import __version__
from selgen_ray.records.results import TrialResult, now
from selgen_ray.report.contents import as_script, page_data
from selgen_ray.report.details import common_config, details_of, packed
from selgen_ray.report.foreseen import HEAD
from selgen_ray.report.four_questions import NOTE as FOUR_NOTE
from selgen_ray.report.four_questions import four_questions
from selgen_ray.report.model import Report
from selgen_ray.report.places import Places
from selgen_ray.report.top import head, note, rows
from selgen_ray.report.verdict import comparison_facts, next_step, sentence
from selgen_ray.report.words import QUESTION, caveats, setting_facts
from selgen_ray.storage import Folder

SCRIPTS = (
    *("core.js", "drawing.js", "legend.js", "pareto.js", "marks.js", "settings.js", "strategies.js"),
    *("strengths.js", "courses.js", "trial.js", "print.js", "main.js"),
)
_NOWHERE = "default-src 'none'; script-src 'unsafe-inline'{beside}; style-src 'unsafe-inline'; img-src data: blob:"
_BESIDE = " 'self' file:"  # a watched page loads version.js, which lies beside it, to see whether it is out of date
_MOST_EVENTS = 200


@dataclass(frozen=True)
class Surroundings:
    """The other files of the sweeps' folders, beside the results.

    Attributes:
        spaces: (name, text) of each search space.
        base: the `base` sections of all search spaces as one, dotted key -> value.
        events: the parsed lines of the event logs, oldest first within a sweep.
        live: the sweeps that are running, in words; '' where none is.
        gridded: strategy -> keys that its grid or zip names in the search spaces.
        parsed: (name of the sweep, its search space as plain data); None: it cannot be read.
    """

    spaces: tuple[tuple[str, str], ...] = ()
    base: Mapping[str, Any] = field(default_factory=dict)
    events: tuple[Mapping[str, Any], ...] = ()
    live: str = ""
    gridded: Mapping[str, Collection[str]] = field(default_factory=dict[str, Collection[str]])
    parsed: tuple[tuple[str, Mapping[str, Any] | None], ...] = ()


def page_html(
    report: Report,
    found: Sequence[tuple[Folder, TrialResult]],
    around: Surroundings,
    places: Places,
    watch_s: float = 0,
) -> tuple[str, str]:
    """Return the page as HTML, and its version: a hash of what is on it. No path of this machine is in it.

    Args:
        found: the folder and the result of each trial.
        places: takes paths out of texts.
        watch_s: seconds after which an open page looks for a newer version, again and again; 0: never.
    """
    # late: start-up, a report without results draws no page
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    trials = [result for _, result in found]
    data = page_data(report, trials)
    for name in ("title", "settings", "strengths", "sample_trials"):
        data[name] = places.anywhere(data[name])
    needed = frozenset(trials[shown["trial"]].trial_id for shown in data["sample_trials"])
    by_trial = _by_trial(around.events)
    base = common_config(trials, around.base)
    data["base"] = places.anywhere(base)
    groups = packed(details_of(found, base, by_trial, needed, places))
    # the time of writing is not hashed, so the same results have the same version
    parts = [as_script(data), *groups, around.live]
    version = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    environment = Environment(
        loader=PackageLoader("selgen_ray.report", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    words = {
        "title": report.title,
        "counts": {str(status): n for status, n in report.counts.items() if n},
        "question": QUESTION,
        "sentence": sentence(report),
        "unlike": report.unlike,
        "rows": [{**asdict(row), "text": row.text} for row in rows(report)],
        "head": head(report),
        "note": note(report),
        "next": next_step(report),
        "caveats": caveats(report),
        "four": asdict(four) if (four := four_questions(report)) else None,
        "four_note": FOUR_NOTE,
        "foreseen": asdict(report.foreseen) if report.foreseen else None,
        "foreseen_head": HEAD,
        "closest": list(comparison_facts(report)),
        "facts": setting_facts(report),
        "live": around.live,
        "left_out": _left_out(report, found),
        "flagged": [asdict(doubt) for doubt in report.flagged],
        "provenance": provenance(report, found),
        "spaces": around.spaces,
        "events": [json.dumps(event) for event in around.events[-_MOST_EVENTS:]],
    }
    html = environment.get_template("index.html.j2").render(
        places.anywhere(words),
        x=report.x.name,
        y=report.y.name,
        reference=report.standings.reference,
        policy=_NOWHERE.format(beside=_BESIDE if watch_s else ""),
        css=Markup(_source("page.css")),
        theme=Markup(_source("theme.js")),
        scripts=Markup("\n".join(map(_source, SCRIPTS))),
        plotly=Markup(get_plotlyjs()),
        data=Markup(as_script(data | {"version": version, "watch": watch_s})),
        groups=[Markup(text) for text in groups],
    )
    return html, version


def _source(name: str) -> str:
    return (resources.files("selgen_ray.report") / "assets" / name).read_text(encoding="utf-8")


def _by_trial(events: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    by_trial: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for event in events:
        by_trial[str(event.get("trial", ""))].append(event)
    return by_trial


def _left_out(report: Report, results: Sequence[tuple[Folder, TrialResult]]) -> dict[str, list[dict[str, Any]]]:
    """Map each status to its trials with their ids; '' where the id is unknown."""
    ids = {str(folder): result.trial_id for folder, result in results}
    by_status: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for trial in report.left_out:
        by_status[str(trial.status)].append({**asdict(trial), "id": ids.get(trial.folder, "")})
    return by_status


def provenance(report: Report, found: Sequence[tuple[Folder, TrialResult]]) -> list[tuple[str, str]]:
    """Return the code, hardware and data behind the numbers, in pairs such as ('git commit', '1a2b3c (3 trials)')."""
    trials = [result for _, result in found]
    versions: dict[str, set[str]] = defaultdict(set)
    hashes: dict[str, set[str]] = defaultdict(set)
    for r in trials:
        for name, version in r.versions.items():
            versions[name].add(version)
        for role, digest in r.data_hashes.items():
            hashes[role].add(digest)
    hardware = Counter(_machine(r.hardware) for r in trials if r.hardware)
    commits = Counter(r.git_commit or "unknown" for r in trials)
    models = {r.model_hash for r in trials if r.model_hash}
    first, last = min((r.started_at for r in trials), default=""), max((r.updated_at for r in trials), default="")
    num_imported = sum(r.imported_from is not None for r in trials)
    facts = [
        ("results", report.sweep),
        ("trained", f"{first} to {last}"),
        ("report written", f"{now()} by selgen_ray {__version__}"),
        ("git commit", ", ".join(f"{commit} ({n} trials)" for commit, n in commits.most_common(8))),
        ("hardware", "; ".join(f"{text} ({n} trials)" for text, n in hardware.most_common(8))),
        ("versions", ", ".join(f"{name} {' and '.join(sorted(numbers))}" for name, numbers in versions.items())),
        ("model, sha256", ", ".join(sorted(text[:16] for text in models)[:8])),
        ("data, sha256", "; ".join(f"{role}: {_few(digests)}" for role, digests in hashes.items())),
        ("imported", f"{num_imported} trials of the first generation" if num_imported else ""),
    ]
    return [(name, text) for name, text in facts if text]


def _few(digests: set[str]) -> str:
    shown = ", ".join(sorted(digest[:12] for digest in digests)[:4])
    return shown + (f" … ({len(digests)} of them, one a seed or source)" if len(digests) > 4 else "")


def _machine(hardware: Mapping[str, Any]) -> str:
    known = {key: hardware.get(key) for key in ("gpu", "device", "machine", "num_cpus")}
    device = known["gpu"] or known["device"] or "unknown device"
    return f"{device}, {known['machine'] or 'unknown machine'}, {known['num_cpus'] or '?'} CPUs"
