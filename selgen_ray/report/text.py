"""A report as plain text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from selgen_ray.records.status import TrialStatus
from selgen_ray.report.foreseen import HEAD
from selgen_ray.report.knob_names import signs
from selgen_ray.report.model import Report
from selgen_ray.report.progress import progress_text
from selgen_ray.report.roles import BASE
from selgen_ray.report.settings import Setting
from selgen_ray.report.top import head, items_of, rows, score_text
from selgen_ray.report.verdict import next_step, sentence
from selgen_ray.stats import Summary

PAGE, PICTURE = "index.html", "figures/pareto.png"
WIDTH = 112
_NAMED = ("results.parquet", "results.csv", "summary.json", "report.md", PICTURE)
_LISTED = 10  # of each kind; summary.json has them all
_MIN_LABEL = 20


def report_text(report: Report) -> str:
    """Return a report as text for a terminal.

    In this order: counts, table, what is left out and why, notes, the verdict with its few rows and the next step, the
    files written; the page comes last.
    """
    counts = ", ".join(f"{n} {status}" for status, n in report.counts.items() if n)
    lines = [f"{report.title}: {counts or f'no results.json below {report.sweep} yet'}", ""]
    if how_far := progress_text(report.progress):
        lines = [*_wrapped(how_far, ""), "", *lines]
    if report.counts.get(TrialStatus.COMPLETED):
        lines += [*_table(report), "", *_legend(report), ""]
    elif counts:
        lines += ["Nothing is completed yet: there is nothing to average.", ""]
    lines += _kept_off(report)
    lines += _left_out(report)
    lines += _flagged(report)
    lines += [row for note in _notes(report) for row in _wrapped(f"note: {note}", "  ")]
    lines += _foreseen(report)
    if report.paths and PICTURE not in report.paths:
        lines += _wrapped(f"no figure: no completed trial has both {report.x.name} and {report.y.name}", "  ")
    if report.counts.get(TrialStatus.COMPLETED):
        lines += [*([""] if lines[-1] else []), *_top(report), ""]
    tables = [path for name, path in report.paths.items() if name in _NAMED]
    page = [f"report: {report.paths[PAGE]}"] if PAGE in report.paths else []
    return "\n".join([*lines, *tables, *page]).rstrip("\n")


def _notes(report: Report) -> list[str]:
    """Return the notes; those that the verdict repeats are left to it."""
    told = report.unlike if report.counts.get(TrialStatus.COMPLETED) else ()
    return [note for note in (*report.notes, *report.unknown_axes) if note not in told]


def _top(report: Report) -> Iterable[str]:
    """Yield the verdict: one sentence, what does not compare, the table of a few rows, the next step."""
    yield from _wrapped(sentence(report), "")
    for text in report.unlike:
        yield from _wrapped(f"Note: {text}", "      ")
    cells = [["", row.text, row.x, row.y, row.seeds, row.behind, row.p] for row in rows(report)]
    if cells:
        yield ""
        yield from _aligned(["", *head(report)], cells)
        yield ""
    yield from _wrapped(f"Next: {next_step(report)}", "      ")


def _table(report: Report) -> list[str]:
    columns = ["", "setting", "seeds", report.x.name, "change", report.y.name, "change", "items"]
    table: list[list[str]] = []
    for base in report.bases:
        label = BASE if len(report.bases) == 1 else f"{BASE} {base.model}"
        table.append(["", label, _seeds(base.x or base.y), score_text(base.x), "", score_text(base.y), "", ""])
    for s in report.settings:
        x, y = (
            score_text(s.x, items=items_of(report.x, s.items_x)),
            score_text(s.y, items=items_of(report.y, s.items_y)),
        )
        scores = [x, score_text(s.change_x, True), y, score_text(s.change_y, True), items_text(s)]
        table.append(
            ["*" if s.on_front else "x" if s.failures else "", row_label(s), _seeds(s.x or s.y, s.num_planned), *scores]
        )
    if not any(row[-1] for row in table):  # results that do not say how many items there are
        columns, table = columns[:-1], [row[:-1] for row in table]
    return _aligned(columns, table)


def items_text(setting: Setting) -> str:
    """Return '50', the number of items behind each value; '50, 40' where the axes differ; '' where it is not known."""
    counts = [n for n in dict.fromkeys((setting.items_x, setting.items_y)) if n]
    return ", ".join(map(str, counts))


def row_label(setting: Setting) -> str:
    """Return 'dpo λ=1', with what it lost: 'dpo λ=1 (2 of 3 diverged)'."""
    if not setting.lost:
        return setting.label
    parts = [part.replace(" ", "\u00a0") for part in setting.lost_text.split(", ")]  # each stays on one line
    return f"{setting.label} ({', '.join(parts)})"


def _seeds(summary: Summary | None, num_trials: int | None = None) -> str:
    """Return '3'; where more are planned, '2/3'; for one seed, '1, no interval'."""
    n = summary.n if summary else 0
    count = str(n) if num_trials in (None, n) else f"{n}/{num_trials}"
    return f"{count}, no interval" if n == 1 else count


def _aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Align columns two spaces apart; the setting takes the remaining width, on several lines if need be."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    other_widths = sum(widths) - widths[1] + 2 * (len(widths) - 2)
    widths[1] = min(widths[1], max(_MIN_LABEL, WIDTH - other_widths - 2))
    lines: list[str] = []
    for row in [head, *rows]:
        label, *continuation = textwrap.wrap(row[1], widths[1], subsequent_indent="  ", break_on_hyphens=False) or [""]
        cells = [label.ljust(widths[1]), row[2].ljust(widths[2])]
        cells += [cell.ljust(width) for cell, width in zip(row[3:], widths[3:], strict=True)]
        lines.append(f"{row[0]:{widths[0]}} {'  '.join(cells)}".rstrip())
        lines += [f"{'':{widths[0]}} {part}" for part in continuation]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def _legend(report: Report) -> list[str]:
    parts = [
        "mean ± 95 % t-interval over seeds (of one seed there is no interval)",
        "change: against the base model, trial by trial",
        *(["items: behind each seed's value"] if any(map(items_text, report.settings)) else []),
        *(["no spread: all seeds are equal, so the range is that of the items"] if _flat(report) else []),
    ]
    if any(s.on_front for s in report.settings):
        parts.append("*: on the Pareto front of the means, for which a setting needs every seed that is planned")
    if any(s.failures for s in report.settings):
        parts.append(f"x: kept off the front, which requires {report.require}")
    if any(s.num_planned != (s.x or s.y or Summary(0, 0, None, None)).n for s in report.settings):
        parts.append("seeds 2/3: 2 of 3 planned trials are averaged")
    names_of: dict[str, list[str]] = {}  # sign -> the knobs that it stands for, in one strategy or another
    for name, sign in {pair: None for s in report.settings for pair in signs(s.knobs).items()}:
        if sign != name:
            names_of.setdefault(sign, []).append(name)
    parts += [f"{sign}: {' or '.join(names)}" for sign, names in names_of.items()]
    parts += [f"{axis.name}: less is better" for axis in (report.x, report.y) if axis.sign < 0]
    return _wrapped("; ".join(parts), "")


def _flat(report: Report) -> bool:
    return any(one.is_flat for s in report.settings for one in (s.x, s.y) if one)


def _left_out(report: Report) -> Iterable[str]:
    for status in dict.fromkeys(trial.status for trial in report.left_out):
        trials = [trial for trial in report.left_out if trial.status == status]
        yield f"{status}, not averaged and not drawn ({len(trials)}):"
        for trial in trials[:_LISTED]:
            cause = f": {trial.cause}" if trial.cause else ""
            yield from _wrapped(f"  {trial.setting}, seed {trial.seed}{cause}", "      ")
        yield from _more(trials)
        yield ""


def _kept_off(report: Report) -> Iterable[str]:
    failing = [s for s in report.settings if s.failures]
    if failing:
        yield f"kept off the front, which requires {report.require} ({len(failing)}):"
        for s in failing[:_LISTED]:
            yield from _wrapped(f"  {s.label}: {', '.join(s.failures)}", "      ")
        yield from _more(failing)
        yield ""


def _flagged(report: Report) -> Iterable[str]:
    if report.flagged:
        yield f"warning, averaged and drawn all the same ({len(report.flagged)}):"
        for doubt in report.flagged[:_LISTED]:
            yield from _wrapped(f"  {doubt.setting}, seed {doubt.seed}: {doubt.flag}", "      ")
        yield from _more(report.flagged)
        yield ""


def _foreseen(report: Report) -> Iterable[str]:
    if report.foreseen:
        table = [HEAD, *report.foreseen.rows]
        widths = [max(len(row[i]) for row in table) for i in range(len(HEAD))]
        yield "estimate and truth:"
        for row in table:
            yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        yield ""


def _more(items: Sequence[object]) -> Iterable[str]:
    if len(items) > _LISTED:
        yield f"  and {len(items) - _LISTED} more: see summary.json"


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_on_hyphens=False)
