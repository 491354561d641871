"""The page: one HTML file with everything in it, which loads nothing from anywhere."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Any

from selgen_ray import __version__
from selgen_ray.records.results import TrialResult, now
from selgen_ray.report.contents import as_script, page_data
from selgen_ray.report.details import common_config, details_of, packed
from selgen_ray.report.words import QUESTION, answer, caveats, setting_facts
from selgen_ray.storage import Folder

if TYPE_CHECKING:
    from selgen_ray.report.model import LeftOut, Report

SCRIPTS = (
    *("core.js", "drawing.js", "pareto.js", "marks.js", "settings.js", "strategies.js"),
    *("strengths.js", "courses.js", "trial.js", "main.js"),
)
_NOWHERE = "default-src 'none'; script-src 'unsafe-inline'{beside}; style-src 'unsafe-inline'; img-src data: blob:"
_BESIDE = " 'self' file:"  # a watched page looks at version.js beside it
_MOST_EVENTS = 200


@dataclass(frozen=True)
class Surroundings:
    """What lies beside the results in the sweeps' folders.

    Attributes:
        spaces: (name, text) of each search space.
        base: its `base`, dotted.
        events: the lines of the event logs, as they are parsed, oldest first.
        live: what is running, in words; '' where nothing is.
    """

    spaces: tuple[tuple[str, str], ...] = ()
    base: Mapping[str, Any] = field(default_factory=dict)
    events: tuple[Mapping[str, Any], ...] = ()
    live: str = ""


def page_html(
    report: Report, found: Sequence[tuple[Folder, TrialResult]], around: Surroundings, watch_s: float = 0
) -> tuple[str, str]:
    """The page, and its version: a hash of what is on it.

    Args:
        watch_s: how often the page looks for a newer one beside it; 0: never.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    trials = [result for _, result in found]
    data = page_data(report, trials)
    needed = frozenset(trials[one["trial"]].trial_id for one in data["sample_trials"])
    by_trial = _by_trial(around.events)
    base = common_config(trials, around.base)
    data["base"] = base
    groups = packed(details_of(found, base, by_trial, needed))
    # the time of writing is not hashed: the same results are the same page
    parts = [as_script(data), *groups, around.live]
    version = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    environment = Environment(
        loader=PackageLoader("selgen_ray.report", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    html = environment.get_template("index.html.j2").render(
        report=report,
        policy=_NOWHERE.format(beside=_BESIDE if watch_s else ""),
        css=Markup(_source("page.css")),
        theme=Markup(_source("theme.js")),
        scripts=Markup("\n".join(map(_source, SCRIPTS))),
        plotly=Markup(get_plotlyjs()),
        data=Markup(as_script(data | {"version": version, "watch": watch_s})),
        groups=[Markup(text) for text in groups],
        question=QUESTION,
        answer=answer(report, report.standings),
        caveats=caveats(report, report.standings),
        facts=setting_facts(report),
        live=around.live,
        left_out=_left_out(report, found),
        provenance=provenance(report, found),
        spaces=around.spaces,
        events=[json.dumps(event) for event in around.events[-_MOST_EVENTS:]],
    )
    return html, version


def _source(name: str) -> str:
    return (resources.files("selgen_ray.report") / "assets" / name).read_text(encoding="utf-8")


def _by_trial(events: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    by_trial: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for event in events:
        by_trial[str(event.get("trial", ""))].append(event)
    return by_trial


def _left_out(report: Report, found: Sequence[tuple[Folder, TrialResult]]) -> dict[str, list[tuple[LeftOut, str]]]:
    ids = {str(folder): result.trial_id for folder, result in found}
    by_status: dict[str, list[tuple[LeftOut, str]]] = defaultdict(list)
    for trial in report.left_out:
        by_status[trial.status].append((trial, ids.get(trial.folder, "")))
    return by_status


def provenance(report: Report, found: Sequence[tuple[Folder, TrialResult]]) -> list[tuple[str, str]]:
    """What the numbers were made with and of: (what, in words)."""
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
        ("versions", ", ".join(f"{name} {' and '.join(sorted(found))}" for name, found in versions.items())),
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
