"""Conversion of rows in the forms of other tools to one of ours; the table is in selgen_ray/data/README.md."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from selgen_ray.config.source import Form
from selgen_ray.data.forms import LETTERS, Row

Message = dict[str, Any]

LISTS_OF_MESSAGES = ("messages", "prompt", "completion", "chosen", "rejected")
"""The fields that may hold a conversation."""
OPTIONS = ("choices", "options")
"""The fields that hold the answers to choose from."""
_FROM = {  # ShareGPT's speakers
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "bing", "bard", "model", "assistant"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
_TOOL_ROLES = ("tool", "function", "function_call", "observation", "function_response")
_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
_NO_TOOLS = "tool calls are not supported: leave such rows out, with data.on_bad_rows: skip or a filter"
_UNWANTED = (
    "'label' is {2}, which marks a reply that is not wanted (KTO): it would be trained on as a good one. "
    "filter: {{{0}: {1}}} keeps the good ones; data.proxy_neg can take the others with filter: {{{0}: {2}}}; a label "
    "of another meaning needs another name, columns: {{my_label: {0}}}"
)
IN_PROMPT = "the prompt holds earlier replies, which are scored too (TRL scores the completion alone)"

OTHER_PROMPT = "'chosen' is a whole conversation, which is trained on, and does not begin with the row's 'prompt'"


class FormError(ValueError):
    """Raised where a row has a known form but cannot be used; the message says why."""


@dataclass
class Converted:
    """A row in one of our forms, or unchanged where it fits no form of another tool.

    Attributes:
        dropped: columns that were left out because the row's form does not need them.
        remarks: sentences on where the row is treated otherwise than by the tool that its form comes from.
    """

    row: Row
    dropped: list[str] = field(default_factory=list[str])
    remarks: list[str] = field(default_factory=list[str])


def convert(row: Row, form: Form | None = None) -> Converted:
    """Convert a row to `messages`, `prompt` with `completion`, or `text`.

    Example: {'question': '1 + 1?', 'answer': '2'} becomes {'messages': [{'role': 'user', 'content': '1 + 1?'}, {'role':
    'assistant', 'content': '2'}], 'answer': '2'}.

    Args:
        row: {column: value}, not changed.
        form: 'chat' turns the texts `prompt` and `completion` into a user's message and a reply.

    Raises:
        FormError: the row holds something that cannot be trained on as it is meant, such as a tool call.
    """
    converted = Converted(dict(row))
    for step in (
        _share_gpt,
        _check_messages,
        _alpaca,
        _preference,
        _prompt_and_completion,
        _options,
        _question,
        _answer,
    ):
        step(converted)
    if form == "chat":
        _as_chat(converted)
    return converted


def check_label(row: Row, column: str, filtered: Mapping[str, Any]) -> None:
    """Check that KTO's `label` does not mark the reply as a bad one, unless the source filters by that label.

    Args:
        row: in one of our forms.
        column: the column of the file that `label` is read from.
        filtered: the source's filter.

    Raises:
        FormError: the label is false, and the source does not filter by it.
    """
    label = str(row.get("label")).lower().removesuffix(".0")  # whole numbers in a column with gaps are floats
    is_false = label in ("false", "0")
    is_category = row.get("choices") or row.get("options") or row.get("claim")  # a label to balance accuracy by
    if is_false and not is_category and row.get("text") is None and column not in filtered:
        raise FormError(_UNWANTED.format(column, *(("1", "0") if label == "0" else ("true", "false"))))


def is_chat(value: Any) -> TypeGuard[list[Message]]:
    """Return whether a value is a non-empty list of messages."""
    return isinstance(value, list) and bool(value) and all(isinstance(m, dict) and "content" in m for m in value)


# the forms -------------------------------------------------------------------------------------------------------


def _share_gpt(converted: Converted) -> None:
    """Convert ShareGPT's `conversations`, and messages with from/value instead of role/content."""
    row = converted.row
    lists = {key: row[key] for key in (*LISTS_OF_MESSAGES, "conversations") if isinstance(row.get(key), list)}
    if row.get("messages") is not None and lists.pop("conversations", None):
        converted.dropped.append("conversations")
        del row["conversations"]
    conversations = {
        key: value for key, value in lists.items() if any(isinstance(m, dict) and "from" in m for m in value)
    }
    if "conversations" in lists:
        conversations["conversations"] = lists["conversations"]
    if not any(conversations.values()):
        return
    from trl.data_utils import maybe_convert_to_chatml  # late: importing TRL takes more than a second

    for key, value in conversations.items():
        messages = [dict(m) if isinstance(m, dict) else m for m in value]
        conversations[key] = [_with_known_speaker(m) if isinstance(m, dict) and "from" in m else m for m in messages]
        del row[key]
    row |= maybe_convert_to_chatml(conversations)


def _with_known_speaker(message: Message) -> Message:
    speaker = message["from"]
    return message | {"from": _FROM.get(speaker, speaker) if isinstance(speaker, str) else speaker}


def _check_messages(converted: Converted) -> None:
    """Join the text parts of OpenAI's messages, and refuse what cannot be trained on, such as a tool call."""
    row = converted.row
    if row.get("tools") or row.get("functions"):
        raise FormError(f"'{'tools' if row.get('tools') else 'functions'}' is given: {_NO_TOOLS}")
    for key in LISTS_OF_MESSAGES:
        value = row.get(key)
        if isinstance(value, list):
            row[key] = [_plain(m, f"{key}[{i}]") if isinstance(m, dict) else m for i, m in enumerate(value)]
    if row.get("messages") is not None and row.get("prompt") is not None and row.get("completion") is None:
        converted.dropped.append("prompt")  # many of the hub's data sets repeat the first question there
        del row["prompt"]


def _plain(message: Message, place: str) -> Message:
    if message.get("tool_calls") or message.get("function_call") or message.get("role") in _TOOL_ROLES:
        raise FormError(f"{place} holds a tool call or its result: {_NO_TOOLS}")
    if message.get("role") == "assistant" and message.get("weight") == 0:
        raise FormError(f"{place}.weight is 0: replies that are not to be learned are not supported")
    if message.get("role") == "assistant" and message.get("train") is False:
        raise FormError(f"{place}.train is false: replies that are not to be learned are not supported")
    if message.get("role") == "developer":  # what OpenAI calls system now
        message = message | {"role": "system"}
    parts = message.get("content")
    if not isinstance(parts, list):
        return message
    for part in parts:
        part_type = part.get("type") if isinstance(part, dict) else type(part).__name__
        if part_type != "text" or not isinstance(part.get("text"), str):
            raise FormError(
                f"{place}.content has a part of type {part_type!r}; allowed: parts of type 'text' with a text"
            )
    return message | {"content": "".join(part["text"] for part in parts)}


def _has_a_form(row: Row) -> bool:
    return any(row.get(key) is not None for key in ("messages", "prompt", "completion", "text", "chosen"))


def _alpaca(converted: Converted) -> None:
    row = converted.row
    if _has_a_form(row) or "instruction" not in row or "output" not in row:
        return
    input_text = row.get("input")
    _need_text(row, "instruction", "output")
    if input_text is not None and not isinstance(input_text, str):
        raise FormError("'input' must be text")
    question = f"{row['instruction']}\n\n{input_text}" if input_text and input_text.strip() else row["instruction"]
    _become_chat(converted, ("instruction", "input", "output"), question, row["output"])


def _options(converted: Converted) -> None:
    """Replace options by letter, {'A': text, 'B': text}, by the list of their texts, and such a letter by its text."""
    row = converted.row
    for key in OPTIONS:
        if not isinstance(row.get(key), dict):
            continue
        # a Parquet file gives each row the letters of all rows
        texts = {letter: text for letter, text in row[key].items() if text is not None}
        letters = LETTERS[: len(texts)]
        if sorted(texts) != list(letters):
            continue  # which stands for what is not known: it is refused as a row
        row[key] = [texts[letter] for letter in letters]
        if isinstance(row.get("answer"), str):
            row["answer"] = texts.get(row["answer"], row["answer"])


def _question(converted: Converted) -> None:
    """Convert {question, answer}; with `choices` or `options` the answer may be the number of one, or its letter."""
    row = converted.row
    if _has_a_form(row) or "question" not in row or row.get("answer") is None:
        return
    _need_text(row, "question")
    options, answer = row.get("choices") or row.get("options"), row["answer"]
    if isinstance(options, list):
        row["answer"] = _option(options, answer)
        if row["answer"] not in options:
            raise FormError(f"'answer' {answer!r} is not one of '{'choices' if row.get('choices') else 'options'}'")
        _become_chat(converted, ("question",), row["question"], row["answer"])
        return
    if isinstance(answer, bool) or not isinstance(answer, str | int | float) or answer == "":
        raise FormError(f"'answer' must be text or a number, found {answer!r}")
    reply = str(answer)
    result = reply.rpartition("####")[2].strip() if "####" in reply else reply.strip()  # GSM8K marks it so
    _become_chat(converted, ("question", "answer"), row["question"], reply)
    if "\n" not in result:  # text of several lines is a reply, not a result to compare with
        converted.row["answer"] = result if isinstance(answer, str) else answer


def _answer(converted: Converted) -> None:
    """Replace an answer that is the number or letter of a choice by the choice's text; leave out an empty answer."""
    row = converted.row
    for key in OPTIONS:
        if isinstance(row.get(key), list) and row.get("answer") is not None:
            row["answer"] = _option(row[key], row["answer"])
    if isinstance(row.get("answer"), str) and not row["answer"].strip():  # in a CSV file it would be an empty cell
        del row["answer"]


def _option(options: Sequence[Any], answer: Any) -> Any:
    """Return the option that an answer names by its text, its number from 0 or its letter; else the answer itself."""
    if isinstance(answer, str) and answer in options:
        return answer
    number = answer if isinstance(answer, int) and not isinstance(answer, bool) else -1
    if isinstance(answer, str) and len(answer) == 1 and answer in LETTERS:
        number = LETTERS.index(answer)
    elif isinstance(answer, str) and answer.isdecimal():  # the cells of a CSV file are texts
        number = int(answer)
    return options[number] if 0 <= number < len(options) else answer


def _preference(converted: Converted) -> None:
    """Convert {prompt, chosen, rejected}; the prompt has its own column, or is the common beginning of the other two.

    `rejected` becomes the text of the rejected reply.
    """
    row = converted.row
    if row.get("messages") is not None and is_chat(row.get("chosen")) and is_chat(row.get("rejected")):
        converted.dropped.append("messages")  # UltraFeedback repeats the chosen conversation there
        del row["messages"]
    if "chosen" not in row or row.keys() & {"completion", "messages", "text"}:
        return
    chosen, rejected, prompt = (row.pop(key, None) for key in ("chosen", "rejected", "prompt"))
    if prompt is None and isinstance(chosen, str) and isinstance(rejected, str | None):
        if all(reply is None or _is_transcript(reply) for reply in (chosen, rejected)):
            chosen = _transcript(chosen, "chosen")
            rejected = None if rejected is None else _transcript(rejected, "rejected")
        elif rejected is not None:
            if asked := next((key for key in ("question", "instruction") if row.get(key)), None):
                message = f"'chosen' and 'rejected' stand beside {asked!r}, and there is no 'prompt'"
                raise FormError(f"{message}: if it is the prompt, columns: {{prompt: {asked}}}")
            prompt, chosen, rejected = _without_common_start(chosen, rejected)
    if not any(map(is_chat, (prompt, chosen, rejected))):
        row |= {"prompt": prompt, "completion": chosen} | ({} if rejected is None else {"rejected": rejected})
        return
    row["messages"] = _whole(prompt, chosen, "chosen")
    if is_chat(prompt) and _turns(row["messages"][: len(prompt)]) != _turns(prompt):
        converted.remarks.append(OTHER_PROMPT)
    _remark_on_prompt(converted, row["messages"][:-1])
    if not is_chat(rejected):
        row |= {} if rejected is None else {"rejected": rejected}
        return
    rejected_messages = _whole(prompt, rejected, "rejected")
    if (
        _turns(rejected_messages[:-1]) != _turns(row["messages"][:-1])
        or rejected_messages[-1].get("role") != "assistant"
    ):
        raise FormError("'chosen' and 'rejected' part before the last reply: a pair answers one prompt")
    row["rejected"] = rejected_messages[-1]["content"]


def _whole(prompt: Any, reply: Any, key: str) -> list[Message]:
    """Return the conversation up to a reply, with it.

    Args:
        reply: a text, the messages after the prompt, or the whole conversation.
        key: the reply's column, for error messages.
    """
    if not is_chat(reply):
        reply = [{"role": "assistant", "content": reply}]
    elif reply[0].get("role") != "assistant":
        first = prompt[:1] if is_chat(prompt) else []
        has_system = reply[0].get("role") == "system" or [m.get("role") for m in first] != ["system"]
        return reply if has_system else [*first, *reply]
    before = _prompt_messages(prompt)
    if not before:
        raise FormError(f"{key!r} is a reply without a prompt: give 'prompt', or the whole conversation")
    return [*before, *reply]


def _prompt_messages(prompt: Any) -> list[Message]:
    """Return a prompt's messages: a text is one user's message, and an empty or missing prompt has none."""
    return prompt if is_chat(prompt) else [{"role": "user", "content": prompt}] if prompt else []


def _turns(messages: Sequence[Message]) -> list[tuple[Any, Any]]:
    return [(m.get("role"), m.get("content")) for m in messages]


def _is_transcript(text: str) -> bool:
    return text.lstrip().startswith("Human:") and "\n\nAssistant:" in text


def _transcript(text: str, key: str) -> list[Message]:
    """Return the turns of an hh-rlhf transcript: each begins with a blank line and 'Human:' or 'Assistant:'."""
    _, *parts = _TURN.split(text.strip())
    speakers = {"Human": "user", "Assistant": "assistant"}
    turns = [
        {"role": speakers[speaker], "content": content.strip()}
        for speaker, content in zip(parts[::2], parts[1::2], strict=True)
    ]
    if turns[-1]["role"] != "assistant" or not turns[-1]["content"]:
        raise FormError(f"{key!r} does not end with a reply of the assistant")
    return turns


def _without_common_start(chosen: str, rejected: str) -> tuple[str, str, str]:
    if chosen[:1] != rejected[:1] or chosen == rejected:
        problem = "are alike" if chosen == rejected else "have no common beginning, which would be the prompt"
        raise FormError(f"'chosen' and 'rejected' {problem}: give 'prompt' in a column of its own")
    from trl.data_utils import extract_prompt  # late: importing TRL takes more than a second

    # a mark at the end, so that the two differ even where one is the beginning of the other
    parts: dict[str, Any] = extract_prompt({"chosen": chosen + "\0", "rejected": rejected + "\1"})
    prompt, chosen, rejected = (str(parts[key]) for key in ("prompt", "chosen", "rejected"))
    return prompt, chosen[:-1], rejected[:-1]


def _prompt_and_completion(converted: Converted) -> None:
    """Convert TRL's conversational prompt and completion; one of the two may be a text."""
    row = converted.row
    prompt, completion = row.get("prompt"), row.get("completion")
    if not is_chat(prompt) and not is_chat(completion):
        return
    if completion is None:
        raise FormError("'prompt' is there, and no 'completion': there is no reply to learn")
    before = _prompt_messages(prompt)
    after = completion if is_chat(completion) else [{"role": "assistant", "content": completion}]
    if before and before[-1].get("role") == after[0].get("role") == "assistant":
        raise FormError("'prompt' ends with a reply that 'completion' goes on with: put the two into one message")
    _remark_on_prompt(converted, before)
    for key in ("prompt", "completion"):
        row.pop(key, None)
    row["messages"] = [*before, *after]


def _remark_on_prompt(converted: Converted, before: Sequence[Message]) -> None:
    if any(m.get("role") == "assistant" for m in before):
        converted.remarks.append(IN_PROMPT)


def _as_chat(converted: Converted) -> None:
    row = converted.row
    if row.get("text") is not None and row.get("messages") is None and row.get("prompt") is None:
        raise FormError("form: chat needs 'prompt' and 'completion': a 'text' row does not say where its reply begins")
    if row.get("messages") is None and isinstance(row.get("prompt"), str) and isinstance(row.get("completion"), str):
        _need_text(row, "prompt", "completion")
        _become_chat(converted, ("prompt", "completion"), row["prompt"], row["completion"])


def _become_chat(converted: Converted, columns: Sequence[str], question: str, reply: Any) -> None:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    converted.row = {"messages": turns} | {key: value for key, value in converted.row.items() if key not in columns}


def _need_text(row: Row, *keys: str) -> None:
    for key in keys:
        if not isinstance(row.get(key), str) or not row[key]:
            raise FormError(f"{key!r} must be non-empty text")
