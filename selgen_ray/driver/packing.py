"""Which trials of a sweep may share a process and its base (`resources.pack`), and which run alone, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from typing import Any

from selgen_ray.space.spec import Resources
from selgen_ray.trainers.catalogue import get_trainer
from selgen_ray.trial.task import TrialTask

_MOST_LISTS = 4
"""Members that a pack is given at most, as a multiple of its width: a worker fills its own free slots."""
_ASSUMED = 8
"""Width by which trials are handed out where each worker finds its own."""


def pack_width(resources: Resources) -> int:
    """Return the width by which trials are handed out; 1: no packs."""
    return resources.trials_of_a_pack or (_ASSUMED if resources.pack else 1)


def why_alone(config: dict[str, Any]) -> str | None:
    """Return why a trial runs in a process of its own although packs are asked for; None if it need not.

    Args:
        config: its nested config.
    """
    cfg = config["finetune_config"]
    if why := get_trainer(config["proxy_strategy"]).why_alone():
        return why
    if not cfg.get("is_peft", True):
        return "is_peft false: all weights are trained, so there is no base to share"
    if cfg.get("use_dora"):
        return "use_dora: it rescales the base's weights"
    if cfg.get("lora_bias", "none") != "none":
        return f"lora_bias {cfg['lora_bias']}: it trains biases of the base"
    for key in ("load_in_4bit", "load_in_8bit"):
        if cfg.get(key):
            return f"{key}: passes through quantised layers are not joined"
    return None


def packing_key(task: TrialTask) -> Hashable | None:
    """Return a key that trials of one pack have in common: how their base is loaded; None: the trial runs alone."""
    cfg = task.config["finetune_config"]
    if why_alone(task.config):
        return None
    return tuple(cfg.get(key) for key in ("model", "model_revision", "dtype", "attn_implementation"))


def pack_size(width: int, num_alike: int, num_places: int) -> int:
    """Return how many trials to give a worker: its width, or up to four times as many while many more wait.

    Args:
        width: trials that run at a time in a pack.
        num_alike: trials that wait and could share the pack.
        num_places: packs that may run at a time.
    """
    rounds = num_alike // (2 * width * max(1, num_places))
    return width * min(_MOST_LISTS, max(1, rounds))


def packing_lines(tasks: Iterable[TrialTask], width: int | None) -> list[str]:
    """Describe for the plan who shares a base with whom, and who runs alone and why.

    Args:
        tasks: the trials that are to run.
        width: trials of a pack; None: each worker finds out how many.
    """
    at_a_time = f"up to {width} at a time" if width else "as many at a time as the GPU has memory for,"
    by_key, alone = dict[Hashable, list[TrialTask]](), Counter[str]()
    for task in tasks:
        if why := why_alone(task.config):
            alone[why] += 1
        else:
            by_key.setdefault(packing_key(task), []).append(task)
    lines = list[str]()
    for members in by_key.values():
        cfg = members[0].config["finetune_config"]
        base = f"{cfg.get('model')} in {cfg.get('dtype')}"
        what = f"{at_a_time} in one process" if len(members) > 1 else "alone: no other trial has this base"
        names = ", ".join(dict.fromkeys(task.config["proxy_strategy"] for task in members))
        lines.append(
            f"  packed over {base}: {len(members)} {'trials' if len(members) > 1 else 'trial'} ({names}), {what}"
        )
    lines += [f"  not packed: {count} {'trials' if count > 1 else 'trial'}, {why}" for why, count in alone.items()]
    return lines
