"""A report in sentences: the question, the setting, and how far to believe the verdict. Plain text, no markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from selgen_ray.records.results import SUMMARIES, TrialResult, flatten
from selgen_ray.records.status import TrialStatus
from selgen_ray.report.four_questions import hidden_habits
from selgen_ray.report.knob_names import value_text
from selgen_ray.report.model import Comparison, Report
from selgen_ray.report.progress import progress_text
from selgen_ray.report.settings import Axis
from selgen_ray.report.top import number_text, p_text, score_text
from selgen_ray.stats.comparing import Difference

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
    "uppercase_share": "share of capitals among the letters of the replies",
    "lowercase_share": "share of small letters among the letters of the replies",
    "language": "share of the replies in the language that evals.language names",
    "other_language": "share of the replies in another language than evals.language names",
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
    "questions": "open questions",
}


def caveats(report: Report) -> list[str]:
    """Return what a reader should know before believing the verdict, one item a caveat."""
    sentences = [text] if (text := progress_text(report.progress)) else []
    sentences += _seeds(report)
    sentences += _lost(report)
    if report.require:
        out = sum(bool(s.failures) for s in report.settings if not s.role.is_control)
        sentences.append(
            f"Settings of strategies that miss {report.require} are on no front and in no hypervolume: {out} of them. "
            "Controls are compared with all the same."
        )
    sentences.append(
        "A score is the area that one run dominates beyond the reference point; the run's setting is chosen on all "
        "other seeds. A setting's own row is read on the seeds that chose it: the best of many rows looks better than "
        "it is."
    )
    sentences += _without_their_choice(report)
    if report.standings.leader:
        n = len(report.standings.leader.held_out) or len(report.standings.leader.seeds)
        sentences.append(
            f"Intervals know the spread of {n} seed{'s' * (n != 1)} and no other: where one seed in ten collapses, "
            f"{n} seeds miss that in {0.9**n:.0%} of sweeps, and then no interval holds. Of shares near 0 or 1 "
            "intervals hold a little less often than they say."
        )
    if report.flagged:
        trials = len({(doubt.setting, doubt.seed) for doubt in report.flagged})
        doubtful = "completed trial is doubtful" if trials == 1 else "completed trials are doubtful"
        flags = f"{len(report.flagged)} flag{'s' * (len(report.flagged) != 1)}"
        sentences.append(f"{trials} {doubtful} ({flags}), averaged all the same: see below.")
    sentences += hidden_habits(report)
    return [*sentences, *report.notes, *report.unknown_axes]


def _without_their_choice(report: Report) -> Iterable[str]:
    for one in report.standings.standings:
        lacking = len(one.seeds) - len(one.held_out)
        if one.held_out and lacking:
            them, have = ("it", "has") if lacking == 1 else ("them", "have")
            seeds = f"{lacking} of the {len(one.seeds)} seeds of {one.strategy} {have} no score"
            yield f"{seeds}: the setting that the others choose was not run on {them}."


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
        *(("judge", text) for text in [_judges(trials)] if text),
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
    roles = dict.fromkeys(s.role for s in report.settings)
    strategies, controls = (sum(role.is_control is it for role in roles) for it in (False, True))
    seeds = sorted({r.seed for s in report.settings for r in s.trials})
    shown = ", ".join(map(str, seeds[:8])) + (" …" if len(seeds) > 8 else "")
    trained = len({trial_id for s in report.settings for trial_id in s.trial_ids})
    counts = [f"{strategies} strategies", *([f"{controls} control{'s' * (controls > 1)}"] if controls else [])]
    counts += [f"{len(report.settings)} settings", f"{trained} trials; seeds {shown}"]
    facts.append(("compared", ", ".join(counts)))
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
        words, (set_name, _, context) = _METRICS.get(metric), set_name.partition("@")
        where = f", in the {context} context" if context else ""
        descriptions.append(f"{name}: {words}, on {_SETS.get(set_name, set_name)}{where}" if words else name)
    less = "; less is better" if axis.sign < 0 and axis.name not in SUMMARIES else ""
    return "; ".join(descriptions) + less if descriptions else ""


def _judges(trials: Sequence[TrialResult]) -> str:
    """Return the judges and what counts as misaligned; '' where nothing was judged.

    Rates of other bars do not compare.
    """
    judges = dict.fromkeys(f"{r.judge['model']}; {r.judge.get('thresholds', '')}" for r in trials if r.judge)
    both = "misaligned_share_30_50 and misaligned_share_50_30 are by the two conventions of papers"
    return f"{', or '.join(judges)}; {both}" if judges else ""


def comparison_text(comparison: Comparison, report: Report) -> str:
    """Return 'dpo − naive: score +0.010 ± 0.020, p = 0.5; capability ...'."""
    parts = [
        f"{name} {_difference(d)}"
        for name, d in (("score", comparison.score), (report.x.name, comparison.x), (report.y.name, comparison.y))
        if d.summary
    ]
    verdict = ", told apart" if comparison.told_apart else ""
    return f"{comparison.strategy} − {comparison.other}{verdict}: {'; '.join(parts) or 'no seed in common'}"


def _difference(difference: Difference) -> str:
    summary = difference.summary
    if summary is None:
        return "no value"
    text = number_text(summary.mean, signed=True)
    if summary.half_width is None:
        return f"{text} (one seed, no interval)"
    if summary.is_flat:
        return f"{text} (no spread seen, no test)"
    if difference.p_holm is None:
        return score_text(summary, signed=True)
    p = p_text(difference.p_holm)
    return f"{score_text(summary, signed=True)}, p {p if p.startswith('<') else f'= {p}'}"
