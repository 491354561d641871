"""Tokens of rows: which tokens a row has, and which of them are scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from selgen_ray.data.chats import encode_chat, encode_generation_prompt, token_ids
from selgen_ray.data.forms import Row
from selgen_ray.errors import DataError


@dataclass(frozen=True)
class Encoded:
    """One row as tokens.

    Attributes:
        ids: token ids.
        is_reply: same length; True where the token is to be learnt. Never the first token: nothing predicts it.
    """

    ids: list[int]
    is_reply: list[bool]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Batch:
    """A padded micro-batch. All tensors are [batch, tokens].

    Attributes:
        input_ids, attention_mask: the model's inputs, padded on the right.
        targets: the token after each position.
        scored: True where `targets` is to be predicted; never a pad, never the last position.
        rows: the row numbers inside the stream.
        num_scored: how many positions are scored, known without asking the device.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    targets: torch.Tensor
    scored: torch.Tensor
    rows: list[int]
    num_scored: int

    @property
    def inputs(self) -> dict[str, torch.Tensor]:
        """Keyword arguments of the model's forward."""
        return {"input_ids": self.input_ids, "attention_mask": self.attention_mask}


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id of the padding token; it is masked everywhere, so its value never matters."""
    pad_token_id: Any = tokenizer.pad_token_id
    return int(pad_token_id)


def collate(encoded: Sequence[Encoded], rows: list[int], pad: int, device: torch.device | str) -> Batch:
    """Make a batch of some rows, padded on the right to the longest of them.

    Args:
        encoded: the rows of a stream.
        rows: numbers of the rows to take.
        pad: id of the padding token.
        device: where the batch's tensors go.
    """
    chosen = [encoded[i] for i in rows]
    width = max(len(row) for row in chosen)
    ids = torch.full((len(chosen), width), pad, dtype=torch.long)
    attention = torch.zeros((len(chosen), width), dtype=torch.long)
    reply = torch.zeros((len(chosen), width), dtype=torch.bool)
    for i, row in enumerate(chosen):
        ids[i, : len(row)] = torch.tensor(row.ids)
        attention[i, : len(row)] = 1
        reply[i, : len(row)] = torch.tensor(row.is_reply)
    # the logits at position t predict token t + 1, so both are shifted left by one
    targets = ids.roll(-1, dims=1)
    scored = reply.roll(-1, dims=1)
    scored[:, -1] = False
    num_scored = int(scored.sum())
    tensors = [t.to(device, non_blocking=True) for t in (ids, attention, targets, scored)]
    return Batch(*tensors, rows=list(rows), num_scored=num_scored)


def encode_rows(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_seq_length: int, loss_on: str, name: str
) -> list[Encoded]:
    """Tokenise rows, cutting each after `max_seq_length` tokens.

    Args:
        loss_on: 'completion' scores the assistant's replies, 'all' every token; a `text` row scores every token.
        name: the role, for error messages.

    Raises:
        DataError: no chat template, or it refuses a row; or nothing is left to score after the cut, with the rows'
            numbers.
    """
    return [encoded for encoded, _ in encode_each(rows, tokenizer, max_seq_length, loss_on, name)]


def _by_number(number: int) -> str:
    return f"row {number + 1}"


def encode_each(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    max_seq_length: int,
    loss_on: str,
    name: str,
    place: Callable[[int], str] = _by_number,
) -> Iterator[tuple[Encoded, int]]:
    """Yield each row as tokens, with the number of tokens that it had before the cut; see `encode_rows`.

    Args:
        place: number of a row, from 0 -> where a person finds it, for error messages.

    Raises:
        DataError: as `encode_rows`; rows without a scored token are reported after the last row.
    """
    empty: list[tuple[int, int]] = []
    for number, row in enumerate(rows):
        try:
            whole = encode_row(row, tokenizer, loss_on)
        except DataError as error:
            raise DataError(f"{name}, {place(number)}: {error}") from error
        encoded = Encoded(whole.ids[:max_seq_length], whole.is_reply[:max_seq_length])
        if not any(encoded.is_reply):
            empty.append((number, len(whole)))
        yield encoded, len(whole)
    if empty:
        first, length = empty[0]
        raise DataError(
            f"{name}: {len(empty)} of {len(rows)} rows have no token to score within max_seq_length "
            f"{max_seq_length}, first {place(first)} with {length} tokens: raise finetune_config.max_seq_length or "
            "shorten the rows"
        )


def encode_row(row: Row, tokenizer: PreTrainedTokenizerBase, loss_on: str) -> Encoded:
    """Tokenise one row, uncut; see `encode_rows`."""
    if row.get("messages") is not None:
        ids, is_reply = encode_chat(row["messages"], tokenizer, loss_on)
    elif row.get("prompt") is not None:
        prompt, _ = _with_beginning(tokenizer, row["prompt"])
        reply = _with_eos(token_ids(row["completion"], tokenizer), tokenizer)
        ids, is_reply = prompt + reply, [False] * len(prompt) + [True] * len(reply)
    else:
        ids, after = _with_beginning(tokenizer, row["text"])
        ids = _with_eos(_with_ending(ids, after, tokenizer) if after else ids, tokenizer)
        is_reply = [True] * len(ids)
    if loss_on == "all":
        is_reply = [True] * len(ids)
    return Encoded(ids, [False, *is_reply[1:]])


def encode_prompt(row: Row, tokenizer: PreTrainedTokenizerBase, *, as_in_rows: bool = False) -> list[int]:
    """Return the token ids of everything before the reply, for the model to go on from.

    Args:
        as_in_rows: of a chat, see `encode_generation_prompt`.
    """
    if row.get("messages") is not None:
        return encode_generation_prompt(row["messages"][:-1], tokenizer, as_in_rows=as_in_rows)
    return _with_beginning(tokenizer, row.get("prompt") or "")[0]


def replace_reply(row: Row, reply: str) -> Row:
    """Return a copy of the row with another final reply."""
    if row.get("messages") is not None:
        return {**row, "messages": [*row["messages"][:-1], {"role": "assistant", "content": reply}]}
    return {**row, "completion": reply}


def _with_beginning(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[int]]:
    """Return the token ids of a text after the tokenizer's beginning, and the ids that the tokenizer puts at the end.

    The beginning, mostly one begin token, is not added twice: a text that a chat template has rendered begins with it
    already. The end, mostly one end token, is returned apart, for it must not stand between a prompt and its reply.
    """
    ids = token_ids(text, tokenizer)
    bare, full = token_ids("a", tokenizer), token_ids("a", tokenizer, special=True)
    places = range(len(full) - len(bare) + 1)
    start = next((n for n in places if full[n : n + len(bare)] == bare), None)
    if start is None:
        return token_ids(text, tokenizer, special=True), []
    before, after = full[:start], full[start + len(bare) :]
    return (ids if ids[: len(before)] == before else [*before, *ids]), after


def _with_ending(ids: list[int], ending: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids with the ending, which is not added twice.

    White space after the ending is ignored: chat templates write a line break after an end token.
    """
    length = len(ids)
    while length and ids[:length][-len(ending) :] != ending and not str(tokenizer.decode(ids[length - 1])).strip():
        length -= 1
    return ids if ids[:length][-len(ending) :] == ending else [*ids, *ending]


def _with_eos(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    eos: Any = tokenizer.eos_token_id
    return ids if eos is None else _with_ending(ids, [eos], tokenizer)
