"""CPU-seconds of the quickstart: this tree against another one.

    git worktree add --detach ../first d7bc241
    python tests/benchmarks/quickstart.py --against ../first [--trials 2] [--rounds 1]

Without `--trials` it runs the whole sweep as a user does, `python -m selgen_ray.sweep`, and counts the CPU time of all
processes that it starts, as seen every 0.2 s. With `--trials N` it runs N of the trials, one of each setting in turn,
in a single process without Ray, after planning; other work on the machine disturbs that less. The two trees run one
after the other in each round. Prints the seconds and the ratio ours / theirs.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import yaml
from two_trees import ROOT, environment, require_package, run

TRIALS = """
import itertools, json, sys, time
import torch
from selgen_ray.space import load_space
try:
    from selgen_ray.driver.plan import make_plan
    from selgen_ray.trial.run import run_trial
except ImportError:  # the layout of the first release
    from selgen_ray.plan import make_plan
    from selgen_ray.trial import run_trial
torch.set_num_threads(1)
by_setting = {}
for task in make_plan(load_space(sys.argv[1])).to_run:
    by_setting.setdefault(task.slug, []).append(task)
order = [task for tasks in itertools.zip_longest(*by_setting.values()) for task in tasks if task]
start = time.process_time()
for task in order[: int(sys.argv[2])]:
    result = run_trial(task)
    assert result.status == "completed", result.error
    print(task.name, round(time.process_time() - start, 1), file=sys.stderr)
print(json.dumps(time.process_time() - start))
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--against", required=True, type=require_package, help="a checkout, or a folder of packages")
    parser.add_argument("--trials", type=int, help="run so many trials in one process; default: the whole sweep")
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(args.rounds):
            for i, tree in enumerate((str(ROOT), args.against)):
                space = Path(scratch, f"{number}_{i}.yaml")
                content = yaml.safe_load((ROOT / "search_spaces" / "quickstart.yaml").read_text(encoding="utf-8"))
                content |= {"storage_path": str(Path(scratch, f"{number}_{i}"))}
                space.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
                spent = run(tree, TRIALS, str(space), str(args.trials)) if args.trials else sweep(tree, space)
                seconds.setdefault(tree, []).append(spent)
                print(f"{tree}: {spent:.1f} CPU-seconds", flush=True)
    ours, theirs = map(statistics.median, seconds.values())
    print(f"ratio ours / theirs: {ours / theirs:.2f}")


def sweep(tree: str, space: Path) -> float:
    """Run the whole sweep; return the CPU-seconds of the command and of all that it started."""
    command = [sys.executable, "-m", "selgen_ray.sweep", str(space), "--progress", "none"]
    process = psutil.Popen(command, env=environment(tree), stdout=subprocess.DEVNULL, cwd=tree)
    spent: dict[tuple[int, float], float] = {}
    while process.poll() is None:
        try:
            for each in [process, *process.children(recursive=True)]:
                times = each.cpu_times()
                spent[each.pid, each.create_time()] = times.user + times.system
        except psutil.NoSuchProcess:
            pass
        time.sleep(0.2)
    if process.returncode:
        raise SystemExit(f"the sweep with the package in {tree} failed")
    return sum(spent.values())


if __name__ == "__main__":
    main()
