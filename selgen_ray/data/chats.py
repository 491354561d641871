"""Tokens of chats: replies are located by characters in the rendered chat, each with the token that ends it."""

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
_REPLIES = ("a", "b")
_PROBE = [{"role": role, "content": text} for role, text in zip(("user", "assistant") * 2, "abcd", strict=True)]


class NotLocatedError(DataError):
    """Raised where a reply cannot be found in the rendered chat."""


def format_of(tokenizer: PreTrainedTokenizerBase) -> ChatFormat:
    """Return how the tokenizer's chats are rendered. Raises DataError: see `chat_format`."""

    def locates(how: ChatFormat) -> bool:
        if how.is_marked:
            return True
        try:
            _located(_PROBE, render(_PROBE, tokenizer, how)[0], tokenizer, how, by_header=False)
        except NotLocatedError:
            return False
        except DataError:  # the template refuses the probe; whether it takes the rows is checked with each row
            return True
        return True

    return chat_format(tokenizer, locates)


def identity_of_format(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any] | None:
    """Return all that decides how the tokenizer's chats are rendered, as plain JSON; None if none can be rendered."""
    if not tokenizer.chat_template:
        return None
    try:
        how = format_of(tokenizer)
    except DataError:
        return None
    return {"template": how.template, "options": dict(how.options)}


def encode_chat(messages: Messages, tokenizer: PreTrainedTokenizerBase, loss_on: str) -> tuple[list[int], list[bool]]:
    """Return the token ids of a chat and, for each, whether it is scored.

    At the beginning of a reply a new token begins, as it does after a generation prompt, even where the tokenizer would
    join the line breaks before and after that place into one token.

    Args:
        loss_on: 'completion' scores each reply and the token that ends it; 'all' scores every token.

    Raises:
        DataError: the template refuses the chat, or a reply cannot be located in it.
    """
    how = format_of(tokenizer)
    text, marked = render(messages, tokenizer, how)
    if loss_on == "all":  # then no reply has to be located
        ids = token_ids(text, tokenizer)
        return ids, [True] * len(ids)
    return _tokens(text, _replies(messages, text, marked, tokenizer, how), tokenizer)


def check_chat(messages: Messages, tokenizer: PreTrainedTokenizerBase, loss_on: str) -> None:
    """Check that `encode_chat` can encode the chat, without making tokens.

    Raises:
        DataError: as `encode_chat`.
    """
    how = format_of(tokenizer)
    text, marked = render(messages, tokenizer, how)
    if loss_on != "all":
        _replies(messages, text, marked, tokenizer, how)


def encode_generation_prompt(
    messages: Messages, tokenizer: PreTrainedTokenizerBase, *, as_in_rows: bool = False
) -> list[int]:
    """Return the token ids of a chat, followed by the beginning of the reply that is to be generated.

    Args:
        as_in_rows: end with the header of a reply that is given, instead of the template's generation prompt. The two
            differ in templates that open a `<think>` where a reply is to be generated, and nowhere else.
    """
    how = format_of(tokenizer)
    text, marked = _prompt(messages, tokenizer, how, as_in_rows=as_in_rows)
    if not any(message["role"] == "assistant" for message in messages):
        return token_ids(text, tokenizer)
    try:  # earlier replies begin with a token, as they do in training
        return _tokens(text, _replies(messages, text, marked, tokenizer, how), tokenizer)[0]
    except NotLocatedError:
        return token_ids(text, tokenizer)


def generation_prompt(messages: Messages, tokenizer: PreTrainedTokenizerBase, *, as_in_rows: bool = False) -> str:
    """Return the text that `encode_generation_prompt` makes tokens of. Raises DataError: the template refuses it."""
    return _prompt(messages, tokenizer, format_of(tokenizer), as_in_rows=as_in_rows)[0]


def begins_with_prompt(messages: Messages, tokenizer: PreTrainedTokenizerBase, *, as_in_rows: bool = False) -> bool:
    """Return whether a chat begins with the prompt of its last reply. Raises DataError, as `generation_prompt` does."""
    text, _ = render(messages, tokenizer, format_of(tokenizer))
    return text.startswith(generation_prompt(messages[:-1], tokenizer, as_in_rows=as_in_rows))


def _prompt(
    messages: Messages, tokenizer: PreTrainedTokenizerBase, how: ChatFormat, *, as_in_rows: bool = False
) -> tuple[str, Spans]:
    """Return a chat with its generation prompt, and the spans in it that the template marks.

    A template that knows no generation prompt may still write a header before each reply, which then stands for it.

    Args:
        as_in_rows: see `encode_generation_prompt`.
    """
    text, marked = render(messages, tokenizer, how, prompt=True)
    if not as_in_rows and how.has_generation_prompt:
        return text, marked
    turns = render(messages, tokenizer, how)[0].rstrip()
    first, second = (
        render([*messages, {"role": "assistant", "content": reply}], tokenizer, how)[0] for reply in _REPLIES
    )
    # a blank at its end is the beginning of the reply's first token
    header = first[: shared_length(first, second)].rstrip(" ")
    # where the reply changes how the turns before it are rendered, the model would be asked something else
    return (header if header.startswith(turns) and len(header) > len(turns) else text), marked


def why_endless(messages: Messages, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return why the end of the last reply cannot be learnt, as a clause; None if it can.

    It can where the reply is scored up to a special token, at which generation stops.
    """
    how = format_of(tokenizer)
    text, marked = render(messages, tokenizer, how)
    start, end = _replies(messages, text, marked, tokenizer, how)[-1]
    reply, content = text[start:end].rstrip(), messages[-1]["content"].strip()
    last = token_ids(reply, tokenizer)[-1:]
    if last and last[0] in special_ids(tokenizer):
        return None
    if reply.endswith(content):
        return "the chat template writes nothing after a reply"
    after = reply[reply.rfind(content) + len(content) :] if content in reply else reply[-20:]
    return f"the chat template ends a reply with {after!r}, which the tokenizer has no special token for"


def _replies(
    messages: Messages, text: str, marked: Spans, tokenizer: PreTrainedTokenizerBase, how: ChatFormat
) -> Spans:
    if not how.is_marked:
        return _located(messages, text, tokenizer, how)
    if not marked:
        raise NotLocatedError("the chat template has {% generation %} marks, but marks nothing of this row")
    return [_trimmed(text, span, how) for span in _with_ends(messages, text, marked, how)]


def _with_ends(messages: Messages, text: str, spans: Spans, how: ChatFormat) -> Spans:
    """Return the spans, each extended by the end of its turn where the template's marks leave that out.

    No turn begins after the last reply, so what follows it is the end of a turn: all of it, or up to the first added
    token in it.
    """
    text_after, marked = text[spans[-1][1] :].rstrip(), text[: spans[-1][1]].rstrip()
    contents = [message["content"].strip() for message in messages if message["role"] == "assistant"]
    # a reply's own text may end with an added token too, such as '</answer>'
    ends_with_own_text = bool(contents and contents[-1]) and marked.endswith(contents[-1])
    if not text_after or (marked.endswith(how.stop_texts) and not ends_with_own_text):
        return spans
    end_text = _first_stop(text_after, how) or text_after
    return [(start, stop + len(end_text) if text.startswith(end_text, stop) else stop) for start, stop in spans]


def _first_stop(text: str, how: ChatFormat) -> str:
    """Return the text up to the end of the first added token in it; '' if it has none."""
    places = [(text.find(token), -len(token)) for token in how.stop_texts if token in text]
    return text[: min(places)[0] - min(places)[1]] if places else ""


def _trimmed(text: str, span: tuple[int, int], how: ChatFormat) -> tuple[int, int]:
    """Return the span without white space after its end token: a model stops at that token."""
    reply = text[span[0] : span[1]].rstrip()
    return (span[0], span[0] + len(reply)) if reply.endswith(how.stop_texts) else span


def _located(
    messages: Messages, text: str, tokenizer: PreTrainedTokenizerBase, how: ChatFormat, *, by_header: bool = True
) -> Spans:
    """Return where the replies are: each is what its turn adds to the generation prompt before it.

    White space after the end of a turn is left out.

    Args:
        by_header: where the generation prompt does not stand before a reply, the header of a reply may.

    Raises:
        NotLocatedError: in the whole chat the template renders a reply, or the turns before it, in another way than at
            the end of a chat.
    """
    spans: Spans = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt, _ = _prompt(messages[:i], tokenizer, how)
        if by_header and not text.startswith(prompt):
            prompt, _ = _prompt(messages[:i], tokenizer, how, as_in_rows=True)
        turn = text if i == len(messages) - 1 else render(messages[: i + 1], tokenizer, how)[0]
        end = _end(message["content"], text, turn, len(prompt), how) if text.startswith(prompt) else None
        if end is None:
            raise NotLocatedError(
                f"the chat template rewrites earlier turns, so reply {len(spans) + 1} cannot be located"
                f"{_difference(prompt, text)}: use a template with {{% generation %}} marks, or loss_on: all"
            )
        spans.append((len(prompt), end))
    return spans


def _end(content: str, text: str, turn: str, start: int, how: ChatFormat) -> int | None:
    """Return where the reply that begins at `start` ends in the chat `text`; None if it is not found.

    Args:
        content: the reply as it stands in the row.
        text: the whole chat as it was rendered.
        turn: the chat up to this reply, rendered on its own.
    """
    is_kept = text.startswith(turn)
    shared = turn if is_kept else text[: shared_length(text, turn)]
    for reply in (content, content.strip()):  # many templates strip it
        # the content may stand in a header too, so first look just before the tokens that end the turn
        places = (_before_stops(shared, how) - len(reply), shared.rfind(reply, start))
        place = next((p for p in places if p >= start and reply and shared.startswith(reply, p)), None)
        if place is not None:
            tail = shared[place + len(reply) :]
            # only up to the first added token: one that ends the whole chat, or begins the next turn, may follow
            return place + len(reply) + len(_first_stop(tail, how) or (tail.rstrip() if is_kept else ""))
    return max(start, len(shared.rstrip())) if is_kept else None


def _before_stops(text: str, how: ChatFormat) -> int:
    """Return where the run of added tokens and white space begins that ends a text."""
    while stop := next((token for token in how.stop_texts if text.rstrip().endswith(token)), ""):
        text = text.rstrip().removesuffix(stop)
    return len(text)


def _difference(prompt: str, text: str) -> str:
    shared = shared_length(prompt, text)
    if shared == len(prompt):
        return ""
    return f" (the prompt of it goes on with {prompt[shared:][:30]!r}, the whole chat with {text[shared:][:30]!r})"


def shared_length(a: Sequence[object], b: Sequence[object]) -> int:
    """Return the length of the longest common beginning of two texts, in characters, or of two lists of tokens."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the ids of the tokens that are no text, such as `<|im_end|>`."""
    added: Any = tokenizer.added_tokens_decoder
    return {*tokenizer.all_special_ids, *(number for number, token in added.items() if token.special)}


def token_ids(text: str, tokenizer: PreTrainedTokenizerBase, *, special: bool = False) -> list[int]:
    """Return the token ids of a text; with `special` as well those that the tokenizer puts around each text."""
    return list(tokenizer(text, add_special_tokens=special)["input_ids"])


def _tokens(text: str, spans: Spans, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[bool]]:
    if not tokenizer.is_fast:
        return _tokens_of_parts(text, spans, tokenizer)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, is_reply, joined = list(encoded["input_ids"]), list[bool](), list[int]()
    previous, span_number = 0, 0
    for start, end in list(encoded["offset_mapping"]):
        # some tokenizers leave white space out of a token's offsets: a token begins where the one before it ended
        begin = min(start, previous)
        while span_number < len(spans) and spans[span_number][1] <= begin:
            span_number += 1
        is_reply.append(span_number < len(spans) and begin < spans[span_number][1] and end > spans[span_number][0])
        if is_reply[-1] and begin < spans[span_number][0]:
            joined.append(spans[span_number][0])
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
    """Encode each part of the text by itself: tokenizers written in Python give no offsets."""
    places = sorted({0, *(place for span in spans for place in span), len(text)})
    pieces = [
        (token_ids(text[a:b], tokenizer), any(start <= a < end for start, end in spans)) for a, b in pairwise(places)
    ]
    return [i for ids, _ in pieces for i in ids], [scored for ids, scored in pieces for _ in ids]
