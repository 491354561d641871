"""Keys of the first generation whose meaning depends on each other."""

from __future__ import annotations

from typing import Any

from selgen_ray.first_generation.keys import APART, DEFAULTS, MEANINGS, RULES, as_bool
from selgen_ray.first_generation.record import Converted, Record, takes
from selgen_ray.syntax.keys import Keys, held, refused
from selgen_ray.syntax.tree import Node, Origin, show, written

Taken = dict[str, tuple[Node, str]]
"""Name -> value, and the key as it was written."""

_SPLIT = 0.9  # the default of both generations
_SCHEDULER, _LAST = "finetune_config.alpha_scheduler_type", "finetune_config.final_steering_alpha"
_PROXY_EPOCHS = "finetune_config.proxy_epochs"
_LIMIT = "data.outcome.limit"


def combine(converted: Converted, keys: Keys, own_keys: frozenset[str] | None) -> None:
    """Combine or drop the keys that were set apart (`APART`); `own_keys` as `own` in `convert`."""
    apart = [key for key in converted.values if key.startswith(APART)]
    taken = {key.removeprefix(APART): converted.remove(key) for key in apart}
    _rows(converted, taken, keys)
    _suffix(converted, taken, keys)
    _proxy(converted, taken, keys)
    _choices(converted, taken)
    _plane(converted, taken)
    _schedule(converted, taken)
    _seeds(converted, own_keys)
    _meanings(converted, keys)


def _meanings(converted: Converted, keys: Keys) -> None:
    """Say what old knobs meant, where a key of today gives them another meaning unless it is written."""
    for to, (value, why, knobs) in MEANINGS.items():
        if to in converted.values or to not in keys.known:
            continue
        named = [
            k for k, of in knobs.items() if k in converted.values and (not of or str(converted.values[k].value) in of)
        ]
        sources = dict.fromkeys(source for key in named for source in sorted(converted.sources[key]))
        if not sources:
            continue
        node = written(value, converted.values[named[0]].origin)
        converted.put(to, node, next(iter(sources)), "converted", why)
        converted.sources[to] = set(sources)


def _held(keys: Keys, key: str, node: Node | None) -> Any:
    """Return a value as today's key holds it, such as 300 for '300'; None where it is none of the key's values."""
    found = held(keys.known[key], node, []) if node else None
    return found[0] if found else None


def _rows(converted: Converted, taken: Taken, keys: Keys) -> None:
    """Limit data.outcome: `max_train_size` counts training rows, `max_dataset_size` and today's `limit` all rows."""
    share = _held(keys, "finetune_config.train_split", converted.values.get("finetune_config.train_split"))
    share = _SPLIT if share is None else share
    limits: list[tuple[int, str, Node, str]] = []
    for name in (name for name in ("max_train_size", "max_dataset_size") if name in taken):
        node, key = taken[name]
        count: int | None = _held(keys, _LIMIT, node)
        if count is None:
            converted.drop(key, node, refused(keys.known[_LIMIT], node.plain()).rstrip("."))
        elif name == "max_train_size" and share < 1:
            rows = round(count / share)
            limits.append((rows, key, node, f"{count} training rows are {show(share)} of {rows}"))
        else:
            limits.append((count, key, node, "" if type(node.value) is int else f"{show(node.value)} became {count}"))
    limits.sort(key=lambda limit: limit[0])
    path = converted.values.get("data.outcome")
    for i, (rows, key, node, why) in enumerate(limits):
        if i > 0:
            converted.drop(key, node, f"{limits[0][1]} allows fewer rows", lost=False)
        elif path is None or not takes(keys, "data.outcome", {"path": path.plain(), "limit": rows}):
            converted.drop(key, node, "there is no data.outcome that it could limit")
        else:
            role = Node({"path": path, "limit": Node(rows, node.origin)}, path.origin)
            converted.values["data.outcome"] = role
            converted.sources["data.outcome"].add(key)
            kind = "converted" if why else "renamed"
            converted.records.append(Record(key, kind, _LIMIT, why, origin=node.origin))


def _suffix(converted: Converted, taken: Taken, keys: Keys) -> None:
    """Make the text that a fork appended to the user's messages of the training rows a training prompt of outcome."""
    if "train_user_suffix" not in taken:
        return
    node, key = taken["train_user_suffix"]
    outcome, text = converted.values.get("data.outcome"), node.plain()
    if not text:
        converted.drop(key, node, "an empty text, which changes no row", lost=False)
        return
    parts = dict(outcome.value) if outcome and isinstance(outcome.value, dict) else {"path": outcome}
    prompt = {"user_suffix": text}
    if outcome is None or not isinstance(text, str):
        why = "there is no data.outcome whose rows it could end" if outcome is None else f"found {show(text)}, no text"
        converted.drop(key, node, why)
    elif not takes(keys, "data.outcome", {"path": "rows.jsonl", "training_prompt": prompt}):
        converted.drop(key, node, "this version has no data.outcome.training_prompt")
    else:
        parts["training_prompt"] = Node({"user_suffix": node}, node.origin)
        converted.values["data.outcome"] = Node(parts, outcome.origin)
        converted.sources["data.outcome"].add(key)
        to = "data.outcome.training_prompt"
        why = "at the end of the user's messages in training, and in no evaluation"
        converted.records.append(Record(key, "converted", to, why, origin=node.origin))


def _proxy(converted: Converted, taken: Taken, keys: Keys) -> None:
    """Choose which rows of the alignment data are the proxy: a share of them, or those of a label."""
    coverage = converted.values.get("align_train_coverage")
    if coverage and not coverage.value:
        converted.take_back("align_train_coverage", f"{show(coverage.value)}: no row is the proxy's")
    if "align_train_dataset_type" not in taken:
        return
    node, key = taken["align_train_dataset_type"]
    if node.value == "subset":
        converted.drop(key, node, "align_train_coverage takes a share of the alignment data as the proxy", lost=False)
        return
    if "align_train_coverage" in converted.values:
        converted.take_back("align_train_coverage", f"not read where {key} names labels")
    labels = node.plain()
    truth = converted.values.get("data.truth")
    wanted = {"label": labels}
    if truth and takes(keys, "data.proxy", {"path": truth.plain(), "filter": wanted}):
        rows = Node({"label": written(labels, node.origin)}, node.origin)
        whole = Node({"path": truth, "filter": rows}, node.origin)
        why = "the rows of data.truth with that label; data.proxy_neg must answer the same prompts row by row"
        converted.put("data.proxy", whole, key, "converted", why)
    else:
        named = " or ".join(map(str, labels if isinstance(labels, list) else [labels]))
        converted.drop(key, node, f"name as data.proxy a file of the rows whose label is {named}")


def _choices(converted: Converted, taken: Taken) -> None:
    """Convert lettered questions made of pairs, which were asked only with both switches on."""
    on = [bool(as_bool(taken[name][0].value)) for name in ("do_mcq_eval", "use_mcq_hhh") if name in taken]
    asked = "use_mcq_hhh" in taken and all(on)
    for name in ("do_mcq_eval", "use_mcq_hhh", "HHH_mcq_instructions"):
        if name not in taken:
            continue
        node, key = taken[name]
        if not asked:
            why = "nothing was asked without use_mcq_hhh" if name != "use_mcq_hhh" else "false, as today's default"
            converted.drop(key, node, why, lost=False)
        elif name == "use_mcq_hhh":
            why = "asked of the pairs in evaluation alone; then the proxy was trained in that form too"
            converted.put("evals.mcq_from_pairs", Node(True, node.origin), key, "converted", why)
        elif name == "HHH_mcq_instructions":
            converted.put("evals.mcq_instructions", node, key, "renamed")
        else:
            converted.drop(key, node, "evals.mcq_from_pairs says it", lost=False)


def _plane(converted: Converted, taken: Taken) -> None:
    """Keep the path of a steering vector if one is loaded; a computed one needs no path."""
    loads = "load_steering_vector" in taken and bool(as_bool(taken["load_steering_vector"][0].value))
    for name in ("load_steering_vector", "save_steering_vector", "steering_vector_path"):
        if name not in taken:
            continue
        node, key = taken[name]
        if loads and name != "save_steering_vector":
            converted.put(f"finetune_config.{name}", node, key, "same")
        elif name == "load_steering_vector":
            converted.drop(key, node, "false, as today's default", lost=False)
        else:
            converted.drop(key, node, "vectors are computed once and shared by content, not by a path", lost=False)


def _schedule(converted: Converted, taken: Taken) -> None:
    """Keep the final strength if there is a schedule, where it had a default; drop it otherwise."""
    scheduler = converted.values.get(_SCHEDULER)
    linear = scheduler is not None and scheduler.value == "linear"
    if "final_steering_alpha" in taken:
        node, key = taken["final_steering_alpha"]
        if linear:
            converted.put(_LAST, node, key, "same")
        else:
            converted.drop(key, node, "counts with alpha_scheduler_type: linear alone", lost=False)
    elif scheduler is not None and linear:
        source = min(converted.sources[_SCHEDULER])
        converted.put(_LAST, Node(0.1, scheduler.origin), source, "converted", "0.1 where it was not given")


def _seeds(converted: Converted, own_keys: frozenset[str] | None) -> None:
    """Drop `seed` beside data_seed and model_seed, which took its place; keep it if an override varies it alone."""
    streams = [key for key in ("data_seed", "model_seed") if key in converted.values]
    if "seed" not in converted.values or len(streams) < 2:
        return
    sources = converted.sources
    if own_keys and sources["seed"] & own_keys and not any(sources[key] & own_keys for key in streams):
        for key in streams:
            converted.take_back(key, "the seed of this override counts")
        node, source = converted.remove("seed")
        converted.put("seed", node, source, "converted", "nothing read it then, so such replicates were one run")
    else:
        converted.take_back("seed", "nothing read it beside data_seed and model_seed")


def _remark(to: str) -> str:
    """Return what a key that is kept did then, if it did something else; '' if not."""
    rule = RULES.get(to.rpartition(".")[2])
    return rule.why if rule and rule.to == to else ""


def add_defaults(converted: Converted, keys: Keys, origin: Origin) -> None:
    """Add the first generation's defaults of the keys that the file does not have."""
    silent = {to: value for to, value in DEFAULTS.items() if to not in converted.values and to in keys.known}
    if _PROXY_EPOCHS not in converted.values:  # as many as epochs
        epochs = converted.values.get("finetune_config.epochs")
        silent[_PROXY_EPOCHS] = epochs.plain() if epochs else DEFAULTS["finetune_config.epochs"]
    place = Origin(origin.file, None, "(default)", origin.included)
    silent |= {to: value for to, (value, _, _) in MEANINGS.items() if to not in converted.values and to in keys.known}
    for to, value in silent.items():
        converted.values[to], converted.sources[to] = written(value, place), set()
        why = MEANINGS[to][1] if to in MEANINGS else _remark(to)
        converted.records.append(Record(to, "default", to, why, origin=place))
