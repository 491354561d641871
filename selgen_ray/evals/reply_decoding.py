"""Texts of generated tokens, in which all thinking stands between `<think>` and `</think>`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from selgen_ray.data.chats import special_ids
from selgen_ray.data.stop_tokens import reply_channel

_MARKS = ("<think>", "</think>")
_OPENED = re.compile(r"<think>\s*$")
_TAIL = 16  # tokens of a prompt in which an open thought can be seen: its mark may be several, and white space follows


def decoded(replies: Sequence[tuple[Sequence[int], Sequence[int]]], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the text of each reply, without special tokens, but with the marks of its thinking.

    The marks are kept where they are special tokens, and added where the prompt opened the thought, or where the
    template gives an answer a channel of its own (gpt-oss): all before that channel is thinking.

    Args:
        replies: (prompt, reply) as token ids, each reply without the token that ended it.
    """
    added: Any = tokenizer.added_tokens_decoder
    dropped = special_ids(tokenizer) - {number for number, token in added.items() if token.content in _MARKS}
    channel = reply_channel(tokenizer)

    def text(ids: Sequence[int]) -> str:
        return str(tokenizer.decode([i for i in ids if i not in dropped]))

    def one(prompt: Sequence[int], ids: Sequence[int]) -> str:
        opened = _OPENED.search(str(tokenizer.decode(list(prompt[-_TAIL:]), skip_special_tokens=False)))
        before = opened[0] if opened else ""
        if not channel or channel[0] not in ids:
            return before + text(ids)
        places = [n for n in range(len(ids)) if list(ids[n : n + len(channel)]) == channel]
        if not places:
            return "<think>" + text(ids)
        thought, answer = ids[: places[-1]], ids[places[-1] + len(channel) :]
        return (f"<think>{text(thought)}</think>" if thought else "") + text(answer)

    return [one(prompt, ids) for prompt, ids in replies]
