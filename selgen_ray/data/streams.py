"""Streams: the micro-batches of a step, as a pure function of (seed, stream, step).

Nothing is consumed, so a resumed run has no position to restore, and one stream cannot shift another.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from selgen_ray.seeding import permutation

# rows of this many steps are sorted by length together: enough to pad little, few enough to stay mixed
_STEPS_SORTED_TOGETHER = 8
_MIN_GROUPS = 4  # a small set sorted as a whole would meet in the same batches in every pass


@dataclass(frozen=True, eq=False)  # hashed by identity: `lengths` would cost a pass over the data at each look-up
class Stream:
    """The order of one set's rows.

    Attributes:
        name: such as 'outcome'; part of the random seed.
        lengths: number of tokens of each row.
        micro_batch: number of rows in a micro-batch.
        num_micro: number of micro-batches in a step, of all ranks together.
        seed, phase: the other parts of the random seed.
        steps_per_epoch: of the phase, the same for all its streams.
        restarts: 'epoch': every epoch is one pass, whose last step may be smaller; 'never': passes follow each other
            without regard to epochs; 'within_epoch': like 'never', but every epoch begins a new pass.
        group_by_length: batch rows of similar length.
    """

    name: str
    lengths: tuple[int, ...]
    micro_batch: int
    num_micro: int
    seed: int
    phase: str
    steps_per_epoch: int
    restarts: str
    group_by_length: bool = True

    def step(self, step: int) -> list[list[int]]:
        """Return the row numbers of each micro-batch of optimizer step `step` (from 0)."""
        size, batch = len(self.lengths), self.micro_batch * self.num_micro
        epoch, within = divmod(step, self.steps_per_epoch)
        block, start = (0, step * batch) if self.restarts == "never" else (epoch, within * batch)
        stop = min(start + batch, size) if self.restarts == "epoch" else start + batch
        rows = [_order(self, block, i // size)[i % size] for i in range(start, stop)]
        if self.group_by_length and self.num_micro > 1:
            rows.sort(key=lambda i: self.lengths[i])  # inside one step the order changes no gradient
        return [rows[i : i + self.micro_batch] for i in range(0, len(rows), self.micro_batch)]


@functools.lru_cache(maxsize=64)
def _order(stream: Stream, block: int, number: int) -> list[int]:
    """Return the row order of pass `number` of a block: shuffled, and grouped by length if the stream says so."""
    key = (stream.seed, stream.phase, stream.name, block, number)
    rows = permutation(len(stream.lengths), *key)
    if not stream.group_by_length:
        return rows
    batch = stream.micro_batch * stream.num_micro
    span = batch * max(1, min(_STEPS_SORTED_TOGETHER, len(rows) // (batch * _MIN_GROUPS)))
    grouped = [
        i for at in range(0, len(rows), span) for i in sorted(rows[at : at + span], key=stream.lengths.__getitem__)
    ]
    batches = [grouped[at : at + batch] for at in range(0, len(grouped), batch)]
    whole = [rows for rows in batches if len(rows) == batch]
    short = [rows for rows in batches if len(rows) < batch]  # at most one; it stays last, so that all others are whole
    return [i for at in permutation(len(whole), *key, "batches") for i in whole[at]] + [
        i for rows in short for i in rows
    ]


def steps_per_epoch(num_rows: int, micro_batch: int, num_micro: int) -> int:
    """Return the number of optimizer steps in one pass; the last one may be smaller."""
    return math.ceil(num_rows / (micro_batch * num_micro))


def by_length(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Group row numbers into batches of similar length, longest first.

    Little is padded, and a batch that does not fit into memory fails at once.

    Args:
        lengths: number of tokens of each row.
        batch_size: number of rows in a batch; the last one may be smaller.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


@dataclass(frozen=True)
class BatchLimits:
    """Limits of the batches that no gradient is computed for.

    Attributes:
        rows: rows of a batch at most; None: as many as the tokens allow.
        tokens: tokens of a batch at most, with padding.
        cached_tokens: tokens of a batch in generation at most: those of the prompts with padding, and the new ones.
    """

    rows: int | None = None
    tokens: int = 4096
    cached_tokens: int = 8192

    def batches(self, lengths: Sequence[int], *, cached: bool = False) -> list[list[int]]:
        """Group row numbers into batches of similar length, longest first; see `by_length`.

        Args:
            lengths: number of tokens of each row; a row that is longer than the limit is a batch of its own.
            cached: they are the tokens of generation.
        """
        limit = self.cached_tokens if cached else self.tokens
        order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
        batches: list[list[int]] = []
        at = 0
        while at < len(order):
            size = max(1, limit // max(1, lengths[order[at]]))
            size = size if self.rows is None else min(size, self.rows)
            batches.append(order[at : at + size])
            at += size
        return batches
