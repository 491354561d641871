"""A report as plain data: the content of summary.json, and the tables of it that the page shares."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from selgen_ray.report.four_questions import four_questions
from selgen_ray.report.model import Report, Standings
from selgen_ray.report.settings import Setting
from selgen_ray.report.top import rows
from selgen_ray.report.verdict import comparison_facts, next_step, sentence
from selgen_ray.report.words import caveats


def plain_setting(setting: Setting) -> dict[str, Any]:
    """Return a setting as plain data, without its trials."""
    data = asdict(replace(setting, trials=()))  # `asdict` copies deeply, and trials are large
    del data["trials"]
    return data


def standings_as_dict(standings: Standings) -> dict[str, Any]:
    """Return the ranking of the strategies as plain data."""
    plain = asdict(standings)
    for one in plain["standings"]:
        one |= {"interval": None, "num_resamples": 0}  # of the bootstrap that there was; readers may ask for them
    return plain | {"beats": {one.strategy: {} for one in standings.standings}, "num_pairs": standings.num_pairs}


def as_dict(report: Report) -> dict[str, Any]:
    """Return everything in a report as plain data, the content of summary.json."""
    settings = [
        {"label": s.label, "group": s.group, "complete": s.complete, **plain_setting(s)} for s in report.settings
    ]
    return {
        "title": report.title,
        "interval": "mean ± half_width: 95 % t-interval over seeds; null for a single seed",
        "score": "area beyond the reference point of one seed's run, its setting chosen on all other seeds",
        "x": report.x.name,
        "y": report.y.name,
        "require": report.require or None,
        "counts": report.counts,
        "progress": asdict(report.progress),
        "answer": sentence(report),
        "top": [asdict(row) for row in rows(report)],
        "next": next_step(report),
        "four_questions": asdict(four) if (four := four_questions(report)) else None,
        "closest": dict(comparison_facts(report)),
        "caveats": caveats(report),
        "settings": settings,
        "strategies": standings_as_dict(report.standings),
        "base_models": [asdict(base) for base in report.bases],
        "left_out": [asdict(trial) for trial in report.left_out],
        "flagged": [asdict(doubt) for doubt in report.flagged],
        "estimate": asdict(report.foreseen) if report.foreseen else None,
        "notes": [*report.notes, *report.unknown_axes],
    }
