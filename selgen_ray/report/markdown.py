"""The report as Markdown, to be pasted into a note, an issue or a paper's appendix."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from selgen_ray.records.results import TrialResult
from selgen_ray.records.text import markdown_table
from selgen_ray.report.foreseen import HEAD
from selgen_ray.report.four_questions import NOTE as FOUR_NOTE
from selgen_ray.report.four_questions import four_questions
from selgen_ray.report.model import LEVEL, Report
from selgen_ray.report.page import provenance
from selgen_ray.report.places import Places
from selgen_ray.report.text import items_text, row_label
from selgen_ray.report.top import head, items_of, number_text, rows, score_text
from selgen_ray.report.verdict import comparison_facts, next_step, sentence
from selgen_ray.report.words import QUESTION, caveats, comparison_text, setting_facts
from selgen_ray.stats import Summary
from selgen_ray.storage import Folder

_MOST = 200  # rows of a table


def report_markdown(
    report: Report, found: Sequence[tuple[Folder, TrialResult]], pictures: Sequence[str], places: Places
) -> str:
    """Return the verdict, the tables, what is left out, and the provenance as Markdown, without paths of this machine.

    Args:
        found: the folder and the result of each trial.
        pictures: names of the figures in figures/, such as 'pareto'.
        places: takes paths out of texts.
    """
    parts = [f"# {_cell(report.title)}", *top_markdown(report)]
    parts += [f"![{name}](figures/{name}.png)" for name in pictures if name == "pareto"]
    parts += ["## How far to believe it", "\n".join(f"- {_cell(line)}" for line in caveats(report))]
    parts += ["\n".join(f"- {name}: {_cell(text)}" for name, text in comparison_facts(report))]
    parts += ["## The question and the setting", QUESTION]
    parts.append("\n".join(f"- {name}: {_cell(text)}" for name, text in setting_facts(report)))
    if four := four_questions(report):
        parts += ["## Four questions", _table(four.head, four.rows), f"Of each strategy {_cell(FOUR_NOTE)}"]
        parts += [_cell(". ".join(four.missing))] if four.missing else []
    parts += ["## Settings", _settings(report)]
    if report.standings.reference:
        parts += ["## Strategies", *_strategies(report)]
    parts += [f"![{name}](figures/{name}.png)" for name in pictures if name != "pareto"]
    if report.foreseen:
        parts += ["## Estimate and truth", _table(HEAD, report.foreseen.rows), _cell(report.foreseen.note)]
    if report.left_out or report.flagged:
        parts += ["## Left out, and doubts", "\n".join(_doubts(report))]
    parts += ["## Provenance", "\n".join(f"- {name}: {_cell(text)}" for name, text in provenance(report, found))]
    return places.text("\n\n".join(filter(None, parts)) + "\n")


def top_markdown(report: Report) -> list[str]:
    """Return the sentence, what does not compare, the table of a few rows and the next step, each a paragraph."""
    cells = [[row.text, row.x, row.y, row.seeds, row.behind, row.p] for row in rows(report)]
    table = _table(head(report), cells) if cells else ""
    unlike = [f"Note: {_cell(text)}." for text in report.unlike]
    return [part for part in (_cell(sentence(report)), *unlike, table, f"Next: {_cell(next_step(report))}") if part]


def _settings(report: Report) -> str:
    rows = [["base model", "", "", *_scores(b.x, b.y, None, None)] for b in report.bases]
    for s in report.settings[:_MOST]:
        sign = " (front)" if s.on_front else " (misses what is required)" if s.failures else ""
        seeds = f"{len(s.seeds)}/{s.num_planned}" if len(s.seeds) != s.num_planned else f"{s.num_planned}"
        seeds += ", no interval" if len(s.seeds) == 1 else ""
        x, y = items_of(report.x, s.items_x), items_of(report.y, s.items_y)
        rows.append([row_label(s) + sign, seeds, items_text(s), *_scores(s.x, s.y, s.change_x, s.change_y, x, y)])
    head = ["setting", "seeds", "items", report.x.name, "change", report.y.name, "change"]
    more = len(report.settings) - _MOST
    return _table(head, rows) + (f"\n\nand {more} more in results.csv" if more > 0 else "")


def _scores(
    x: Summary | None,
    y: Summary | None,
    change_x: Summary | None,
    change_y: Summary | None,
    items_x: int | None = None,
    items_y: int | None = None,
) -> list[str]:
    changes = score_text(change_x, True), score_text(change_y, True)
    return [score_text(x, items=items_x), changes[0], score_text(y, items=items_y), changes[1]]


def _strategies(report: Report) -> Iterable[str]:
    standings = report.standings
    reference = standings.reference
    assert reference is not None
    yield f"Hypervolume beyond ({number_text(reference.x)}, {number_text(reference.y)}): {_cell(reference.why)}."
    rows = []
    for s in standings.standings:
        label = report.settings[s.best].label if s.best is not None else "no complete setting"
        flattering, volume = ("-" if n is None else number_text(n) for n in (s.flattering, s.hypervolume))
        hours = f"{s.cost.hours:.3g} {s.cost.device}-hours"
        diverged = f"{s.num_diverged} of {s.num_trials}" if s.num_diverged else "none"
        honest = (score_text(one) for one in (s.score, s.x, s.y))
        rows.append([s.strategy, *honest, label, flattering, volume, diverged, hours, str(s.cost.tokens)])
    head = ["strategy", "score, held out", report.x.name, report.y.name, "best setting", "its score (flattering)"]
    yield _table([*head, "hypervolume (flattering)", "diverged", "cost", "tokens"], rows)
    yield (
        "Score: the area beyond that point which one seed's run dominates; its setting is chosen on all other seeds "
        "(mean ± 95 % t-interval, widened for the choice). Told apart: "
        f"p < {LEVEL}, Holm over {standings.num_pairs} pairs."
    )
    leader = standings.leader
    if leader and (family := standings.families.get(leader.strategy)):
        heading = f"Against {leader.strategy}, seed by seed (p: Holm):"
        yield "\n".join([heading, "", *(f"- {_cell(comparison_text(c, report))}" for c in family)])


def _doubts(report: Report) -> Iterable[str]:
    for trial in report.left_out[:_MOST]:
        cause = f": {_cell(trial.cause)}" if trial.cause else ""
        yield f"- {trial.status}: {_cell(trial.setting)}, seed {trial.seed}{cause}"
    for doubt in report.flagged[:_MOST]:
        yield f"- doubtful: {_cell(doubt.setting)}, seed {doubt.seed}: {_cell(doubt.flag)}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return markdown_table(list(map(_cell, head)), [list(map(_cell, row)) for row in rows])


def _cell(text: str) -> str:
    """Escape a text so that it is no markup: results may hold anything."""
    for sign in ("\\", "`", "*", "|", "<", "["):
        text = text.replace(sign, "\\" + sign)
    return " ".join(text.split())
