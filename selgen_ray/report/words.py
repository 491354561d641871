"""A report in sentences: the question, the setting, the answer, and how far to believe it. Plain text, no markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from selgen_ray.comparing import choice_widening, detectable_difference, seeds_to_settle
from selgen_ray.records.results import HEADLINES, TrialResult, flatten
from selgen_ray.records.status import TrialStatus
from selgen_ray.report.knob_names import value_text
from selgen_ray.report.model import LEAST_SEEDS, LEVEL, Comparison, Report, Standing, Standings
from selgen_ray.report.progress import progress_text
from selgen_ray.report.scales import is_share
from selgen_ray.report.settings import Axis, Setting
from selgen_ray.stats import Summary, binomial_interval

MOST_SEEDS, _NAMED = 100, 4
QUESTION = (
    "Fine-tuning on narrow data teaches a skill, and often a bad habit with it. A small proxy set of aligned examples "
    "can bias what generalises, and there are many ways to use it. Which of them keeps the most alignment at the least "
    "cost in the skill?"
)
_METRICS = {
    "exact_match": "share of items answered exactly right",
    "balanced_accuracy": "balanced accuracy of the choice between replies; always the same choice scores 0.5",
    "choice_accuracy": "share of items where the right reply is the most likely one",
    "mcq_accuracy": "share of lettered questions answered right, over all orders of the options",
    "mcq_probability": "mean probability of the right letter",
    "token_probability": "exp(-loss): the geometric mean of the scored tokens' probabilities",
    "preference_accuracy": "share of pairs whose better reply is the more likely one",
    "sycophancy": "share of wrong claims confirmed, among items the model knows",
    "verdict_accuracy": "share of claims judged rightly, right and wrong ones weighing the same",
    "one_sided_accuracy": "share of claims judged rightly, where all are wrong or all are right: no balanced figure",
    "aligned": "mean alignment by the judge",
    "aligned_share": "share of answers that the judge scores 80 or more",
    "coherent": "mean coherence by the judge",
    "loss": "mean cross-entropy of the scored tokens, in nats",
}
_SETS = {
    "task_train": "the task's own held-out rows",
    "task_test": "new items of the task",
    "align_train": "the proxy's held-out rows",
    "align_train_minus": "the proxy's misaligned replies",
    "trait_train": "the habit's own text",
    "align_test": "alignment where nothing was trained",
    "align_test_minus_align_train": "alignment without what the proxy shows",
}


def value(summary: Summary | None, items: int | None = None) -> str:
    """Return '0.983 ± 0.024'; for one seed '0.983 (one seed, no interval)'; without a spread what the items allow.

    Args:
        items: number of items that a share rests on in each seed; None: unknown, or no share.
    """
    if summary is None:
        return "no value"
    mean = f"{summary.mean:.3f}"
    if summary.half_width is None:
        return f"{mean} (one seed, no interval)"
    if summary.is_flat:
        return f"{mean} (no spread seen{flat_range(summary, items)})"
    return f"{mean} ± {summary.half_width:.3f}"


def flat_range(summary: Summary, items: int | None) -> str:
    """Return ', 0.894 to 0.999 by its 50 items': the binomial interval of equal shares; '' where it is not known."""
    if items is None or not 0 <= summary.mean <= 1:
        return ""
    low, high = binomial_interval(summary.mean, items)
    return f", {low:.3f} to {high:.3f} by its {items} items"


def items_of(axis: Axis, items: int | None) -> int | None:
    """Return the number of items of a share; None of any other quantity."""
    return items if is_share(axis) else None


def axis_values(report: Report, setting: Setting) -> str:
    """Return 'alignment 0.800 ± 0.050 at capability 0.900 ± 0.050'."""
    y, x = (
        f"{axis.name} {value(summary, items_of(axis, items))}"
        for axis, summary, items in (
            (report.y, setting.y, setting.items_y),
            (report.x, setting.x, setting.items_x),
        )
    )
    return f"{y} at {x}"


def answer(report: Report, standings: Standings) -> list[str]:
    """Return the answer as sentences of one paragraph: which strategy wins, by how much, how sure that is."""
    leader = standings.leader
    how_far = [text] if (text := progress_text(report.progress)) else []
    if leader is None or leader.best is None:
        counts = ", ".join(f"{n} {status}" for status, n in report.counts.items() if n) or "no results"
        needs = f"every planned seed with both {report.x.name} and {report.y.name}"
        return [*how_far, f"There is no answer yet: no setting has {needs} ({counts}).", *_share_diverged(standings)]
    best = report.settings[leader.best]
    if missing := without_verdict(report, standings):
        return [
            *how_far,
            f"There is no verdict between the strategies yet: {', '.join(missing)} may still change it.",
            f"So far {best.label} has {axis_values(report, best)}.",
            *_without_it(report, best),
            *_share_diverged(standings),
        ]
    if _ranked(standings) < 2:
        reached = f"{best.label} reaches {axis_values(report, best)}"
        lost = " with every planned seed" if len(standings.standings) > 1 else ""
        alone = f"{reached}; there is no other strategy{lost} to compare it with."
        return [*how_far, alone, *_without_it(report, best), *_share_diverged(standings)]
    return [
        *how_far,
        headline(report, standings, leader),
        f"Its best setting, {best.label}, has {axis_values(report, best)}, on the seeds that it is chosen by.",
        *_held_out(report, leader),
        *_without_it(report, best),
        *_against(standings, leader),
        *next_step(report, standings),
        *_share_diverged(standings),
    ]


def headline(report: Report, standings: Standings, leader: Standing) -> str:
    """Return the verdict in one sentence, true for whoever reads no further: who leads, and from whom it is told."""
    close = rivals(standings, leader)
    others = _ranked(standings) - 1
    n = len(leader.held_out)
    if leader.score is None or leader.score.n < LEAST_SEEDS:
        few = f"fewer than {LEAST_SEEDS} seeds tell no strategy from another"
        return f"{leader.strategy} has the highest score of {others + 1} strategies, but {few}."
    if not close:
        beaten = {1: "the only other strategy", 2: "both other strategies"}.get(
            others, f"all {others} other strategies"
        )
        return f"{leader.strategy} beats {beaten} in skill and alignment together, seed by seed over {n} seeds."
    if len(close) > _NAMED:
        return f"{leader.strategy} has the highest score, but is not told apart from {len(close)} of {others} others."
    return f"{leader.strategy} has the highest score, but is not told apart from {', '.join(close)}."


def _held_out(report: Report, leader: Standing) -> Iterable[str]:
    """Say what the strategy reaches where each seed's setting is chosen on the others."""
    if leader.score is None:
        yield "One seed of each setting cannot both choose and judge: there is no honest estimate."
        return
    yield (
        f"Judged on seeds that its setting is not chosen by, {leader.strategy} has {report.y.name} {value(leader.y)} "
        f"at {report.x.name} {value(leader.x)}, score {value(leader.score)}; chosen and judged on the same seeds the "
        f"score is {leader.flattering:.3f}, which flatters."
    )


def without_verdict(report: Report, standings: Standings) -> list[str]:
    """Return the strategies of an unfinished sweep that have no setting with every planned seed, or too few seeds."""
    ready = {s.strategy for s in standings.standings if s.hypervolume is not None and len(s.seeds) >= LEAST_SEEDS}
    return [name for name in report.progress.unfinished if name not in ready]


def _share_diverged(standings: Standings) -> Iterable[str]:
    lost = [s for s in standings.standings if s.num_diverged]
    if lost:
        shares = ", ".join(f"{s.num_diverged} of {s.num_trials} trials of {s.strategy}" for s in lost)
        yield f"Diverged: {shares}; a setting that lost a seed leads nothing."


def _ranked(standings: Standings) -> int:
    return sum(s.hypervolume is not None for s in standings.standings)


def _without_it(report: Report, best: Setting) -> Iterable[str]:
    base = next((b for b in report.bases if b.x and b.y), None)
    plain = next((s for s in report.drawn if s.outcome_only and s.slug != best.slug), None)
    parts = []
    if base:
        parts.append(f"the base model has {report.y.name} {value(base.y)} at {value(base.x)}")
    if plain and plain.change_y:
        lost = f" ({plain.change_y.mean:+.3f})" if base else ""
        parts.append(f"training on the task alone ends at {value(plain.y)}{lost} and {value(plain.x)}")
    if parts:
        text = "; ".join(parts)
        yield text[0].upper() + text[1:] + "."


def _against(standings: Standings, leader: Standing) -> Iterable[str]:
    """Compare the leader with the runner-up, seed by seed."""
    comparison = runner_up(standings, leader)
    if comparison and comparison.score.summary:
        n = len(comparison.seeds)
        pairs = "" if standings.num_pairs == 1 else f", Holm over {standings.num_pairs} pairs of strategies"
        yield (
            f"Against {comparison.other}, the runner-up, its score differs by {_difference(comparison.score)} "
            f"(paired over {n} seed{'s' * (n != 1)}{pairs})."
        )


def runner_up(standings: Standings, leader: Standing) -> Comparison | None:
    """Return the leader's comparison with the strategy that is ranked next."""
    others = (s for s in standings.standings if s is not leader and s.hypervolume is not None)
    return standings.against(leader.strategy, second.strategy) if (second := next(others, None)) else None


def next_step(report: Report, standings: Standings) -> Iterable[str]:
    """Say what difference the sweep could have seen, and how many more seeds would settle the leading comparison."""
    leader = standings.leader
    comparison = runner_up(standings, leader) if leader else None
    if leader is None or comparison is None:
        return
    summary, n = comparison.score.summary, len(comparison.seeds)
    if summary is None or not summary.sd or summary.is_flat or n < 2:
        more = "" if n >= LEAST_SEEDS else f": at least {LEAST_SEEDS - n} more"
        yield f"How many seeds would settle it is unknown: no spread of the differences to {comparison.other}{more}."
        return
    counts = {s.strategy: len(s.settings) for s in standings.standings}
    num_settings = max(counts[comparison.strategy], counts[comparison.other])
    level = LEVEL / standings.num_pairs
    seen = detectable_difference(summary.sd, n, level, widening=choice_widening(num_settings, n))
    yield (
        f"With {n} seeds a score difference of {seen:.3g} to {comparison.other} would be found in 80 % of sweeps; "
        "smaller ones mostly go unseen."
    )
    if comparison.told_apart:
        return
    needed = seeds_to_settle(summary.mean, summary.sd, level, num_settings)
    if needed is None:
        yield f"Over {MOST_SEEDS} seeds would be needed to tell the two apart, if the difference is what it seems."
    elif needed <= n:
        yield f"One more seed of {leader.strategy} and {comparison.other} may tell them apart."
    else:
        yield f"About {needed - n} more seeds of {leader.strategy} and {comparison.other} would tell them apart."


def _difference(difference: Any) -> str:
    summary = difference.summary
    text = f"{summary.mean:+.3f}"
    if summary.half_width is None:
        return f"{text} (one seed, no interval)"
    if summary.is_flat:
        return f"{text} (no spread seen, no test)"
    p = "" if difference.p_holm is None else f", p = {difference.p_holm:.2g}"
    return f"{text} ± {summary.half_width:.3f}{p}"


def rivals(standings: Standings, leader: Standing) -> list[str]:
    """Return the strategies from which the leader is not told apart, in the order of the ranking."""
    ranked = [s.strategy for s in standings.standings if s is not leader and s.hypervolume is not None]
    comparisons = {name: standings.against(leader.strategy, name) for name in ranked}
    return [name for name, comparison in comparisons.items() if not (comparison and comparison.told_apart)]


def caveats(report: Report, standings: Standings) -> list[str]:
    """Return what a reader should know before believing the answer, one item a caveat."""
    sentences = list(_seeds(report))
    sentences += _lost(report)
    if report.require:
        out = sum(bool(s.failures) for s in report.settings)
        sentences.append(f"Settings that miss {report.require} are on no front and in no hypervolume: {out} of them.")
    sentences.append(
        "A score is the area that one run dominates beyond the reference point; the run's setting is chosen on all "
        "other seeds. A setting's own row is read on the seeds that chose it: the best of many rows looks better than "
        "it is."
    )
    if standings.leader:
        n = len(standings.leader.seeds)
        sentences.append(
            f"Intervals know the spread of {n} seed{'s' * (n != 1)} and no other: where one seed in ten collapses, "
            f"{n} seeds miss that in {0.9**n:.0%} of sweeps, and then no interval holds. Of shares near 0 or 1 "
            "intervals hold a little less often than they say."
        )
    if report.flagged:
        sentences.append(
            f"{len(report.flagged)} completed trials are flagged as doubtful, averaged all the same: see below."
        )
    return [*sentences, *report.notes, *report.unknown_axes]


def _seeds(report: Report) -> Iterable[str]:
    counts = sorted({len(s.seeds) for s in report.drawn})
    if not counts:
        return
    if counts[-1] == 1:
        yield "Each setting has one seed: there is no interval anywhere, and no difference can be believed."
    else:
        seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        wide = "; with two or three they are wide, as they should be" if counts[0] < 4 else ""
        yield f"Intervals are 95 % t-intervals over {seeds} seeds{wide}; ranges of shares may reach beyond 0 and 1."
    if counts[0] == 1 < counts[-1]:
        yield "Settings with one seed have no interval: their place may be luck."


def _lost(report: Report) -> Iterable[str]:
    lost = {status: n for status, n in report.counts.items() if n and status != TrialStatus.COMPLETED}
    if not lost:
        return
    text = ", ".join(f"{n} {status}" for status, n in lost.items())
    luck = " A setting that lost a seed is averaged over the others, and leads nothing." if lost.get("diverged") else ""
    yield f"Not averaged and not drawn: {text}.{luck}"


def setting_facts(report: Report) -> list[tuple[str, str]]:
    """Return what was trained on which data and how it was measured, as pairs such as ('model', 'toy')."""
    trials = [next((r for r in s.trials if r.status == TrialStatus.COMPLETED), s.trials[0]) for s in report.settings]
    flats = [flatten(r.config) for r in trials]
    facts = [
        ("model", _values(flats, "finetune_config.model")),
        ("data", _data(trials)),
        *((axis.name, _metric(axis, trials)) for axis in (report.x, report.y)),
    ]
    training = [
        f"{name} {values}"
        for name, key in (
            ("epochs", "finetune_config.epochs"),
            ("learning rate", "finetune_config.learning_rate"),
            ("batch", "finetune_config.per_device_train_batch_size"),
            ("LoRA r", "finetune_config.r"),
        )
        if (values := _values(flats, key))
    ]
    facts.append(("training", ", ".join(training)))
    strategies = len({s.strategy for s in report.settings})
    seeds = sorted({r.seed for s in report.settings for r in s.trials})
    shown = ", ".join(map(str, seeds[:8])) + (" …" if len(seeds) > 8 else "")
    trained = len({trial_id for s in report.settings for trial_id in s.trial_ids})
    facts.append(
        ("compared", f"{strategies} strategies, {len(report.settings)} settings, {trained} trials; seeds {shown}")
    )
    return [(name, text) for name, text in facts if text]


def _values(flats: Sequence[dict[str, Any]], key: str) -> str:
    texts = list(dict.fromkeys(value_text(flat[key]) for flat in flats if flat.get(key) is not None))
    return ", ".join(texts[:6]) + (" …" if len(texts) > 6 else "")


def _data(trials: Sequence[TrialResult]) -> str:
    rows = next((r.num_rows for r in trials if r.num_rows), {})
    roles = [f"{n} rows of {name.partition('/')[2]}" for name, n in rows.items() if name.startswith("train/")]
    flat = next((flatten(r.config) for r in trials), {})
    world = flat.get("data.world") or ("toy" if flat.get("finetune_config.model") == "toy" else None)
    source = [f"the {world} world, generated"] if world and not flat.get("data.outcome") else []
    return ", ".join([*source, *roles])


def _metric(axis: Axis, trials: Sequence[TrialResult]) -> str:
    names = list(dict.fromkeys(name for r in trials if (name := axis.metric(r))))
    descriptions = []
    for name in names[:3]:
        set_name, _, metric = name.partition("/")
        words = _METRICS.get(metric)
        descriptions.append(f"{name}: {words}, on {_SETS.get(set_name, set_name)}" if words else name)
    less = "; less is better" if axis.sign < 0 and axis.name not in HEADLINES else ""
    return "; ".join(descriptions) + less if descriptions else ""


def comparison_text(comparison: Comparison, report: Report) -> str:
    """Return 'dpo − naive: score +0.010 ± 0.020, p = 0.5; capability ...'."""
    parts = [
        f"{name} {_difference(d)}"
        for name, d in (("score", comparison.score), (report.x.name, comparison.x), (report.y.name, comparison.y))
        if d.summary
    ]
    verdict = ", told apart" if comparison.told_apart else ""
    return f"{comparison.strategy} − {comparison.other}{verdict}: {'; '.join(parts) or 'no seed in common'}"
