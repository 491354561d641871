"""A report in sentences: the question, the setting, the answer, and how far to believe it. Plain text, no markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from selgen_ray.records.results import HEADLINES, TrialResult, flatten
from selgen_ray.records.status import TrialStatus
from selgen_ray.report.knob_names import value_text
from selgen_ray.report.model import Comparison, Report, Standing, Standings
from selgen_ray.report.settings import Axis, Setting
from selgen_ray.stats import Summary

SURE, FEW_SEEDS = 0.95, 5
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
    "align_test": "alignment where nothing was trained",
    "align_test_minus_align_train": "alignment without what the proxy shows",
}


def value(summary: Summary | None) -> str:
    """Return '0.983 ± 0.024', for one seed '0.983 (one seed, no interval)'."""
    if summary is None:
        return "no value"
    mean = f"{summary.mean:.3f}"
    return f"{mean} (one seed, no interval)" if summary.half_width is None else f"{mean} ± {summary.half_width:.3f}"


def probability(p: float | None) -> str:
    """Return '0.93'; near 0 and 1 '< 0.01' and '> 0.99', since resampled seeds make nothing certain."""
    if p is None:
        return "unknown"
    return "> 0.99" if p > 0.99 else "< 0.01" if p < 0.01 else f"{p:.2f}"


def answer(report: Report, standings: Standings) -> list[str]:
    """Return the answer as sentences of one paragraph: which strategy wins, by how much, how sure that is."""
    leader = standings.leader
    if leader is None or leader.best is None:
        counts = ", ".join(f"{n} {status}" for status, n in report.counts.items() if n) or "no results"
        return [f"There is no answer yet: no completed trial has both {report.x.name} and {report.y.name} ({counts})."]
    best = report.settings[leader.best]
    reached = f"{report.y.name} {value(best.y)} at {report.x.name} {value(best.x)}"
    if (num := _ranked(standings)) > 1:
        largest = f"the largest hypervolume of the {num} strategies compared"
        sentences = [f"{best.label} keeps {reached}, and its strategy has {largest}."]
    else:
        sentences = [f"{best.label} reaches {reached}; there is no other strategy to compare it with."]
    sentences += _without_it(report, best)
    sentences += _against(report, standings, leader)
    return [*sentences, *_how_sure(standings, leader)]


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


def _against(report: Report, standings: Standings, leader: Standing) -> Iterable[str]:
    """Compare the leader's best setting with the best naive one, seed by seed, unless the leader is naive itself."""
    comparison = next((c for c in standings.families.get("naive", ()) if c.strategy == leader.strategy), None)
    other = next((s for s in standings.standings if s.strategy == "naive"), None)
    if comparison is None or other is None or other.best is None:
        return
    parts = [
        f"{axis.name} {_difference(difference)}"
        for axis, difference in ((report.y, comparison.y), (report.x, comparison.x))
        if difference.summary
    ]
    if parts:
        label = report.settings[other.best].label
        yield (
            f"Against the best naive run ({label}), seed by seed: {'; '.join(parts)} "
            f"(p by paired t-tests, Holm-corrected for {2 * len(standings.families['naive'])} comparisons)."
        )


def _difference(difference: Any) -> str:
    summary = difference.summary
    text = f"{summary.mean:+.3f}"
    if summary.half_width is None:
        return f"{text} (one seed, no interval)"
    p = "" if difference.p_holm is None else f", p = {difference.p_holm:.2g}"
    return f"{text} ± {summary.half_width:.3f}{p}"


def rivals(standings: Standings, leader: Standing) -> list[tuple[str, float | None]]:
    """Return the strategies that the leader does not beat with probability `SURE` or more, in the order of the ranking.

    Returns:
        (strategy, probability that the leader's hypervolume is larger); None: unknown, with fewer than two seeds.
    """
    ahead = standings.beats.get(leader.strategy, {})
    return [(name, p) for name, p in ahead.items() if p is None or p < SURE]


def _how_sure(standings: Standings, leader: Standing) -> Iterable[str]:
    close = rivals(standings, leader)
    if _ranked(standings) < 2:
        return
    if leader.interval is None or not _known(standings, leader):
        yield "With fewer than two seeds nothing says whether that would happen again."
        return
    if close:
        names = ", ".join(f"{name} ({probability(p)})" for name, p in close)
        yield (
            f"It cannot be told apart from: {names}; in brackets, the probability (bootstrap over seeds) that "
            f"{leader.strategy}'s hypervolume is the larger."
        )
    if len(close) < _ranked(standings) - 1:
        n, beaten = len(leader.seeds), "every other strategy" if not close else "the others"
        few = f"; {n} seeds are few: a sign, not a proof" if n < FEW_SEEDS else ""
        nearest_name, p = min(_known(standings, leader), key=lambda pair: pair[1])
        nearest = "" if close else f" (the nearest, {nearest_name}: P = {probability(p)})"
        yield f"It beats {beaten} in at least {SURE:.0%} of the resamples of the seeds{nearest}{few}."


def _known(standings: Standings, leader: Standing) -> list[tuple[str, float]]:
    return [(name, p) for name, p in standings.beats[leader.strategy].items() if p is not None]


def caveats(report: Report, standings: Standings) -> list[str]:
    """Return what a reader should know before believing the answer, one item a caveat."""
    sentences = list(_seeds(report))
    sentences += _lost(report)
    if report.require:
        out = sum(bool(s.failures) for s in report.settings)
        sentences.append(f"Settings that miss {report.require} are on no front and in no hypervolume: {out} of them.")
    sentences.append(
        "The best setting of a strategy is chosen on the same seeds it is judged by, so the best of many settings "
        "looks better than it is; a strategy with more settings has more chances. Confirm a choice on new seeds."
    )
    if standings.leader and standings.leader.interval is not None:
        n = len(standings.leader.seeds)
        sentences.append(
            f"The bootstrap draws from {n} seeds: it knows no other spread than theirs. With few seeds it is too sure "
            "of itself; 5 to 10 seeds are a fair test."
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
    luck = " Where some seeds of a setting diverged, it looks better than it is." if lost.get("diverged") else ""
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
    """Return 'dpo − naive: capability +0.010 ± 0.020, p = 0.5; alignment ...'."""
    parts = [
        f"{axis.name} {_difference(d)}" for axis, d in ((report.x, comparison.x), (report.y, comparison.y)) if d.summary
    ]
    return f"{comparison.strategy} − {comparison.other}: {'; '.join(parts) or 'no seed in common'}"
