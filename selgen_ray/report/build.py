"""Build a report from the results of a sweep: summaries, counts, and notes on what is doubtful."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from selgen_ray.errors import nearest
from selgen_ray.records.requirement import parse_requirement
from selgen_ray.records.results import SUMMARIES, TrialResult, same_training
from selgen_ray.records.status import PREFERENCE, TrialStatus
from selgen_ray.records.text import last_line
from selgen_ray.report.model import Base, Flagged, LeftOut, Report
from selgen_ray.report.progress import Plan, progress_of
from selgen_ray.report.settings import Axis, Setting, make_settings, model_name, with_planned_roles
from selgen_ray.report.standings import compare_strategies
from selgen_ray.report.unlike import unlike
from selgen_ray.stats import Summary, summarise
from selgen_ray.storage import Folder


def make_report(
    found: Sequence[tuple[Folder, TrialResult]],
    sweep: str,
    title: str,
    x: Axis,
    y: Axis,
    require: str = "",
    reference: tuple[float, float] | None = None,
    plan: Plan | None = None,
    gridded: Mapping[str, Collection[str]] | None = None,
) -> Report:
    """Make the report of results that have been read; write nothing.

    Args:
        found: the folder and the result of each trial.
        sweep: its folder or folders, as the report names them.
        require: conditions that a setting must meet to be on the front, such as 'coherence >= 0.5'; '': none.
        reference: the point from which hypervolumes are measured; default: see `standings.find_reference`.
        plan: the trials that the sweep has; default: those that have a result.
        gridded: strategy -> keys that its grid names, which are part of a setting's name whatever their values.

    Raises:
        ValueError: `require` cannot be parsed.
    """
    plan = plan or Plan()
    trials = with_planned_roles([result for _, result in found], [*plan.left_out.values(), *plan.names.values()])
    found = [(folder, result) for (folder, _), result in zip(found, trials, strict=True)]
    conditions = parse_requirement(require) if require else ()
    progress = progress_of(trials, plan)
    settings = make_settings(trials, x, y, conditions, progress.waiting, gridded, progress.removed)
    counts = Counter(result.status for result in trials)
    completed = [result for result in trials if result.status == TrialStatus.COMPLETED]
    differences = tuple(unlike(settings, [x, y, *(Axis(condition.metric) for condition in conditions)]))
    report = Report(
        sweep=sweep,
        title=title,
        x=x,
        y=y,
        settings=tuple(settings),
        bases=tuple(_bases(completed, x, y)),
        counts={status: counts[status] for status in PREFERENCE},
        left_out=tuple(_left_out(found, settings)),
        notes=(
            *differences,
            *_repeated(completed, settings),
            *_flat(completed, x, y),
            *_base_notes(completed),
        ),
        unknown_axes=tuple(_unknown(completed, [x.name, y.name, *(condition.metric for condition in conditions)])),
        require=" and ".join(map(str, conditions)),
        flagged=tuple(_flagged(completed, settings)),
        progress=progress,
        unlike=differences,
    )
    return replace(report, standings=compare_strategies(report, reference))


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


def _left_out(results: Iterable[tuple[Folder, TrialResult]], settings: Sequence[Setting]) -> Iterable[LeftOut]:
    """Yield every trial that is not averaged.

    A trial that is not completed comes once, under the setting it was configured with; a completed one comes under
    each setting for which it lacks a value.
    """
    labels = {trial_id: s.label for s in settings for trial_id in s.trial_ids}
    lacking: dict[str, list[Setting]] = defaultdict(list)
    for s in settings:
        for trial_id in s.no_point:
            lacking[trial_id].append(s)
    for folder, result in results:
        if result.status != TrialStatus.COMPLETED:
            cause = last_line(result.error)
            yield LeftOut(labels[result.trial_id], result.seed, result.status, cause, str(folder))
        for s in lacking.get(result.trial_id, ()):
            cause = f"no value of {s.no_point[result.trial_id]}"
            yield LeftOut(s.label, result.seed, "no point", cause, str(folder))


def _repeated(completed: Sequence[TrialResult], settings: Sequence[Setting]) -> Iterable[str]:
    """Note seeds whose trainings are identical: their spread says nothing."""
    by_id = {result.trial_id: result for result in completed}
    for s in settings:
        trials = [by_id[trial_id] for trial_id in s.trial_ids if trial_id in by_id]
        for i, result in enumerate(trials):
            twin = next((r for r in trials[:i] if r.seed != result.seed and same_training(r, result)), None)
            if twin:
                same = f"{s.label}: the losses of seeds {twin.seed} and {result.seed} are the same to the last digit"
                yield f"{same}, so they are one training and not two"


def _flat(completed: Sequence[TrialResult], x: Axis, y: Axis) -> Iterable[str]:
    """Note each axis that is 0, or 1, for every base model and in every trial: it compares nothing."""
    for axis in dict.fromkeys((x, y)):
        after = [value for result in completed if (value := axis.value(result)) is not None]
        before = [value for result in completed if (value := axis.base(result)) is not None]
        if after and before and len({*after, *before}) == 1 and after[0] in (0, 1):
            names = sorted({name for result in completed if (name := axis.metric(result))})
            named = f" ({', '.join(names)})" if names and names != [axis.name] else ""
            yield f"{axis.name}{named} is {after[0]:g} for the base model and in every trial: it compares nothing"


def _base_notes(completed: Iterable[TrialResult]) -> Iterable[str]:
    """Yield the trials' notes on the evaluation before training, each kind once a model: trials share their base."""
    notes: dict[tuple[str, str], str] = {}
    for result in completed:
        for note in result.notes:
            notes.setdefault((model_name(result), note.partition(":")[0]), note)
    for (model, _), note in notes.items():
        yield f"before training, {model}: {note}"


def _flagged(completed: Sequence[TrialResult], settings: Sequence[Setting]) -> Iterable[Flagged]:
    labels = {trial_id: s.label for s in settings for trial_id in s.trial_ids}
    for result in completed:
        flags = [*([f"{_course(result)}: it is compared with no setting"] if result.changes else []), *result.flags]
        yield from (Flagged(labels[result.trial_id], result.seed, flag) for flag in flags)


def _course(result: TrialResult) -> str:
    """Return 'changed while it trained, beta_kl to 3 at step 12'."""
    texts = [
        f"{key.rpartition('.')[2]} to {value:g} at step {change['step']}"
        for change in result.changes
        for key, value in change["values"].items()
    ]
    return f"changed while it trained, {', '.join(texts)}"


def _unknown(completed: Sequence[TrialResult], wanted: Sequence[str]) -> Iterable[str]:
    """Yield a sentence for each wanted metric that no completed trial has, with the nearest existing one."""
    metrics = sorted({f"{name}/{metric}" for r in completed for name, m in r.eval_results.items() for metric in m})
    for name in dict.fromkeys(wanted):
        if completed and name not in (*SUMMARIES, *metrics):
            names = ", ".join([*SUMMARIES, *metrics])
            yield f"no completed trial has {name!r}.{nearest(name, metrics)} There are: {names}"
