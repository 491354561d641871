"""How long the rows of a role are in tokens, and what `max_seq_length` cuts off: told before the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from selgen_ray.data.tokens import TokenRows

Report = Mapping[str, float]
MANY_TRUNCATED = 0.05
"""Share of a role's rows; where more are cut, a person should know."""
_COLUMNS = ("rows", "tokens", "min", "median", "mean", "max", "scored", "truncated")


def length_report(rows: TokenRows, max_seq_length: int) -> dict[str, float]:
    """Number of rows, their lengths in tokens before the cut, what is scored, and what is cut.

    Returns:
        rows; tokens: of all rows, before the cut; tokens_min, tokens_median, tokens_mean, tokens_max: of a row, before
        the cut; scored: tokens of all rows that count, after it; truncated: rows that are cut; truncated_share: of all
        rows, in [0, 1].
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


def table(reports: Mapping[str, Report]) -> list[str]:
    """The reports of the roles as aligned lines, the first with the columns' names."""
    cells: list[Sequence[str]] = [("", *_COLUMNS)]
    for role, of in reports.items():
        lengths = (of["tokens_min"], of["tokens_median"], of["tokens_mean"], of["tokens_max"])
        cut = f"{of['truncated']:,} ({of['truncated_share']:.1%})" if of["truncated"] else "0"
        counts = (f"{of['rows']:,}", f"{of['tokens']:,}", *(f"{n:,.0f}" for n in lengths), f"{of['scored']:,}", cut)
        cells.append((role, *counts))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in cells]


def warning(role: str, of: Report, max_seq_length: int) -> str | None:
    """What a person should know of the cut, or None."""
    if of["truncated_share"] <= MANY_TRUNCATED:
        return None
    return (
        f"data.{role}: {of['truncated']:,} of {of['rows']:,} rows ({of['truncated_share']:.0%}) are longer than "
        f"finetune_config.max_seq_length {max_seq_length} and are cut; the longest has {of['tokens_max']:,} tokens"
    )
