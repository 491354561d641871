"""Rendering of a tokenizer's chats: by which template, with which variables of it, and on which date.

A chat template may rewrite the turns before the last one, so that no reply in them can be located; then the training
template that TRL ships for it is used. A template may write today's date; here it writes a fixed one, so that a trial
has the same tokens on every day.
"""

from __future__ import annotations

import datetime
import json
import re
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, TemplateError, meta
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from selgen_ray.errors import DataError, nearest

KEY = "finetune_config.chat_template_kwargs"
DATE = "2024-07-26"
"""Day that a template's `strftime_now` returns, unless `chat_template_kwargs: {date: ...}` gives another.

It is the day that Llama 3.1's template falls back to.
"""
_MARK = re.compile(r"{%-?\s*(end)?generation\s*-?%}")
_DIRECTIVES = "aAbBdmyYjHIMSpUwWGVuxXcfzZ"  # of strftime
_ATTRIBUTE = "chat_template_kwargs"


@dataclass(frozen=True)
class ChatFormat:
    """Template and settings by which `render` renders a tokenizer's chats.

    Attributes:
        template: Jinja text.
        options: variables of the template.
        stop_texts: the tokenizer's special and added tokens, longest first: each of them may end a turn.
        notes: sentences for people about how chats are rendered.
    """

    template: str
    options: Mapping[str, Any]
    stop_texts: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def is_marked(self) -> bool:
        """Whether the template marks what the assistant generates."""
        return bool(_MARK.search(self.template))

    @property
    def has_generation_prompt(self) -> bool:
        """Whether the template can write the beginning of a reply that is to be generated."""
        return _reads(self.template, "add_generation_prompt")


def set_chat_template_kwargs(tokenizer: PreTrainedTokenizerBase, options: Mapping[str, Any]) -> None:
    """Render every chat of the tokenizer with these variables of its template; they are not saved with it."""
    setattr(tokenizer, _ATTRIBUTE, dict(options))


def chat_format(tokenizer: PreTrainedTokenizerBase, locates: Callable[[ChatFormat], bool]) -> ChatFormat:
    """Return how the tokenizer's chats are rendered; worked out once for a template and its variables.

    Args:
        locates: format -> whether replies can be located in the chats that it renders.

    Raises:
        DataError: there is no chat template, or `chat_template_kwargs` has a key that the template does not read.
    """
    template, options = _own_template(tokenizer), dict(getattr(tokenizer, _ATTRIBUTE, {}))
    key = json.dumps([template, options], sort_keys=True)
    formats = _FORMATS.setdefault(tokenizer, {})
    if key not in formats:
        formats[key] = _make_format(tokenizer, template, options, locates)
    return formats[key]


_FORMATS: weakref.WeakKeyDictionary[PreTrainedTokenizerBase, dict[str, ChatFormat]] = weakref.WeakKeyDictionary()


def _own_template(tokenizer: PreTrainedTokenizerBase) -> str:
    template: Any = tokenizer.chat_template
    if isinstance(template, dict):  # named variants, of which one is for chats without tools
        template = template.get("default")
    if not template:
        raise DataError(
            "rows with 'messages' need a chat template, and this model's tokenizer has none: give "
            "finetune_config.chat_template, Jinja text or the path of a file with it"
        )
    return str(template)


def _make_format(
    tokenizer: PreTrainedTokenizerBase,
    own_template: str,
    options: dict[str, Any],
    locates: Callable[[ChatFormat], bool],
) -> ChatFormat:
    _check_options(own_template, options)
    untyped: Any = tokenizer
    tokens: set[str] = {*untyped.all_special_tokens, *untyped.get_added_vocab()}
    stop_texts = tuple(sorted((text for text in tokens if text.strip()), key=len, reverse=True))
    notes: list[str] = []
    template = own_template
    if not locates(ChatFormat(_with_date(own_template, options), options, stop_texts)) and (
        training_template := _training_template(tokenizer)
    ):
        template = training_template
        notes.append(
            "the chat template renders a reply in a chat otherwise than after its generation prompt: "
            "TRL's training template for it is used instead, in training and in evaluations"
        )
    if _reads(template, "strftime_now") and "date" not in options:
        notes.append(
            f"the chat template writes the date: it is {DATE} on every day, unless {KEY}: {{date: ...}} gives another"
        )
    if _reads(template, "enable_thinking") and "enable_thinking" not in options:
        notes.append(
            "the chat template knows enable_thinking: a model that thinks before it answers may not come to an answer "
            f"within max_new_tokens; {KEY}: {{enable_thinking: false}} asks for the answer at once"
        )
    return ChatFormat(_with_date(template, options), options, stop_texts, tuple(notes))


def _reads(template: str, name: str) -> bool:
    return re.search(rf"\b{re.escape(name)}\b", template) is not None


def _check_options(template: str, options: Mapping[str, Any]) -> None:
    for name in options:
        if _reads(template, name) or (name == "date" and _reads(template, "strftime_now")):
            continue
        variables = _variables(template)
        hint = nearest(name, variables)
        readable = f"; it reads {', '.join(variables)}" if variables else ""
        raise DataError(f"{KEY}: the chat template does not read {name!r}{readable}.{hint}")
    if "date" in options and _reads(template, "strftime_now"):
        _day(options)


def _variables(template: str) -> list[str]:
    built_in = {"messages", "add_generation_prompt", "strftime_now", "raise_exception", "namespace", "bos_token"}
    try:
        parsed = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(_MARK.sub("", template))
    except TemplateError:
        return []
    names = meta.find_undeclared_variables(parsed) - built_in
    return sorted(names | ({"date"} if _reads(template, "strftime_now") else set()))


def _day(options: Mapping[str, Any]) -> datetime.date:
    try:
        return datetime.date.fromisoformat(options.get("date", DATE))
    except (TypeError, ValueError):
        raise DataError(
            f"{KEY}.date: found {options['date']!r}; allowed: a day as year-month-day, such as {DATE}, since the chat "
            "template writes it in a form of its own"
        ) from None


def _with_date(template: str, options: Mapping[str, Any]) -> str:
    """Return the template with a `strftime_now` that gives midnight of one day instead of the time of the clock."""
    if not _reads(template, "strftime_now"):
        return template
    day = datetime.datetime.combine(_day(options), datetime.time())
    # transformers hands no functions to a template; a macro can only replace text, so each directive is spelt out
    text = "form"
    for directive in (*(f"%{letter}" for letter in _DIRECTIVES), *(f"%-{letter}" for letter in "dmHIMSjy")):
        text += f"|replace({directive!r}, {json.dumps(day.strftime(directive))})"
    # on the template's first line, so that errors name the right one
    return f"{{%- macro strftime_now(form) -%}}{{{{- {text} -}}}}{{%- endmacro -%}}{template}"


def _training_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    # imported late for the start-up cost: seconds, and few templates need it
    from trl.chat_template_utils import get_training_chat_template

    try:
        return get_training_chat_template(tokenizer)
    except ValueError:  # it knows no such template
        return None


def render(
    messages: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase, how: ChatFormat, *, prompt: bool = False
) -> tuple[str, list[tuple[int, int]]]:
    """Render a chat in transformers' sandbox.

    Args:
        messages: {role, content} of each turn.
        prompt: add a generation prompt after the last message.

    Returns:
        The text, and the spans that the template marks as generated by the assistant, [start, end) in characters.

    Raises:
        DataError: the template refuses the messages.
    """
    variables: dict[str, Any] = {**tokenizer.special_tokens_map, **how.options}
    try:
        texts, spans = render_jinja_template(
            [messages],
            chat_template=how.template,
            add_generation_prompt=prompt,
            return_assistant_tokens_mask=how.is_marked,
            **variables,
        )
    except TemplateError as error:
        raise DataError(f"the chat template cannot be used, {explain_template_error(error)}") from error
    except (TypeError, LookupError, ValueError) as error:  # a template that expects other messages
        raise DataError(f"the chat template cannot be used on the row: {error}") from error
    return texts[0], [(int(start), int(end)) for start, end in spans[0] if end > start] if spans else []


def explain_template_error(error: TemplateError) -> str:
    """Return the message of a template's error, with its line in the template where that is known."""
    line: Any = getattr(error, "lineno", None)
    trace = error.__traceback__
    while trace and line is None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"line {line}: {error.message}" if line else str(error.message)
