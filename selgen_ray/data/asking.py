"""Prompts of evaluations, held against the rows: whether a model is asked after what stands before a reply in them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from selgen_ray.data.chats import Messages, begins_with_prompt, generation_prompt, shared_length
from selgen_ray.data.encode import encode_prompt, encode_row
from selgen_ray.data.forms import Row
from selgen_ray.data.roles import Roles
from selgen_ray.data.sets import TRAINED_ROLES
from selgen_ray.errors import DataError

_LOOKED_AT = 200  # rows of a role: the template decides, and the rows only where it renders them in two ways
_PROBE = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


def asks_as_in_rows(roles: Mapping[str, Sequence[Row]], tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether replies are generated after the header of a given reply; see `encode_generation_prompt`.

    They are where more of the rows that are trained on go on with that header than with the generation prompt. So a
    model that is trained on replies without thinking is not asked to think, and one that is trained on thoughts is.
    """
    with contextlib.suppress(DataError):  # a template that refuses the probe may accept the rows
        if not tokenizer.chat_template or begins_with_prompt(_PROBE, tokenizer):
            return False
    rows = [row for role in TRAINED_ROLES for row in roles.get(role, ())[:_LOOKED_AT]]
    return sum(_vote(row["messages"], tokenizer) for row in rows if row.get("messages") is not None) > 0


def _vote(messages: Messages, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return -1 for a chat that goes on with its generation prompt, 1 for one with the header of a given reply."""
    try:
        if begins_with_prompt(messages, tokenizer):
            return -1
        return int(begins_with_prompt(messages, tokenizer, as_in_rows=True))
    except DataError:  # reported for the row
        return 0


def prompt_notes(roles: Roles, tokenizer: PreTrainedTokenizerBase, loss_on: str) -> Iterator[str]:
    """Yield a note where a generation prompt is replaced, and one for each role whose rows go on otherwise than asked.

    Args:
        loss_on: as in `encode_rows`.
    """
    as_in_rows = asks_as_in_rows(roles, tokenizer)
    if as_in_rows:
        yield from _replacement(roles, tokenizer)
    for role, rows in roles.items():
        looked_at = rows[:_LOOKED_AT]
        partings = {
            n: text for n, row in enumerate(looked_at) if (text := _parting(row, tokenizer, loss_on, as_in_rows))
        }
        if partings:
            number, text = next(iter(partings.items()))
            of = f"{len(partings):,} of {'the first ' if len(looked_at) < len(rows) else ''}{len(looked_at):,} rows"
            yield (
                f"data.{role}: {of} do not begin with the prompt that their replies are generated after, first "
                f"{roles.place(role)(number)}: {text}. They are trained and scored after one thing, and asked after "
                "another: finetune_config.chat_template, chat_template_kwargs or other rows make the two one"
            )


def _replacement(roles: Roles, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    rows = (row for role in TRAINED_ROLES for row in roles.get(role, ()) if row.get("messages") is not None)
    before = next(rows)["messages"][:-1]
    with contextlib.suppress(DataError):
        prompt = generation_prompt(before, tokenizer)
        header = generation_prompt(before, tokenizer, as_in_rows=True)
        left_out = prompt[shared_length(prompt, header) :]
        yield (
            f"the chat template ends the prompt for a reply with {left_out!r}, and most of the rows that are trained "
            f"on do not: so replies are generated after {header[-30:]!r}, as in these rows"
        )


def _parting(row: Row, tokenizer: PreTrainedTokenizerBase, loss_on: str, as_in_rows: bool) -> str | None:
    if row.get("text") is not None:
        return None
    try:
        prompt = encode_prompt(row, tokenizer, as_in_rows=as_in_rows)
        return parting(prompt, encode_row(row, tokenizer, loss_on).ids, tokenizer)
    except DataError:  # reported for the row
        return None


def parting(prompt: Sequence[int], ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return where the tokens of a row part from those of its prompt, in words; None if it begins with them."""
    shared = shared_length(prompt, ids)
    if shared == len(prompt):
        return None
    in_prompt, in_row = (decode(several[shared : shared + 1], tokenizer) for several in (prompt, ids))
    return f"they part at token {shared + 1}, {in_prompt!r} in the place of {in_row!r}"


def decode(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the text of tokens, special ones with their names."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
