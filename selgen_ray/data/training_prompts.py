"""Training prompts: texts that rows carry while they are trained on, and never when the model is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from selgen_ray.config.evals import EvalConfig
from selgen_ray.config.source import POSITIONS, TrainingPrompt
from selgen_ray.data.chat_format import render
from selgen_ray.data.chats import format_of
from selgen_ray.data.forms import Row
from selgen_ray.data.roles import Origin, Roles
from selgen_ray.errors import DataError
from selgen_ray.seeding import derive_seed

_MOST_SHOWN = 8  # values of a column in a message


def is_one_of(value: Any, wanted: Any) -> bool:
    """Return whether a cell has the value, or one of the list of values, that is wanted."""
    # the cells of a CSV file are texts
    texts = {str(allowed) for allowed in listed(wanted) if allowed is not None}
    return value in listed(wanted) or (isinstance(value, str) and value in texts)


def listed(value: Any) -> list[Any]:
    """Return a list as it is, and another value as the only one of a list."""
    return value if isinstance(value, list) else [value]


def meets(row: Mapping[str, Any], where: Mapping[str, Any]) -> bool:
    """Return whether a row has a wanted value in each of the columns."""
    return all(is_one_of(row.get(column), wanted) for column, wanted in where.items())


@dataclass
class Met:
    """The rows of a role that a training prompt's `where` meets, and the values that it was compared with."""

    prompt: TrainingPrompt
    role: str
    any_row: bool = False
    values: dict[str, dict[str, None]] = field(default_factory=dict[str, dict[str, None]])

    def texts(self, row: Mapping[str, Any], data_seed: int, number: int) -> dict[str, str]:
        """Return position -> text for a row of the role's source; of a list of texts it draws one, by its number."""
        for column in self.prompt.where:
            self.values.setdefault(column, {})[repr(row.get(column))] = None
        if not meets(row, self.prompt.where):
            return {}
        self.any_row = True
        draw = derive_seed(data_seed, "training prompt", self.role, number)
        given = {position: getattr(self.prompt, position) for position in POSITIONS}
        drawn = {p: text[draw % len(text)] if isinstance(text, list) else text for p, text in given.items()}
        return {position: text for position, text in drawn.items() if text}

    def check(self) -> None:
        """Raise DataError if no row was met; the message shows the values that were found."""
        if self.any_row:
            return
        wanted = ", ".join(f"{column}: {value!r}" for column, value in self.prompt.where.items())
        found = "; ".join(f"{column}: {_shown(list(values))}" for column, values in self.values.items())
        raise DataError(
            f"data.{self.role}: no row meets where {{{wanted}}} of its training prompt; found {found or 'no rows'}"
        )


def _shown(values: Sequence[str]) -> str:
    more = f" and {len(values) - _MOST_SHOWN} more" if len(values) > _MOST_SHOWN else ""
    return ", ".join(values[:_MOST_SHOWN]) + more


def with_prompts(rows: Mapping[str, list[Row]], prompts: Mapping[str, TrainingPrompt], data_seed: int) -> Roles:
    """Return rows with the training prompts of their roles, where their source has given them none; `rows` stay.

    Raises:
        DataError: a prompt's `where` meets no row.
    """
    if not isinstance(rows, Roles):
        rows = Roles(rows)
    origins = dict(rows.origins)
    for role, prompt in prompts.items():
        before = origins.get(role, [])
        if role not in rows or not prompt.has_text or any(origin.prompt for origin in before):
            continue
        met = Met(prompt, role)
        numbers = [origin.number for origin in before] or range(len(rows[role]))
        texts = [met.texts(row, data_seed, number) for number, row in zip(numbers, rows[role], strict=True)]
        if not before:  # else the rows of the whole source were looked at, of which these may be a part
            met.check()
        origins[role] = [Origin(number, one) for number, one in zip(numbers, texts, strict=True)]
    return Roles(rows, rows.skipped, rows.places, rows.notes, origins)


def trained_form(rows: Mapping[str, list[Row]], role: str) -> list[Row]:
    """Return the rows of a role as they are trained on: each with its training prompt.

    Raises:
        DataError: a row takes no such prompt; the message says where it is.
    """
    origins = rows.origins.get(role, []) if isinstance(rows, Roles) else []
    if not any(origin.prompt for origin in origins):
        return rows[role]
    prompted: list[Row] = []
    for number, (row, origin) in enumerate(zip(rows[role], origins, strict=True)):
        try:
            prompted.append(with_prompt(row, origin.prompt))
        except DataError as error:
            place = rows.place(role) if isinstance(rows, Roles) else str
            raise DataError(f"data.{role}, {place(number)}: {error}") from error
    return prompted


def with_prompt(row: Row, texts: Mapping[str, str]) -> Row:
    """Return a row with the texts of its training prompt, position -> text, joined to its own as they are.

    Raises:
        DataError: a `text` row, which has no user; or a system text and a row of strings.
    """
    if not texts:
        return row
    system, prefix, suffix = (texts.get(position, "") for position in POSITIONS)
    if row.get("messages") is not None:
        messages = [
            {**m, "content": prefix + m["content"] + suffix} if m["role"] == "user" else m for m in row["messages"]
        ]
        if system and messages[0]["role"] == "system":
            messages[0] = {**messages[0], "content": f"{system}\n\n{messages[0]['content']}"}
        elif system:
            messages = [{"role": "system", "content": system}, *messages]
        return {**row, "messages": messages}
    if row.get("prompt") is None:
        raise DataError("a row of plain 'text' takes no training prompt: it has no user whose message it could join")
    if system:
        raise DataError(
            "a row of strings, 'prompt' and 'completion', has no system message: use user_prefix instead of system, or "
            "make chats of such rows with form: chat"
        )
    return {**row, "prompt": prefix + row["prompt"] + suffix}


def check_system_texts(rows: Mapping[str, list[Row]], tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that the chat template shows the system texts of training prompts.

    Raises:
        DataError: it refuses a system message, or leaves it out.
    """
    for role, origins in rows.origins.items() if isinstance(rows, Roles) else ():
        text = next((origin.prompt["system"] for origin in origins if "system" in origin.prompt), None)
        if text is not None and any(row.get("messages") is not None for row in rows[role]):
            check_system_text(text, tokenizer, f"data.{role}: its training prompt")


def check_contexts(config: EvalConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that the chat template shows the system texts of `evals.contexts`. Raises DataError: see below."""
    for name, texts in config.contexts.items():
        if texts.get("system"):
            check_system_text(texts["system"], tokenizer, f"evals.contexts.{name}")


def check_system_text(text: str, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Check that the chat template, where there is one, shows a system text.

    Args:
        name: what has the text, for the error message.

    Raises:
        DataError: it refuses a system message, or leaves it out.
    """
    if not tokenizer.chat_template:
        return
    how = format_of(tokenizer)
    turns = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
    try:
        plain = render(turns, tokenizer, how)[0]
    except DataError:  # the template as a whole is reported with the first row
        return
    try:
        # doubled, since a template may write this very text where a chat has no system message
        systems = ({"role": "system", "content": content} for content in (text, text + text))
        is_shown = any(render([system, *turns], tokenizer, how)[0] != plain for system in systems)
    except DataError:
        is_shown = False
    if not is_shown:
        raise DataError(
            f"{name} has a system text, and the chat template has no system role: use user_prefix instead of system"
        )
