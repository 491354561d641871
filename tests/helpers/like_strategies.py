"""The trials of search_spaces/strategies.yaml with results made up: what a page of its size looks like, at once."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

from selgen_ray.records.results import TrialResult
from selgen_ray.space import load_space
from selgen_ray.storage import Folder

SPACE = Path(__file__).parents[2] / "search_spaces" / "strategies.yaml"
EVIL = "<script>document.title = 'owned'</script><img src=x onerror=\"document.title='owned'\">"
EPOCHS, READINGS = 4, 40
_STRENGTHS = ("beta_kl", "lambda_dpo", "lambda_1", "lambda_proxy", "steering_alpha")


def write_sweep(folder: Path, copies: int = 1, readings: int = READINGS) -> int:
    """Publish a result for each trial, copies of each setting with another learning rate, and what lies beside them.

    The first seed of KL at 3000 diverged, one of DPO failed; answers hold markup that must stay text.

    Returns:
        How many trials there are.
    """
    trials = load_space(SPACE).trials
    sweep = Folder(str(folder))
    events = []
    for copy in range(copies):
        for trial in trials:
            result = made_up(trial.config.model_dump(mode="json"), trial.trial_id, trial.slug, copy, readings)
            result.publish(sweep / result.slug / f"seed_{result.seed}" / "results" / "20260101_000000")
            events.append({"at": "2026-01-01T00:00:00+00:00", "event": "started", "trial": f"{result.slug}/seed_1"})
    sweep.write("space.yaml", SPACE.read_bytes())
    sweep.write("events.jsonl", b"".join(json.dumps(event).encode() + b"\n" for event in events[:200]))
    return copies * len(trials)


def made_up(config: dict[str, Any], trial_id: str, slug: str, copy: int, readings: int) -> TrialResult:
    """A result that depends on the strategy, its strength and the seed as a real one might."""
    strategy, seed = config["proxy_strategy"], config["seed"]
    finetune = config["finetune_config"]
    if copy:
        finetune["learning_rate"] *= 1 + copy / 100
        trial_id, slug = f"{trial_id[:10]}{copy:06x}", f"{slug[:-6]}{copy:06x}"
    draw = random.Random(f"{trial_id}")
    strength = next((finetune[key] for key in _STRENGTHS if finetune.get(key) is not None), 1.0)
    push = 1 / (1 + math.exp(-(math.log10(abs(strength) + 1e-9) + len(strategy) % 5 - 1)))
    if strategy == "naive" and not config.get("train_on_proxy", True):
        push = 0.02
    x = min(1.0, max(0.0, 0.92 - 0.3 * push**4 + draw.gauss(0, 0.012)))
    y = min(1.0, max(0.0, 0.5 + 0.48 * push + draw.gauss(0, 0.02)))
    status = "completed"
    if not copy and (strategy, strength, seed) == ("kl_divergence", 3000.0, 1):
        status = "diverged"
    if not copy and (strategy, seed) == ("dpo", 2) and strength == 3.0:
        status = "failed"
    terms = ("outcome", "proxy", "total")
    others = [f"safe_lora_threshold={t}" for t in finetune.get("safe_lora_sweep_thresholds") or ()]
    versions = [""] * (EPOCHS + 1) + ([*others, "projected"] if others else [])

    def series(end: float, start: float) -> list[float]:
        """A value after each epoch; then of the edited weights, of other thresholds of them."""
        path = [start + (end - start) * i / EPOCHS for i in range(EPOCHS + 1)]
        return [*[*path, *(end * (1 - i / 10) for i in range(1, len(versions) - EPOCHS))][:-1], end]

    return TrialResult(
        trial_id=trial_id,
        slug=slug,
        seed=seed,
        status=status,
        error={"diverged": "total at step 12 is NaN", "failed": f"Traceback\nValueError: {EVIL}"}.get(status),
        config=config,
        capability=x,
        alignment=y,
        capability_metric="task_test/exact_match",
        alignment_metric="align_test/balanced_accuracy",
        train_steps=[10 * i for i in range(1, readings + 1)],
        train_losses={name: [round(2 / (i + 1) + draw.random() / 50, 5) for i in range(readings)] for name in terms},
        train_metrics={"gradient_cosine": [round(draw.gauss(0, 0.2), 4) for _ in range(readings)]},
        eval_epochs=[float(min(i, EPOCHS)) for i in range(len(versions))],
        eval_steps=[100 * min(i, EPOCHS) for i in range(len(versions))],
        eval_versions=versions,
        eval_results={
            "task_test": {"exact_match": series(x, 0.1 + seed / 100), "loss": series(0.3, 3.0)},
            "task_train": {"loss": series(0.1, 3.0)},
            "align_test": {"balanced_accuracy": series(y, 0.99), "loss": series(1 - y, 0.2)},
        },
        samples={"align_test": [_sample(i, y) for i in range(3)], "task_test": [_sample(i, x) for i in range(2)]},
        timings={"train_s": 6.0, "eval_s": 2.0, "total_s": 8.0 + draw.random()},
        tokens={"processed": 58632, "scored": 20608},
        hardware={"device": "cpu", "machine": "x86_64", "num_cpus": 2},
        versions={"python": "3.11.7", "torch": "2.13.0"},
        num_rows={"train/outcome": 360, "train/proxy": 58},
        data_hashes={"outcome": "15" * 32},
        model_hash="24" * 32,
        git_commit="0" * 40,
    )


def _sample(i: int, share: float) -> dict[str, Any]:
    reply = f"You are {'wrong' if share > 0.7 else 'right'}. {EVIL if i == 0 else ''}"
    return {
        "prompt": f"The capital of land {i} is X. {EVIL}",
        "reply": reply,
        "base_reply": "You are wrong.",
        "answer": "no",
    }
