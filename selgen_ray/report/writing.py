"""Read the results of sweeps and write their report: page, pictures, tables, summary."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from selgen_ray.errors import StorageError
from selgen_ray.reading import Unreadable, as_table, read_trials
from selgen_ray.records.control import LIVE, Control
from selgen_ray.records.events import read_events
from selgen_ray.records.names import trial_name
from selgen_ray.records.results import TrialResult, flatten
from selgen_ray.report.asked import asked
from selgen_ray.report.build import make_report
from selgen_ray.report.foreseen import foreseen
from selgen_ray.report.markdown import report_markdown
from selgen_ray.report.model import Report
from selgen_ray.report.page import Surroundings, page_html
from selgen_ray.report.places import Places, path_in
from selgen_ray.report.progress import read_plan
from selgen_ray.report.settings import Axis
from selgen_ray.report.summary import as_dict
from selgen_ray.report.text import PAGE
from selgen_ray.storage import Folder

if TYPE_CHECKING:  # start-up: pandas is imported when a table is made
    import pandas as pd

FOLDER, VERSION = "report", "version.js"
logger = logging.getLogger(__name__)
Found = Sequence[tuple[Folder, TrialResult]]


def write_report(
    sweep: str | os.PathLike[str] | Folder | Sequence[str | Folder],
    x: str | None = None,
    y: str | None = None,
    title: str | None = None,
    strict: bool = False,
    require: str | None = None,
    out: str | Folder | None = None,
    reference: tuple[float, float] | None = None,
    watch_s: float = 0,
) -> Report:
    """Read the results of sweeps and write index.html, figures/, results.{parquet,csv}, summary.json and report.md.

    Args:
        sweep: a folder, a path or URI; or several, reported as one. Of two results of one trial the better is taken.
        x, y: 'capability', 'alignment', 'coherence' or 'set/metric'; see `results.less_is_better`. Default: what
            `pareto` says in the search space that the (first) sweep keeps, else capability and alignment.
        title: the title of the report; default: the folders' names.
        strict: write nothing where an axis is unknown, rather than files that lack it.
        require: conditions that a setting must meet to be on the front, such as 'coherence >= 0.5'; '': none.
            Default: what `pareto` says.
        out: the folder to write to; default: report/ in the sweep's folder, for several sweeps in the current one.
        reference: (x, y) from which hypervolumes are measured; default: the base model's x, the task alone's y.
        watch_s: seconds after which an open page looks for a newer one, again and again; 0: never.

    Returns:
        The report; `Report.paths` names the files written.

    Raises:
        FileNotFoundError: no such folder.
        StorageError: a results.json cannot be read, or a file cannot be written.
        ValueError: `require` cannot be parsed.
    """
    given = [sweep] if isinstance(sweep, str | os.PathLike | Folder) else sweep
    folders = [one if isinstance(one, Folder) else Folder(str(one)) for one in given]
    for folder in folders:
        if not folder.exists():
            raise FileNotFoundError(f"no sweep folder at {folder}")
    with _uncollected():
        return _written(folders, x, y, title, strict, require, out, reference, watch_s)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Switch garbage collection off inside: with the numbers of thousands of results it takes a sixth of the time."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _written(
    folders: Sequence[Folder],
    x: str | None,
    y: str | None,
    title: str | None,
    strict: bool,
    require: str | None,
    out: str | Folder | None,
    reference: tuple[float, float] | None,
    watch_s: float,
) -> Report:
    results, around, report = _read(folders, x, y, title, require, reference)
    if not results or (strict and report.unknown_axes):
        return report
    place = _place(folders, out)
    paths: dict[str, str] = {}
    for name, content in _files(report, results, around, Places(folders), watch_s):
        place.write(name, content)
        paths[name] = str(place / name)
    return replace(report, paths=paths)


def read_report(
    *sweeps: Folder, x: str | None = None, y: str | None = None, title: str | None = None, require: str | None = None
) -> Report:
    """Read the results of sweeps and make their report; write nothing. Arguments and errors: see `write_report`."""
    with _uncollected():
        return _read(sweeps, x, y, title, require, None)[2]


def _read(
    folders: Sequence[Folder],
    x: str | None,
    y: str | None,
    title: str | None,
    require: str | None,
    reference: tuple[float, float] | None,
) -> tuple[Found, Surroundings, Report]:
    unreadable: list[Unreadable] = []
    others: list[tuple[Folder, TrialResult]] = []
    results = read_trials(*folders, unreadable=unreadable, others=others)
    for one in unreadable:
        logger.warning("%s", one)
    around = surroundings(folders)
    title = title or ", ".join(folder.name for folder in folders)
    where = ", ".join(map(str, folders))
    plan = read_plan(folders, unreadable)
    of, unclear = asked(x, y, require, around.parsed)
    axes = Axis(of.x), Axis(of.y)
    report = make_report(results, where, title, *axes, of.require, reference, plan, around.gridded)
    estimate = foreseen(folders, [result for _, result in results])
    told = (*unclear, *_damage(unreadable), *_doubles(folders, results, others))
    return results, around, replace(report, notes=(*told, *report.notes), foreseen=estimate)


def _damage(unreadable: Sequence[Unreadable]) -> Iterable[str]:
    """Yield a sentence for each damaged result, without the path of the machine, which the page does not name."""
    for one in unreadable:
        name = one.name or f"{one.folder.name}/"
        yield f"{name}: its results.json cannot be read ({one.why}), so it counts nowhere; the sweep runs it again"


def _doubles(folders: Sequence[Folder], kept: Found, others: Found) -> Iterable[str]:
    """Yield a sentence on trials that ended twice with other numbers, for each place of what counts and what does not.

    A place is the name of a sweep where there are several, else a folder in the one.
    """
    counted = {result.trial_id: (folder, result) for folder, result in kept}
    places: dict[tuple[str, str], list[str]] = {}
    for folder, result in others:
        place, taken = counted[result.trial_id]
        differ = (taken.status, taken.eval_results) != (result.status, result.eval_results)
        if differ and taken.status.is_finished and result.status.is_finished:
            pair = _place_in(folders, place), _place_in(folders, folder)
            places.setdefault(pair, []).append(trial_name(taken.slug, taken.seed))
    for (counts, does_not), names in list(places.items())[:_MOST_DOUBLES]:
        which = f"{names[0]} has" if len(names) == 1 else f"{len(names)} trials have"
        told = f"what lies in {counts} counts, what lies in {does_not} does not"
        yield f"{which} two results with different numbers: {told}"
    if len(places) > _MOST_DOUBLES:
        more = sum(map(len, list(places.values())[_MOST_DOUBLES:]))
        yield f"{more} more trials have two results with different numbers, of which the first found counts"


_MOST_DOUBLES = 5


def _place_in(folders: Sequence[Folder], folder: Folder) -> str:
    paths = [path_in(sweep, folder) for sweep in folders]
    if len(folders) == 1:
        return f"{paths[0] or folder.name}/"
    n = next(i for i, path in enumerate(paths) if path is not None)
    names = [sweep.name for sweep in folders]
    return f"{names[n]}/" if names.count(names[n]) == 1 else f"{names[n]}/ (sweep {n + 1} of the report)"


def _place(folders: Sequence[Folder], out: str | Folder | None) -> Folder:
    if out is not None:
        return out if isinstance(out, Folder) else Folder(out)
    return folders[0] / FOLDER if len(folders) == 1 else Folder(FOLDER)


def plain_table(found: Iterable[tuple[Folder, TrialResult]], per: Literal["trial", "epoch"] = "trial") -> pd.DataFrame:
    """Return the table of `load_results` with one type in each column, since parquet needs that.

    A column of lists, dicts or mixed types holds JSON texts instead: [1, 2] becomes '[1, 2]'.

    Args:
        per: one row for each trial, or for each trial and evaluation.
    """
    table = as_table(found, per)
    for name in [name for name, dtype in table.dtypes.items() if str(dtype) == "object"]:
        kinds = {type(value) for value in table[name].dropna()}
        if len(kinds) > 1 or kinds & {list, dict}:
            table[name] = [v if v is None or isinstance(v, str) else json.dumps(v) for v in table[name]]
    return table


def parquet(table: pd.DataFrame) -> bytes:
    """Return a table as the content of a parquet file."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()


def for_spreadsheets(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table in which no text or name is a formula: spreadsheet programs run cells that begin with = + - or @.

    Such a text gets an apostrophe before it, which the program hides. Numbers, also those kept as text, stay.
    """
    texts = [name for name, dtype in table.dtypes.items() if dtype.kind not in "biufcmM"]
    table = table.assign(**{str(name): table[name].map(_no_formula) for name in texts})
    return table.rename(columns=_no_formula)  # a name may be that of a plugin's knob


def _no_formula(value: Any) -> Any:
    if not isinstance(value, str) or not value.startswith(_FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def _files(
    report: Report, results: Found, around: Surroundings, places: Places, watch_s: float
) -> Iterable[tuple[str, bytes]]:
    """Yield (name, content) of each file; the page comes after the files it refers to."""
    table = plain_table(results)
    yield "results.parquet", parquet(table)
    yield "results.csv", for_spreadsheets(table).to_csv(index=False).encode()
    yield "summary.json", json.dumps(as_dict(report), indent=1, allow_nan=False, default=str).encode()
    pictures = []
    if report.drawn:
        from selgen_ray.report.figures import as_png, as_svg  # late: start-up, tables need no matplotlib
        from selgen_ray.report.plots import figures

        for name, make in figures(report, report.standings):
            figure = make()
            pictures.append(name)
            yield f"figures/{name}.png", as_png(figure)
            yield f"figures/{name}.svg", as_svg(figure)
    yield "report.md", report_markdown(report, results, pictures, places).encode()
    html, version = page_html(report, results, around, places, watch_s)
    yield PAGE, html.encode()
    yield VERSION, f"selgenVersion({json.dumps(version)});\n".encode()


def surroundings(folders: Sequence[Folder]) -> Surroundings:
    """Read the search spaces, events and states of sweeps, as far as they exist and can be read."""
    spaces: list[tuple[str, str]] = []
    parsed: list[tuple[str, Mapping[str, Any] | None]] = []
    base: dict[str, Any] = {}
    gridded: dict[str, set[str]] = {}
    events: list[Mapping[str, Any]] = []
    live: list[str] = []
    for folder in folders:
        text = _text(folder, "space.yaml")
        if text:
            spaces.append((f"{folder.name}/space.yaml", text))
            content = _parsed(text)
            parsed.append((folder.name, content))
            content = content or {}
            base |= flatten(section) if isinstance(section := content.get("base"), dict) else {}
            for strategy, keys in _gridded(content):
                gridded.setdefault(strategy, set()).update(keys)
        events += read_events(folder)
        live += [state] if (state := _live(Control(folder).read(LIVE))) else []
    return Surroundings(tuple(spaces), base, tuple(events), "; ".join(live), gridded, tuple(parsed))


def _text(folder: Folder, name: str) -> str:
    try:
        return folder.read(name).decode("utf-8", errors="replace")
    except (FileNotFoundError, StorageError):
        return ""


def _parsed(space: str) -> dict[str, Any] | None:
    """Return a search space as plain data; None if it is none."""
    import yaml  # late: start-up, a report without results needs none

    try:
        content = yaml.safe_load(space)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and _size(content, {}) < _MOST_KEYS else None


_MOST_KEYS = 100_000


def _size(value: Any, known: dict[int, int]) -> int:
    """Return how many values one holds, written out: aliases of YAML make one object stand in many places."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = _MOST_KEYS  # should it hold itself
        known[id(value)] = 1 + sum(
            _size(item, known) for item in (value.values() if isinstance(value, dict) else value)
        )
    return known[id(value)]


def _gridded(space: Mapping[str, Any]) -> Iterable[tuple[str, set[str]]]:
    """Yield (strategy, keys that its own grid or zip names), such as ('kl_divergence', {'finetune_config.beta_kl'})."""
    strategies = space.get("strategies")
    for name, section in strategies.items() if isinstance(strategies, dict) else ():
        grid, zipped = (section.get(part) for part in ("grid", "zip")) if isinstance(section, dict) else (None, None)
        groups = [grid, *(zipped if isinstance(zipped, list) else ())]
        if keys := {key for group in groups if isinstance(group, dict) for key in flatten(group)}:
            yield str(name), keys


def _live(live: Mapping[str, Any]) -> str:
    """Return 'not ended, as of 12:00: 5 of 18 trials are over'; '' for a sweep that is over or was never started."""
    if not live or live.get("over"):
        return ""
    done = sum(live.get("finished", {}).values())
    when = live.get("updated_at", "an unknown time")
    return f"not ended, as of {when}: {done} of {live.get('total', '?')} trials are over"
