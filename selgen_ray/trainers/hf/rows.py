"""Training rows as a Trainer takes them: a dataset, the batches of each epoch, and padding."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from selgen_ray.data import chats
from selgen_ray.data.encode import pad_id
from selgen_ray.data.forms import Row, reply_of
from selgen_ray.data.sets import Sets
from selgen_ray.data.streams import Stream
from selgen_ray.trainers.hf.classes import Form

IGNORED = -100
"""The label of a token that is not scored, in Transformers and TRL."""
_ROLES: dict[Form, tuple[str, ...]] = {"pairs": ("proxy", "proxy_neg"), "labelled": ("proxy", "proxy_neg")}


def stream_of(form: Form, train: str) -> str:
    """Return the stream whose order the batches have."""
    return {"tokens": train, "pairs": "proxy", "labelled": "proxy+proxy_neg"}[form]


def dataset_of(sets: Sets, form: Form, stream: Stream, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Return the training rows in the form that a Trainer takes.

    Returns:
        tokens: `input_ids` and `labels`, row i is row i of the stream. pairs: `prompt`, `chosen` and `rejected`, as
        messages or text, row i is row i of proxy. labelled: `prompt`, `completion` and `label`, in the order of the
        stream's first epoch, since TRL pairs each prompt with an answer of the rows beside it.
    """
    if form == "tokens":
        encoded = (sets.union(stream.name)[i] for i in range(len(stream.lengths)))
        rows: list[dict[str, Any]] = [
            {"input_ids": row.ids, "labels": [t if r else IGNORED for t, r in zip(row.ids, row.is_reply, strict=True)]}
            for row in encoded
        ]
        return Dataset.from_list(rows)
    good, bad = (list(sets.train[role].rows) for role in _ROLES[form])
    extra = _template_variables(tokenizer)
    if form == "pairs":
        pairs = zip(good, bad, strict=True)
        return Dataset.from_list(
            [{"prompt": _prompt(g), "chosen": _answer(g), "rejected": _answer(b), **extra} for g, b in pairs]
        )
    answers = [{"prompt": _prompt(r), "completion": _answer(r), "label": True, **extra} for r in good]
    answers += [{"prompt": _prompt(r), "completion": _answer(r), "label": False, **extra} for r in bad]
    return Dataset.from_list([answers[i] for i in Batches(stream).order(0)])


def _prompt(row: Row) -> Any:
    return row["messages"][:-1] if row.get("messages") else row["prompt"]


def _answer(row: Row) -> Any:
    return [row["messages"][-1]] if row.get("messages") else reply_of(row)


def _template_variables(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    options = getattr(tokenizer, "chat_template_kwargs", None)
    return {"chat_template_kwargs": dict(options)} if options else {}


def own_tokenizer(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Return a copy for a Trainer, which may change it; its template writes the fixed date that ours writes."""
    copied: Any = copy.deepcopy(tokenizer)
    if copied.chat_template:
        copied.chat_template = chats.format_of(tokenizer).template
    return copied


class Batches:
    """The batches of one epoch after another, lists of row numbers: those that the one loop would train on.

    Args:
        stream: the order of the rows.
        as_they_lie: the dataset lies in the order of the first epoch, which each epoch repeats.

    Attributes:
        epoch: the epoch that the next iteration goes through.
    """

    def __init__(self, stream: Stream, as_they_lie: bool = False):
        self._stream, self._as_they_lie, self.epoch = stream, as_they_lie, 0

    def _of_epoch(self, epoch: int) -> Iterator[list[int]]:
        first = epoch * self._stream.steps_per_epoch
        for step in range(first, first + self._stream.steps_per_epoch):
            yield from self._stream.step(step)

    def order(self, epoch: int) -> list[int]:
        """Return the row numbers of an epoch, in order."""
        return [row for batch in self._of_epoch(epoch) for row in batch]

    def __iter__(self) -> Iterator[list[int]]:
        if not self._as_they_lie:
            yield from self._of_epoch(self.epoch)
            return
        place = 0
        for batch in self._of_epoch(0):
            yield list(range(place, place + len(batch)))
            place += len(batch)

    def __len__(self) -> int:
        return sum(1 for _ in self._of_epoch(0))


class Padding:
    """Makes a batch of rows with `input_ids` and `labels`, padded on the right: [batch, tokens] each."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self._pad = pad_id(tokenizer)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return `input_ids`, `attention_mask` and `labels`."""
        ids = [torch.tensor(row["input_ids"]) for row in rows]
        labels = [torch.tensor(row["labels"]) for row in rows]
        padded: Any = torch.nn.utils.rnn.pad_sequence
        return {
            "input_ids": padded(ids, batch_first=True, padding_value=self._pad),
            "attention_mask": padded([torch.ones_like(row) for row in ids], batch_first=True),
            "labels": padded(labels, batch_first=True, padding_value=IGNORED),
        }
