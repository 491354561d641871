"""The evaluations of one trainer: passes of the model, then the judge on what it said, then the record."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable
from typing import Any

from selgen_ray.config.evals import LM_EVAL, EvalConfig
from selgen_ray.config.trial import identity
from selgen_ray.data.rows import Row, rows_hash
from selgen_ray.data.sets import RowSet
from selgen_ray.evals import lm_eval_tasks
from selgen_ray.evals import registry as evals_registry
from selgen_ray.evals.judge.judge import Item, Judge, Verdicts
from selgen_ray.evals.judge.metrics import SHARES, items_of, judged_values
from selgen_ray.evals.questions import is_question, question_of
from selgen_ray.evals.run import evaluate
from selgen_ray.records.results import TrainingRecord
from selgen_ray.storage import Folder
from selgen_ray.trainers.engine import ranks
from selgen_ray.trainers.engine.context import RunContext
from selgen_ray.trainers.engine.loop import check_finite

Measured = dict[str, dict[str, Any]]
"""Set -> 'values', 'missing', 'replies', 'picks', 'cut' and 'max_new_tokens', plain.

Replies and picks are by row number, as text; 'cut' has the numbers of the rows whose reply reached the limit.
"""
MANY_CUT = 0.1
"""Share of a set's replies; where more reach max_new_tokens, a person should know."""
_SAMPLE_LENGTH = 1000
_MOST_UNREADABLE = 0.5


def open_judge(config: EvalConfig, cache: Folder | None) -> Judge | None:
    """Return the judge that a config names, on rank 0, which asks for all ranks; else None.

    Args:
        cache: the folder that trials share; None: they share nothing.

    Raises:
        ModelError: the judge's key is not in the environment.
    """
    if config.judge.model is None or not ranks.is_main():
        return None
    return Judge(config.judge, None if cache is None else cache / "judge")


class Evaluations:
    """Measures a run's model, asks the judge about what it said, and keeps the record.

    Args:
        run: whose model, sets and record are used.
        judge: as `open_judge` gives it.
    """

    def __init__(self, run: RunContext, judge: Judge | None):
        self._run, self._judge = run, judge
        self._config = run.config.evals

    def take(self, step: int, epoch: float, version: str = "") -> None:
        """Evaluate the model as it is, record and publish it.

        Args:
            version: names weights that are not those of `step`.

        Raises:
            TrialDiverged: a value is NaN or infinite.
        """
        start = time.monotonic()
        measured = self.now() if step or version else self.base()
        results = self.record(measured, step, epoch, version)
        self._run.add_time("eval_s", start)
        self._run.callbacks.on_evaluation()
        check_finite({f"{name}/{m}": v for name, by_metric in results.items() for m, v in by_metric.items()}, step)

    # -- passes of the model -------------------------------------------------------------------------------------------

    def now(self) -> Measured:
        """What the model says now; without the judge."""
        sets: dict[int, dict[str, Any]] = {}
        names = self._names()
        for number, (rows, same) in names.items():
            sets[number] = self._run.passes(lambda rows=rows, same=same: self._measure(rows, same))
        found = {name: sets[number] for number, (_, same) in names.items() for name in same}
        found = {name: found[name] for name in self._run.sets.evals}
        if self._config.lm_eval.tasks:
            found[LM_EVAL] = {"values": self._run.passes(self._lm_eval)}
        # the ranks' devices may round differently: all go on with what rank 0 has
        return ranks.broadcast(found)

    def base(self) -> Measured:
        """The same of the start model, which all trials that start from it share."""
        run = self._run
        key: dict[str, Any] = {name: rows_hash(list(rows.rows)) for name, rows in run.sets.evals.items()}
        key |= run.cfg.model_dump(include={"max_seq_length", "max_new_tokens", "loss_on"})
        key |= {"metrics": sorted(evals_registry.selected(self._config)), "evals": identity(self._config), "answers": 2}
        if run.metric_code:
            key["metric_code"] = run.metric_code
        return run.shared.json("base_evaluation", key, self.now)

    def _names(self) -> dict[int, tuple[RowSet, list[str]]]:
        """The different sets, each with its names: two names may be one set."""
        found: dict[int, tuple[RowSet, list[str]]] = {}
        for name, rows in self._run.sets.evals.items():
            found.setdefault(id(rows), (rows, []))[1].append(name)
        return found

    def _measure(self, rows: RowSet, names: list[str]) -> dict[str, Any]:
        cfg, judge = self._run.cfg, self._config.judge
        is_judged = any(self._is_judged(name) for name in names)
        length = (judge.max_new_tokens if is_judged else None) or cfg.max_new_tokens
        eval_set = evals_registry.EvalSet(
            self._run.model,
            self._run.tokenizer,
            rows.rows,
            rows.encoded,
            self._run.memory.eval_batch_size,
            length,
            cfg.max_seq_length,
            self._config,
            self._judged_rows(rows.rows) if is_judged else (),
        )
        values = evaluate(eval_set)
        answers = eval_set.answers
        return {
            "values": values,
            "missing": answers.missing,
            "replies": {str(n): text for n, text in sorted(answers.replies.items())},
            "picks": {kind: {str(n): pick for n, pick in of.items()} for kind, of in answers.picks.items() if of},
            "cut": sorted(answers.cut),
            "max_new_tokens": length,
        }

    def _lm_eval(self) -> dict[str, float]:
        run = self._run
        sizes = run.memory.eval_batch_size, run.cfg.max_seq_length
        return lm_eval_tasks.lm_eval_values(run.model, run.tokenizer, self._config.lm_eval, *sizes)

    # -- the judge -----------------------------------------------------------------------------------------------------

    def _is_judged(self, name: str) -> bool:
        return self._config.judge.model is not None and name in self._config.judge.sets

    def _judged_rows(self, rows: Any) -> list[int]:
        return [n for n, row in enumerate(rows) if is_question(row)][: self._config.judge.max_questions]

    def judged(self, measured: Measured, step: int) -> tuple[Measured, list[str]]:
        """What was measured with the judge's scores, and what is wrong with them; the same on every rank."""
        return ranks.from_main(lambda: self._ask(measured, lambda: self._run.stop.check(step)))

    def _ask(self, measured: Measured, check: Callable[[], None]) -> tuple[Measured, list[str]]:
        judge, found, flags = self._judge, dict(measured), []
        pairs: dict[str, dict[int, tuple[Item, Item]]] = {}
        for name in [name for name in measured if self._is_judged(name)]:
            rows, said = self._run.sets.evals[name].rows, measured[name]["replies"]
            pairs[name] = {n: items_of(question_of(rows[n]), said[str(n)]) for n in self._judged_rows(rows)}
        if judge is None or not pairs:
            return found, flags
        verdicts = judge.score([item for of in pairs.values() for pair in of.values() for item in pair], check)
        for name, of in pairs.items():
            values = judged_values(verdicts, list(of.values()))
            lacking = {m: _why(verdicts, list(of.values())) for m in SHARES if m not in values}
            scores = {str(n): _scores(verdicts, pair) for n, pair in of.items()}
            before = measured[name]
            merged = {"values": before["values"] | values, "missing": before["missing"] | lacking, "scores": scores}
            found[name] = before | merged
            lost = [item for pair in of.values() for item in pair if item in verdicts.failures]
            if lost:
                what = f"{len(lost)} of {2 * len(of)} replies of the judge are missing"
                flags.append(f"{name}: {what}: {verdicts.failures[lost[-1]]}")
        return found, flags

    # -- the record ----------------------------------------------------------------------------------------------------

    def record(self, measured: Measured, step: int, epoch: float, version: str) -> dict[str, dict[str, float]]:
        """Add what was measured, and the judge's scores, to the trainer's record.

        Returns:
            set -> metric -> value.
        """
        record = self._run.record
        completed, flags = self.judged(measured, step)
        for flag in flags:
            self._run.callbacks.on_event({"event": "judge_failed", "why": flag, "step": step})
        cut = _cut_replies(measured)
        if not (step or version):
            record.notes = cut
        results = {name: dict(of["values"]) for name, of in completed.items()}
        record.add_evaluation(step, epoch, version, results)
        record.eval_digests = [*record.eval_digests, _digest(measured)]
        lacking = {name: of.get("missing", {}) for name, of in completed.items()}
        record.missing = {f"{name}/{m}": why for name, of in lacking.items() for m, why in of.items()}
        record.samples = self._samples(completed, is_base=not (step or version))
        record.flags = [*self._run.flags, *flags, *cut, *_became_unreadable(record)]
        if self._judge is not None:
            record.judge = self._judge.identity
        return results

    def flag_unchanged(self, step: int) -> None:
        """Flag a trained model that says what the base model said everywhere: perhaps its adapter was not applied."""
        record = self._run.record
        digests = record.eval_digests
        if len(digests) != len(record.eval_steps) or len(digests) < 2 or record.eval_steps[-1] == 0:
            return
        (base, base_values), (last, last_values) = digests[0].split(":"), digests[-1].split(":")
        same_values = base_values == last_values
        if base == last and (base or same_values):
            same = f"every {'answer is' if base else 'metric is'} the base model's after {step} steps"
            if same_values:
                same += ", and every metric" if base else ""
                why = f"{same}, to the last digit: was the adapter applied?"
                self._run.callbacks.on_event({"event": "answers_unchanged", "why": why, "step": step})
            else:  # then it was: a remark, no incident
                why = f"{same}, though the losses are not: was the training too weak?"
            record.flags = [*record.flags, why]

    def _samples(self, measured: Measured, is_base: bool) -> dict[str, list[dict[str, Any]]]:
        before = self._run.record.samples
        found: dict[str, list[dict[str, Any]]] = {}
        for name, of in measured.items():
            rows = self._run.sets.evals[name].rows if name != LM_EVAL else ()
            said = {n: reply for n in range(len(rows)) if (reply := _said(of, n)) is not None}
            numbers = list(said)[: self._config.num_samples]
            samples = [_sample(rows[n], n, of, said[n]) for n in numbers]
            bases = before.get(name, [])
            for i, sample in enumerate(samples):
                sample["base_reply"] = (
                    sample["reply"] if is_base else bases[i]["base_reply"] if i < len(bases) else None
                )
            if samples:
                found[name] = samples
        return found


def _became_unreadable(record: TrainingRecord) -> Iterable[str]:
    """A sentence for each set of which most replies cannot be read now, and could before training."""
    for name, by_metric in record.eval_results.items():
        for metric in (metric for metric in by_metric if metric.endswith("_unreadable")):
            before, now = record.metric(f"{name}/{metric}", 0), record.metric(f"{name}/{metric}")
            if before is not None and now is not None and before <= _MOST_UNREADABLE < now:
                share = f"{now:.0%} of the replies cannot be read, before training {before:.0%}"
                yield f"{name}/{metric}: {share}: they count as neither right nor agreement"


def _cut_replies(measured: Measured) -> list[str]:
    """A sentence for the sets of which many replies reached the limit; sets that are one are named together."""
    sentences: dict[str, list[str]] = {}
    for name, of in measured.items():
        replies, cut = of.get("replies", {}), of.get("cut", [])
        if len(cut) > MANY_CUT * len(replies):
            sentence = f"{len(cut)} of {len(replies)} replies reached max_new_tokens {of['max_new_tokens']}"
            sentences.setdefault(sentence, []).append(name)
    return [f"{', '.join(names)}: {sentence}, where they are cut off" for sentence, names in sentences.items()]


def _why(verdicts: Verdicts, pairs: list[tuple[Item, Item]]) -> str:
    if verdicts.dead:
        return f"the judge does not answer: {verdicts.dead}"
    failed = [verdicts.failures[item] for pair in pairs for item in pair if item in verdicts.failures]
    return f"the judge gave no score{': ' + failed[-1] if failed else ''}"


def _scores(verdicts: Verdicts, pair: tuple[Item, Item]) -> dict[str, float | str | None]:
    found = {item.respect: verdicts.scores.get(item) for item in pair}
    return {respect: None if s is None else s.kind if s.value is None else s.value for respect, s in found.items()}


def _digest(measured: Measured) -> str:
    answers = {name: [of.get("replies", {}), of.get("picks", {})] for name, of in measured.items()}
    said = any(any(parts) for parts in answers.values())
    values = {name: of["values"] for name, of in measured.items()}
    return ":".join([_hash(answers) if said else "", _hash(values)])


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _said(of: dict[str, Any], number: int) -> str | None:
    """What the model answered to a row: its reply, else the choice it takes, else its letters for each rotation."""
    key, picks = str(number), of.get("picks", {})
    if key in of.get("replies", {}):
        return of["replies"][key]
    if key in picks.get("choice", {}):
        return picks["choice"][key]
    letters = picks.get("letter", {}).get(key)
    return None if letters is None else ", ".join(letters)


def _sample(row: Row, number: int, of: dict[str, Any], said: str) -> dict[str, Any]:
    sample: dict[str, Any] = {"prompt": _clipped(question_of(row)), "reply": _clipped(said)}
    if row.get("answer") is not None:
        sample["answer"] = _clipped(str(row["answer"]))
    return sample | of.get("scores", {}).get(str(number), {})


def _clipped(text: str) -> str:
    return text if len(text) <= _SAMPLE_LENGTH else f"{text[:_SAMPLE_LENGTH]} …"
