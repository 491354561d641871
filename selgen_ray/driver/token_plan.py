"""The rows of a sweep made into tokens while it is planned.

So rows that cannot be tokenised are found before any trial starts, the plan shows the lengths of the rows, and the
trials find their tokens in the cache.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from selgen_ray.config.finetune import FinetuneConfig
from selgen_ray.config.trial import TrialConfig
from selgen_ray.data import chat_format, chats
from selgen_ray.data.asking import prompt_notes
from selgen_ray.data.contexts import in_context
from selgen_ray.data.forms import Row
from selgen_ray.data.lengths import Report, length_report, table, warning
from selgen_ray.data.plan_notes import cut_replies, format_notes, pair_notes, template_notes
from selgen_ray.data.positions import Uses, longer_rows
from selgen_ray.data.questions import is_question, question_rows
from selgen_ray.data.roles import Roles
from selgen_ray.data.rows import overlaps
from selgen_ray.data.sets import CONTEXT_ROLES
from selgen_ray.data.tokens import KIND as TOKENS
from selgen_ray.data.tokens import RowEncoder, TokenRows
from selgen_ray.data.training_prompts import check_system_texts, trained_form
from selgen_ray.errors import DataError, ModelError
from selgen_ray.evals.metrics.exact_match import is_asked
from selgen_ray.hashing import digest
from selgen_ray.models.checks import positions_of
from selgen_ray.models.tokenizer import load_tokenizer
from selgen_ray.storage import Folder
from selgen_ray.storage.cache import Cache
from selgen_ray.storage.parallel import in_parallel

# most rows of a set that is made into tokens here: if they are kept, if not
_LARGEST, _LARGEST_LOOKED_AT = 200_000, 10_000
_SAMPLE = 2_000  # rows that are looked at of a larger set
_MOST_RENDERED = 500  # rows of a role whose text is compared with the chat: in every plan, as nothing of it is kept
_MOST_TABLES = 4
_LENGTHS = "token_lengths"
DECIDE_TOKENS = {*("model", "model_revision", "chat_template", "chat_template_kwargs", "max_seq_length", "loss_on")}
"""The keys of a config that the tokens of its rows depend on."""


_NO_END = (
    "{}, so that training teaches replies and never their end: every generated reply goes on to max_new_tokens. Give "
    "finetune_config.chat_template one that ends a reply with {{{{ eos_token }}}}, or a tokenizer that has an eos_token"
)


class PlannedTokens:
    """The tokens of a sweep's rows, and notes on them for the user.

    Rows that depend on the seed are looked at for the first seed alone.

    Args:
        folder: the sweep's cache; None: lengths found by earlier plans are not used.
        keep: keep the tokens until `publish` puts them into the cache.

    Attributes:
        notes: what the user should know, each once, in the order in which it was found.
    """

    def __init__(self, folder: Folder | None = None, *, keep: bool = False):
        self._cache = Cache(folder) if folder else None
        self._keep = keep and folder is not None
        self._seen: set[tuple[Any, ...]] = set()
        self._made: dict[str, tuple[dict[str, Any], bytes, dict[str, float]]] = {}
        self._tables: dict[str, list[str]] = {}
        self._longest: dict[tuple[tuple[Any, ...], str], float] = {}
        self.notes: dict[str, None] = {}

    def add(self, config: TrialConfig, roles: Roles, source: tuple[str, ...]) -> None:
        """Look at a trial's rows.

        Args:
            source: identifies the rows; equal for trials with the same rows, seeds aside.

        Raises:
            DataError: the rows of a role cannot be tokenised (each such role is named, with the reason), or need more
                positions than the model has.
        """
        finetune = config.finetune_config
        key = (source, finetune.model_dump_json(include=DECIDE_TOKENS))
        is_known = key in self._seen
        self._seen.add(key)
        if not is_known:
            self._look_at(config, roles, key)
        measured = config.evals.model_dump_json(include={"contexts", "questions", "answers_per_question"})
        use = (*key, finetune.max_new_tokens, config.evals.judge.model, measured)
        if use not in self._seen:
            self._seen.add(use)
            self._check_positions(config, roles, key)

    def _look_at(self, config: TrialConfig, roles: Roles, key: tuple[Any, ...]) -> None:
        finetune = config.finetune_config
        for role, number in roles.skipped.items():
            self.notes[f"data.{role}: {number} bad rows are left out"] = None
        self.notes |= dict.fromkeys([*roles.notes, *overlaps(roles)])
        encoder = self._encoder(finetune)
        if encoder is None:
            return
        self._note_format(encoder, roles)
        reports: dict[str, Report] = {}
        problems: dict[str, str] = {}
        for role, rows in roles.items():
            try:
                reports[role] = self._report(encoder, role, rows, roles)
                if (prompted := trained_form(roles, role)) is not rows:
                    check_system_texts(roles, encoder.tokenizer)
                    reports[role] = self._report(encoder, role, prompted, roles)
                self._longest[key, role] = reports[role]["tokens_max"]
                self._note_lost_text(encoder, role, roles)
            except DataError as error:  # otherwise a fault of the template would be reported for every role
                problems.setdefault(str(error).partition(": ")[2], str(error))
        if problems:
            prefix = "finetune_config.chat_template: " if finetune.chat_template else ""
            raise DataError("\n".join(f"{prefix if 'chat template' in t else ''}{t}" for t in problems.values()))
        self._tell(finetune, reports, self._cut_replies(encoder, roles, reports))
        self.notes |= dict.fromkeys(format_notes(roles, encoder.tokenizer))
        few = Roles({role: rows[:_SAMPLE] for role, rows in roles.items()}, places=roles.places)
        cut = [role for role, report in reports.items() if report["truncated"]]
        self.notes |= dict.fromkeys(
            pair_notes(few, encoder.tokenizer, encoder.max_seq_length, encoder.loss_on, cut) if cut else ()
        )

    def _note_format(self, encoder: RowEncoder, roles: Roles) -> None:
        """Note how chats are rendered, and a template or a tokenizer that lets no reply end.

        Raises:
            DataError: `chat_template_kwargs` does not fit the template.
        """
        tokenizer: Any = encoder.tokenizer
        named = f"{Path(str(tokenizer.name_or_path)).name}: "
        rows = [row for role in roles.values() for row in role]
        messages = next((row["messages"] for row in rows if row.get("messages") is not None), None)
        if messages is None and (unread := getattr(tokenizer, "chat_template_kwargs", None)):
            self.notes[f"{chat_format.KEY} {unread}: no row is a chat, so that nothing reads it"] = None
        if messages is not None and tokenizer.chat_template:
            self.notes |= dict.fromkeys(named + note for note in chats.format_of(tokenizer).notes)
            with contextlib.suppress(DataError):  # reported for the row
                if encoder.loss_on == "completion" and (why := chats.why_endless(messages, tokenizer)):
                    self.notes[named + _NO_END.format(why)] = None
            self.notes |= dict.fromkeys(named + note for note in prompt_notes(roles, tokenizer, encoder.loss_on))
        if tokenizer.eos_token_id is None and any(row.get("messages") is None for row in rows):
            self.notes[named + _NO_END.format("the tokenizer has no end token (eos_token)")] = None

    def _note_lost_text(self, encoder: RowEncoder, role: str, roles: Roles) -> None:
        """Note what the chat template leaves out of a role's rows.

        Raises:
            DataError: it writes nothing of the replies.
        """
        name = f"data.{role}"
        rows, name, place = roles[role], f"data.{role}", roles.place(role)
        step = -(-len(rows) // _MOST_RENDERED)
        if step > 1:
            name += f" (one row in {step} was looked at)"
        notes = template_notes(rows[::step], encoder.tokenizer, name, lambda number: place(number * step))
        self.notes |= dict.fromkeys(notes)

    def _check_positions(self, config: TrialConfig, roles: Roles, key: tuple[Any, ...]) -> None:
        """Raise DataError if rows need more positions than the model has, or note it if it can compute further ones."""
        cfg, judged = config.finetune_config, config.evals.judge.model is not None
        try:
            tokenizer, positions = load_tokenizer(cfg), positions_of(cfg)
        except ModelError:
            return  # `model_problems` reports it
        if positions is None:
            return

        def is_generated(row: Row) -> bool:
            return is_asked(row) or (not row.get("choices") and bool(row.get("claim") or (judged and is_question(row))))

        training = Uses(cfg.max_seq_length, cfg.loss_on, cfg.max_new_tokens, lambda _: False)
        generation = Uses(0, cfg.loss_on, cfg.max_new_tokens, is_generated)
        measured = Uses(cfg.max_seq_length, cfg.loss_on, cfg.max_new_tokens, is_generated)
        messages: list[str] = []

        def look(rows: Sequence[Row], use: Uses, name: str, place: Callable[[int], str]) -> None:
            messages.extend(longer_rows(rows[:_LARGEST_LOOKED_AT], tokenizer, positions, use, name, place))

        for role, rows in roles.items():
            offered = max((len(json.dumps([row.get("choices"), row.get("rejected")])) for row in rows), default=0)
            # a token stands for at least one byte, so that bytes are an upper bound
            most, place = self._longest.get((key, role), 0) + offered + cfg.max_new_tokens, roles.place(role)
            if most > positions.count:
                # training shows the rows with their training prompts, and generation without
                look(trained_form(roles, role), training, f"data.{role}", place)
                look(rows, generation, f"data.{role}", place)
            for context, texts in config.evals.contexts.items() if role in CONTEXT_ROLES else ():
                if most + len(json.dumps(texts)) > positions.count:
                    with contextlib.suppress(DataError):  # a row that takes no such text is reported by the preflight
                        shown = in_context(rows, context, texts, place)
                        look(shown, measured, f"data.{role} in evals.contexts.{context}", place)
        template: str | None = cast(Any, tokenizer).chat_template
        with contextlib.suppress(DataError):
            questions = question_rows(config.evals, config.data_seed, bool(template))
            asked = Uses(0, cfg.loss_on, cfg.max_new_tokens, is_question)

            def named(number: int) -> str:
                return str(questions[number]["question"])

            look(questions, asked, "evals.questions", named)
            for context, texts in config.evals.contexts.items():
                shown = in_context(questions, context, texts, named)
                look(shown, asked, f"evals.questions in evals.contexts.{context}", named)
        if positions.is_table and messages:
            raise DataError("\n".join(messages))
        self.notes |= dict.fromkeys(messages)

    def _encoder(self, config: FinetuneConfig) -> RowEncoder | None:
        try:
            return RowEncoder(load_tokenizer(config), config.max_seq_length, config.loss_on)
        except ModelError:
            return None  # `model_problems` reports it

    def _report(self, encoder: RowEncoder, role: str, rows: Sequence[Row], roles: Roles) -> Report:
        name, place = f"data.{role}", roles.place(role)
        if len(rows) > (_LARGEST if self._keep else _LARGEST_LOOKED_AT):
            sample = encoder.encode(rows[:_SAMPLE], f"{name} (its first {_SAMPLE:,} rows)", place, _made_now)
            message = f"has {len(rows):,} rows: its first {_SAMPLE:,} were looked at, and are what the table counts"
            self.notes[f"{name} {message}"] = None
            return length_report(sample, encoder.max_seq_length)
        key = encoder.key(rows)
        number = digest(key)
        if number in self._made:
            return self._made[number][2]
        known = self._cache.peek_json(_LENGTHS, key) if self._cache else None
        if known is not None:
            return known
        content = encoder.content(rows, name, place)
        report = length_report(TokenRows.read(content), encoder.max_seq_length)
        self._made[number] = key, content if self._keep else b"", report
        return report

    def _cut_replies(self, encoder: RowEncoder, roles: Roles, reports: dict[str, Report]) -> dict[str, int]:
        """Return role -> in how many of the rows that were looked at another reply than the row's own is cut."""
        counts: dict[str, int] = {}
        for role, report in reports.items():
            most, rows = encoder.max_seq_length, roles[role][:_SAMPLE]
            if not (numbers := cut_replies(rows, encoder.tokenizer, most, report["tokens_max"])):
                continue
            counts[role] = len(numbers)
            of = f"{len(rows):,} rows" if len(rows) == len(roles[role]) else f"its first {len(rows):,} rows"
            self.notes[
                f"data.{role}: in {len(numbers):,} of {of} the prompt with 'rejected', or one of 'choices', is longer "
                f"than finetune_config.max_seq_length {most}, first {roles.place(role)(numbers[0])}: metrics compare "
                "what the cut leaves of it"
            ] = None
        return counts

    def _tell(self, config: FinetuneConfig, reports: dict[str, Report], cut: dict[str, int]) -> None:
        lines = table(reports, cut)
        title = f"rows in tokens of {Path(config.model).name}, max_seq_length {config.max_seq_length}:"
        self._tables.setdefault("\n".join([title, *lines]), [title, *(f"  {line}" for line in lines)])
        for role, report in reports.items():
            if message := warning(role, report, config.max_seq_length):
                self.notes[message] = None

    def lines(self) -> list[str]:
        """Return the lengths of the rows and the notes, as lines of the plan."""
        shown = list(self._tables.values())
        lines = [f"  {line}" for one in shown[:_MOST_TABLES] for line in one]
        if len(shown) > _MOST_TABLES:
            lines.append(
                f"  and {len(shown) - _MOST_TABLES} more of other rows or settings; results.json has each trial's"
            )
        return lines + [f"  note: {note}" for note in self.notes]

    def publish(self) -> None:
        """Put the tokens and lengths into the sweep's cache, where the trials look for them. Raises StorageError."""
        if self._cache is None or not self._keep:
            return
        cache = self._cache

        def put(made: tuple[dict[str, Any], bytes, dict[str, float]]) -> None:
            key, content, report = made
            cache.file(TOKENS, key, lambda _: content)
            cache.json(_LENGTHS, key, lambda _: report)

        in_parallel(put, list(self._made.values()))  # on an object store each lease waits before it is sure
        self._made.clear()


def _made_now(kind: str, key: dict[str, Any], compute: Any) -> bytes:
    return compute()
