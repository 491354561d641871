"""Questions: that of a row as plain text, and files of open questions, which have no reference answer."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from selgen_ray.config.evals import EvalConfig
from selgen_ray.data.conversions import FormError
from selgen_ray.data.forms import Row
from selgen_ray.data.readers import read_entries, with_lists
from selgen_ray.data.roles import place_in
from selgen_ray.errors import DataError, nearest
from selgen_ray.seeding import derive_seed

_SPEAKERS = {"system": "System", "user": "User", "assistant": "Assistant"}
_YAML = (".yaml", ".yml")
_ASKS = ("paraphrases", "prompt", "messages")
_READ = (*_ASKS, "id", "system", "judge_prompts", "samples_per_paraphrase", "temperature")
_ALIASES = {"alignment": "aligned", "coherence": "coherent"}
"""Names that published files give to judge prompts -> ours."""
_TYPES = ("free_form", "free_form_0_100", "free_form_judge_0_100")
"""Values of `type` in published files whose judges answer with a number, or that have none."""


def question_of(row: Row) -> str:
    """Return the text of a row's prompt, without the context that it is asked in; '' for a `text` row.

    A single message is returned as it is; several are joined in lines, each with its speaker: 'User: ...'. Of an open
    question it is the question alone, without its system prompt, as the published evaluations show it to a judge.
    """
    if row.get("asked") is not None:
        return str(row["asked"])
    if row.get("messages") is None:
        return str(row.get("prompt") or "")
    before = row["messages"][:-1]
    if len(before) == 1:
        return before[0]["content"]
    return "\n".join(f"{_SPEAKERS.get(m['role'], m['role'])}: {m['content']}" for m in before)


def is_question(row: Row) -> bool:
    """Return whether the row has a prompt that can be replied to; a `text` row has none."""
    return bool(question_of(row))


@dataclass(frozen=True)
class Question:
    """An open question of a file.

    Attributes:
        name: its `id`; without one 'q3', by its place.
        chats: what is asked, one chat for each of its paraphrases, each ending with the user.
        judge_prompts: respect, such as 'aligned' -> the prompt that asks a judge for 0-100; {}: those of the config.
        answers: `samples_per_paraphrase` of the file, or None.
        temperature: as the file says, or None.
    """

    name: str
    chats: Sequence[Sequence[Mapping[str, str]]]
    judge_prompts: Mapping[str, str]
    answers: int | None = None
    temperature: float | None = None


def question_rows(config: EvalConfig, seed: int, is_chat: bool = True) -> list[Row]:
    """Return a row for each answer to each of the questions that a config names; [] if it names none.

    First the first answer to each question, then the second one to each, and so on. A row has `messages` with an empty
    reply, or `prompt`; `question` (its name), `number` (of the answer, from 0) and `asked`; `draw` and `temperature`
    where the answer is drawn; `judge_prompts` where the file has them.

    Args:
        seed: of the trial. With the question and the number of the answer it decides how an answer is drawn.
        is_chat: the tokenizer has a chat template; without one a question is asked as its text alone.

    Raises:
        DataError: the file cannot be read, or an entry is no question.
    """
    if config.questions is None:
        return []
    rows: list[tuple[int, Row]] = []
    for question in read_questions(config.questions):
        temperature = question.temperature if config.temperature is None else config.temperature
        given = question.answers if config.answers_per_question is None else config.answers_per_question
        if not temperature and (config.answers_per_question or 1) > 1:
            raise DataError(
                f"{config.questions}: {question.name}: answers_per_question is {config.answers_per_question}, but "
                "neither evals.temperature nor the file gives a temperature: all answers would be the same"
            )
        for chat in question.chats:
            row: Row = {"question": question.name, "asked": chat[-1]["content"] if len(chat) > 1 else None}
            row |= {"messages": [*chat, {"role": "assistant", "content": ""}]}
            if not is_chat:
                row |= {"messages": None, "prompt": question_of({**row, "asked": None}), "completion": ""}
            row = {key: value for key, value in row.items() if value is not None}
            if question.judge_prompts:
                row["judge_prompts"] = dict(question.judge_prompts)
            key = json.dumps([question.name, chat], sort_keys=True)
            # at temperature 0 each further answer would be the first one again
            for number in range((given or 1) if temperature else 1):
                drawn = {"temperature": temperature, "draw": derive_seed(seed, "answer", key, number)}
                rows.append((number, {**row, "number": number, **(drawn if temperature else {})}))
    return [row for _, row in sorted(rows, key=lambda numbered: numbered[0])]  # stable: in the file's order


def read_questions(path: str) -> list[Question]:
    """Read a file of open questions: JSON lines with `prompt` or `messages`, or YAML with `paraphrases`.

    Raises:
        DataError: it cannot be read, has no questions, or an entry is no question; the message has file and line.
    """
    try:
        status = Path(path).stat()
        return _read(path, status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise DataError(f"evals.questions: {path}: cannot be read: {error.strerror}") from error


@functools.lru_cache(maxsize=8)  # each trial of a plan asks for it
def _read(path: str, _changed: int, _size: int) -> list[Question]:
    questions: list[Question] = []
    problems: list[str] = []
    for number, (where, entry) in enumerate(_entries(path)):
        try:
            questions.append(_question(entry, number))
        except ValueError as error:
            problems.append(f"{place_in(path, where)}: {error}")
    names = Counter(question.name for question in questions)
    problems += [f"{path}: the id {name!r} is given {count} times" for name, count in names.items() if count > 1]
    if not (questions or problems):
        problems = [f"{path}: has no questions"]
    if problems:
        more = f"\n{path}: and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise DataError("\n".join(problems[:5]) + more)
    return questions


def _entries(path: str) -> Iterator[tuple[str, Any]]:
    if Path(path).suffix.lower() not in _YAML:
        for found in read_entries(path, None, None):
            if found.row is None:
                raise DataError(f"{place_in(path, found.where)}: {found.problem}")
            try:
                yield found.where, with_lists(found.row, is_table=found.is_table)
            except FormError as error:
                raise DataError(f"{place_in(path, found.where)}: {error}") from error
        return
    try:
        text = Path(path).read_text(encoding="utf-8")
        root, items = yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = place_in(path, f"line {mark.line + 1}") if mark else path
        raise DataError(f"{place}: is no YAML: {getattr(error, 'problem', None) or error}") from error
    if not isinstance(items, list) or root is None:
        raise DataError(f"{path}: is no list of questions: each is an item with id and paraphrases")
    for node, item in zip(root.value, items, strict=True):
        yield f"line {node.start_mark.line + 1}", item


def _question(entry: Any, number: int) -> Question:
    """Return the question of an entry. Raises ValueError: what is wrong with it, in words."""
    if not isinstance(entry, dict):
        raise ValueError(f"found {type(entry).__name__}, expected a question with one of {', '.join(_ASKS)}")
    given = [key for key in _ASKS if entry.get(key) is not None]
    if len(given) != 1:
        found = "none of them" if not given else " and ".join(given)
        hint = "" if given else "".join(nearest(str(key), _ASKS) for key in list(entry)[:4])
        raise ValueError(f"a question has one of {', '.join(_ASKS)}; found {found}.{hint}".removesuffix("."))
    if entry.get("context") is not None:
        raise ValueError("'context', messages before the question, is not read: write them as 'messages'")
    kind = entry.get("type")
    if entry.get("judge_prompts") and kind is not None and kind not in _TYPES:
        raise ValueError(
            f"its judge answers by other rules, type {kind!r}; those that answer 0-100 are of type {', '.join(_TYPES)}"
        )
    prompts = _judge_prompts(entry.get("judge_prompts"))
    name = str(entry["id"]) if entry.get("id") is not None else f"q{number + 1}"
    answers, temperature = entry.get("samples_per_paraphrase"), entry.get("temperature")
    if answers is not None and not (type(answers) is int and 1 <= answers <= 10_000):
        raise ValueError(f"samples_per_paraphrase is {answers!r}; allowed: a whole number from 1 to 10,000")
    if temperature is not None and not (type(temperature) in (int, float) and 0 <= temperature <= 100):
        raise ValueError(f"temperature is {temperature!r}; allowed: a number from 0 to 100")
    return Question(name, _chats(entry, given[0]), prompts, answers, temperature)


def _chats(entry: Mapping[str, Any], key: str) -> list[list[dict[str, str]]]:
    asked, system = entry[key], entry.get("system")
    if system is not None and not isinstance(system, str):
        raise ValueError(f"'system' must be text, found {type(system).__name__}")
    before = [{"role": "system", "content": system}] if system else []
    if key == "messages":
        return [[*before, *_messages(asked)]]
    texts = asked if isinstance(asked, list) else [asked]
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise ValueError(f"{key!r} must be {'a list of texts' if key == 'paraphrases' else 'text'}, not empty")
    return [[*before, {"role": "user", "content": text}] for text in texts]


def _messages(messages: Any) -> list[dict[str, str]]:
    is_chat = isinstance(messages, list) and all(
        isinstance(m, dict) and m.get("role") in _SPEAKERS and isinstance(m.get("content"), str) for m in messages
    )
    if not is_chat or not messages:
        raise ValueError(f"'messages' must be a list of {{role, content}}, of the roles {', '.join(_SPEAKERS)}")
    if messages[-1]["role"] != "user":
        raise ValueError("the last message must be the user's: an open question has no reply yet")
    return [{"role": m["role"], "content": m["content"]} for m in messages]


def _judge_prompts(prompts: Any) -> dict[str, str]:
    if prompts is None:
        return {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise ValueError("'judge_prompts' must be a mapping: name -> text")
    for name, text in prompts.items():
        if "{answer}" not in text:
            raise ValueError(f"the judge prompt {str(name)!r} lacks {{answer}}: the judge would not see what it rates")
    return {_ALIASES.get(str(name), str(name)): text for name, text in prompts.items()}
