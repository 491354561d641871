"""Tokenised rows in an Arrow file: written once, then mapped into memory by every process of a node that reads them.

One record batch: `ids` large_list<int32>, `is_reply` large_list<uint8>, and `uncut` int32, the number of tokens that a
row had before the cut. A part of the rows, or several sets joined, is kept as row numbers, so that no token is copied.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import itertools
import json
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import transformers
from transformers import PreTrainedTokenizerBase

from selgen_ray import __version__
from selgen_ray.data.chats import identity_of_format
from selgen_ray.data.encode import Encoded, encode_each
from selgen_ray.data.forms import Row
from selgen_ray.data.rows import rows_hash

_CHUNK = 1024  # rows to keep as Python lists at a time while writing
KIND = "tokens"
"""Kind of the cache's entries that hold tokens."""
RULES = 3
"""Version of the rules that make tokens: raise it when they change, so that nothing made of older tokens is read."""
_FORMS = ("messages", "prompt", "completion", "text")  # the fields of a row that are made into tokens
File = Callable[[str, dict[str, Any], Callable[[], bytes]], Path | bytes]
"""(kind, key, compute) -> the path of the file with the value, or the file's content; `compute` makes the content."""


@dataclass(frozen=True)
class RowEncoder:
    """Encoder of sets of rows; each set is encoded once and then read from the cache.

    Attributes:
        max_seq_length, loss_on: as in `encode_rows`.
    """

    tokenizer: PreTrainedTokenizerBase
    max_seq_length: int
    loss_on: str

    def key(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Return all that the tokens depend on; the weights, their data type and the strategy are not part of it."""
        return {
            "rows": rows_hash([{name: row[name] for name in _FORMS if name in row} for row in rows]),
            "tokenizer": tokenizer_hash(self.tokenizer),
            "chat_format": identity_of_format(self.tokenizer),
            "rules": RULES,
            "max_seq_length": self.max_seq_length,
            "loss_on": self.loss_on,
            "transformers": transformers.__version__,
            "selgen_ray": __version__,
        }

    def encode(self, rows: Sequence[Row], name: str, place: Callable[[int], str], file: File) -> TokenRows:
        """Return the rows as tokens, from the cache if they are there.

        Args:
            name: the role, for error messages.
            place: number of a row, from 0 -> where a person finds it, for error messages.
            file: looks up the Arrow file of a key, or has it made.

        Raises:
            DataError: as `encode_rows`.
        """
        tokens = TokenRows.read(file(KIND, self.key(rows), lambda: self.content(rows, name, place)))
        return tokens if len(tokens) == len(rows) else TokenRows.read(self.content(rows, name, place))

    def content(self, rows: Sequence[Row], name: str, place: Callable[[int], str]) -> bytes:
        """Encode the rows, and return the content of their Arrow file; see `encode`."""
        return write(encode_each(rows, self.tokenizer, self.max_seq_length, self.loss_on, name, place))


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the hex sha256 of all that decides how a tokenizer encodes, wherever it was loaded from."""
    if tokenizer not in _HASHES:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is not None:
            content = json.loads(backend.to_str())
            content |= {"padding": None, "truncation": None}  # left over from an earlier call; ours use neither
        else:
            content = {"vocabulary": tokenizer.get_vocab(), "made_with": repr(tokenizer.init_kwargs)}
        content |= {"class": type(tokenizer).__name__, "special": tokenizer.special_tokens_map}
        text = json.dumps(content, sort_keys=True, default=str)
        _HASHES[tokenizer] = hashlib.sha256(text.encode()).hexdigest()
    return _HASHES[tokenizer]


_HASHES: weakref.WeakKeyDictionary[PreTrainedTokenizerBase, str] = weakref.WeakKeyDictionary()


class _Table:
    """Columns of one file, as arrays over its memory."""

    def __init__(self, source: pa.NativeFile):
        batch = pa.ipc.open_file(source).get_batch(0)
        self.source = source  # keeps the memory of the arrays below alive
        ids, is_reply = batch.column("ids"), batch.column("is_reply")
        self.starts = np.asarray(ids.offsets)
        self.ids = np.asarray(ids.values)
        self.is_reply = np.asarray(is_reply.values)
        self.uncut = np.asarray(batch.column("uncut"))
        self.lengths = np.diff(self.starts)

    @functools.cached_property
    def num_scored(self) -> np.ndarray:
        """Number of scored tokens of each row."""
        before = np.concatenate([[0], np.cumsum(self.is_reply, dtype=np.int64)])
        return before[self.starts[1:]] - before[self.starts[:-1]]

    def row(self, number: int) -> Encoded:
        start, stop = self.starts[number], self.starts[number + 1]
        return Encoded(self.ids[start:stop].tolist(), self.is_reply[start:stop].astype(bool).tolist())


class TokenRows(Sequence[Encoded]):
    """Rows as tokens; a row is made into lists only when it is asked for.

    Args:
        parts: tables, each with the numbers of the rows to take from it, in order.
    """

    def __init__(self, parts: Sequence[tuple[_Table, np.ndarray]]):
        self._parts = [(table, numbers) for table, numbers in parts if len(numbers)]
        self._ends = list(itertools.accumulate(len(numbers) for _, numbers in self._parts))

    @staticmethod
    def read(source: Path | bytes) -> TokenRows:
        """Read the rows of a file, which is mapped into memory, or of its content.

        Raises:
            ValueError: it is not a whole Arrow file.
        """
        table = _Table(pa.BufferReader(source) if isinstance(source, bytes) else pa.memory_map(str(source)))
        return TokenRows([(table, np.arange(len(table.lengths)))])

    @staticmethod
    def joined(several: Sequence[TokenRows]) -> TokenRows:
        """Join several sets of rows, one after the other, without copying tokens."""
        return TokenRows([part for rows in several for part in rows._parts])

    def take(self, numbers: Sequence[int]) -> TokenRows:
        """Return the rows at `numbers`, in that order, without copying tokens."""
        wanted = np.asarray(numbers, dtype=np.int64)
        if len(self._parts) == 1:
            table, row_numbers = self._parts[0]
            return TokenRows([(table, row_numbers[wanted])])
        places = [self._place(int(number)) for number in wanted]
        return TokenRows([(table, np.asarray([number])) for table, number in places])

    def _place(self, number: int) -> tuple[_Table, int]:
        if not -len(self) <= number < len(self):
            raise IndexError(number)
        number %= len(self)
        part = bisect.bisect_right(self._ends, number)
        table, numbers = self._parts[part]
        return table, int(numbers[number - (self._ends[part - 1] if part else 0)])

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> Encoded: ...
    @overload
    def __getitem__(self, index: slice) -> TokenRows: ...
    def __getitem__(self, index: int | slice) -> Encoded | TokenRows:
        if isinstance(index, slice):
            return self.take(range(len(self))[index])
        table, number = self._place(index)
        return table.row(number)

    def __iter__(self) -> Iterator[Encoded]:
        return (table.row(number) for table, numbers in self._parts for number in numbers.tolist())

    @property
    def lengths(self) -> list[int]:
        """Number of tokens of each row, after the cut."""
        return self._each("lengths")

    @property
    def uncut(self) -> list[int]:
        """Number of tokens of each row before the cut."""
        return self._each("uncut")

    @property
    def num_scored(self) -> list[int]:
        """Number of scored tokens of each row."""
        return self._each("num_scored")

    def _each(self, column: str) -> list[int]:
        return [value for table, numbers in self._parts for value in getattr(table, column)[numbers].tolist()]


def num_scored_of(encoded: Sequence[Encoded]) -> list[int]:
    """Return the number of scored tokens of each row."""
    return encoded.num_scored if isinstance(encoded, TokenRows) else [sum(row.is_reply) for row in encoded]


def write(rows: Iterable[tuple[Encoded, int]]) -> bytes:
    """Return the content of an Arrow file of rows.

    Args:
        rows: each with the number of tokens that it had before the cut.
    """
    chunks: dict[str, list[np.ndarray]] = {"ids": [], "is_reply": [], "lengths": [], "uncut": []}
    remaining = iter(rows)
    while chunk := list(itertools.islice(remaining, _CHUNK)):
        chunks["ids"].append(np.fromiter((token for row, _ in chunk for token in row.ids), np.int32))
        chunks["is_reply"].append(np.fromiter((is_reply for row, _ in chunk for is_reply in row.is_reply), np.uint8))
        chunks["lengths"].append(np.fromiter((len(row) for row, _ in chunk), np.int64))
        chunks["uncut"].append(np.fromiter((uncut for _, uncut in chunk), np.int32))
    arrays = {name: np.concatenate(parts) if parts else np.zeros(0, np.int32) for name, parts in chunks.items()}
    starts = _array(np.concatenate([[0], np.cumsum(arrays["lengths"])]), np.int64)
    columns: dict[str, Any] = {
        "ids": pa.LargeListArray.from_arrays(starts, _array(arrays["ids"], np.int32)),
        "is_reply": pa.LargeListArray.from_arrays(starts, _array(arrays["is_reply"], np.uint8)),
        "uncut": _array(arrays["uncut"], np.int32),
    }
    batch = pa.RecordBatch.from_pydict(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as out:
        out.write_batch(batch)
    return sink.getvalue().to_pybytes()


def _array(values: np.ndarray, kind: type[np.generic]) -> pa.Array:
    """Return numbers as an Arrow array, by their buffer: `pyarrow.array` imports pandas, a third of a second."""
    own = np.ascontiguousarray(values, kind)
    return pa.Array.from_buffers(pa.from_numpy_dtype(own.dtype), len(own), [None, pa.py_buffer(own)])
