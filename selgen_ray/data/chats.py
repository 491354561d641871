"""Chats to tokens: the replies are located by characters in the rendered chat, each with the token that ends it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from transformers import PreTrainedTokenizerBase

from selgen_ray.data.chat_format import ChatFormat, chat_format, render
from selgen_ray.errors import DataError

Messages = list[dict[str, str]]
Spans = list[tuple[int, int]]
"""Parts of a text, [start, end) in characters, in order."""
_PROBE = [{"role": role, "content": text} for role, text in zip(("user", "assistant") * 2, "abcd", strict=True)]


class NotLocatedError(DataError):
    """A reply cannot be found in the rendered chat."""


def format_of(tokenizer: PreTrainedTokenizerBase) -> ChatFormat:
    """How the tokenizer's chats are rendered. Raises DataError: see `chat_format`."""

    def locates(how: ChatFormat) -> bool:
        if how.is_marked:
            return True
        try:
            _located(_PROBE, render(_PROBE, tokenizer, how)[0], tokenizer, how)
        except NotLocatedError:
            return False
        except DataError:  # it refuses the probe; what it does with the rows is told of them
            return True
        return True

    return chat_format(tokenizer, locates)


def identity_of_format(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any] | None:
    """All that decides how the tokenizer's chats are rendered, as plain JSON; None: none can be."""
    if not tokenizer.chat_template:
        return None
    try:
        how = format_of(tokenizer)
    except DataError:
        return None
    return {"template": how.template, "options": dict(how.options)}


def encode_chat(messages: Messages, tokenizer: PreTrainedTokenizerBase, loss_on: str) -> tuple[list[int], list[bool]]:
    """Token ids of a chat, and which of them are scored: with 'completion' each reply and the token that ends it.

    A token begins where a reply begins, as after a generation prompt, also where the tokenizer would join line breaks
    of both.

    Raises:
        DataError: the template refuses the chat, or a reply cannot be located in it.
    """
    how = format_of(tokenizer)
    text, marked = render(messages, tokenizer, how)
    if loss_on == "all":  # then no reply has to be located
        ids = _ids(text, tokenizer)
        return ids, [True] * len(ids)
    return _tokens(text, _replies(messages, text, marked, tokenizer, how), tokenizer)


def check_chat(messages: Messages, tokenizer: PreTrainedTokenizerBase, loss_on: str) -> None:
    """Raises DataError where `encode_chat` does, without making tokens."""
    how = format_of(tokenizer)
    text, marked = render(messages, tokenizer, how)
    if loss_on != "all":
        _replies(messages, text, marked, tokenizer, how)


def encode_generation_prompt(messages: Messages, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of a chat with the beginning of the reply that is to be generated."""
    how = format_of(tokenizer)
    text, marked = render(messages, tokenizer, how, prompt=True)
    if not any(message["role"] == "assistant" for message in messages):
        return _ids(text, tokenizer)
    try:  # earlier replies begin with a token, as they do in training
        return _tokens(text, _replies(messages, text, marked, tokenizer, how), tokenizer)[0]
    except NotLocatedError:
        return _ids(text, tokenizer)


def ends_replies(messages: Messages, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the template writes anything but white space after the last reply, so that its end can be learnt."""
    how = format_of(tokenizer)
    text, marked = render(messages, tokenizer, how)
    start, end = _replies(messages, text, marked, tokenizer, how)[-1]
    reply, content = text[start:end].rstrip(), messages[-1]["content"].strip()
    return reply.endswith(how.stop_texts) or not reply.endswith(content)


def _replies(
    messages: Messages, text: str, marked: Spans, tokenizer: PreTrainedTokenizerBase, how: ChatFormat
) -> Spans:
    if not how.is_marked:
        return _located(messages, text, tokenizer, how)
    if not marked:
        raise NotLocatedError("the chat template has {% generation %} marks, but marks nothing of this row")
    return [_trimmed(text, span, how) for span in _with_ends(text, marked, how)]


def _with_ends(text: str, spans: Spans, how: ChatFormat) -> Spans:
    """The spans, each with the end of a turn after it, where the marks leave that out.

    What follows the last reply can only be its end, for no turn begins there: up to its first added token, or all.
    """
    tail = text[spans[-1][1] :].rstrip()
    if not tail or text[: spans[-1][1]].rstrip().endswith(how.stop_texts):
        return spans
    end = _first_stop(tail, how) or tail
    return [(start, stop + len(end) if text.startswith(end, stop) else stop) for start, stop in spans]


def _first_stop(text: str, how: ChatFormat) -> str:
    """The text up to the end of the first added token in it, or nothing."""
    places = [(text.find(token), -len(token)) for token in how.stop_texts if token in text]
    return text[: min(places)[0] - min(places)[1]] if places else ""


def _trimmed(text: str, span: tuple[int, int], how: ChatFormat) -> tuple[int, int]:
    """Without the white space after an end token: nobody has to generate it."""
    reply = text[span[0] : span[1]].rstrip()
    return (span[0], span[0] + len(reply)) if reply.endswith(how.stop_texts) else span


def _located(messages: Messages, text: str, tokenizer: PreTrainedTokenizerBase, how: ChatFormat) -> Spans:
    """Where the replies are: what each turn adds after the generation prompt, without white space after its end.

    Raises:
        NotLocatedError: the template renders what stands before a reply, or the reply, otherwise in the whole chat.
    """
    spans: Spans = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before, _ = render(messages[:i], tokenizer, how, prompt=True)
        turn = text if i == len(messages) - 1 else render(messages[: i + 1], tokenizer, how)[0]
        end = _end(message["content"], text, turn, len(before), how) if text.startswith(before) else None
        if end is None:
            raise NotLocatedError(
                f"the chat template rewrites earlier turns, so reply {len(spans) + 1} cannot be located"
                f"{_difference(before, text)}: use a template with {{% generation %}} marks, or loss_on: all"
            )
        spans.append((len(before), end))
    return spans


def _end(content: str, text: str, turn: str, start: int, how: ChatFormat) -> int | None:
    """Where a reply that begins at `start` ends in the chat `text`, which goes on after `turn`; None: not found."""
    is_kept = text.startswith(turn)
    shared = turn if is_kept else text[: _shared_length(text, turn)]
    for reply in (content, content.strip()):  # many templates strip it
        # the content may be part of a header too: what ends the turn leads to the right place
        places = (_before_stops(shared, how) - len(reply), shared.rfind(reply, start))
        place = next((p for p in places if p >= start and reply and shared.startswith(reply, p)), None)
        if place is not None:
            tail = shared[place + len(reply) :]
            # one that ends the whole chat, or begins the next turn, may follow the end of the reply
            return place + len(reply) + len(_first_stop(tail, how) or (tail.rstrip() if is_kept else ""))
    return max(start, len(shared.rstrip())) if is_kept else None


def _before_stops(text: str, how: ChatFormat) -> int:
    """Where the added tokens and the white space begin that a text ends with."""
    while stop := next((token for token in how.stop_texts if text.rstrip().endswith(token)), ""):
        text = text.rstrip().removesuffix(stop)
    return len(text)


def _difference(before: str, text: str) -> str:
    same = _shared_length(before, text)
    if same == len(before):
        return ""
    return f" (the prompt of it goes on with {before[same:][:30]!r}, the whole chat with {text[same:][:30]!r})"


def _shared_length(a: str, b: str) -> int:
    """How many characters two texts have in common from their beginning on."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _tokens(text: str, spans: Spans, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[bool]]:
    if not tokenizer.is_fast:
        return _tokens_of_parts(text, spans, tokenizer)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, is_reply, joined = list(encoded["input_ids"]), list[bool](), list[int]()
    previous, number = 0, 0
    for start, end in list(encoded["offset_mapping"]):
        # some tokenizers leave white space out of a token's offsets: a token begins where the one before it ended
        begin = min(start, previous)
        while number < len(spans) and spans[number][1] <= begin:
            number += 1
        is_reply.append(number < len(spans) and begin < spans[number][1] and end > spans[number][0])
        if is_reply[-1] and begin < spans[number][0]:
            joined.append(spans[number][0])
        previous = max(previous, end)
    if not joined:
        return ids, is_reply
    # a generation prompt ends where the reply begins, so there a token must end too
    pieces = [_piece(text, spans, cut, tokenizer) for cut in pairwise([0, *joined, len(text)])]
    return [i for ids, _ in pieces for i in ids], [r for _, is_reply in pieces for r in is_reply]


def _piece(
    text: str, spans: Spans, cut: tuple[int, int], tokenizer: PreTrainedTokenizerBase
) -> tuple[list[int], list[bool]]:
    start, end = cut
    inside = [(max(a, start) - start, min(b, end) - start) for a, b in spans if a < end and b > start]
    return _tokens(text[start:end], inside, tokenizer)


def _tokens_of_parts(
    text: str, spans: Sequence[tuple[int, int]], tokenizer: PreTrainedTokenizerBase
) -> tuple[list[int], list[bool]]:
    """The tokens of each part of the text by itself: tokenizers written in Python know no offsets."""
    places = sorted({0, *(place for span in spans for place in span), len(text)})
    pieces = [(_ids(text[a:b], tokenizer), any(start <= a < end for start, end in spans)) for a, b in pairwise(places)]
    return [i for ids, _ in pieces for i in ids], [scored for ids, scored in pieces for _ in ids]
