"""Find what does not compare: settings of other base models, judged by other metrics, or measured on other rows."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence

from selgen_ray.records.eval_sets import ROLE_OF_SET
from selgen_ray.records.results import TrialResult
from selgen_ray.records.status import TrialStatus
from selgen_ray.report.settings import Axis, Setting, start_name

ROLES = {**ROLE_OF_SET, "questions": "questions"}
"""Evaluation set -> the role whose rows it shows, of which results have the hash."""
_NAMED, _DIGITS = 4, 8
_UNLIKE = "ranks across them compare unlike things"


def unlike(settings: Sequence[Setting], axes: Iterable[Axis]) -> Iterable[str]:
    """Yield a sentence for each way in which completed trials that one report ranks do not compare.

    Args:
        axes: what settings are ranked by, and what is required of them.
    """
    yield from _models(settings)
    for axis in dict.fromkeys(axes):
        yield from _metrics(settings, axis)
        yield from _rows(settings, axis)


def _completed(setting: Setting) -> list[TrialResult]:
    return [r for r in setting.trials if r.status == TrialStatus.COMPLETED]


def _models(settings: Sequence[Setting]) -> Iterable[str]:
    """Compare the weights that trials begin with; those of a warm start are another trial's, as its name says."""
    trials = [r for s in settings for r in _completed(s) if not r.config.get("warm_start")]
    hashes: dict[str, set[str]] = {}  # name -> fingerprints of the weights that it stood for
    for r in trials:
        hashes.setdefault(start_name(r), set()).update([r.model_hash] if r.model_hash else [])

    def weights(result: TrialResult) -> str:
        """The weights, wherever they lie; results that do not say have those of their name, where it has but one."""
        known = hashes[name := start_name(result)]
        return result.model_hash or (next(iter(known)) if len(known) == 1 else name)

    names: dict[str, str] = {}
    for r in trials:
        name = start_name(r)
        names.setdefault(weights(r), f"{name} {(r.model_hash or '')[:_DIGITS]}" if len(hashes[name]) > 1 else name)
    labels: dict[str, list[str]] = {key: [] for key in names}
    for s in settings:
        for key in {weights(r) for r in _completed(s) if not r.config.get("warm_start")}:
            labels[key].append(s.label)
    if len(labels) > 1:
        texts = [f"{names[key].strip()} ({_listed(of)})" for key, of in labels.items()]
        yield f"different base models: {' / '.join(texts)}; {_UNLIKE}"


def _metrics(settings: Sequence[Setting], axis: Axis) -> Iterable[str]:
    labels: dict[str, list[str]] = {}
    is_mixed = False
    for s in settings:
        names = sorted({name for r in _completed(s) if axis.value(r) is not None and (name := axis.metric(r))})
        is_mixed = is_mixed or len(names) > 1
        for name in names:
            labels.setdefault(name, []).append(s.label)
    if len(labels) > 1:
        names = sorted(labels)
        groups = " / ".join(_listed(labels[name]) for name in names)
        mixed = "; averages of a setting mix them" if is_mixed else ""
        yield f"{axis.name} is not the same everywhere: {', '.join(names)} ({groups}); {_UNLIKE}{mixed}"


def _rows(settings: Sequence[Setting], axis: Axis) -> Iterable[str]:
    """Compare by seed, since a world may draw other rows for each. What a result does not say differs from nothing."""
    for keys in (_hashes, _counts):
        found: list[tuple[dict[int, Hashable], list[str]]] = []
        for s in settings:
            of_seed = keys(_completed(s), axis)
            if not of_seed:
                continue
            fitting = (one for one in found if all(one[0].get(seed, key) == key for seed, key in of_seed.items()))
            group = next(fitting, None)
            if group is None:
                found.append((dict(of_seed), [s.label]))
            else:
                group[0].update(of_seed)
                group[1].append(s.label)
        if len(found) > 1:
            yield (
                f"{axis.name} was measured on different rows: {' / '.join(_listed(labels) for _, labels in found)}; "
                f"{_UNLIKE}"
            )
            return  # other rows are often as many others


def _hashes(trials: Iterable[TrialResult], axis: Axis) -> Mapping[int, Hashable]:
    """Return seed -> (role, hash of its rows), as far as results say."""
    roles = {r.seed: (r, ROLES.get(name.partition("@")[0], "")) for r, name in _sets(trials, axis)}
    return {seed: (role, r.data_hashes[role]) for seed, (r, role) in roles.items() if role in r.data_hashes}


def _counts(trials: Iterable[TrialResult], axis: Axis) -> Mapping[int, Hashable]:
    """Return seed -> (set, number of its rows), as far as results say."""
    counts = {r.seed: (name, r.num_rows.get(f"eval/{name}")) for r, name in _sets(trials, axis)}
    return {seed: (name, count) for seed, (name, count) in counts.items() if count}


def _sets(trials: Iterable[TrialResult], axis: Axis) -> Iterable[tuple[TrialResult, str]]:
    """Yield each trial that has a value, and the evaluation set that it is of."""
    for r in trials:
        if axis.value(r) is not None and (metric := axis.metric(r)):
            yield r, metric.partition("/")[0]


def _listed(labels: Sequence[str]) -> str:
    names = list(dict.fromkeys(labels))
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
