"""Rows that need more positions than a model has: an error for a table of positions, else a note."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from selgen_ray.data.encode import encode_prompt, encode_row, replace_reply
from selgen_ray.data.forms import Row


@dataclass(frozen=True)
class Positions:
    """The positions that a model was made for.

    Attributes:
        count: tokens of the longest sequence.
        is_table: positions are looked up in a table, which ends after `count` of them. Otherwise, as with rotary
            embeddings, later positions can be computed, but the model was never trained on them.
    """

    count: int
    is_table: bool


@dataclass(frozen=True)
class Uses:
    """Use of a row's tokens in training and generation.

    Attributes:
        max_seq_length, loss_on: as in `encode_rows`.
        max_new_tokens: length limit of a generated reply, in tokens.
        is_generated: whether the reply to a row is generated.
    """

    max_seq_length: int
    loss_on: str
    max_new_tokens: int
    is_generated: Callable[[Row], bool]


def longer_rows(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    positions: Positions,
    uses: Uses,
    name: str,
    place: Callable[[int], str],
) -> Iterator[str]:
    """Yield a message on the rows that need too many positions in training, and one on those that do in generation.

    Args:
        name: the role, for people.
        place: number of a row, from 0 -> where a person finds it.
    """
    count = positions.count
    limit = f"the model's {count:,} positions"
    if uses.max_seq_length > count:
        trained = {n: length for n, row in enumerate(rows) if (length := _length(row, tokenizer, uses)) > count}
        if trained:
            yield (
                f"{name}: {len(trained):,} of {len(rows):,} rows are longer than {limit}, first "
                f"{_first(trained, place)}: cut them with a finetune_config.max_seq_length of at most {count}, or "
                "shorten them"
            )
    prompts = {
        n: length
        for n, row in enumerate(rows)
        if uses.is_generated(row) and (length := len(encode_prompt(row, tokenizer))) + uses.max_new_tokens > count
    }
    if prompts:
        yield (
            f"{name}: the prompts of {len(prompts):,} of {len(rows):,} rows, and a reply of finetune_config."
            f"max_new_tokens {uses.max_new_tokens}, are longer than {limit}, first {_first(prompts, place)}: prompts "
            "are not cut, so shorten them, or take a lower max_new_tokens"
        )


def _length(row: Row, tokenizer: PreTrainedTokenizerBase, uses: Uses) -> int:
    """Return the number of tokens of the row after the cut, with the longest of the replies that it offers."""
    replies = [*(row.get("choices") or ()), *([row["rejected"]] if row.get("rejected") else ())]
    candidates = [row, *(replace_reply(row, str(reply)) for reply in replies)]
    return min(
        max(len(encode_row(candidate, tokenizer, uses.loss_on)) for candidate in candidates), uses.max_seq_length
    )


def _first(lengths: dict[int, int], place: Callable[[int], str]) -> str:
    number, length = next(iter(lengths.items()))
    return f"{place(number)} with {length:,} tokens"
