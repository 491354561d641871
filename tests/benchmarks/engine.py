"""The sweep engine alone: 1,000 trials that train nothing, against bare Ray Tune running as many empty functions.

    python tests/benchmarks/engine.py [trials]

Prints trials a second (from the first start to the last end), their ratio, and the peak memory of the driver.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path

import psutil
import yaml

ROOT = Path(__file__).parents[2]
NO_OP = '''
from types import SimpleNamespace

from selgen_ray.records.results import TrainingRecord
from selgen_ray.trainers.base import BaseTrainer
from selgen_ray.trainers.registry import knob


class NoOpTrainer(BaseTrainer):
    """Trains nothing, loads no model."""

    proxy_strategy_name = "no_op"
    number: int = knob(0, "makes trials differ")
    record = sets = None  # properties of a run, which this one has not

    def __init__(self, config, **rest):
        self.config, self.cfg = config, config.finetune_config
        self.record, self.run = TrainingRecord(), SimpleNamespace(num_resumes=0)
        self.sets = SimpleNamespace(train={}, evals={}, skipped={}, lengths={})

    def train(self):
        results = {"task_test": {"exact_match": 0.5}, "align_test": {"balanced_accuracy": 0.5}}
        self.record.add_evaluation(0, 0.0, "", results)
        return self.record

    def __exit__(self, *error):
        pass
'''
BARE = """
import os, sys, time
os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
import logging, ray
from ray import tune
ray.init("local", log_to_driver=False, logging_level="ERROR")
logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
def nothing(config):
    tune.report({"x": 1})
def run(n):
    space = {"number": tune.grid_search(list(range(n)))}
    options = tune.RunConfig(storage_path=sys.argv[2], verbose=0)
    tune.Tuner(nothing, param_space=space, run_config=options, tune_config=tune.TuneConfig(reuse_actors=True)).fit()
run(2)
start = time.monotonic()
run(int(sys.argv[1]))
print(time.monotonic() - start)
"""


def main(trials: int) -> None:
    """Run both and print the figures."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        seconds, megabytes = engine(place, trials)
        (place / "bare.py").write_text(BARE)
        command = [sys.executable, str(place / "bare.py"), str(trials), scratch]
        bare = subprocess.run(command, capture_output=True, text=True, check=True, env=_env())
    alone = float(bare.stdout.strip().splitlines()[-1])
    print(f"selgen_ray: {trials} trials in {seconds:.1f} s, {trials / seconds:.1f} trials/s, driver {megabytes:.0f} MB")
    print(f"bare Tune:  {trials} trials in {alone:.1f} s, {trials / alone:.1f} trials/s")
    print(f"ratio of the times: {seconds / alone:.2f}")


def engine(place: Path, trials: int) -> tuple[float, float]:
    """Seconds from the first start to the last end, and the driver's peak memory in MB."""
    (place / "no_op.py").write_text(NO_OP)
    row = {"messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]}
    (place / "rows.jsonl").write_text((json.dumps(row) + "\n") * 20)
    space = {
        "name": "engine",
        "storage_path": str(place),
        "plugins": ["no_op.py"],
        "base": {"data": {"outcome": "rows.jsonl"}},
        "seeds": [1],
        "strategies": {"no_op": {"grid": {"finetune_config.number": list(range(trials))}}},
    }
    (place / "space.yaml").write_text(yaml.safe_dump(space))
    process = subprocess.Popen(
        [sys.executable, "-m", "selgen_ray.sweep", str(place / "space.yaml")],
        stdout=subprocess.DEVNULL,
        env=_env(),
    )
    peak = [0.0]
    threading.Thread(target=_watch, args=(process.pid, peak), daemon=True).start()
    if process.wait():
        raise SystemExit("the sweep failed")
    events = [json.loads(line) for line in (place / "engine" / "events.jsonl").read_text().splitlines()]
    times = [datetime.fromisoformat(e["at"]) for e in events if e["event"] in ("started", "completed")]
    assert sum(e["event"] == "completed" for e in events) == trials
    return (times[-1] - times[0]).total_seconds(), peak[0]


def _watch(pid: int, peak: list[float]) -> None:
    while psutil.pid_exists(pid):
        try:
            command = psutil.Process(pid)  # which guards the process that runs the sweep
            peak[0] = max(peak[0], *(p.memory_info().rss / 2**20 for p in [command, *command.children()]))
        except psutil.Error:
            return
        time.sleep(0.2)


def _env() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
