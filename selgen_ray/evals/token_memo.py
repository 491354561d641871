"""Tokens of rows with candidate replies, and of prompts: made once in a run, not once in every evaluation."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from selgen_ray.data.encode import Encoded, encode_prompt, encode_rows
from selgen_ray.data.forms import Row
from selgen_ray.errors import DataError

_MOST_TOKENS = 4_000_000  # kept, some 100 MB; what comes later is made each time
_FORMS = ("messages", "prompt", "completion", "text")  # the fields of a row that are made into tokens


class TokenMemo:
    """Tokens made by one tokenizer, with one `max_seq_length`, by the row that they were made of.

    Args:
        as_in_rows: of prompts, see `encode_prompt`.
    """

    def __init__(self, *, as_in_rows: bool = False) -> None:
        self._as_in_rows = as_in_rows
        self._replies: dict[str, Encoded] = {}
        self._prompts: dict[str, list[int]] = {}
        self._kept = 0

    def replies(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_seq_length: int) -> list[Encoded]:
        """Return the tokens of rows of which the final reply is scored.

        Raises:
            DataError: a row has no token to score within `max_seq_length`; see `encode_rows`.
        """
        keys = [_key(row) for row in rows]
        missing = {key: row for key, row in zip(keys, rows, strict=True) if key not in self._replies}
        options = (tokenizer, max_seq_length, "completion", "a candidate reply")
        try:
            made = dict(zip(missing, encode_rows(list(missing.values()), *options), strict=True))
        except DataError:
            encode_rows(rows, *options)  # so that the error counts all rows
            raise
        for key, encoded in made.items():
            if self._has_room(len(encoded)):
                self._replies[key] = encoded
        return [self._replies[key] if key in self._replies else made[key] for key in keys]

    def prompt(self, row: Row, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """Return the tokens of everything before a row's reply; see `encode_prompt`."""
        key = _key(row)
        if key in self._prompts:
            return self._prompts[key]
        prompt = encode_prompt(row, tokenizer, as_in_rows=self._as_in_rows)
        if self._has_room(len(prompt)):
            self._prompts[key] = prompt
        return prompt

    def _has_room(self, count: int) -> bool:
        has_room = self._kept + count <= _MOST_TOKENS
        self._kept += count if has_room else 0
        return has_room


def _key(row: Row) -> str:
    return repr([row.get(form) for form in _FORMS])
