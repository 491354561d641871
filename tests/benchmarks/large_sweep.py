"""How long it takes to list, read and plan a sweep of 10,000 trials; by hand.

    python tests/benchmarks/large_sweep.py [--trials 10000 --readings 100 --s3]

Makes the folder itself, in a temporary place: real results.json of about 10 KB, a few checkpoint files beside each, a
cache. Prints seconds, and the ratio to the naive way: list everything, read one file after the other, check all of it.
With --s3 the sweep lies on an S3 server on this machine, every answer of which is `--latency` seconds late.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from selgen_ray.driver.plan import make_plan, sweep_folder
from selgen_ray.reading import load_results, read_heads, read_trials
from selgen_ray.records.results import FILE_NAME, TrialResult
from selgen_ray.space import load_space
from selgen_ray.storage import Folder
from selgen_ray.sweep.commands import read_state

SEEDS = 5


def space(folder: Path, trials: int, storage: str) -> Path:
    """A search space of so many trials."""
    settings = max(1, trials // SEEDS)
    grid = {"finetune_config.learning_rate": [float(f"{1e-5 * (i + 1):.3e}") for i in range(settings)]}
    document = {"name": "large", "storage_path": storage, "seeds": list(range(SEEDS)), "grid": grid}
    document |= {
        "base": {"data": {"toy": {"num_outcome": 10}}, "finetune_config": {"model": "toy"}},
        "strategies": {"naive": {}},
    }
    path = folder / "space.yaml"
    path.write_text(json.dumps(document))  # JSON is YAML
    return path


def result(trial: Any, readings: int) -> TrialResult:
    """A results.json as a finished trial leaves it."""
    steps = list(range(10, 10 * readings + 10, 10))
    series = [round(2.0 / (i + 1), 6) for i in range(readings)]
    sets = ("task_train", "task_test", "align_train", "align_test")
    metrics = {"loss": [1.1, 0.7, 0.612345], "exact_match": [0.1, 0.5, 0.8], "perplexity": [3.0, 2.0, 1.8]}
    return TrialResult(
        trial_id=trial.trial_id,
        slug=trial.slug,
        seed=trial.config.seed,
        status="completed",
        config=trial.config.model_dump(mode="json"),
        capability=0.8,
        alignment=0.6,
        capability_metric="task_test/exact_match",
        alignment_metric="align_test/exact_match",
        train_steps=steps,
        train_losses={"total": series, "outcome": series},
        train_metrics={"lr": series, "grad_norm": series},
        eval_epochs=[0.0, 1.0, 2.0],
        eval_steps=[0, 500, 1000],
        eval_versions=["", "", ""],
        eval_results=dict.fromkeys(sets, metrics),
        timings={"total_s": 100.0, "train_s": 90.0},
        tokens={"processed": 1_000_000, "scored": 200_000},
        hardware={"gpu": "H100", "num_gpus": 1, "cpu": "x86_64"},
        versions={"torch": "2.0", "transformers": "5.0", "peft": "0.19"},
        data_hashes=dict.fromkeys(sets, "0" * 64),
    )


def fill(sweep: Path, trials: Any, readings: int) -> int:
    """Write the results of all trials, and what lies beside them; returns the bytes of one result."""
    size = 0
    for trial in trials:
        place = sweep / trial.name / "results" / "20260101_000000"
        (place / "checkpoints" / "000100").mkdir(parents=True)
        for name in ("weights.safetensors", "state.json", "manifest.json"):
            (place / "checkpoints" / "000100" / name).touch()
        content = json.dumps(result(trial, readings).model_dump(mode="json"), indent=1)
        (place / FILE_NAME).write_text(content)
        size = len(content)
    for i in range(200):
        (sweep / "cache" / "base" / f"{i:032d}" / "leases").mkdir(parents=True)
        (sweep / "cache" / "base" / f"{i:032d}" / "leases" / "000001.json").touch()
    return size


def naive(sweep: Folder) -> int:
    """The way without find, read_many and heads; the number of results."""
    paths = [path for path in sweep.files(recursive=True) if path.rpartition("/")[2] == FILE_NAME]
    found = {}
    for path in paths:
        one = TrialResult.model_validate_json(sweep.read(path))
        found[one.trial_id] = one
    return len(found)


def timed(what: str, work: Callable[[], Any], before: float | None = None) -> tuple[Any, float]:
    """What `work` gives, and the seconds it took, which are printed."""
    start, cpu = time.perf_counter(), time.process_time()
    value = work()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    ratio = f"   naive: {before / seconds:.1f} times as long" if before else ""
    sys.stdout.write(f"{what:44s}{seconds:8.2f} s{cpu:8.2f} s of CPU{ratio}\n")
    sys.stdout.flush()
    return value, seconds


def measure(storage: str, yaml: Path, trials: int, with_table: bool) -> None:
    """Print the times of everything that reads the sweep."""
    spec, _ = timed("load_space", lambda: load_space(yaml))
    sweep = sweep_folder(spec)
    count, slow = timed("naive: list all, read one by one, check all", lambda: naive(sweep))
    assert count == trials, count
    _, listing = timed("list everything", lambda: sweep.files(recursive=True))
    timed("find the results", lambda: sweep.find(FILE_NAME, ("cache", "checkpoints", "control", "model")), listing)
    heads, _ = timed("read_heads", lambda: read_heads(sweep), slow)
    assert len(heads) == trials
    timed("read_trials", lambda: read_trials(sweep), slow)
    timed("make_plan", lambda: make_plan(spec))
    timed("status: read_state", lambda: read_state(sweep))
    if with_table:
        timed("load_results", lambda: load_results(sweep))


def on_s3(local: Path, run: Callable[[str], None], latency: float) -> None:
    """Copy a folder to an S3 server behind a proxy that is `latency` seconds slow, and run with its URI."""
    import boto3
    from faulty_s3 import FaultyS3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    secret = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-tests"}
    os.environ |= secret | {"AWS_DEFAULT_REGION": "us-east-1"}
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}")
    client.create_bucket(Bucket="lab")
    for path in (path for path in local.rglob("*") if path.is_file()):
        client.put_object(Bucket="lab", Key=f"sweeps/{path.relative_to(local)}", Body=path.read_bytes())
    with FaultyS3(host, port) as proxy:
        proxy.delay(10**9, latency)
        run(proxy.uri("lab/sweeps"))
    server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--readings", type=int, default=100)
    parser.add_argument("--s3", action="store_true")
    parser.add_argument("--latency", type=float, default=0.02)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        yaml = space(root, args.trials, str(root / "sweeps"))
        spec = load_space(yaml)
        size = fill(root / "sweeps" / spec.name, spec.trials, args.readings)
        sys.stdout.write(f"{len(spec.trials)} trials, {size / 1000:.1f} KB a result\n")

        def run(storage: str) -> None:
            measure(storage, space(root, args.trials, storage), len(spec.trials), with_table=not args.s3)

        if args.s3:
            on_s3(root / "sweeps", run, args.latency)
        else:
            run(str(root / "sweeps"))


if __name__ == "__main__":
    main()
