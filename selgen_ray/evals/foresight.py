"""Headlines of a sweep before it runs: their metric, their rows, and how far such a number can be trusted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath

from selgen_ray.config.evals import LM_EVAL, QUESTIONS, WORST, base_set, has_contexts
from selgen_ray.config.trial import TrialConfig
from selgen_ray.data.forms import Row, prompt_of
from selgen_ray.data.questions import is_question, question_rows
from selgen_ray.data.sets import TRAINED_ROLES, eval_rows, with_rejected
from selgen_ray.errors import nearest
from selgen_ray.evals import registry as evals_registry
from selgen_ray.evals.headlines import headlines, worst_headline
from selgen_ray.evals.judge import metrics as judged
from selgen_ray.records.eval_sets import ROLE_OF_SET
from selgen_ray.records.results import HEADLINES

FEW_ROWS = 50
"""Number of rows; a share of fewer rows is known to ± 0.14 or worse."""
_MOST_LINES = 4  # of one headline, where trials differ


def half_width(num_rows: int) -> float:
    """Return half the width of the 95 % interval of a share measured on independent rows, at its widest.

    It is 1.96 sqrt(p (1 - p) / n) for p = 1/2 (normal approximation).
    """
    return 1.96 * (0.25 / num_rows) ** 0.5


class Foresight:
    """Headlines of all trials of a sweep; trials with the same headlines are shown once.

    Attributes:
        notes: sentences on the headlines that a person should read before the sweep.
        possible: every 'set/metric' that some trial will have.
    """

    def __init__(self) -> None:
        self._lines: dict[str, dict[str, None]] = {name: {} for name in HEADLINES}
        self._worst: dict[str, None] = {}
        self.notes: dict[str, None] = {}
        self.possible: set[str] = set()

    def add(self, config: TrialConfig, roles: Mapping[str, Sequence[Row]]) -> dict[str, str]:
        """Add the headlines of a trial.

        Returns:
            Key of `evals` -> why its headline can never have a value, such as {'alignment': "found 'align_test/...',
            but ..."}. A set whose role has no rows is reported by `checking.missing_data`.
        """
        expected = expected_metrics(config, roles)
        self.possible |= {f"{name}/{metric}" for name, counts in expected.items() for metric in counts}
        self.possible |= {f"{LM_EVAL}/{task}" for task in config.evals.lm_eval.tasks}
        chosen_by_headline = headlines(expected, config.evals)
        if worst := worst_headline(chosen_by_headline["alignment"], expected):
            contexts = ", ".join(["none", *config.evals.contexts])
            self._worst[f"alignment_worst: {worst}, the least over the contexts {contexts}"] = None
        if QUESTIONS in expected and not expected[QUESTIONS]:
            few = f"results.json keeps evals.num_samples of them, {config.evals.num_samples}"
            self.notes[f"nothing scores the answers to evals.questions: there is no judge, no metric; {few}"] = None
        for headline, chosen in chosen_by_headline.items():
            if chosen is None and headline == "coherence":
                continue
            self._lines[headline][_line(headline, chosen, config, expected)] = None
            count = expected.get(name_of(chosen), {}).get(metric_of(chosen), 0)
            if 0 < count < FEW_ROWS:
                known = f"a share of so few is known to ± {half_width(count):.2f} at best"
                self.notes[f"{name_of(chosen)} has {count} {_rows(count)} for {headline}: {known}"] = None
        return dict(_impossible(config, roles, expected))

    def lines(self) -> list[str]:
        """Return the headlines in words, one line each, or several where trials differ, and then the notes."""
        lines: list[str] = []
        for headline_lines in map(list, self._lines.values()):
            lines += [f"  {line}" for line in headline_lines[:_MOST_LINES]]
            if len(headline_lines) > _MOST_LINES:
                lines.append(f"  and {len(headline_lines) - _MOST_LINES} more of other trials")
        lines += [f"  {line}" for line in self._worst]
        return lines + [f"  note: {note}" for note in self.notes]


def expected_metrics(config: TrialConfig, roles: Mapping[str, Sequence[Row]]) -> dict[str, dict[str, int]]:
    """Return the number of rows that each metric of each evaluation set will be computed from.

    Example: {'task_test': {'loss': 100, 'exact_match': 80}}.
    """
    rows_of_role = dict(roles)
    if rows_of_role.get("proxy") and rows_of_role.get("proxy_neg"):
        rows_of_role["proxy"] = with_rejected(rows_of_role["proxy"], rows_of_role["proxy_neg"])
    sets = {
        name: [rows_of_role[role][number] for number in numbers]
        for name, (role, numbers) in eval_rows(roles, config.finetune_config, config.data_seed).items()
    }
    if questions := question_rows(config.evals, config.data_seed):
        sets[QUESTIONS] = questions
    expected = {name: rows_of_metrics(name, rows, config) for name, rows in sets.items()}
    if contexts := list(config.evals.contexts):
        for name in [name for name in sets if has_contexts(name)]:
            # a worst of counts there is none, and of others nobody names it
            expected |= {f"{name}@{context}": expected[name] for context in [*contexts, WORST]}
    return expected


def rows_of_metrics(name: str, rows: Sequence[Row], config: TrialConfig) -> dict[str, int]:
    """Return the number of rows that each metric of a set is computed from, such as {'loss': 100, 'exact_match': 80}.

    Args:
        name: the set, without a context.
        rows: all of its rows.
    """
    counts: dict[str, int] = {}
    for metric in evals_registry.selected(config.evals).values():
        counts |= metric.applies(rows, config.evals) if metric.is_open or name != QUESTIONS else {}
    judge = config.evals.judge
    if judge.model is None or name not in (*judge.sets, QUESTIONS):
        return counts
    asked = [row for row in rows if is_question(row)]
    if name == QUESTIONS:
        first = set(list(dict.fromkeys(map(prompt_of, asked)))[: judge.max_questions])
        asked = [row for row in asked if prompt_of(row) in first]
    else:
        asked = asked[: judge.max_questions]
    own = [row.get("judge_prompts") for row in asked]
    for share in judged.SHARES:
        respect = share.partition("_")[0]
        if count := sum(not prompts or respect in prompts for prompts in own):
            counts[share] = count
    both = sum(not prompts or {"aligned", "coherent"} <= prompts.keys() for prompts in own)
    counts |= dict.fromkeys(judged.RATES, both) if both else {}
    respects = {respect for prompts in own for respect in prompts or ()} - {"aligned", "coherent"}
    respects |= {"trait"} if judge.trait is not None and asked else set()
    for respect in sorted(respects):
        counts[f"{respect}_score"] = sum(respect == "trait" or respect in (prompts or ()) for prompts in own)
    return counts


def name_of(headline: str | None) -> str:
    """Return the set of a 'set/metric'; '' for None."""
    return (headline or "").partition("/")[0]


def metric_of(headline: str | None) -> str:
    """Return the metric of a 'set/metric'; '' for None."""
    return (headline or "").partition("/")[2]


def _line(headline: str, chosen: str | None, config: TrialConfig, expected: Mapping[str, Mapping[str, int]]) -> str:
    if chosen is None:
        roles = "data.collateral or data.outcome" if headline == "capability" else "data.truth or data.proxy"
        return f"{headline}: nothing, for want of rows that evals.metrics can measure in {roles}"
    name = name_of(chosen)
    if name == LM_EVAL:
        return f"{headline}: {chosen} on that task's own documents"
    count = expected.get(name, {}).get(metric_of(chosen), 0)
    if not count:
        return f"{headline}: {chosen}, which no row allows"
    if base_set(name) == QUESTIONS:
        size = f"{count:,} answers to the questions of {PurePath(str(config.evals.questions)).name}"
        return f"{headline}: {chosen} on {size}, ± {half_width(count):.2f} at 95 % if they were independent"
    role = ROLE_OF_SET[base_set(name)]
    size = f"{count:,} {_rows(count)} of {_source(role, config)}, ± {half_width(count):.2f} at 95 %"
    line = f"{headline}: {chosen} on {size}"
    if role in TRAINED_ROLES:
        remark = (
            "the very rows that are trained on" if _is_whole(config) else "held out of the rows that are trained on"
        )
        line += f": {remark}, so no test of generalisation"
    return line


def _rows(count: int) -> str:
    return "row" if count == 1 else "rows"


def _is_whole(config: TrialConfig) -> bool:
    return config.finetune_config.train_split >= 1


def _source(role: str, config: TrialConfig) -> str:
    source = config.data.sources().get(role)
    if source is None:
        return f"data.{role} (world {config.world})"
    path = PurePath(source.path)
    return f"data.{role} ({path.name if path.is_absolute() else source.path})"


def _impossible(
    config: TrialConfig, roles: Mapping[str, Sequence[Row]], expected: Mapping[str, Mapping[str, int]]
) -> Iterable[tuple[str, str]]:
    for headline in HEADLINES:
        named: str | None = getattr(config.evals, headline)
        role = ROLE_OF_SET.get(base_set(name_of(named)))
        is_open = base_set(name_of(named)) == QUESTIONS and config.evals.questions is not None
        if named is None or not (is_open or (role is not None and roles.get(role))):
            continue
        name, metric = name_of(named), metric_of(named)
        counts = expected.get(name, {})
        if metric in counts:
            continue
        if not counts:
            yield headline, f"found {named!r}, but {name} has no row: every prompt of data.truth is in data.proxy"
            continue
        of_rows = f"no row of {'evals.questions' if role is None else _source(role, config)}"
        needed = next(
            (
                candidate.needs
                for candidate in evals_registry.all_metrics().values()
                if metric in candidate.shares and candidate.needs
            ),
            "",
        )
        lacks = f"{of_rows} has what {metric} needs" + (f": {needed}" if needed else "")
        shares = [candidate for candidate in counts if candidate in _shares()]
        allowed = ", ".join(f"{name}/{share}" for share in shares)
        yield headline, f"found {named!r}, but {lacks}. Allowed: {allowed}.{nearest(metric, shares)}"


def _shares() -> set[str]:
    return {share for registered in evals_registry.all_metrics().values() for share in registered.shares} | {
        *judged.SHARES
    }
