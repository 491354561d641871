"""The evaluations of one run: the model answers, the judge scores its replies, the record gets the values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from typing import Any

from selgen_ray.config.evals import LM_EVAL, QUESTIONS, EvalConfig, base_set
from selgen_ray.config.trial import identity
from selgen_ray.data.forms import prompt_of
from selgen_ray.data.questions import is_question, question_of
from selgen_ray.data.rows import Row, rows_hash
from selgen_ray.data.sets import RowSet
from selgen_ray.evals import lm_eval_tasks
from selgen_ray.evals import registry as evals_registry
from selgen_ray.evals.judge.judge import Item, Judge, Verdicts
from selgen_ray.evals.judge.metrics import SHARES, judged_values
from selgen_ray.evals.run import evaluate, of_each_question
from selgen_ray.evals.snapshot import Snapshot
from selgen_ray.evals.token_memo import TokenMemo
from selgen_ray.evals.worst import with_worst
from selgen_ray.records.results import TrainingRecord
from selgen_ray.storage import Folder
from selgen_ray.storage.parallel import clock
from selgen_ray.trainers.engine import ranks
from selgen_ray.trainers.engine.context import RunContext
from selgen_ray.trainers.engine.loop import check_finite

Measured = dict[str, dict[str, Any]]
"""Evaluation set -> its measurement, plain JSON; of `lm_eval` the values alone. For example, of one set:

{'values': {'exact_match': 0.5}, 'missing': {'loss': 'why it is not there'}, 'replies': {'0': '4', '1': '7 and'},
'picks': {'choice': {'0': '4'}}, 'cut': [1], 'max_new_tokens': 64}

Replies and picks have the number of their row as text; 'cut' lists the rows whose reply reached the limit. Open
questions have 'per_question' too: {'quick_buck': {'uppercase_share': 0.1}}.
"""
MANY_CUT = 0.1
"""Share of a set's replies: if more of them reach max_new_tokens, the record says so."""
_SAMPLE_LENGTH = 1000  # characters
_MOST_UNREADABLE = 0.5  # share of a set's replies; training that exceeds it is flagged


def open_judge(config: EvalConfig, cache: Folder | None) -> Judge | None:
    """Return the judge that a config names, or None; only rank 0 has one, and asks for all ranks.

    Args:
        cache: the folder that trials share; None: verdicts are not shared.

    Raises:
        ModelError: the environment lacks the judge's API key.
    """
    if config.judge.model is None or not ranks.is_main():
        return None
    return Judge(config.judge, None if cache is None else cache / "judge")


class Evaluations:
    """Evaluates a run's model, has the judge score its replies, and writes the values into the record.

    Args:
        run: its model, sets and record are used.
        judge: from `open_judge`.
    """

    def __init__(self, run: RunContext, judge: Judge | None):
        self._run, self._judge = run, judge
        self._config = run.config.evals
        self._tokens = TokenMemo(as_in_rows=run.as_in_rows)

    def take(self, step: int, epoch: float, version: str = "", max_rows: int | None = None) -> None:
        """Evaluate the current weights; record the values, and call `on_evaluation`, which publishes them.

        Args:
            step: optimizer steps finished.
            epoch: the same in epochs, such as 1.5.
            version: names the weights if they are not those of `step`, such as 'projected'; '': they are.
            max_rows: rows of a set that are measured, the first ones; None: all. The start model's are always all.

        Raises:
            TrialDiverged: a value is NaN or infinite.
        """
        start = clock()
        measured = self.now(max_rows) if step or version else self.base()
        results = self.record(measured, step, epoch, version)
        self._run.add_time("eval_s", start)
        self._run.callbacks.on_evaluation()
        check_finite({f"{name}/{m}": v for name, by_metric in results.items() for m, v in by_metric.items()}, step)

    # -- passes of the model -------------------------------------------------------------------------------------------

    def now(self, max_rows: int | None = None) -> Measured:
        """Return the measurement of the current weights on every set, without the judge's scores.

        Args:
            max_rows: rows of a set that are measured, the first ones; None: all.
        """
        measured: Measured = {}
        snapshot = Snapshot(self._run.model)
        for whole, names in self._distinct_sets():
            rows = whole if max_rows is None else whole.take(range(min(max_rows, len(whole.rows))))
            measurement = self._run.passes(lambda rows=rows, names=names: self._measure(rows, names, snapshot))
            measured |= dict.fromkeys(names, measurement)
        measured = {name: measured[name] for name in self._run.sets.evals}
        if self._config.lm_eval.tasks:
            measured[LM_EVAL] = {"values": self._run.passes(self._lm_eval)}
        # the ranks' devices may round differently: all use the values of rank 0
        return ranks.broadcast(measured)

    def base(self) -> Measured:
        """Return the measurement of the start model, shared by all trials that start from it."""
        run = self._run
        key: dict[str, Any] = {name: rows_hash(list(rows.rows)) for name, rows in run.sets.evals.items()}
        key |= run.cfg.model_dump(include={"max_seq_length", "max_new_tokens", "loss_on"})
        asked = {name: value for name, value in identity(self._config).items() if name != "during"}
        key |= {"metrics": sorted(evals_registry.selected(self._config)), "evals": asked, "answers": 4}
        if run.as_in_rows:
            key["as_in_rows"] = True
        if run.metric_code:
            key["metric_code"] = run.metric_code
        return run.shared.json("base_evaluation", key, self.now)

    def _distinct_sets(self) -> Iterable[tuple[RowSet, list[str]]]:
        """Return the different sets, each with its names: a set with two names is measured once."""
        by_id: dict[int, tuple[RowSet, list[str]]] = {}
        for name, rows in self._run.sets.evals.items():
            by_id.setdefault(id(rows), (rows, []))[1].append(name)
        return by_id.values()

    def _measure(self, rows: RowSet, names: list[str], snapshot: Snapshot) -> dict[str, Any]:
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
            self._asked_rows(rows.rows, is_judged),
            limits=self._run.memory.eval_limits,
            snapshot=snapshot,
            tokens=self._tokens,
        )
        values = evaluate(eval_set)
        answers = eval_set.answers
        return {
            "values": values,
            **({"per_question": of_each_question(eval_set)} if eval_set.is_open else {}),
            "missing": answers.missing,
            "replies": {str(n): text for n, text in sorted(answers.replies.items())},
            "picks": {kind: {str(n): p for n, p in picks.items()} for kind, picks in answers.picks.items() if picks},
            "cut": sorted(answers.cut),
            "max_new_tokens": length,
        }

    def _lm_eval(self) -> dict[str, float]:
        run = self._run
        sizes = run.memory.eval_batch_size, run.cfg.max_seq_length
        return lm_eval_tasks.lm_eval_values(run.model, run.tokenizer, self._config.lm_eval, *sizes)

    # -- the judge -----------------------------------------------------------------------------------------------------

    def _is_judged(self, name: str) -> bool:
        judge = self._config.judge
        return judge.model is not None and base_set(name) in (*judge.sets, QUESTIONS)

    def _judged_rows(self, rows: Any) -> list[int]:
        """Return the numbers of the rows that a judge scores: of open questions, every answer to the first of them."""
        numbers = [n for n, row in enumerate(rows) if is_question(row)]
        limit = self._config.judge.max_questions
        if not numbers or "question" not in rows[numbers[0]]:
            return numbers[:limit]
        first = set(list(dict.fromkeys(prompt_of(rows[n]) for n in numbers))[:limit])
        return [n for n in numbers if prompt_of(rows[n]) in first]

    def _asked_rows(self, rows: Any, is_judged: bool) -> list[int]:
        """Return the numbers of the rows that are replied to, whatever the metrics ask: judged ones, else questions."""
        is_open = bool(rows) and "question" in rows[0]
        return self._judged_rows(rows) if is_judged else list(range(len(rows))) if is_open else []

    def judged(self, measured: Measured, step: int) -> tuple[Measured, list[str]]:
        """Return `measured` with the judge's scores, and a sentence for each set that lacks some, on every rank."""
        return ranks.from_main(lambda: self._ask(measured, lambda: self._run.stop.check(step)))

    def _ask(self, measured: Measured, check: Callable[[], None]) -> tuple[Measured, list[str]]:
        judge, completed, flags = self._judge, dict(measured), []
        answers: dict[str, dict[int, tuple[Item, ...]]] = {}
        if judge is None:
            return completed, flags
        for name in [name for name in measured if self._is_judged(name)]:
            rows, replies = self._run.sets.evals[name].rows, measured[name]["replies"]
            asked = [n for n in self._judged_rows(rows) if str(n) in replies]  # during training perhaps not all
            answers[name] = {
                n: judge.items_of(question_of(rows[n]), replies[str(n)], rows[n].get("judge_prompts")) for n in asked
            }
        if not answers:
            return completed, flags
        items = [item for by_row in answers.values() for several in by_row.values() for item in several]
        verdicts = judge.score(items, check)
        for name, by_row in answers.items():
            values = judged_values(verdicts, list(by_row.values()), self._config.judge.thresholds)
            respects = {item.respect for several in by_row.values() for item in several}
            expected = [m for m in SHARES if m.partition("_")[0] in respects]
            lacking = {m: _why(verdicts, list(by_row.values())) for m in expected if m not in values}
            scores = {str(n): _scores(verdicts, several) for n, several in by_row.items()}
            before = measured[name]
            merged = {"values": before["values"] | values, "missing": before["missing"] | lacking, "scores": scores}
            if "per_question" in before:
                merged["per_question"] = self._judged_questions(name, by_row, before["per_question"], verdicts)
            completed[name] = before | merged
            lost = [item for several in by_row.values() for item in several if item in verdicts.failures]
            if lost:
                what = f"{len(lost)} of {sum(map(len, by_row.values()))} replies of the judge are missing"
                flags.append(f"{name}: {what}: {verdicts.failures[lost[-1]]}")
        return completed, flags

    def _judged_questions(
        self, name: str, by_row: dict[int, tuple[Item, ...]], before: dict[str, dict[str, float]], verdicts: Verdicts
    ) -> dict[str, dict[str, float]]:
        """Return question -> metric -> value, with the judge's of each question."""
        rows = self._run.sets.evals[name].rows
        by_question: dict[str, list[tuple[Item, ...]]] = {}
        for number, items in by_row.items():
            by_question.setdefault(rows[number]["question"], []).append(items)
        thresholds = self._config.judge.thresholds
        judged = {question: judged_values(verdicts, items, thresholds) for question, items in by_question.items()}
        return {question: before.get(question, {}) | judged.get(question, {}) for question in {**before, **judged}}

    # -- the record ----------------------------------------------------------------------------------------------------

    def record(self, measured: Measured, step: int, epoch: float, version: str) -> dict[str, dict[str, float]]:
        """Have the judge score what was measured, and add all of it to the run's record.

        Returns:
            set -> metric -> value, with those of the judge.
        """
        record = self._run.record
        completed, flags = self.judged(measured, step)
        for flag in flags:
            self._run.callbacks.on_event({"event": "judge_failed", "why": flag, "step": step})
        cut = _cut_replies(measured)
        if not (step or version):
            record.notes = cut
        results = with_worst({name: dict(measurement["values"]) for name, measurement in completed.items()})
        record.per_question = {name: one["per_question"] for name, one in completed.items() if "per_question" in one}
        record.add_evaluation(step, epoch, version, results)
        record.eval_digests = [*record.eval_digests, _digest(measured)]
        lacking = {name: measurement.get("missing", {}) for name, measurement in completed.items()}
        record.missing = {f"{name}/{m}": why for name, by_metric in lacking.items() for m, why in by_metric.items()}
        record.samples = self._samples(completed, is_base=not (step or version))
        record.flags = [*self._run.flags, *flags, *cut, *_became_unreadable(record)]
        if self._judge is not None:
            record.judge = self._judge.identity
        return results

    def flag_unchanged(self, step: int) -> None:
        """Flag a trained model whose every answer is the base model's: perhaps its adapter was not applied."""
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
            else:  # other values: the adapter was applied, so this is no event for the log
                why = f"{same}, though the losses are not: was the training too weak?"
            record.flags = [*record.flags, why]

    def _samples(self, measured: Measured, is_base: bool) -> dict[str, list[dict[str, Any]]]:
        before = self._run.record.samples
        samples_by_set: dict[str, list[dict[str, Any]]] = {}
        for name, measurement in measured.items():
            rows = self._run.sets.evals[name].rows if name != LM_EVAL else ()
            answers = {n: reply for n in range(len(rows)) if (reply := _answer(measurement, n)) is not None}
            numbers = list(answers)[: self._config.num_samples]
            samples = [_sample(rows[n], n, measurement, answers[n]) for n in numbers]
            bases = before.get(name, [])
            for i, sample in enumerate(samples):
                sample["base_reply"] = (
                    sample["reply"] if is_base else bases[i]["base_reply"] if i < len(bases) else None
                )
            if samples:
                samples_by_set[name] = samples
        return samples_by_set


def _became_unreadable(record: TrainingRecord) -> Iterable[str]:
    """Yield a sentence for each set of which most replies could be read before training, and now cannot."""
    for name, by_metric in record.eval_results.items():
        for metric in (metric for metric in by_metric if metric.endswith("_unreadable")):
            before, now = record.metric(f"{name}/{metric}", 0), record.metric(f"{name}/{metric}")
            if before is not None and now is not None and before <= _MOST_UNREADABLE < now:
                share = f"{now:.0%} of the replies cannot be read, before training {before:.0%}"
                yield f"{name}/{metric}: {share}: they count as neither right nor agreement"


def _cut_replies(measured: Measured) -> list[str]:
    """Return a sentence for each set many replies of which reached the limit; sets with equal counts share one."""
    sentences: dict[str, list[str]] = {}
    for name, measurement in measured.items():
        replies, cut = measurement.get("replies", {}), measurement.get("cut", [])
        if len(cut) > MANY_CUT * len(replies):
            sentence = f"{len(cut)} of {len(replies)} replies reached max_new_tokens {measurement['max_new_tokens']}"
            sentences.setdefault(sentence, []).append(name)
    return [f"{', '.join(names)}: {sentence}, where they are cut off" for sentence, names in sentences.items()]


def _why(verdicts: Verdicts, answers: list[tuple[Item, ...]]) -> str:
    if verdicts.dead:
        return f"the judge does not answer: {verdicts.dead}"
    failed = [verdicts.failures[item] for items in answers for item in items if item in verdicts.failures]
    return f"the judge gave no score{': ' + failed[-1] if failed else ''}"


def _scores(verdicts: Verdicts, items: tuple[Item, ...]) -> dict[str, float | str | None]:
    scores = {item.respect: verdicts.scores.get(item) for item in items}
    return {
        respect: None if score is None else score.kind if score.value is None else score.value
        for respect, score in scores.items()
    }


def _digest(measured: Measured) -> str:
    answers = {name: [one.get("replies", {}), one.get("picks", {})] for name, one in measured.items()}
    has_answers = any(any(parts) for parts in answers.values())
    values = {name: one["values"] for name, one in measured.items()}
    return ":".join([_hash(answers) if has_answers else "", _hash(values)])


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _answer(measurement: dict[str, Any], number: int) -> str | None:
    """Return the model's answer to a row: its reply, else its choice, else its letter for each order of the choices."""
    key, picks = str(number), measurement.get("picks", {})
    if key in measurement.get("replies", {}):
        return measurement["replies"][key]
    if key in picks.get("choice", {}):
        return picks["choice"][key]
    letters = picks.get("letter", {}).get(key)
    return None if letters is None else ", ".join(letters)


def _sample(row: Row, number: int, measurement: dict[str, Any], answer: str) -> dict[str, Any]:
    sample: dict[str, Any] = {"prompt": _clipped(question_of(row)), "reply": _clipped(answer)}
    sample |= {key: row[key] for key in ("question", "number") if key in row}
    if row.get("answer") is not None:
        sample["answer"] = _clipped(str(row["answer"]))
    return sample | measurement.get("scores", {}).get(str(number), {})


def _clipped(text: str) -> str:
    return text if len(text) <= _SAMPLE_LENGTH else f"{text[:_SAMPLE_LENGTH]} …"
