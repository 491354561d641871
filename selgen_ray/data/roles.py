"""The rows of a trial by role, and where each of them was found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from selgen_ray.data.forms import Row

Places = Mapping[str, tuple[str, Sequence[str]]]
"""Role -> path of its source, and the place of each row in it, such as 'line 3'."""


class Origin(NamedTuple):
    """Where a row comes from.

    Attributes:
        number: of the row in its source, from 0, before any filter.
        prompt: the texts that it is trained with, position -> text; see `training_prompts`.
    """

    number: int
    prompt: Mapping[str, str] = {}


class Roles(dict[str, list[Row]]):
    """Role -> its rows.

    Attributes:
        skipped: role -> how many bad rows were left out.
        places: where the rows were found, of the roles that have a source.
        notes: sentences for people about the sources.
        origins: the origin of each row, of the roles that have a source or a training prompt.
    """

    def __init__(
        self,
        rows: Mapping[str, list[Row]],
        skipped: Mapping[str, int] | None = None,
        places: Places | None = None,
        notes: Sequence[str] = (),
        origins: Mapping[str, list[Origin]] | None = None,
    ):
        super().__init__(rows)
        self.skipped = dict(skipped or {})
        self.places = dict(places or {})
        self.notes = list(notes)
        self.origins = dict(origins or {})

    def place(self, role: str) -> Callable[[int], str]:
        """Return a function from a row's number, from 0, to the place where a person finds it.

        Example: 'data/hhh.jsonl:3', or 'row 3' of a generated set.
        """

        def place_of(number: int) -> str:
            path, row_places = self.places.get(role, ("", ()))
            return place_in(path, row_places[number]) if number < len(row_places) else f"row {number + 1}"

        return place_of


def place_in(path: str, where: str) -> str:
    """Return a place in a file for people: 'data/hhh.jsonl:3', which editors open, or 'data/hhh.parquet: row 3'."""
    number = where.removeprefix("line ")
    return f"{path}:{number}" if number.isdigit() else f"{path}: {where}"
