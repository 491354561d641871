"""Reading files of rows, entry by entry, each with its place for people."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selgen_ray.config.hub_names import DATA_SUFFIXES, PACKED_SUFFIXES, is_dataset_id
from selgen_ray.data.roles import place_in
from selgen_ray.errors import DataError, nearest
from selgen_ray.records.text import first_line

_SPLITS = ("train", "test", "validation", "valid", "dev")
_HOLD_JSON = ("messages", "choices", "options", "prompt", "chosen", "rejected")
_LARGEST_CELL = 64 * 2**20  # bytes; the reader's own limit is 128 KiB


@dataclass(frozen=True)
class Found:
    """One entry of a source: a row, or what is wrong with it.

    Attributes:
        where: its place for people, 'line 3' or 'row 3', from 1.
    """

    where: str
    row: dict[str, Any] | None
    problem: str | None = None


def read_entries(path: str, split: str | None, revision: str | None) -> Iterator[Found]:
    """What a file, a folder of files or a data set on the hub holds, in order.

    Raises:
        DataError: it is not there, has no such split, or the whole of it cannot be read.
    """
    place = Path(path)
    if is_dataset_id(path):
        yield from _hub(path, split, revision)
    elif place.is_dir():
        for file in _files(place, split):
            yield from (Found(f"{file.name} {e.where}", e.row, e.problem) for e in _file(file))
    elif not place.is_file():
        raise DataError(f"{path}: no such file.{nearest(place.name, _beside(place))}")
    elif split:
        raise DataError(f"{path}: one file has no split {split!r}: leave split out, or name its folder")
    else:
        yield from _file(place)


def _beside(path: Path) -> list[str]:
    return [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []


def _file(path: Path) -> Iterator[Found]:
    if path.suffix.lower() in PACKED_SUFFIXES:
        raise DataError(f"{path}: is packed: unpack it; the files that are read end in {', '.join(DATA_SUFFIXES)}")
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


def _json_lines(path: Path) -> Iterator[Found]:
    # not splitlines(): U+2028 and its like may stand inside a JSON text
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield _found(f"line {number}", json.loads(line, object_pairs_hook=_once))
        except json.JSONDecodeError as error:
            if number == 1 and path.suffix.lower() not in DATA_SUFFIXES:  # most likely no JSON at all
                known = ", ".join(DATA_SUFFIXES)
                raise DataError(
                    f"{path}: is no JSON lines; the files that are read otherwise end in {known}"
                ) from error
            yield Found(f"line {number}", None, f"not JSON: {error.msg} at column {error.colno}")
        except _TwiceError as error:
            yield Found(f"line {number}", None, str(error))


class _TwiceError(Exception):
    pass


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):  # Python would take the last
        keys = [key for key, _ in pairs]
        raise _TwiceError(f"has the key {next(key for key in keys if keys.count(key) > 1)!r} twice")
    return found


def _json(path: Path) -> Iterator[Found]:
    """A list of rows, or JSON lines under this ending."""
    text = path.read_text(encoding="utf-8-sig")
    if not text.lstrip().startswith("["):
        with contextlib.suppress(json.JSONDecodeError):
            if isinstance(whole := json.loads(text), dict) and "\n" in text.strip():
                keys = ", ".join(list(whole)[:5])
                raise DataError(f"{path}: holds one object ({keys}), expected a list of rows, or a row in each line")
        yield from _json_lines(path)
        return
    try:
        rows = json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON: {error.msg} at column {error.colno}") from error
    except _TwiceError as error:
        raise DataError(f"{path}: a row {error}") from error
    yield from (_found(f"row {number}", row) for number, row in enumerate(rows, start=1))


def _parquet(path: Path) -> Iterator[Found]:
    import pyarrow.parquet as pq

    number = 0
    with pq.ParquetFile(path) as table:
        for batch in table.iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield _found(f"row {number}", _without_nulls(row))


def _csv(path: Path) -> Iterator[Found]:
    csv.field_size_limit(_LARGEST_CELL)
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        names = list(reader.fieldnames or ())
        if twice := [name for name in names if names.count(name) > 1]:
            raise DataError(f"{path}:1: has the column {twice[0]!r} twice")
        for row in reader:
            where = f"line {reader.line_num}"
            if None in row or None in row.values():
                many = len(reader.fieldnames or ())
                yield Found(where, None, f"has not the {many} columns of the header")
            else:
                yield _found(where, {key: value for key, value in row.items() if value != ""})


def _found(where: str, row: Any) -> Found:
    if not isinstance(row, dict):
        return Found(where, None, f"found {type(row).__name__}, expected an object with the row's fields")
    try:
        return Found(where, {str(key): cell(str(key), value) for key, value in row.items()})
    except json.JSONDecodeError as error:
        return Found(where, None, f"holds text that looks like JSON and is not: {error.msg}")


def _without_nulls(row: dict[str, Any]) -> dict[str, Any]:
    """In a table every row has every column."""
    return {key: value for key, value in row.items() if value is not None}


def cell(key: str, value: Any) -> Any:
    """Tables keep lists as JSON text."""
    listed = isinstance(value, str) and key in _HOLD_JSON and value[:2] in ("[{", '["')
    return json.loads(value) if listed else value


def _files(folder: Path, split: str | None) -> list[Path]:
    """The files of a folder, or of one of its splits: 'train.jsonl', 'train-00000-of-00002.parquet', 'train/...'."""
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in DATA_SUFFIXES and not _is_hidden(p, folder))
    if not files:
        raise DataError(f"{folder}: holds no file that ends in {', '.join(DATA_SUFFIXES)}")
    names = {file: _split_of(file, folder) for file in files}
    there = sorted({name for name in names.values() if name in _SPLITS})
    if split is None:
        if len(there) > 1:
            raise DataError(
                f"{folder}: has the splits {', '.join(there)}: say which, {{path: ..., split: {there[-1]}}}"
            )
        return files
    chosen = [file for file in files if names[file] == split]
    if not chosen:
        known = sorted(set(names.values()))
        raise DataError(f"{folder}: has no split {split!r}; found: {', '.join(known)}.{nearest(split, known)}")
    return chosen


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _split_of(file: Path, folder: Path) -> str:
    inner = file.relative_to(folder).parts
    if len(inner) > 1 and inner[-2] in _SPLITS:
        return inner[-2]
    return re.split(r"[-.]", file.name)[0]


def _hub(name: str, split: str | None, revision: str | None) -> Iterator[Found]:
    import datasets  # late: it takes seconds, and most sweeps need it not

    try:
        rows: Any = datasets.load_dataset(name, split=split or "train", revision=revision)
    except Exception as error:  # of many kinds, from HTTP errors to those of the data set's own files
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") else ""
        hub = f"the hub's data set cannot be read{offline}: {first_line(error)}"
        raise DataError(f"{name}: no such local file or folder, and {hub}") from error
    yield from (_found(f"row {number}", _without_nulls(row)) for number, row in enumerate(rows, start=1))


def shown(entries: Iterable[Found], total: int, path: str) -> str:
    """Bad entries in words: how many, and the first three with their places."""
    bad = list(entries)
    if len(bad) == 1:
        return f"{place_in(path, bad[0].where)}: {bad[0].problem}"
    first = "; ".join(f"{entry.where}: {entry.problem}" for entry in bad[:3])
    return f"{path}: {len(bad)} of {total} rows are bad, the first: {first}"
