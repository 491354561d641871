"""Sweeps made of results.json files alone, for whatever reads results."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from selgen_ray.records.results import TrialResult
from selgen_ray.storage import Folder

# tempting numbers of models that are no setting
ALIGNED, TRAINED = (1.0, 1.0), (0.99, 0.99)


def fake_result(
    strategy: str = "naive",
    seed: int = 1,
    x: float | None = 0.5,
    y: float | None = 0.5,
    status: str = "completed",
    base: tuple[float, float] | None = (0.1, 0.9),
    top: dict[str, Any] | None = None,
    evals: dict[str, dict[str, list[float | None]]] | None = None,
    changes: dict[str, Any] | None = None,
    versions: dict[str, tuple[float | None, float | None]] | None = None,
    **knobs: Any,
) -> TrialResult:
    """A trial evaluated before training (`base`) and after it (`x`: capability, `y`: alignment).

    With `versions`, as safe_lora leaves it: the aligned model after the base, the trained weights, each version with
    its (capability, alignment), and `x` and `y` last, as 'projected'.
    """
    digits = hashlib.sha256(json.dumps([strategy, top, knobs]).encode()).hexdigest()[:6]
    parts = [strategy, *(f"{name}-{value}" for name, value in knobs.items()), digits]
    results: dict[str, dict[str, list[float | None]]] = {}
    if base is not None:
        results = {"task_test": {"exact_match": [base[0], x]}, "align_test": {"balanced_accuracy": [base[1], y]}}
    finetune = {"model": "toy", "epochs": 1, "max_steps": None, "is_peft": True, "target_modules": ["q", "v"], **knobs}
    config = {"proxy_strategy": strategy, "seed": seed, "data_seed": seed, "model_seed": seed, **(top or {})}
    fields: dict[str, Any] = {
        "trial_id": hashlib.sha256(f"{digits}{seed}".encode()).hexdigest()[:16],
        "slug": "_".join(parts).replace("/", "-"),
        "seed": seed,
        "status": status,
        "capability": x,
        "alignment": y,
        "capability_metric": "task_test/exact_match",
        "alignment_metric": "align_test/balanced_accuracy",
        "config": {**config, "data": {"outcome": "data/rows.jsonl"}, "finetune_config": finetune},
        "eval_epochs": [0.0, 1.0],
        "eval_steps": [0, 10],
        "eval_versions": ["", ""],
        "eval_results": results | (evals or {}),
        "timings": {"total_s": 2.5},
        "tokens": {"processed": 120, "scored": 40},
    }
    result = TrialResult.model_validate(fields | (changes or {}))
    return result if versions is None else _with_versions(result, versions)


def _with_versions(result: TrialResult, versions: dict[str, tuple[float | None, float | None]]) -> TrialResult:
    scores = {"": (0.1, 0.9), "aligned": ALIGNED, " ": TRAINED, **versions, "projected": (0.0, 0.0)}
    series = {"task_test": ("exact_match", 0), "align_test": ("balanced_accuracy", 1)}
    for name, (metric, i) in series.items():
        if name in result.eval_results:
            base, last = result.eval_results[name][metric]
            between = [pair[i] for pair in list(scores.values())[1:-1]]
            result.eval_results[name][metric] = [base, *between, last]
    result.eval_versions = [version.strip() for version in scores]
    result.eval_epochs = [0.0, 0.0, *[1.0] * (len(scores) - 2)]
    result.eval_steps = [0, 0, *[10] * (len(scores) - 2)]
    return result


def publish(sweep: Path | Folder, *results: TrialResult, stamp: str = "20260101_000000") -> None:
    """Write each result where a sweep would."""
    folder = sweep if isinstance(sweep, Folder) else Folder(str(sweep))
    for result in results:
        result.publish(folder / result.slug / f"seed_{result.seed}" / "results" / stamp)
