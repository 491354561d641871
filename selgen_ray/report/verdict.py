"""The verdict of a report: one sentence, and what to do next. It never claims more than the paired tests hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from selgen_ray.records.requirement import parse_requirement
from selgen_ray.records.results import TrialResult
from selgen_ray.records.status import TrialStatus
from selgen_ray.report.knob_names import signs
from selgen_ray.report.model import LEAST_SEEDS, LEVEL, Comparison, Report, Standing
from selgen_ray.report.roles import TASK_ALONE
from selgen_ray.report.settings import Axis, Setting, mean_point
from selgen_ray.report.standings import mean_score
from selgen_ray.report.top import number_text, p_text, score_text
from selgen_ray.stats import is_number
from selgen_ray.stats.comparing import Difference, choice_widening, detectable_difference, seeds_to_settle

MOST_WORDS, MOST_SEEDS = 25, 100
_MOST_NAMED, _MANY = 3, 3
_LEAST_VALUES = 2  # of a knob, for one of them to be the largest that was tried
_MEND = "see below why they ended, mend it, and run the same command again: failed trials are tried anew."
_LOST = (TrialStatus.DIVERGED, TrialStatus.FAILED, TrialStatus.STOPPED)


def sentence(report: Report) -> str:
    """Return one sentence of at most 25 words: what does best on both axes, against what, and how sure that is.

    An unfinished sweep says first how far it is, and has no verdict. 'beats' and 'better than' stand for a difference
    of the held-out scores with p < 0.05 after Holm's correction; all else is 'leads'.
    """
    leader = report.standings.leader
    if not report.progress.is_over:
        head = f"{report.progress.done} of {report.progress.planned} trials are done;"
        if leader is None:
            return f"{head} {_why_no_answer(report)}."
        if report.standings.gains_nowhere:
            return (
                f"{head} so far no strategy gains on both axes over the reference, and what is missing may change that."
            )
        if len(report.standings.ranked) == 1:
            has = f"meets {_requirement(report)}" if _missed(report) else "has a setting with all its seeds"
            return f"{head} so far only {leader.strategy} {has}, so nothing is compared."
        return f"{head} so far {leader.strategy} leads {_on_both(report)}, and what is missing may change that."
    if leader is None:
        return f"There is no answer: {_why_no_answer(report)}."
    behind = _behind(report, leader)
    if report.standings.gains_nowhere and not behind:
        return _of_no_gain(report)
    if behind and (better := _held_up(report, leader)):
        alone, failed = f"beats the task alone {_on_both(report)}", "lacks seeds that failed"
        return f"No complete strategy {alone}, but a better setting of {_listed(better)} {failed}."
    if len(report.standings.ranked) == 1:
        return _of_the_only_one(report, leader)
    return _of_several(report, leader)


def _of_no_gain(report: Report) -> str:
    reference = report.standings.reference
    assert reference is not None, "what is ranked is measured from somewhere"
    every = _which(report) or ("complete " if _held_up(report, report.standings.ranked[0]) else "")
    return f"No {every}strategy gains on both axes over the reference ({reference.why})."


def _of_several(report: Report, leader: Standing) -> str:
    name, both = leader.strategy, _on_both(report)
    if _has_few_seeds(leader):
        return (
            f"{name} leads {both}, but fewer than {LEAST_SEEDS} seeds cannot show that it is better than anything else."
        )
    if ahead := [one for one in _held_up(report, leader) if one != name]:
        return f"{name} leads {both}, but a setting of {_listed(ahead)} is ahead of it and lacks seeds that failed."
    if (equal := _equal_to(report, leader)) and not _behind(report, leader):
        return _of_equals(report, leader, equal)
    rivals, others, plain = rivals_of(report, leader), _others(report), report.standings.task_alone
    n = min(_shared(report, leader, one) for one in [*report.standings.ranked[1:], *([plain] if plain else [])])
    tests = f"(paired tests, {n} seeds, p < {LEVEL})"
    if plain is None:
        if not rivals:
            return f"{name} does best {both}: better than {others} {tests}."
        return f"{name} leads {both}, but {_unseparated(report, leader, rivals)}."
    if where := _behind(report, leader):
        where = "" if where == both else f" {where}"
        return f"No strategy beats the task alone {both}: {name}, the best of them, is behind it{where} (p < {LEVEL})."
    if not _is_beaten(report, plain.strategy, leader.strategy):
        unseparated = _unseparated(report, leader, [plain, *rivals])
        if not rivals:
            return f"{name} beats {others} {both} (p < {LEVEL}), but {unseparated}."
        return f"{name} leads {both}, but {unseparated}."
    if not rivals:
        return f"{name} does best {both}: better than the task alone and {others} {tests}."
    sure = f" (p < {LEVEL})" if len(rivals) == 1 else ""
    return f"{name} leads {both}: it beats the task alone{sure}, but {_unseparated(report, leader, rivals)}."


def _of_equals(report: Report, leader: Standing, equal: Sequence[Standing]) -> str:
    head = f"{leader.strategy} and {_listed([one.strategy for one in equal])} are equal in every number"
    group, plain = [leader, *equal], report.standings.task_alone
    others = [one for one in report.standings.ranked if one not in group]
    unbeaten = [
        one
        for one in [*([plain] if plain else []), *others]
        if not all(_is_beaten(report, one.strategy, equal_one.strategy) for equal_one in group)
    ]
    if unbeaten:
        return f"{head}: {_unseparated(report, leader, unbeaten, 'each')}."
    beaten = [*(["the task alone"] if plain else []), *([f"every other {_which(report)}strategy"] if others else [])]
    return f"{head}{f': each beats {_and(beaten)} (p < {LEVEL})' if beaten else ''}."


def _equal_to(report: Report, leader: Standing) -> list[Standing]:
    """Return the strategies that have the leader's values on both axes in every seed, of several."""
    values = {seed: (run.x, run.y) for seed, run in leader.held_out.items()}
    others = report.standings.ranked[1:] if len(values) > 1 else []
    return [one for one in others if {seed: (run.x, run.y) for seed, run in one.held_out.items()} == values]


def _unseparated(report: Report, leader: Standing, others: Sequence[Standing], it: str = "it") -> str:
    """Return why the leader does not beat others: '3 seeds do not separate it from dpo', 'it shares no seed with dpo'.

    The number is the least of seeds that it shares with one of them.
    """
    rivals = [one.strategy for one in others if not one.is_control]
    everybody = len(rivals) == len(report.standings.ranked) - 1 >= _MANY
    whom = ["the task alone"] if len(rivals) < len(others) else []
    whom += ["any other strategy" if everybody else _listed(rivals)] if rivals else []
    shared = [_shared(report, leader, one) for one in others]
    if not any(shared):
        return f"{it} shares no seed with {' and '.join(whom)}"
    seeds, s = ("1 seed", "s") if min(shared) == 1 else (f"{min(shared)} seeds", "")
    if len(whom) > 1:
        separate = f"{seeds} separate{s} {it}" if min(shared) else f"{it} is separated"
        return f"{separate} neither from {whom[0]} nor from {whom[1]}"
    separate = f"{seeds} do{'es' if s else ''} not separate {it}" if min(shared) else f"{it} is not separated"
    return f"{separate} from {whom[0]}"


def _shared(report: Report, leader: Standing, other: Standing) -> int:
    """Return how many seeds of the leader's comparison with another there are."""
    comparison = report.standings.against(leader.strategy, other.strategy)
    return len(comparison.seeds) if comparison else 0


def _of_the_only_one(report: Report, leader: Standing) -> str:
    name, both = leader.strategy, _on_both(report)
    only = f"the only strategy{_that_is(report)}"
    plain = report.standings.task_alone
    if plain is None:
        return f"{name} is {only}, and nothing stands beside it to compare it with."
    if _has_few_seeds(leader):
        return f"{name} is {only}, and fewer than {LEAST_SEEDS} seeds do not tell it from the task alone."
    n = _shared(report, leader, plain)
    if _is_beaten(report, plain.strategy, name):
        return f"{name}, {only}, beats the task alone {both} (paired test, {n} seeds, p < {LEVEL})."
    if where := _behind(report, leader):
        return f"{name}, {only}, is behind the task alone {where} ({n} paired seeds, p < {LEVEL})."
    where = f" {both}" if n and not _missed(report) else ""
    return f"{name} is {only}, and {_unseparated(report, leader, [plain])}{where}."


def _on_both(report: Report) -> str:
    """Return 'in skill and alignment together': the score is of both axes at once."""
    return f"in {_skill(report)} and {report.y.name} together"


def _skill(report: Report) -> str:
    return "skill" if report.x.name == "capability" else report.x.name


def _others(report: Report) -> str:
    """Return the other strategies that were compared; those that lost seeds, or miss the requirement, were not."""
    ranked, which = report.standings.ranked, _which(report)
    return ranked[1].strategy if len(ranked) == 2 and not which else f"every other {which}strategy"


def _which(report: Report) -> str:
    return "qualifying " if _missed(report) else "complete " if _unranked(report) else ""


def _that_is(report: Report) -> str:
    """Return what the ranked strategies have and others have not, as a clause; '' where there are no others."""
    missed, unranked = _missed(report), _unranked(report)
    if len(missed) < len(unranked):
        return " that qualifies" if missed else " with all its seeds"
    return f" that meets {_requirement(report)}" if missed else ""


def _unranked(report: Report) -> list[str]:
    return [s.strategy for s in report.standings.standings if s.hypervolume is None and not s.is_control]


def _missed(report: Report) -> list[str]:
    """Return the strategies that are not ranked since what they have complete misses the requirement."""
    complete = {s.group for s in report.settings if s.complete}
    return [name for name in _unranked(report) if name in complete]


def _requirement(report: Report) -> str:
    """Return the requirement in at most three words."""
    conditions = parse_requirement(report.require)
    return report.require if len(conditions) == 1 else f"all {len(conditions)} conditions"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(names) if len(names) < _MANY else f"{len(names)} other strategies"


def _has_few_seeds(leader: Standing) -> bool:
    return leader.score is None or leader.score.n < LEAST_SEEDS


def _is_beaten(report: Report, loser: str, winner: str) -> bool:
    comparison = report.standings.against(winner, loser)
    return comparison is not None and comparison.is_won


def _behind(report: Report, leader: Standing) -> str:
    """Return on what the task alone beats the leader, such as 'in alignment'; '': it does not.

    Either on the score, or, since that is clipped at 0 and so tells nothing of what lies below the reference, on an
    axis: the task alone is told apart as better on one at least, the leader on none, nor is its score the higher one.
    """
    comparison = report.standings.against(TASK_ALONE, leader.strategy)
    if report.standings.task_alone is None or comparison is None:
        return ""
    if comparison.is_won:
        return _on_both(report)
    summary = comparison.score.summary
    sides = [_side(comparison, axis, difference) for axis, difference in _axes(report, comparison)]
    if not summary or summary.mean < 0 or -1 in sides or 1 not in sides:
        return ""
    return "on both axes" if sides == [1, 1] else f"in {_skill(report) if sides[0] else report.y.name}"


def _axes(report: Report, comparison: Comparison) -> list[tuple[Axis, Difference]]:
    return [(report.x, comparison.x), (report.y, comparison.y)]


def _side(comparison: Comparison, axis: Axis, difference: Difference) -> int:
    """Return 1 where `comparison.strategy` is told apart as better on an axis, -1 where the other is, else 0."""
    is_apart = replace(comparison, score=difference).told_apart
    return int(is_apart and difference.summary is not None and axis.sign * (1 if difference.summary.mean > 0 else -1))


def _held_up(report: Report, leader: Standing) -> list[str]:
    """Return the strategies of which a setting would lead by the seeds that it has, had others of them not failed.

    Failed trials are tried anew, so such a setting may yet be complete; what diverged never is.
    """
    least = leader.score.mean if leader.score else leader.flattering or 0.0
    held_up = [
        s.group
        for s in report.settings
        if set(s.lost) == {TrialStatus.FAILED} and not s.role.is_control and not s.failures
        if (score := mean_score(report, s)) is not None and score > least
    ]
    return list(dict.fromkeys(held_up))


def rivals_of(report: Report, leader: Standing) -> list[Standing]:
    """Return the strategies that the leader does not beat, in the order of the ranking."""
    return [s for s in report.standings.ranked[1:] if not _is_beaten(report, s.strategy, leader.strategy)]


# -- no answer -------------------------------------------------------------------------------------------------------


def _why_no_answer(report: Report) -> str:
    """Return why no strategy leads, naming whatever is missing."""
    return no_leader(report)[0]


def no_leader(report: Report) -> tuple[str, str]:
    """Return why no strategy leads, and what to do about it. Metrics that are missing are named."""
    completed = _completed(report)
    if not completed:
        lost = _lost(report)
        return f"no trial is completed{f' ({lost})' if lost else ''}", _mend(report)
    names = _needed(report)
    lacking = {name: sum(trial.value(name) is None for trial in completed) for name in names}
    nowhere = [name for name, n in lacking.items() if n == len(completed)]
    if nowhere:
        there = [name for name in names if not lacking[name]]
        has = f"have {_and(there)} but lack" if there else "lack"
        why = ", which is required" if set(nowhere).isdisjoint({report.x.name, report.y.name}) else ""
        trials = "the only completed trial" if len(completed) == 1 else f"all {len(completed)} completed trials"
        has = has.replace("have", "has").replace("lack", "lacks") if len(completed) == 1 else has
        instead = f"leave it out of '{report.require}'" if why else "take other axes by --x and --y"
        return f"{trials} {has} {_and(nowhere)}{why}", f"measure {_and(nowhere)}, or {instead}."
    strategies = [s for s in report.settings if not s.role.is_control]
    if not strategies:
        return "only controls were run, and no strategy to compare with them", "add a strategy to the sweep."
    missed = [s for s in strategies if s.complete and s.failures]
    if missed:
        conditions = parse_requirement(report.require)
        text = report.require if len(conditions) < 4 else f"all {len(conditions)} conditions"
        return f"no complete setting of a strategy meets {text}", f"relax it, or look at {_nearest(missed)} below."
    if any(lacking.values()):
        partly = {name: n for name, n in lacking.items() if n}
        name, n = max(partly.items(), key=lambda item: item[1])
        return f"{n} of {len(completed)} completed trials lack {name}", f"see below why {name} is missing."
    return f"every setting of a strategy lacks a seed ({_lost(report) or 'not all have a result'})", _mend(report)


def _nearest(missed: Sequence[Setting]) -> str:
    fewest = min(missed, key=lambda s: len(s.failures))
    return f"{fewest.label}, which has {' and '.join(fewest.failures)},"


def _completed(report: Report) -> list[TrialResult]:
    trials = {r.trial_id: r for s in report.settings for r in s.trials if r.trial_id in s.trial_ids}
    return [r for r in trials.values() if r.status == TrialStatus.COMPLETED]


def _needed(report: Report) -> list[str]:
    """Return the metrics that a setting needs to lead: both axes, and what the requirement names."""
    conditions = parse_requirement(report.require) if report.require else ()
    return list(dict.fromkeys([report.x.name, report.y.name, *(c.metric for c in conditions)]))


def _and(names: Sequence[str]) -> str:
    if len(names) > _MOST_NAMED:
        names = [*names[: _MOST_NAMED - 1], f"{len(names) - _MOST_NAMED + 1} others"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _lost(report: Report) -> str:
    return ", ".join(f"{n} {status}" for status in _LOST if (n := report.counts.get(status, 0)))


def _mend(report: Report) -> str:
    if report.counts.get(TrialStatus.DIVERGED):
        return "lower the learning rate, or the strength, of what diverged, and run it again."
    return _MEND


# -- the next step ---------------------------------------------------------------------------------------------------


def next_step(report: Report) -> str:
    """Return what to do next, in one sentence that stands after 'Next:'."""
    leader = report.standings.leader
    if not report.progress.is_over:
        if report.progress.running:
            return "let the sweep end, and write the report again."
        return "run the sweep's command again: it goes on with the trials that are missing."
    if leader is None:
        return no_leader(report)[1]
    if _held_up(report, leader):
        return _MEND
    if report.standings.gains_nowhere:
        return _towards_a_gain(report)
    comparison = leading_comparison(report)
    if comparison is None and not _has_few_seeds(leader):
        relax = f"relax '{report.require}', or " if _missed(report) else ""
        return f"{relax}add another strategy, or the task alone, to compare it with."
    shared = len(comparison.seeds) if comparison else len(leader.seeds)
    if comparison is None or _has_few_seeds(leader) or shared < LEAST_SEEDS:
        best = report.settings[leader.best] if leader.best is not None else None
        if best and LEAST_SEEDS <= len(leader.seeds) > len(best.seeds) and _has_few_seeds(leader):
            return f"run {best.label} on all seeds of {leader.strategy}: it does best on those that it has."
        more = max(LEAST_SEEDS - shared, 1)
        some = "one seed" if more == 1 else f"{more} seeds"
        return f"add at least {some} to 'seeds:' and run again: with fewer than {LEAST_SEEDS} nothing is separated."
    if comparison.told_apart or _behind(report, leader):
        return _further(report, report.settings[leader.best]) if leader.best is not None else _CONFIRM
    if equal := _equal_to(report, leader):
        names = _and([leader.strategy, *(one.strategy for one in equal)])
        return f"choose by cost, or measure what tells them apart: {names} are equal in every number."
    return _more_seeds(report, comparison)


def _towards_a_gain(report: Report) -> str:
    """Return what may bring a gain on both axes over the reference, by the axes on which there is none."""
    reference, settings = report.standings.reference, [s for s in report.settings if not s.role.is_control and s.points]
    assert reference is not None, "what is ranked is measured from somewhere"
    means = [mean_point(s, report.x, report.y) for s in settings]
    gains_x = any(x > report.x.sign * reference.x for x, _ in means)
    gains_y = any(y > report.y.sign * reference.y for _, y in means)
    elsewhere = "measure from another point (--reference)"
    if not gains_x:
        return f"train longer, or {elsewhere}: no setting gains in {report.x.name} over {number_text(reference.x)}."
    if not gains_y:
        habit = "check that the task alone learns the habit" if report.standings.task_alone else "try other strengths"
        return f"{habit}, or {elsewhere}: no setting gains in {report.y.name} over {number_text(reference.y)}."
    return (
        f"try strengths between those that were tried, or {elsewhere}: some settings gain in {report.x.name}, others "
        f"in {report.y.name}, none surely in both."
    )


_ADD = "sweep add --seeds"
_CONFIRM = "confirm it on new seeds, or on another model."


def _more_seeds(report: Report, comparison: Comparison) -> str:
    n, needed = len(comparison.seeds), seeds_needed(report, comparison)
    pair = f"{comparison.strategy} from {comparison.other}"
    if needed == 0:
        return f"add a few seeds ({_ADD}): those there are show no spread, and without one nothing separates {pair}."
    if needed is None:
        return f"choose by cost: over {MOST_SEEDS} seeds would be needed to separate {pair}, so little do they differ."
    if needed <= n:
        return f"add a seed ({_ADD}), then confirm on new seeds: with one more the sweep may separate {pair}."
    more = "one seed" if needed - n == 1 else f"{needed - n} seeds"
    return (
        f"add about {more} ({_ADD}), then confirm on new seeds: in four of five such sweeps that "
        f"separates {pair}, if the difference is what it seems."
    )


def _further(report: Report, best: Setting) -> str:
    """Return whether to look beyond the values that were tried, or to confirm the best setting."""
    for name, value in best.knobs.items():
        own: list[Any] = [s.knobs.get(name) for s in report.settings if s.role == best.role]
        values: list[float] = sorted({v for v in own if is_number(v)})
        if is_number(value) and len(values) >= _LEAST_VALUES and value in (values[0], values[-1]):
            beyond, end = ("above", "largest") if value == values[-1] else ("below", "smallest")
            return f"try {signs(best.knobs)[name]} {beyond} {value:g}: the best value is the {end} that was tried."
    return _CONFIRM


def leading_comparison(report: Report) -> Comparison | None:
    """Return the comparison that matters most: with the first whom the leader does not beat, else with the runner-up.

    The task alone comes after the other strategies, but first where the leader is behind it. None where nothing stands
    beside the leader.
    """
    standings, plain = report.standings, report.standings.task_alone
    leader, second = standings.leader, standings.runner_up
    if leader is None:
        return None
    unbeaten = [] if _behind(report, leader) else rivals_of(report, leader)
    if plain and not _is_beaten(report, plain.strategy, leader.strategy):
        unbeaten.append(plain)
    others = [*unbeaten, *(s for s in (second, plain) if s)]
    return standings.against(leader.strategy, others[0].strategy) if others else None


def seeds_needed(report: Report, comparison: Comparison) -> int | None:
    """Return how many seeds in all would separate the two with 80 % power; 0: no spread is known; None: over 100."""
    summary = comparison.score.summary
    if summary is None or not summary.sd or summary.is_flat or len(comparison.seeds) < 2:
        return 0
    level = LEVEL / report.standings.num_pairs
    return seeds_to_settle(summary.mean, summary.sd, level, _num_settings(report, comparison), MOST_SEEDS)


def _num_settings(report: Report, comparison: Comparison) -> int:
    counts = {s.strategy: len(s.settings) for s in report.standings.standings}
    return max(counts[comparison.strategy], counts[comparison.other])


def comparison_facts(report: Report) -> Iterable[tuple[str, str]]:
    """Yield the numbers of the leading comparison, as pairs such as ('p, Holm over 10 pairs', '0.041')."""
    comparison, leader = leading_comparison(report), report.standings.leader
    summary = comparison.score.summary if comparison else None
    if comparison is None or summary is None:
        return
    n = len(comparison.seeds)
    yield "the closest comparison", f"{comparison.strategy} − {comparison.other}, seed by seed, {n} in common"
    yield "difference of the scores", score_text(summary, signed=True)
    pairs = report.standings.num_pairs
    if comparison.score.p_holm is not None:
        yield f"p{f', Holm over {pairs} pairs' if pairs > 1 else ''}", p_text(comparison.score.p_holm)
    is_behind = bool(leader and _behind(report, leader))
    for axis, difference in _axes(report, comparison) if is_behind else ():
        if difference.summary and difference.p_holm is not None:
            mean = number_text(difference.summary.mean, signed=True)
            yield f"difference of {axis.name}", f"{mean}, p {p_text(difference.p_holm)}"
    needed = seeds_needed(report, comparison)
    if needed != 0 and summary.sd:
        widening = choice_widening(_num_settings(report, comparison), n)
        seen = detectable_difference(summary.sd, n, LEVEL / pairs, widening=widening)
        yield "difference found in 80 % of sweeps", f"{seen:.3g} or more; smaller ones mostly go unseen"
        if not comparison.told_apart and not is_behind:
            yield "seeds that would separate them", f"over {MOST_SEEDS}" if needed is None else f"about {needed}"
