"""Readers of row files: entry by entry, each with the place where a person finds it."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from selgen_ray.config.hub_names import DATA_SUFFIXES, PACKED_SUFFIXES, is_dataset_id
from selgen_ray.data.conversions import LISTS_OF_MESSAGES, OPTIONS, FormError
from selgen_ray.data.roles import Origin, place_in
from selgen_ray.errors import DataError, nearest
from selgen_ray.records.text import first_line
from selgen_ray.storage.secrets import masked

_SPLITS = ("train", "test", "validation", "valid", "val", "dev", "eval")
_MOST_SPLITS = 8  # that a message names
_NO_TEXTS = ("messages", "conversations", *OPTIONS)  # a text in one of these columns can only be JSON
_BEGINS_LIKE_MESSAGES = re.compile(r"""\[\s*\{\s*['"](?:role|content|from|value)['"]\s*:""")
_LARGEST_CELL = 64 * 2**20  # bytes; the reader's own limit is 128 KiB
_LARGEST_ROW = 64 * 2**20  # bytes of a line
_HEAD = 4096  # bytes of a file that are looked at to learn its kind
_PARQUET = b"PAR1"
_UNPACK = "unpack it"
_MAGIC = {  # first bytes of a file -> its kind, and what to do
    b"\x1f\x8b": ("packed by gzip", _UNPACK),
    b"BZh": ("packed by bzip2", _UNPACK),
    b"\xfd7zXZ\x00": ("packed by xz", _UNPACK),
    b"\x28\xb5\x2f\xfd": ("packed by zstd", _UNPACK),
    b"\x04\x22\x4d\x18": ("packed by lz4", _UNPACK),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", _UNPACK),
    b"PK\x03\x04": ("a zip archive, or a sheet of a spreadsheet program", "unpack it, or save the sheet as .csv"),
    _PARQUET: ("a Parquet file", "give it the ending .parquet"),
    b"ARROW1": ("an Arrow file", "save it as .parquet"),
    b"SQLite format 3": ("a SQLite database", "export the table as .csv or .jsonl"),
    b"%PDF": ("a PDF document", "rows are read from text files"),
    b"version https://git-lfs": ("a pointer of Git LFS, not the file itself", "fetch it with `git lfs pull`"),
    b"\xff\xfe": ("UTF-16 text", "save it as UTF-8, with `iconv -f UTF-16 -t UTF-8` for example"),
    b"\xfe\xff": ("UTF-16 text", "save it as UTF-8, with `iconv -f UTF-16 -t UTF-8` for example"),
}
_MARKS = {";": "';'", "\t": "tabs", "|": "'|'", ",": "','"}  # what else may separate the columns of a table
_TOO_DEEP = "is nested too deeply"
_DEEPEST = 100  # levels; Python's own writer of JSON ends at about a thousand


@dataclass(frozen=True)
class Found:
    """One entry of a source: a row, or what is wrong with it.

    Attributes:
        where: its place for people, 'line 3' or 'row 3', from 1.
        row: {column: value}; None if the entry is bad.
        problem: what is wrong with the entry, in words; None if nothing is.
        columns: of a table, all its columns, also those in which the row has no value.
        unused: columns of the file that have a value, and that neither the row's form nor a metric uses.
        remarks: sentences on how the row is used, where a person may expect something else.
        origin: its number in the source, and its training prompt.
    """

    where: str
    row: dict[str, Any] | None
    problem: str | None = None
    columns: frozenset[str] = frozenset()
    unused: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    origin: Origin = field(default=Origin(0))  # a tuple, which nothing changes

    @property
    def is_table(self) -> bool:
        """Whether it comes from a table, whose cells hold lists as JSON text."""
        return bool(self.columns)


def read_entries(path: str, split: str | None, revision: str | None) -> Iterator[Found]:
    """Yield the entries of a file, a folder of files or a data set on the hub, in order.

    Args:
        path: of a file or folder, or the id of a data set on the hub.
        split: of a folder or data set; of a data set None is 'train', of a folder all files.
        revision: of a data set; None is 'main'.

    Raises:
        DataError: it is not there, has no such split, or the whole of it cannot be read.
    """
    place = Path(path)
    if is_dataset_id(path):
        yield from _hub(path, split, revision)
    elif place.is_dir():
        for file in _files(place, split):
            yield from (replace(entry, where=f"{file.name} {entry.where}") for entry in _file(file))
    elif not place.is_file():
        raise DataError(f"{path}: no such file.{nearest(place.name, _beside(place))}")
    elif split:
        raise DataError(f"{path}: one file has no split {split!r}: leave split out, or name its folder")
    else:
        yield from _file(place)


def _beside(path: Path) -> list[str]:
    return [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []


def _file(path: Path) -> Iterator[Found]:
    if path.suffix.lower() in PACKED_SUFFIXES:
        raise DataError(f"{path}: is packed: unpack it; the files that are read end in {', '.join(DATA_SUFFIXES)}")
    _check_kind(path)
    read = {".parquet": _parquet, ".csv": _csv, ".tsv": _csv, ".json": _json}.get(path.suffix.lower(), _json_lines)
    try:
        yield from read(path)
    except DataError:
        raise
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: is not UTF-8 text: byte 0x{error.object[error.start]:02x}") from error
    except (OSError, ValueError, csv.Error) as error:
        kind = path.suffix.lower().removeprefix(".") if path.suffix.lower() in DATA_SUFFIXES else "JSON lines"
        raise DataError(f"{path}: cannot be read as {kind}: {error}") from error


def _check_kind(path: Path) -> None:
    """Check that the first bytes of the file do not contradict its ending.

    Raises:
        DataError: the file is of another kind, such as a packed one, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    is_parquet = path.suffix.lower() == ".parquet"
    if is_parquet and not head:
        raise DataError(f"{path}: is empty: no Parquet file")
    for start, (kind, remedy) in _MAGIC.items():
        if head.startswith(start) and not (is_parquet and start == _PARQUET):
            raise DataError(f"{path}: is {kind}: {remedy}")
    if is_parquet:
        return
    if head.lstrip()[:15].lower().startswith((b"<!doctype", b"<html")):
        raise DataError(f"{path}: is a web page, not rows: was it saved in the place of the file it links to?")
    if b"\0" in head:
        raise DataError(f"{path}: is no UTF-8 text, it holds NUL bytes: a binary file, or UTF-16 without its mark")


def _refuse_long_lines(path: Path) -> None:
    """Raise DataError if a line is too long for a row; a small file is not looked at."""
    if path.stat().st_size <= _LARGEST_ROW:
        return
    with path.open("rb") as file:
        number, length = 1, 0
        while part := file.readline(2**20):
            length += len(part)
            if length > _LARGEST_ROW:
                most = f"{_LARGEST_ROW // 2**20} MiB"
                raise DataError(f"{path}:{number}: has more than {most} in one line, and a row may have no more")
            if part.endswith(b"\n"):
                number, length = number + 1, 0


def _json_lines(path: Path) -> Iterator[Found]:
    _refuse_long_lines(path)
    text = path.read_text(encoding="utf-8-sig")
    if text.lstrip().startswith("["):
        with contextlib.suppress(json.JSONDecodeError, RecursionError):
            if isinstance(listed := json.loads(text), list):
                message = f"holds one JSON list of {len(listed):,}, not a row in each line: give it the ending .json"
                raise DataError(f"{path}: {message}")
    # not splitlines(): U+2028 and its like may stand inside a JSON text
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_without_repeated_keys)
            yield (
                Found(f"line {number}", None, problem)
                if (problem := _value_problem(line, row))
                else _as_entry(f"line {number}", row)
            )
        except RecursionError:
            yield Found(f"line {number}", None, _TOO_DEEP)
        except json.JSONDecodeError as error:
            if number == 1 and path.suffix.lower() not in DATA_SUFFIXES:  # most likely no JSON at all
                endings = ", ".join(DATA_SUFFIXES)
                raise DataError(
                    f"{path}: is no JSON lines; the files that are read otherwise end in {endings}"
                ) from error
            yield Found(f"line {number}", None, f"not JSON: {error.msg} at column {error.colno}")
        except _TwiceError as error:
            yield Found(f"line {number}", None, str(error))


class _TwiceError(Exception):
    pass


def _without_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):  # Python would take the last
        keys = [key for key, _ in pairs]
        raise _TwiceError(f"has the key {next(key for key in keys if keys.count(key) > 1)!r} twice")
    return row


def _value_problem(text: str, row: Any) -> str | None:
    """Return what of a row is allowed in JSON, but not in a tokenizer or a file, in words; None if there is nothing.

    Args:
        text: the text that the row was read from; the row itself is looked at only if the text gives reason to.
    """
    if text.count("[") + text.count("{") > _DEEPEST and _is_deep(row):
        return _TOO_DEEP
    if "\\ud" not in text and "\\uD" not in text:
        return None
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        surrogate = ascii(error.object[error.start])[1:-1]
        return f"holds {surrogate}, half of a character: the text was cut inside an emoji or its like"
    return None


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_DEEPEST):
        inner = [v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list)]
        level = [v for values in inner for v in values]
    return bool(level)


def _json(path: Path) -> Iterator[Found]:
    """Yield the entries of a JSON list of rows, or of JSON lines in a file that ends in .json."""
    text = path.read_text(encoding="utf-8-sig")
    if not text.lstrip().startswith("["):
        with contextlib.suppress(json.JSONDecodeError, RecursionError):
            if isinstance(whole := json.loads(text), dict):
                _refuse_object(path, whole, "\n" in text.strip())
        yield from _json_lines(path)
        return
    try:
        rows = json.loads(text, object_pairs_hook=_without_repeated_keys)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise DataError(f"{path}: {_TOO_DEEP}") from error
    except _TwiceError as error:
        raise DataError(f"{path}: a row {error}") from error
    for number, row in enumerate(rows, start=1):
        where = f"row {number}"
        problem = _value_problem(text, row)
        yield Found(where, None, problem) if problem else _as_entry(where, row)


def _refuse_object(path: Path, whole: dict[str, Any], in_many_lines: bool) -> None:
    """Check that the one object of a JSON file is a row.

    Raises:
        DataError: it holds a list of objects under one of its keys, or is written in many lines.
    """
    list_keys = [
        key for key, value in whole.items() if isinstance(value, list) and value and isinstance(value[0], dict)
    ]
    if list_keys and not whole.keys() & {*LISTS_OF_MESSAGES, "conversations"}:
        message = f"holds one object, and under its key {list_keys[0]!r} a list of {len(whole[list_keys[0]]):,} objects"
        raise DataError(f"{path}: {message}: if these are the rows, save that list alone")
    if in_many_lines:
        keys = ", ".join(list(whole)[:5])
        raise DataError(f"{path}: holds one object ({keys}), expected a list of rows, or a row in each line")


def _parquet(path: Path) -> Iterator[Found]:
    import pyarrow.parquet as pq  # late for the start-up cost: only Parquet files need it

    number = 0
    with pq.ParquetFile(path) as table:
        for batch in table.iter_batches():
            columns = frozenset(batch.schema.names)
            for row in batch.to_pylist():
                number += 1
                yield Found(f"row {number}", _without_nulls(row), columns=columns)


def _csv(path: Path) -> Iterator[Found]:
    csv.field_size_limit(_LARGEST_CELL)
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        names = list(reader.fieldnames or ())
        if separators := [separator for mark, separator in _MARKS.items() if len(names) == 1 and mark in names[0]]:
            expected = "tabs" if reader.reader.dialect.delimiter == "\t" else "','"
            raise DataError(f"{path}:1: the columns are separated by {separators[0]}, expected {expected}: save it so")
        if repeated := [name for name in names if names.count(name) > 1]:
            raise DataError(f"{path}:1: has the column {repeated[0]!r} twice")
        columns = frozenset(names)
        for row in reader:
            where = f"line {reader.line_num}"
            if None in row or None in row.values():
                num_columns = len(reader.fieldnames or ())
                yield Found(where, None, f"has not the {num_columns} columns of the header")
            else:
                yield Found(where, {key: value for key, value in row.items() if value != ""}, columns=columns)


def _as_entry(where: str, row: Any) -> Found:
    if not isinstance(row, dict):
        return Found(where, None, f"found {type(row).__name__}, expected an object with the row's fields")
    return Found(where, {str(key): value for key, value in row.items()})


def _without_nulls(row: dict[str, Any]) -> dict[str, Any]:
    """Leave out the columns that have no value: in a table every row has every column."""
    return {key: value for key, value in row.items() if value is not None}


def with_lists(row: Mapping[str, Any], *, is_table: bool) -> dict[str, Any]:
    """Return a row in which lists that are kept as JSON text, as tables keep lists, are lists.

    A column that may hold a text as well as a conversation, such as `prompt`, is read so in tables alone, and only
    where the text is a list of messages: other texts stay as they are.

    Example: the text '["yes", "no"]' in the column `choices` becomes the list ['yes', 'no'].

    Args:
        row: {column: value}, with our names for the columns; not changed.
        is_table: the row comes from a table.

    Raises:
        FormError: a text begins like a list of messages, and is no JSON.
    """
    read = {*_NO_TEXTS, *(LISTS_OF_MESSAGES if is_table else ())}
    return {key: _parsed(key, value) if key in read else value for key, value in row.items()}


def _parsed(key: str, value: Any) -> Any:
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        parsed = json.loads(value)
    except RecursionError:
        return value
    except json.JSONDecodeError as error:
        if _BEGINS_LIKE_MESSAGES.match(value.lstrip()):
            message = f"holds text that looks like JSON and is not, a list of messages in {key!r}: {error.msg}"
            raise FormError(message) from error
        return value
    if key in OPTIONS:
        return parsed
    is_list = isinstance(parsed, list) and parsed
    return parsed if is_list and all(isinstance(m, dict) and m.keys() & {"content", "value"} for m in parsed) else value


def _files(folder: Path, split: str | None) -> list[Path]:
    """Return the files of a folder or of one of its splits.

    Example: 'train.jsonl', 'train-00000-of-00002.parquet' and 'train/a.csv' belong to the split 'train', and
    'train_sft-00000-of-00002.parquet' and 'train_sft/a.csv' to 'train_sft'.

    Raises:
        DataError: there are none, or they are of several parts of the data, such as train and test, and no split is
            named.
    """
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in DATA_SUFFIXES and not _is_hidden(p, folder))
    if not files:
        raise DataError(f"{folder}: holds no file that ends in {', '.join(DATA_SUFFIXES)}")
    names = {file: _split_of(file, folder) for file in files}
    if split is None:
        present = sorted({name for name in names.values() if _part_of(name)}, key=lambda name: (_part_of(name), name))
        if len({*map(_part_of, present)}) > 1:
            more = f" and {len(present) - _MOST_SPLITS} more" if len(present) > _MOST_SPLITS else ""
            raise DataError(
                f"{folder}: has the splits {', '.join(present[:_MOST_SPLITS])}{more}: say which, {{path: ..., split: "
                f"{next((name for name in present if _part_of(name) == 'train'), present[-1])}}}"
            )
        return files
    chosen = [file for file in files if names[file] == split]
    if not chosen:
        splits = sorted(set(names.values()))
        raise DataError(f"{folder}: has no split {split!r}; found: {', '.join(splits)}.{nearest(split, splits)}")
    return chosen


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _split_of(file: Path, folder: Path) -> str:
    *folders, name = file.relative_to(folder).parts
    own = re.split(r"[-.]", name)[0]
    if folders and (folders[-1] in _SPLITS or (_part_of(folders[-1]) and not _part_of(own))):
        return folders[-1]
    return own


def _part_of(split: str) -> str:
    """Return the part of the data that a split's name says it is: its word 'train', 'test' and so on; '' if none.

    Example: 'gsm8k_train' is of 'train', 'test_prefs' of 'test'.
    """
    words = {*re.split("[^a-z]+", split.lower())} & {*_SPLITS}
    return min(words) if len(words) == 1 else ""


def _hub(name: str, split: str | None, revision: str | None) -> Iterator[Found]:
    import datasets  # late for the start-up cost: seconds, and most sweeps read local files

    try:
        rows: Any = datasets.load_dataset(name, split=split or "train", revision=revision)
    except Exception as error:  # of many kinds, from HTTP errors to those of the data set's own files
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") else ""
        hub = f"the hub's data set cannot be read{offline}: {masked(first_line(error))}"
        raise DataError(f"{name}: no such local file or folder, and {hub}") from error
    for number, row in enumerate(rows, start=1):
        yield Found(f"row {number}", _without_nulls(row), columns=frozenset(row))


def shown(entries: Iterable[Found], total: int, path: str) -> str:
    """Describe bad entries in words: how many there are, and the first three kinds of problems with their places.

    Args:
        total: number of all entries, good and bad.
    """
    bad = list(entries)
    if len(bad) == 1:
        return f"{place_in(path, bad[0].where)}: {bad[0].problem}"
    kinds: dict[str, list[str]] = {}
    for entry in bad:
        kinds.setdefault(str(entry.problem), []).append(entry.where)
    first = "; ".join(
        f"{where[0]}: {problem}{f' (and {len(where) - 1:,} more alike)' if len(where) > 1 else ''}"
        for problem, where in list(kinds.items())[:3]
    )
    return f"{path}: {len(bad)} of {total} rows are bad, the first: {first}"
