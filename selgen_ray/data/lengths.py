"""Lengths of a role's rows in tokens, and how many of them `max_seq_length` cuts; reported before the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from selgen_ray.data.tokens import TokenRows

Report = Mapping[str, float]
MANY_TRUNCATED = 0.05
"""Share of a role's rows; if more than this are cut, there is a warning."""
_COLUMNS = ("rows", "tokens", "min", "median", "mean", "max", "scored", "truncated")


def length_report(rows: TokenRows, max_seq_length: int) -> dict[str, float]:
    """Return the number of rows, their lengths in tokens, how many tokens are scored, and how many rows are cut.

    Returns:
        rows: number of rows;
        tokens: of all rows together, before the cut;
        tokens_min, tokens_median, tokens_mean, tokens_max: of a row, before the cut;
        scored: scored tokens of all rows together, after the cut;
        truncated: number of rows that are cut;
        truncated_share: their share of all rows, in [0, 1].
    """
    lengths = np.asarray(rows.uncut, dtype=np.int64)
    truncated = int((lengths > max_seq_length).sum())
    return {
        "rows": len(lengths),
        "tokens": int(lengths.sum()),
        "tokens_min": int(lengths.min()),
        "tokens_median": float(np.median(lengths)),
        "tokens_mean": round(float(lengths.mean()), 2),
        "tokens_max": int(lengths.max()),
        "scored": int(sum(rows.num_scored)),
        "truncated": truncated,
        "truncated_share": round(truncated / len(lengths), 6),
    }


def table(reports: Mapping[str, Report], cut_replies: Mapping[str, int] | None = None) -> list[str]:
    """Return the reports of the roles as aligned lines, the first with the names of the columns.

    Args:
        cut_replies: role -> in how many of its rows `rejected` or one of `choices` is cut; a column of its own, which
            is left out if there are none.
    """
    further = cut_replies or {}
    cells: list[Sequence[str]] = [("", *_COLUMNS, *(["other replies truncated"] if further else []))]
    for role, report in reports.items():
        row_lengths = (report["tokens_min"], report["tokens_median"], report["tokens_mean"], report["tokens_max"])
        truncated = f"{report['truncated']:,} ({report['truncated_share']:.1%})" if report["truncated"] else "0"
        counts = (
            f"{report['rows']:,}",
            f"{report['tokens']:,}",
            *(f"{n:,.0f}" for n in row_lengths),
            f"{report['scored']:,}",
            truncated,
            *([f"{further.get(role, 0):,}"] if further else []),
        )
        cells.append((role, *counts))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in cells]


def warning(role: str, of: Report, max_seq_length: int) -> str | None:
    """Return a warning if more than `MANY_TRUNCATED` of the role's rows are cut, else None."""
    if of["truncated_share"] <= MANY_TRUNCATED:
        return None
    return (
        f"data.{role}: {of['truncated']:,} of {of['rows']:,} rows ({of['truncated_share']:.0%}) are longer than "
        f"finetune_config.max_seq_length {max_seq_length} and are cut; the longest has {of['tokens_max']:,} tokens"
    )
