"""The report as Markdown, to be pasted into a note, an issue or a paper's appendix."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from selgen_ray.records.results import TrialResult
from selgen_ray.records.text import markdown_table
from selgen_ray.report.model import Report
from selgen_ray.report.page import provenance
from selgen_ray.report.text import score_text
from selgen_ray.report.words import QUESTION, answer, caveats, comparison_text, probability, setting_facts
from selgen_ray.stats import Summary
from selgen_ray.storage import Folder

_MOST = 200  # rows of a table


def report_markdown(report: Report, found: Sequence[tuple[Folder, TrialResult]], pictures: Sequence[str]) -> str:
    """Return the answer, the tables, what is left out, and the provenance as Markdown.

    Args:
        found: the folder and the result of each trial.
        pictures: names of the figures in figures/, such as 'pareto'.
    """
    standings = report.standings
    parts = [f"# {_cell(report.title)}", " ".join(map(_cell, answer(report, standings)))]
    parts.append("\n".join(f"- {_cell(line)}" for line in caveats(report, standings)))
    parts += [f"![{name}](figures/{name}.png)" for name in pictures if name == "pareto"]
    parts += ["## The question and the setting", QUESTION]
    parts.append("\n".join(f"- {name}: {_cell(text)}" for name, text in setting_facts(report)))
    parts += ["## Settings", _settings(report)]
    if standings.reference:
        parts += ["## Strategies", *_strategies(report)]
    parts += [f"![{name}](figures/{name}.png)" for name in pictures if name != "pareto"]
    if report.left_out or report.flagged:
        parts += ["## Left out, and doubts", "\n".join(_doubts(report))]
    parts += ["## Provenance", "\n".join(f"- {name}: {_cell(text)}" for name, text in provenance(report, found))]
    return "\n\n".join(parts) + "\n"


def _settings(report: Report) -> str:
    rows = [["base model", "", *_scores(b.x, b.y, None, None)] for b in report.bases]
    for s in report.settings[:_MOST]:
        sign = " (front)" if s.on_front else " (misses what is required)" if s.failures else ""
        seeds = f"{len(s.seeds)}/{s.num_trials}" if len(s.seeds) != s.num_trials else f"{s.num_trials}"
        seeds += ", no interval" if len(s.seeds) == 1 else ""
        rows.append([s.label + sign, seeds, *_scores(s.x, s.y, s.change_x, s.change_y)])
    head = ["setting", "seeds", report.x.name, "change", report.y.name, "change"]
    more = len(report.settings) - _MOST
    return _table(head, rows) + (f"\n\nand {more} more in results.csv" if more > 0 else "")


def _scores(x: Summary | None, y: Summary | None, change_x: Summary | None, change_y: Summary | None) -> list[str]:
    return [score_text(x), score_text(change_x, True), score_text(y), score_text(change_y, True)]


def _strategies(report: Report) -> Iterable[str]:
    standings = report.standings
    reference = standings.reference
    assert reference is not None
    yield f"Hypervolume beyond ({reference.x:.3f}, {reference.y:.3f}): {_cell(reference.why)}."
    rows = []
    for s in standings.standings:
        interval = f"{s.interval[0]:.3f} to {s.interval[1]:.3f}" if s.interval else "no interval"
        label = report.settings[s.best].label if s.best is not None else "no point"
        ahead = standings.beats.get(s.strategy, {})
        better = "; ".join(f"{name} {probability(p)}" for name, p in list(ahead.items())[:3])
        volume = "-" if s.hypervolume is None else f"{s.hypervolume:.3f}"
        hours = f"{s.cost.hours:.3g} {s.cost.device}-hours"
        rows.append([s.strategy, volume, interval, label, better, hours, str(s.cost.tokens)])
    head = ["strategy", "hypervolume", "95 % of the bootstrap", "best setting", "P(larger than)", "cost", "tokens"]
    yield _table(head, rows)
    leader = standings.leader
    if leader and (family := standings.families.get(leader.strategy)):
        heading = f"Against {leader.strategy}'s best setting, seed by seed (p: Holm, {2 * len(family)} comparisons):"
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
