"""Keys of the first generation that mean something only together."""

from __future__ import annotations

from selgen_ray.first_generation.keys import APART, DEFAULTS, MEANINGS
from selgen_ray.first_generation.record import Converted, Record, takes
from selgen_ray.syntax.keys import Keys
from selgen_ray.syntax.tree import Node, Origin, show, written

Taken = dict[str, tuple[Node, str]]
"""Name -> value, and the key as it was written."""

_SPLIT = 0.9  # the default of both generations
_SCHEDULER, _LAST = "finetune_config.alpha_scheduler_type", "finetune_config.final_steering_alpha"
_PROXY_EPOCHS = "finetune_config.proxy_epochs"


def combine(found: Converted, keys: Keys, own: frozenset[str] | None) -> None:
    """Put together, or drop, what was set apart; `own` as in `convert`."""
    apart = [key for key in found.values if key.startswith(APART)]
    taken = {key.removeprefix(APART): found.remove(key) for key in apart}
    _rows(found, taken, keys)
    _proxy(found, taken, keys)
    _choices(found, taken)
    _plane(found, taken)
    _schedule(found, taken)
    _seeds(found, own)
    _meanings(found, keys)


def _meanings(found: Converted, keys: Keys) -> None:
    """Say what old knobs meant, where a key of today gives them another meaning unless it is written."""
    for to, (value, why, knobs) in MEANINGS.items():
        if to in found.values or to not in keys.known:
            continue
        named = [k for k, of in knobs.items() if k in found.values and (not of or str(found.values[k].value) in of)]
        sources = dict.fromkeys(source for key in named for source in sorted(found.sources[key]))
        if not sources:
            continue
        node = written(value, found.values[named[0]].origin)
        found.put(to, node, next(iter(sources)), "converted", why)
        found.sources[to] = set(sources)


def _rows(found: Converted, taken: Taken, keys: Keys) -> None:
    """`max_train_size` counts training rows, `max_dataset_size` and `limit` those before the split."""
    share = found.values.get("finetune_config.train_split")
    share = share.plain() if share else _SPLIT
    limits = []
    for name in ("max_train_size", "max_dataset_size"):
        if name in taken and isinstance(taken[name][0].value, int):
            node, key = taken[name]
            training = name == "max_train_size" and isinstance(share, int | float) and 0 < share < 1
            rows = round(node.value / share) if training else node.value
            why = f"{node.value} training rows are {show(share)} of {rows}" if training else ""
            limits.append((rows, key, node, why))
    limits.sort(key=lambda limit: limit[0])
    path = found.values.get("data.outcome")
    for i, (rows, key, node, why) in enumerate(limits):
        if i > 0:
            found.drop(key, node, f"{limits[0][1]} allows fewer rows", lost=False)
        elif path is None:
            found.drop(key, node, "there is no data.outcome that it could limit")
        elif not takes(keys, "data.outcome", {"path": path.plain(), "limit": rows}):
            found.drop(key, node, "this version has no data.outcome.limit")
        else:
            role = Node({"path": path, "limit": Node(rows, node.origin)}, path.origin)
            found.values["data.outcome"] = role
            found.sources["data.outcome"].add(key)
            kind = "converted" if why else "renamed"
            found.records.append(Record(key, kind, "data.outcome.limit", why, origin=node.origin))


def _proxy(found: Converted, taken: Taken, keys: Keys) -> None:
    """Which rows of the alignment data are the proxy: a share of them, or those of a label."""
    coverage = found.values.get("align_train_coverage")
    if coverage and not coverage.value:
        found.take_back("align_train_coverage", f"{show(coverage.value)}: no row is the proxy's")
    if "align_train_dataset_type" not in taken:
        return
    node, key = taken["align_train_dataset_type"]
    if node.value == "subset":
        found.drop(key, node, "align_train_coverage takes a share of the alignment data as the proxy", lost=False)
        return
    if "align_train_coverage" in found.values:
        found.take_back("align_train_coverage", f"not read where {key} names labels")
    labels = node.plain()
    truth = found.values.get("data.truth")
    wanted = {"label": labels}
    if truth and takes(keys, "data.proxy", {"path": truth.plain(), "filter": wanted}):
        rows = Node({"label": written(labels, node.origin)}, node.origin)
        whole = Node({"path": truth, "filter": rows}, node.origin)
        why = "the rows of data.truth with that label; data.proxy_neg must answer the same prompts row by row"
        found.put("data.proxy", whole, key, "converted", why)
    else:
        named = " or ".join(map(str, labels if isinstance(labels, list) else [labels]))
        found.drop(key, node, f"name as data.proxy a file of the rows whose label is {named}")


def _choices(found: Converted, taken: Taken) -> None:
    """Lettered questions made of pairs were asked with both switches on alone."""
    on = [bool(taken[name][0].value) for name in ("do_mcq_eval", "use_mcq_hhh") if name in taken]
    asked = "use_mcq_hhh" in taken and all(on)
    for name in ("do_mcq_eval", "use_mcq_hhh", "HHH_mcq_instructions"):
        if name not in taken:
            continue
        node, key = taken[name]
        if not asked:
            why = "nothing was asked without use_mcq_hhh" if name != "use_mcq_hhh" else "false, as today's default"
            found.drop(key, node, why, lost=False)
        elif name == "use_mcq_hhh":
            why = "asked of the pairs in evaluation alone; then the proxy was trained in that form too"
            found.put("evals.mcq_from_pairs", Node(True, node.origin), key, "converted", why)
        elif name == "HHH_mcq_instructions":
            found.put("evals.mcq_instructions", node, key, "renamed")
        else:
            found.drop(key, node, "evals.mcq_from_pairs says it", lost=False)


def _plane(found: Converted, taken: Taken) -> None:
    """A path of a steering vector counts where one is loaded; one that is computed needs none."""
    loads = "load_steering_vector" in taken and bool(taken["load_steering_vector"][0].value)
    for name in ("load_steering_vector", "save_steering_vector", "steering_vector_path"):
        if name not in taken:
            continue
        node, key = taken[name]
        if loads and name != "save_steering_vector":
            found.put(f"finetune_config.{name}", node, key, "same")
        elif name == "load_steering_vector":
            found.drop(key, node, "false, as today's default", lost=False)
        else:
            found.drop(key, node, "vectors are computed once and shared by content, not by a path", lost=False)


def _schedule(found: Converted, taken: Taken) -> None:
    """The strength at the end counts with a schedule alone, and had a default there."""
    scheduler = found.values.get(_SCHEDULER)
    linear = scheduler is not None and scheduler.value == "linear"
    if "final_steering_alpha" in taken:
        node, key = taken["final_steering_alpha"]
        if linear:
            found.put(_LAST, node, key, "same")
        else:
            found.drop(key, node, "counts with alpha_scheduler_type: linear alone", lost=False)
    elif scheduler is not None and linear:
        source = min(found.sources[_SCHEDULER])
        found.put(_LAST, Node(0.1, scheduler.origin), source, "converted", "0.1 where it was not given")


def _seeds(found: Converted, own: frozenset[str] | None) -> None:
    """Where data_seed and model_seed were given, nothing read `seed`; who varied it alone wanted other seeds."""
    streams = [key for key in ("data_seed", "model_seed") if key in found.values]
    if "seed" not in found.values or len(streams) < 2:
        return
    of = found.sources
    if own and of["seed"] & own and not any(of[key] & own for key in streams):
        for key in streams:
            found.take_back(key, "the seed of this override counts")
        node, source = found.remove("seed")
        found.put("seed", node, source, "converted", "nothing read it then, so such replicates were one run")
    else:
        found.take_back("seed", "nothing read it beside data_seed and model_seed")


def add_defaults(found: Converted, keys: Keys, origin: Origin) -> None:
    """The first generation's defaults of the keys that the file does not have."""
    silent = {to: value for to, value in DEFAULTS.items() if to not in found.values and to in keys.known}
    if _PROXY_EPOCHS not in found.values:  # as many as epochs
        epochs = found.values.get("finetune_config.epochs")
        silent[_PROXY_EPOCHS] = epochs.plain() if epochs else DEFAULTS["finetune_config.epochs"]
    place = Origin(origin.file, None, "(default)", origin.included)
    silent |= {to: value for to, (value, _, _) in MEANINGS.items() if to not in found.values and to in keys.known}
    for to, value in silent.items():
        found.values[to], found.sources[to] = written(value, place), set()
        why = MEANINGS[to][1] if to in MEANINGS else ""
        found.records.append(Record(to, "default", to, why, origin=place))
