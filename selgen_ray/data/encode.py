"""Rows to tokens: which tokens a row has, and which of them are scored."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from selgen_ray.data.forms import Row
from selgen_ray.errors import DataError

if TYPE_CHECKING:
    from jinja2 import TemplateError


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
    """The id that pads; masked everywhere, so its value never matters."""
    found: Any = tokenizer.pad_token_id
    return int(found)


def collate(encoded: Sequence[Encoded], rows: list[int], pad: int, device: torch.device | str) -> Batch:
    """Pad the given rows to the longest of them, on the right."""
    chosen = [encoded[i] for i in rows]
    width = max(len(e) for e in chosen)
    ids = torch.full((len(chosen), width), pad, dtype=torch.long)
    attention = torch.zeros((len(chosen), width), dtype=torch.long)
    reply = torch.zeros((len(chosen), width), dtype=torch.bool)
    for i, e in enumerate(chosen):
        ids[i, : len(e)] = torch.tensor(e.ids)
        attention[i, : len(e)] = 1
        reply[i, : len(e)] = torch.tensor(e.is_reply)
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
    """As `encode_rows`, one by one, each with the tokens that the row had before it was cut.

    Args:
        place: number of a row, from 0 -> where it is, for error messages.
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
        ids, is_reply = _encode_chat(row["messages"], tokenizer, loss_on)
    elif row.get("prompt") is not None:
        prompt = _ids(tokenizer, row["prompt"], special=True)
        reply = _with_eos(_ids(tokenizer, row["completion"], special=False), tokenizer)
        ids, is_reply = prompt + reply, [False] * len(prompt) + [True] * len(reply)
    else:
        ids = _with_eos(_ids(tokenizer, row["text"], special=True), tokenizer)
        is_reply = [True] * len(ids)
    if loss_on == "all":
        is_reply = [True] * len(ids)
    return Encoded(ids, [False, *is_reply[1:]])


def encode_prompt(row: Row, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of what comes before the reply, ready for the model to go on from."""
    if row.get("messages") is not None:
        return _template(row["messages"][:-1], tokenizer, add_generation_prompt=True)
    return _ids(tokenizer, row.get("prompt") or "", special=True)


def replace_reply(row: Row, reply: str) -> Row:
    """The same row with another final reply."""
    if row.get("messages") is not None:
        return {**row, "messages": [*row["messages"][:-1], {"role": "assistant", "content": reply}]}
    return {**row, "completion": reply}


def _ids(tokenizer: PreTrainedTokenizerBase, text: str, special: bool) -> list[int]:
    return list(tokenizer(text, add_special_tokens=special)["input_ids"])


def _with_eos(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    eos: Any = tokenizer.eos_token_id
    return ids if eos is None or ids[-1:] == [eos] else [*ids, eos]


def _template(messages: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase, **options: Any) -> list[int]:
    return list(_apply_template(messages, tokenizer, **options)["input_ids"])


def _apply_template(messages: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase, **options: Any) -> Any:
    """The chat as tokens; transformers renders templates in a sandbox. Raises DataError: it cannot."""
    if not tokenizer.chat_template:
        raise DataError(
            "rows with 'messages' need a chat template, and this model's tokenizer has none: give "
            "finetune_config.chat_template, Jinja text or the path of a file with it"
        )
    try:
        return tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **options)
    except TemplateError as error:
        raise DataError(f"the chat template cannot be used, {explain_template_error(error)}") from error
    except (TypeError, LookupError) as error:  # what a template that expects something else does
        raise DataError(f"the chat template cannot be used on the row: {error}") from error


def _encode_chat(
    messages: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase, loss_on: str
) -> tuple[list[int], list[bool]]:
    if loss_on == "all":  # then no reply has to be located
        ids = _template(messages, tokenizer)
        return ids, [True] * len(ids)
    if re.search(r"{%-?\s*generation", str(tokenizer.chat_template)):
        marked = _apply_template(messages, tokenizer, return_assistant_tokens_mask=True)
        return list(marked["input_ids"]), [bool(m) for m in marked["assistant_masks"]]
    ids = _template(messages, tokenizer)
    return ids, _replies_by_prefix(messages, ids, tokenizer)


def _replies_by_prefix(
    messages: list[dict[str, str]], ids: list[int], tokenizer: PreTrainedTokenizerBase
) -> list[bool]:
    # without generation marks a reply is what its turn adds after the generation prompt
    is_reply = [False] * len(ids)
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _template(messages[:i], tokenizer, add_generation_prompt=True)
        upto = _template(messages[: i + 1], tokenizer)
        if ids[: len(before)] != before or ids[: len(upto)] != upto:
            raise DataError(
                f"the chat template rewrites earlier turns, so reply {i + 1} cannot be located: "
                "use a template with {% generation %} marks, or loss_on: all"
            )
        end = len(upto)
        while end > len(before) + 1 and not str(tokenizer.decode(ids[end - 1 : end])).strip():
            end -= 1  # a line break after the end-of-turn token belongs to the template, not to the reply
        is_reply[len(before) : end] = [True] * (end - len(before))
    return is_reply


def explain_template_error(error: TemplateError) -> str:
    """What a template raised, with the line in it."""
    line: Any = getattr(error, "lineno", None)
    trace = error.__traceback__
    while trace and line is None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"line {line}: {error.message}" if line else str(error.message)
