"""The data of the page as plain JSON, from which its scripts draw."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from selgen_ray.records.names import trial_name
from selgen_ray.records.results import SUMMARIES, TrialResult
from selgen_ray.records.status import TrialStatus
from selgen_ray.report.colours import Look
from selgen_ray.report.costs import device_hours
from selgen_ray.report.details import place_of, rounded
from selgen_ray.report.knob_names import explained
from selgen_ray.report.model import LEAST_SEEDS, LEVEL, Report
from selgen_ray.report.roles import Kind
from selgen_ray.report.scales import is_share
from selgen_ray.report.settings import Axis, Setting, model_name
from selgen_ray.report.strengths import Strength, strengths
from selgen_ray.report.summary import standings_as_dict
from selgen_ray.report.top import items_of
from selgen_ray.stats import Summary, binomial_interval, is_number, t_quantile


def page_data(report: Report, trials: Sequence[TrialResult]) -> dict[str, Any]:
    """Return everything that the page shows from the start; curves and configs come separately, see details.py.

    Trials and settings refer to each other by index, in `trials` and in `report.settings`.
    """
    numbers = {result.trial_id: i for i, result in enumerate(trials)}
    setting_of = {trial_id: i for i, s in enumerate(report.settings) for trial_id in s.trial_ids}
    names = metric_names(report, trials)
    return {
        "title": report.title,
        "x": report.x.name,
        "y": report.y.name,
        "require": report.require,
        "metrics": [_metric(name) for name in names],
        "t": _quantiles(report.settings),
        "strategies": {name: _look(look) for name, look in report.looks.items()},
        "settings": [_setting(s, report.x, report.y) for s in report.settings],
        "strengths": [_strength(curve) for curve in strengths(report.settings)],
        "points": _points(report.settings, names, numbers),
        "trials": [_trial(result, i, setting_of[result.trial_id], report) for i, result in enumerate(trials)],
        "standings": standings_as_dict(report.standings),
        "leader": report.standings.leader.strategy if report.standings.leader else None,
        "level": LEVEL,
        "least": LEAST_SEEDS,
        "sample_trials": sample_trials(report, numbers),
    }


def as_script(data: Any) -> str:
    """Return data as JSON that is safe inside <script>: nothing in it can end the element or begin another.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    text = json.dumps(data, separators=(",", ":"), allow_nan=False, default=str)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def metric_names(report: Report, trials: Iterable[TrialResult]) -> list[str]:
    """Return the axes, the headlines, then every 'set/metric' that a trial has, each once."""
    metrics = sorted({f"{name}/{metric}" for r in trials for name, m in r.eval_results.items() for metric in m})
    headlines = [name for name in SUMMARIES if any(getattr(r, name) is not None for r in trials)]
    return list(dict.fromkeys([report.x.name, report.y.name, *headlines, *metrics]))


def sample_trials(report: Report, numbers: Mapping[str, int]) -> list[dict[str, Any]]:
    """Choose the trials whose answers stand beside the base model's: the task alone or else naive, the leader's best.

    Both are of one seed, so that their evaluation sets are the same, if there is a seed that both have.

    Args:
        numbers: trial id -> index of the trial on the page.

    Returns:
        Up to two, such as {"label": "kl_divergence β=10", "trial": 3, "seed": 0}.
    """
    leader = report.standings.leader
    best = report.settings[leader.best] if leader and leader.best is not None else None
    plain = next((s for s in report.drawn if s.outcome_only), None)
    plain = plain or next((s for s in report.drawn if s.strategy == "naive"), None)
    chosen = [s for s in ([plain] if plain is best else [plain, best]) if s is not None]
    with_samples = [{r.seed: r for r in s.trials if r.status == TrialStatus.COMPLETED and r.samples} for s in chosen]
    common = set.intersection(*(set(by_seed) for by_seed in with_samples)) if with_samples else set()
    samples: list[dict[str, Any]] = []
    for s, by_seed in zip(chosen, with_samples, strict=True):
        seed = min(common) if common else min(by_seed, default=None)
        if seed is not None:
            samples.append({"label": s.label, "trial": numbers[by_seed[seed].trial_id], "seed": seed})
    return samples


def _metric(name: str) -> dict[str, Any]:
    axis = Axis(name)
    return {"name": name, "sign": axis.sign, "share": is_share(axis)}


def _quantiles(settings: Sequence[Setting]) -> list[float | None]:
    """Return the quantile t(0.975, n - 1) for n seeds at index n; None at 0 and 1."""
    most = max((s.num_trials for s in settings), default=1)
    return [None, None, *(t_quantile(0.975, n - 1) for n in range(2, most + 1))]


def _strength(curve: Strength) -> dict[str, Any]:
    """Return a curve with numbers alone as values: names are in its texts, and a name may be a path."""
    numbers = [value if is_number(value) else None for value in curve.values]
    return asdict(curve) | {"values": numbers}


def _look(look: Look) -> dict[str, str]:
    return {"light": look.colour, "dark": look.dark, "symbol": look.symbol}


def _range(summary: Summary | None, items: int | None) -> tuple[float, float] | None:
    """Return the binomial interval of a share whose seeds are all equal."""
    if summary is None or items is None or not summary.is_flat or not 0 <= summary.mean <= 1:
        return None
    return binomial_interval(summary.mean, items)


def _setting(s: Setting, x: Axis, y: Axis) -> dict[str, Any]:
    return {
        "label": s.label,
        "strategy": s.group,
        "control": s.role.is_control,
        "onFront": s.on_front,
        "offFront": s.role.kind is Kind.CONTROL,
        "signs": explained(s.knobs),
        "outcomeOnly": s.outcome_only,
        "failures": list(s.failures),
        "numTrials": s.num_planned,
        "lost": s.lost_text,
        "items": {"x": s.items_x, "y": s.items_y},
        "ranges": {"x": _range(s.x, items_of(x, s.items_x)), "y": _range(s.y, items_of(y, s.items_y))},
    }


def _points(settings: Sequence[Setting], names: Sequence[str], numbers: Mapping[str, int]) -> dict[str, Any]:
    """Return columns with one row for each completed trial of each setting.

    'values' (after training) and 'base' (before training) are [metrics, rows], the metrics in the order of `names`.
    """
    rows = [(i, r) for i, s in enumerate(settings) for r in s.trials if r.status == TrialStatus.COMPLETED]
    axes = [Axis(name) for name in names]
    return {
        "setting": [i for i, _ in rows],
        "trial": [numbers[r.trial_id] for _, r in rows],
        "seed": [r.seed for _, r in rows],
        "values": [[rounded(axis.value(r)) for _, r in rows] for axis in axes],
        "base": [[rounded(axis.base(r)) for _, r in rows] for axis in axes],
    }


def _trial(result: TrialResult, number: int, setting: int, report: Report) -> dict[str, Any]:
    group, place = place_of(number)
    return {
        "id": result.trial_id,
        "name": trial_name(result.slug, result.seed),
        "seed": result.seed,
        "setting": setting,
        "strategy": report.settings[setting].group,
        "model": model_name(result),
        "headlines": {name: result.metric_of(name) for name in SUMMARIES},
        "status": result.status,
        "hours": rounded(device_hours(result)),
        "tokens": result.tokens.get("processed", 0),
        "group": group,
        "place": place,
    }
