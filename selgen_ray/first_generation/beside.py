"""Results of the first generation put beside those of a sweep."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from selgen_ray.errors import StorageError
from selgen_ray.first_generation.results import folder_seed, of_preparation, read_old_results
from selgen_ray.records.names import trial_name
from selgen_ray.records.results import FILE_NAME, TrialResult, same_training
from selgen_ray.storage import Folder
from selgen_ray.syntax.paths import near_name

_NOT_IN = ("cache", "checkpoints")
Found = list[tuple[str, TrialResult]]
"""(path of the old file, its result)"""


def import_results(old: Path, sweep: str, force: bool = False) -> list[str]:
    """Write every result of a first-generation folder as an ordinary results.json of a sweep.

    Of several results of one setting and seed the newest counts. A result whose losses equal those of another seed to
    the last digit is the same training under another name. It is left out: as one more seed it would shrink the spread.

    Args:
        old: a folder, or one results.json.
        sweep: the sweep's folder, a path or URI; made where there is none.
        force: replace what was imported before.

    Returns:
        Lines for the user on what was imported and what was left out.

    Raises:
        StorageError: nothing is there, a file is broken (all of them are named), or the sweep cannot be written.
    """
    kept, left_out = _without_repetitions(_read(old))
    folder = Folder(sweep)
    written, already_imported = [], []
    for path, result in kept:
        stamp = result.started_at[:19].replace("-", "").replace(":", "").replace("T", "_")
        place = folder / trial_name(result.slug, result.seed) / "results" / stamp
        if place.exists(FILE_NAME) and not force:
            already_imported.append(path)
            continue
        result.publish(place)
        written.append(f"  {path} -> {trial_name(result.slug, result.seed)}: {_ended(result)}")
    lines = [f"{folder}: {len(written)} of {len(kept) + len(left_out)} results imported", *written]
    lines += [f"  {path}: was imported before; --force replaces it" for path in already_imported]
    lines += [f"  {path}: left out, {why}" for path, why in left_out]
    return [*lines, "", f"next: python -m selgen_ray.report {folder}"]


def _ended(result: TrialResult) -> str:
    return result.status + (f" ({result.error})" if result.error else "")


def _read(old: Path) -> Found:
    if not (old.is_dir() or old.is_file()):
        raise StorageError(f"{old}: there is no such folder or file.{near_name(old)}")
    names = Folder(str(old)).find(FILE_NAME, leave_out=_NOT_IN) if old.is_dir() else [""]
    paths = [old / name for name in names if not of_preparation(name)]
    if not paths:
        raise StorageError(f"{old}: there is no {FILE_NAME} in it or below")
    results, broken = [], []
    for path in paths:
        try:
            results.append((str(path), read_old_results(path)))
        except StorageError as error:
            broken.append(str(error))
    if broken:
        raise StorageError("\n".join(broken))
    return results


def _without_repetitions(results: Found) -> tuple[Found, list[tuple[str, str]]]:
    """Return the newest result of each setting and seed, each training once; and the path and reason of the others."""
    kept: dict[str, tuple[str, TrialResult]] = {}
    left_out: list[tuple[str, str]] = []
    for path, result in sorted(results, key=lambda item: item[1].started_at, reverse=True):
        first = kept.get(result.trial_id)
        if first is None and (twin := _twin(result, kept.values())):
            reason = f"its losses are those of {twin[0]} to the last digit, though its seed is {result.seed} and not"
            left_out.append((path, f"{reason} {twin[1].seed}: nothing read that seed"))
        elif first is None:
            kept[result.trial_id] = path, result
        else:
            left_out.append((path, _repeats(path, result, *first)))
    order = {path: i for i, (path, _) in enumerate(results)}
    return sorted(kept.values(), key=lambda item: order[item[0]]), sorted(left_out, key=lambda item: order[item[0]])


def _twin(result: TrialResult, others: Iterable[tuple[str, TrialResult]]) -> tuple[str, TrialResult] | None:
    same = (item for item in others if item[1].slug == result.slug and same_training(result, item[1]))
    return next(same, None)


def _repeats(path: str, result: TrialResult, newest_path: str, newest: TrialResult) -> str:
    """Return why a second result of one setting and seed does not count."""
    named = folder_seed(path)
    why = "" if named in (None, result.seed) else f": nothing read the seed {named} of its folder"
    same = " and its losses are the same to the last digit" if same_training(result, newest) else ""
    return f"it was trained with seed {result.seed} as {newest_path} was{same}{why}"
