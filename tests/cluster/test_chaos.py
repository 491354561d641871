"""Whatever is killed, every trial is completed exactly once and gives what the undisturbed sweep gives.

The long form, by hand: python -m pytest -m chaos -n 0 -s
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import safetensors.torch
import torch
from chaos import Bucket, Chaos, Disk, Storage
from clusters import Cluster
from faulty_s3 import FaultyS3
from running import run_without_ray, write_space

from selgen_ray.reading import load_results, read_sweep
from selgen_ray.records.events import read_events
from selgen_ray.records.results import json_schema
from selgen_ray.storage import Folder

pytestmark = [pytest.mark.ray, pytest.mark.slow]
SHORT = {"epochs": 12, "save_steps": 4, "logging_steps": 4, "max_to_eval": 1, "max_new_tokens": 1, "lora_dropout": 0.1}


SHORTER = SHORT | {"epochs": 6}
# a fault of a worker costs seconds, one of Ray or of the driver half a minute; while the storage refuses no worker runs
EVERYTHING = {"worker": 40, "refused": 3, "storage": 8, "damage": 10, "steering": 12, "frozen_worker": 20}
EVERYTHING |= {"node": 3, "driver": 4, "frozen_driver": 2, "raylet": 2, "gcs": 1, "agent": 2}


def space_of(
    folder: Path, model: str, data: dict[str, str], betas: range, storage: str, finetune: dict = SHORT
) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    strategies = {"kl_divergence": {"grid": {"finetune_config.beta_kl": [0.5 + i for i in betas]}}}
    resources = {"max_failures": 100}
    return write_space(
        folder, model, data, finetune, strategies=strategies, storage_path=storage, resources=resources, seeds=[1, 2]
    )


def weights(place: Folder) -> dict[str, dict[str, torch.Tensor]]:
    """'<slug>/seed_<N>' -> the adapter, of a sweep's folder."""
    found = {}
    for folder, result in read_sweep(place):
        name = f"{result.slug}/seed_{result.seed}"
        found[name] = safetensors.torch.load(folder.read("model/adapter_model.safetensors"))
    return found


@contextlib.contextmanager
def bucket(s3: str, name: str) -> Iterator[Bucket]:
    upstream = s3.partition("endpoint_override=")[2].partition("&")[0]
    host, _, port = upstream.partition(":")
    with FaultyS3(host, int(port)) as proxy:
        yield Bucket(proxy, name, upstream)


@contextlib.contextmanager
def disk(place: Path) -> Iterator[Disk]:
    try:
        small = Disk(place)
    except PermissionError as error:
        pytest.skip(str(error))
    with small:
        yield small


def survive(
    tmp_path: Path,
    model: str,
    data: dict[str, str],
    storage: Storage,
    settings: int,
    kinds: dict[str, int],
    most: int,
    added: int = 0,
    finetune: dict = SHORT,
    **options: Any,
) -> Chaos:
    """Run a sweep with and without faults, and compare.

    Args:
        settings: of which the last `added` are not in the search space, but added while the sweep runs.
    """
    run_without_ray(space_of(tmp_path / "calm", model, data, range(settings), "./sweeps", finetune))
    credentials = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    with Cluster(tmp_path, head_cpus=1, env=credentials) as cluster:
        first = range(settings - added)
        space = space_of(tmp_path / "wild", model, data, first, storage.uri, finetune)
        later = range(settings - added, settings)
        more = space_of(tmp_path / "more", model, data, later, storage.uri, finetune) if added else None
        place = Folder(storage.direct) / "tiny"
        chaos = Chaos(cluster, storage, space, place, cluster.env | credentials, settings, more, **options)
        chaos.run(kinds, most, seconds=3600, expected=2 * settings)
    expected = weights(Folder(str(tmp_path / "calm" / "sweeps" / "tiny")))
    validator, seen = jsonschema.Draft202012Validator(json_schema()), Counter()
    for _, result in read_sweep(place):
        validator.validate(result.model_dump(mode="json"))
        assert result.status == "completed", result.error
        seen[result.trial_id] += 1
    assert set(seen.values()) == {1} and len(seen) == 2 * settings == len(expected)
    assert chaos.went_back == []
    if not chaos.faults["damage"]:  # which may tear the events too
        completed = Counter(e["trial"] for e in read_events(place) if e["event"] == "completed")
        repeated = {result.trial_id: f"{result.slug}/seed_{result.seed}" for _, result in read_sweep(place)}
        for trial_id in chaos.repeated:
            completed.pop(repeated.get(trial_id, ""), None)
        assert max(completed.values()) == 1, completed
    found = weights(place)
    assert found.keys() == expected.keys()
    for name, tensors in expected.items():
        assert all(torch.equal(tensors[key], found[name][key]) for key in tensors), name
    assert not [name for name in place.files(recursive=True) if "/checkpoints/" in name]
    return chaos


def test_a_short_storm(tmp_path, tiny_model_dir, data_files, s3_uri):
    kinds = dict.fromkeys(["worker", "storage", "frozen_driver", "node", "driver"], 1)
    with bucket(s3_uri, "lab/short_storm") as storage:
        options = {"settings": 2, "most": 5, "every_s": (0.5, 2.0)}
        chaos = survive(tmp_path, tiny_model_dir, data_files, storage, kinds=kinds, **options)
        files = {name: chaos.place.read(name) for name in chaos.place.files(recursive=True)}
        happened = Counter(event["event"] for event in read_events(chaos.place))
    assert all(chaos.faults[kind] for kind in kinds)
    assert happened["taken_over"] == 1 and happened["sweep_started"] == chaos.started > happened["sweep_ended"] >= 1
    live = json.loads(files["control/live.json"])
    assert (live["pid"], live["over"]) == (chaos.driver.pid, True)
    results = [name for name in files if name.endswith("results.json")]
    assert len(results) == 4 and {json.loads(files[name])["generation"] for name in results} - {1}
    assert not [name for name in files if "/attempts/" in name]
    assert {"report/figures/pareto.png", "report/index.html"} <= files.keys()
    assert list(load_results(chaos.place)["status"]) == ["completed"] * 4
    secret = os.environ["AWS_SECRET_ACCESS_KEY"].encode()
    assert not [name for name, content in files.items() if secret in content]


@pytest.mark.chaos
def test_processes_that_freeze_and_wake_up(tmp_path, tiny_model_dir, data_files, s3_uri, capsys):
    kinds = dict.fromkeys(["frozen_driver", "frozen_worker", "driver"], 1)
    with bucket(s3_uri, "lab/frozen") as storage:
        chaos = survive(tmp_path, tiny_model_dir, data_files, storage, settings=4, kinds=kinds, most=8)
    with capsys.disabled():
        sys.stdout.write(f"\n8 trials survived {dict(chaos.faults)}\n")


@pytest.mark.chaos
@pytest.mark.parametrize("where", ["disk", "bucket"])
def test_a_long_storm(where, tmp_path, tiny_model_dir, data_files, s3_uri, capsys):
    """Of the two together: 200 faults or more of all kinds, over 160 trials."""
    place = disk(tmp_path / "disk") if where == "disk" else bucket(s3_uri, "lab/long_storm")
    with place as storage:
        options = {"settings": 40, "added": 4, "finetune": SHORTER, "every_s": (0.5, 2.5)}
        chaos = survive(tmp_path, tiny_model_dir, data_files, storage, kinds=EVERYTHING, most=105, **options)
    assert all(chaos.faults[kind] for kind in EVERYTHING), chaos.faults
    with capsys.disabled():
        sys.stdout.write(f"\n{where}: 80 trials survived {chaos.faults.total()} faults: {dict(chaos.faults)}\n")
