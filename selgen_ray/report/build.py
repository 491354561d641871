"""Results of a sweep -> what they say together."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from selgen_ray.errors import nearest
from selgen_ray.records.requirement import parse_requirement
from selgen_ray.records.results import HEADLINES, PREFERENCE, TrialResult, same_training
from selgen_ray.report.settings import Axis, Setting, make_settings, model_name
from selgen_ray.report.standings import NOTHING, Standings, compare_strategies
from selgen_ray.report.words import answer, caveats
from selgen_ray.stats import Summary, summarise
from selgen_ray.storage import Folder


@dataclass(frozen=True)
class Base:
    """The base model before training: over seeds, each seed once however many trials evaluated it."""

    model: str
    x: Summary | None
    y: Summary | None


@dataclass(frozen=True)
class LeftOut:
    """A trial that is in no average and no figure.

    Attributes:
        setting: its label.
        status: its status; 'no point' for a completed one that lacks a value.
        cause: one line.
        folder: where its results.json is.
    """

    setting: str
    seed: int
    status: str
    cause: str
    folder: str


@dataclass(frozen=True)
class Flagged:
    """A doubt about a completed trial, which is averaged all the same."""

    setting: str
    seed: int
    flag: str


@dataclass(frozen=True)
class Report:
    """What a sweep says so far.

    Attributes:
        sweep: its folder.
        title: its name.
        x, y: what is weighed: a headline or 'set/metric'.
        require: what a setting must reach to be on the front; '': nothing.
        settings: the rows of the table; of a trial evaluated with several values of a knob each is one.
        bases: one for each base model.
        counts: status -> number of trials, of all statuses.
        left_out: every trial that is not averaged.
        flagged: what is doubtful about trials that are.
        notes: what a reader should know before trusting the numbers.
        unknown_axes: for each axis that no completed trial has, a sentence with the nearest that there are.
        paths: file name -> where it was written; no picture without a point, nothing without a result.
        standings: the strategies against each other.
    """

    sweep: str
    title: str
    x: Axis
    y: Axis
    settings: tuple[Setting, ...]
    bases: tuple[Base, ...]
    counts: dict[str, int]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...] = ()
    unknown_axes: tuple[str, ...] = ()
    paths: dict[str, str] = field(default_factory=dict[str, str])
    require: str = ""
    flagged: tuple[Flagged, ...] = ()
    standings: Standings = NOTHING

    @property
    def drawn(self) -> list[Setting]:
        """The settings with a point in the figure."""
        return [setting for setting in self.settings if setting.points]

    def to_text(self) -> str:
        """The table, the counts and the paths for a terminal: plain text, at most 112 columns wide but for paths."""
        from selgen_ray.report.text import report_text

        return report_text(self)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data, as summary.json holds it."""
        settings = [{"label": s.label, **_plain(s)} for s in self.settings]
        return {
            "title": self.title,
            "interval": "mean ± half_width: 95 % t-interval over seeds; null for a single seed",
            "x": self.x.name,
            "y": self.y.name,
            "require": self.require or None,
            "counts": self.counts,
            "answer": " ".join(answer(self, self.standings)),
            "caveats": caveats(self, self.standings),
            "settings": settings,
            "strategies": self.standings.to_dict(),
            "base_models": [asdict(base) for base in self.bases],
            "left_out": [asdict(trial) for trial in self.left_out],
            "flagged": [asdict(one) for one in self.flagged],
            "notes": [*self.notes, *self.unknown_axes],
        }


def make_report(
    found: Sequence[tuple[Folder, TrialResult]],
    sweep: str,
    title: str,
    x: Axis,
    y: Axis,
    require: str = "",
    reference: tuple[float, float] | None = None,
) -> Report:
    """The report of results already read; writes nothing.

    Args:
        reference: from where hypervolumes are measured; default: see `standings.find_reference`.
    """
    trials = [result for _, result in found]
    conditions = parse_requirement(require) if require else ()
    settings = make_settings(trials, x, y, conditions)
    counts = Counter(result.status for result in trials)
    completed = [result for result in trials if result.status == "completed"]
    report = Report(
        sweep=sweep,
        title=title,
        x=x,
        y=y,
        settings=tuple(settings),
        bases=tuple(_bases(completed, x, y)),
        counts={status: counts[status] for status in PREFERENCE},
        left_out=tuple(_left_out(found, settings)),
        notes=(*_notes(completed, x, y), *_repeated(completed, settings)),
        unknown_axes=tuple(_unknown(completed, [x.name, y.name, *(one.metric for one in conditions)])),
        require=" and ".join(map(str, conditions)),
        flagged=tuple(_flagged(completed, settings)),
    )
    return replace(report, standings=compare_strategies(report, reference))


def _plain(setting: Setting) -> dict[str, Any]:
    found = asdict(replace(setting, trials=()))
    del found["trials"]
    return found


def _bases(completed: Iterable[TrialResult], x: Axis, y: Axis) -> Iterable[Base]:
    models: dict[tuple[str, str | None], dict[int, list[TrialResult]]] = defaultdict(lambda: defaultdict(list))
    for result in completed:
        models[model_name(result), result.model_hash][result.seed].append(result)
    for (name, _), by_seed in models.items():
        values: list[Summary | None] = []
        for axis in (x, y):
            known = ([v for r in trials if (v := axis.base(r)) is not None] for trials in by_seed.values())
            values.append(summarise([sum(of_seed) / len(of_seed) for of_seed in known if of_seed]))
        if any(values):
            yield Base(name, *values)


def _left_out(found: Iterable[tuple[Folder, TrialResult]], settings: Sequence[Setting]) -> Iterable[LeftOut]:
    """Each trial that is not completed once, under its own setting; a completed one in each setting where it lacks."""
    labels = {trial_id: s.label for s in settings for trial_id in s.trial_ids}
    lacking: dict[str, list[Setting]] = defaultdict(list)
    for s in settings:
        for trial_id in s.no_point:
            lacking[trial_id].append(s)
    for folder, result in found:
        if result.status != "completed":
            cause = _last_line(result.error)
            yield LeftOut(labels[result.trial_id], result.seed, result.status, cause, str(folder))
        for s in lacking.get(result.trial_id, ()):
            cause = f"no value of {s.no_point[result.trial_id]}"
            yield LeftOut(s.label, result.seed, "no point", cause, str(folder))


def _last_line(text: str | None) -> str:
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _notes(completed: Iterable[TrialResult], x: Axis, y: Axis) -> Iterable[str]:
    for axis in dict.fromkeys((x, y)):
        names = sorted({name for r in completed if axis.value(r) is not None and (name := axis.metric(r))})
        if len(names) > 1:
            yield f"{axis.name} is not the same everywhere: {', '.join(names)}; the averages mix them"


def _repeated(completed: Sequence[TrialResult], settings: Sequence[Setting]) -> Iterable[str]:
    """Seeds that are one training: their spread says nothing."""
    by_id = {result.trial_id: result for result in completed}
    for s in settings:
        trials = [by_id[trial_id] for trial_id in s.trial_ids if trial_id in by_id]
        for i, result in enumerate(trials):
            twin = next((one for one in trials[:i] if one.seed != result.seed and same_training(one, result)), None)
            if twin:
                told = f"{s.label}: the losses of seeds {twin.seed} and {result.seed} are the same to the last digit"
                yield f"{told}, so they are one training and not two"


def _flagged(completed: Sequence[TrialResult], settings: Sequence[Setting]) -> Iterable[Flagged]:
    labels = {trial_id: s.label for s in settings for trial_id in s.trial_ids}
    for result in completed:
        yield from (Flagged(labels[result.trial_id], result.seed, flag) for flag in result.flags)


def _unknown(completed: Sequence[TrialResult], wanted: Sequence[str]) -> Iterable[str]:
    there = sorted({f"{name}/{metric}" for r in completed for name, m in r.eval_results.items() for metric in m})
    for name in dict.fromkeys(wanted):
        if completed and name not in (*HEADLINES, *there):
            names = ", ".join([*HEADLINES, *there])
            yield f"no completed trial has {name!r}.{nearest(name, there)} There are: {names}"
