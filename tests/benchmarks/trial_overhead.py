"""Overhead of a trial: a sweep against the same trainings in one bare process, in one run.

    python tests/benchmarks/trial_overhead.py [--trials 12] [--epochs 1]

Both do exactly the same work (generate data, attach an adapter, train, evaluate, publish results.json) on the toy
world, one trial at a time. The sweep adds planning, Ray's start, one worker's imports, scheduling and reporting.

Measured on a 2-core x86 CPU machine, 12 trials of about 5 s: 0.39 s of overhead per trial (5.46 s against 5.07 s, ratio
1.08), after a start-up of 10.4 s once per sweep (Ray and the imports of its worker).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
SPACE = """
name: overhead
storage_path: {storage}
base: {{finetune_config: {{model: toy, epochs: {epochs}, learning_rate: 2.0e-3, per_device_train_batch_size: 32}}}}
seeds: {seeds}
resources: {{gpus: 0, max_concurrent: 1}}
"""
BARE = """
import sys
from selgen_ray.driver.plan import make_plan
from selgen_ray.space import load_space
from selgen_ray.trial.run import run_trial
import torch
torch.set_num_threads(1)
for task in make_plan(load_space(sys.argv[1])).to_run:
    run_trial(task)
"""


def timed(command: list[str]) -> float:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    start = time.monotonic()
    subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - start


def measure(trials: int, epochs: int) -> tuple[float, float]:
    """Wall-clock seconds of (sweep, bare process) for the same trials."""
    with tempfile.TemporaryDirectory() as scratch:
        seconds = []
        for kind in ("sweep", "bare"):
            space = Path(scratch) / f"{kind}.yaml"
            storage = Path(scratch) / kind
            space.write_text(SPACE.format(storage=storage, epochs=epochs, seeds=list(range(trials))))
            module = ["-m", "selgen_ray.sweep", str(space)] if kind == "sweep" else ["-c", BARE, str(space)]
            seconds.append(timed([sys.executable, *module]))
            found = len(list(storage.rglob("results.json")))
            assert found == trials, f"{kind}: {found} results instead of {trials}"
        return seconds[0], seconds[1]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=1)
    args = parser.parse_args()
    few = measure(1, args.epochs)
    many = measure(args.trials, args.epochs)
    more = args.trials - 1
    sweep, bare = (many[0] - few[0]) / more, (many[1] - few[1]) / more
    print(f"one trial:   sweep {few[0]:.1f} s, bare {few[1]:.1f} s, start-up of Ray {few[0] - few[1]:.1f} s")
    print(f"{args.trials} trials:  sweep {many[0]:.1f} s, bare {many[1]:.1f} s, ratio {many[0] / many[1]:.2f}")
    print(f"each further trial: sweep {sweep:.2f} s, bare {bare:.2f} s")
    print(f"overhead per trial: {sweep - bare:.2f} s, ratio {sweep / bare:.2f}")


if __name__ == "__main__":
    main()
