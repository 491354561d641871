"""A source of rows: the path of a role's rows, and which rows and columns are read."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_serializer, model_validator

from selgen_ray.config.hub_names import is_dataset_id
from selgen_ray.schema import Strict

Scalar = str | int | float | bool | None
Form = Literal["chat"]
POSITIONS = ("system", "user_prefix", "user_suffix")
"""Where the text of a training prompt stands in a row."""


class TrainingPrompt(Strict):
    """A text that the rows of a source carry while they are trained on, and never when the model is measured.

    Each position takes a text, or a list of texts of which each row draws one.
    """

    system: str | list[str] | None = Field(
        default=None, description="before the first message, and before the row's own system text"
    )
    user_prefix: str | list[str] | None = Field(default=None, description="before every message of the user")
    user_suffix: str | list[str] | None = Field(default=None, description="after every message of the user")
    where: dict[str, Scalar | list[Scalar]] = Field(
        default={}, description="column of the file -> the value, or the list of values, of the rows that get it"
    )

    @property
    def has_text(self) -> bool:
        """Whether there is a text that is not empty."""
        texts = (self.system, self.user_prefix, self.user_suffix)
        return any(any(text) if isinstance(text, list) else text for text in texts)

    @model_validator(mode="after")
    def _some_text(self) -> TrainingPrompt:
        given = {position: getattr(self, position) for position in POSITIONS}
        if all(text is None for text in given.values()):
            raise ValueError(f"training_prompt has no text: give one of {', '.join(POSITIONS)}")
        if empty := [position for position, text in given.items() if text == []]:
            raise ValueError(f"training_prompt.{empty[0]} is an empty list: give at least one text")
        return self


class Source(Strict):
    """The source of the rows of a role.

    In YAML `proxy: rows.jsonl` is short for `proxy: {path: rows.jsonl}`.
    """

    path: str = Field(
        description="a .jsonl, .json, .parquet, .csv or .tsv file, a folder of them, or a hub id", min_length=1
    )
    split: str | None = Field(default=None, description="of a hub id (default: train) or of a folder with several")
    revision: str | None = Field(default=None, description="commit, tag or branch of a hub id")
    filter: dict[str, Scalar | list[Scalar]] = Field(
        default={}, description="column of the file -> the value, or the list of values, that are kept"
    )
    columns: dict[str, str] = Field(default={}, description="field of a row, such as prompt -> column of the file")
    form: Form | None = Field(
        default=None, description="chat: 'prompt' and 'completion' become a user's message and the reply to it"
    )
    system_prompt: str | None = Field(
        default=None, description="put before rows without a system message, which become chats", min_length=1
    )
    shuffle: bool = Field(default=False, description="in an order that data_seed decides, before the limit")
    limit: int | None = Field(default=None, description="rows that are kept, the first ones", ge=1)
    training_prompt: TrainingPrompt | None = Field(
        default=None, description="a text that the rows carry while they are trained on, and in no evaluation"
    )

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, raw: Any) -> Any:
        return {"path": raw} if isinstance(raw, str) else raw

    @model_validator(mode="after")
    def _of_the_hub(self) -> Source:
        if self.revision and not is_dataset_id(self.path):
            raise ValueError(f"revision is for a hub id, and {self.path!r} is a local path: leave it out")
        return self

    @model_serializer(mode="wrap")
    def _short(self, handler: Any) -> Any:
        options = self.options
        return {"path": self.path} | options if options else self.path

    @property
    def options(self) -> dict[str, Any]:
        """The options besides the path that differ from their defaults, as plain data: {'limit': 100}."""
        names = [name for name in type(self).model_fields if name != "path"]
        return {
            name: value.model_dump(exclude_defaults=True) if isinstance(value, TrainingPrompt) else value
            for name in names
            if (value := getattr(self, name)) != type(self).model_fields[name].default
        }
