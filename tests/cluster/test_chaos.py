"""Whatever is killed, every trial is completed exactly once and gives what the undisturbed sweep gives.

The long form, by hand: python -m pytest -m chaos -n 0 -s
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

import jsonschema
import pytest
import safetensors.torch
import torch
from chaos import Chaos
from clusters import Cluster
from faulty_s3 import FaultyS3
from running import run_without_ray, write_space

from selgen_ray.reading import read_sweep
from selgen_ray.records.events import read_events
from selgen_ray.records.results import json_schema
from selgen_ray.storage import Folder

pytestmark = [pytest.mark.ray, pytest.mark.slow]
SHORT = {"epochs": 12, "save_steps": 4, "logging_steps": 4, "max_to_eval": 1, "max_new_tokens": 1, "lora_dropout": 0.1}


def space_of(folder: Path, model: str, data: dict[str, str], settings: int, storage: str) -> Path:
    folder.mkdir(exist_ok=True)
    strategies = {"kl_divergence": {"grid": {"finetune_config.beta_kl": [0.5 + i for i in range(settings)]}}}
    resources = {"max_failures": 100}
    return write_space(
        folder, model, data, SHORT, strategies=strategies, storage_path=storage, resources=resources, seeds=[1, 2]
    )


def weights(place: Folder) -> dict[str, dict[str, torch.Tensor]]:
    """'<slug>/seed_<N>' -> the adapter, of a sweep's folder."""
    found = {}
    for folder, result in read_sweep(place):
        name = f"{result.slug}/seed_{result.seed}"
        found[name] = safetensors.torch.load(folder.read("model/adapter_model.safetensors"))
    return found


def survive(tmp_path: Path, model: str, data: dict[str, str], s3: str, settings: int, kinds: list[str], most: int):
    """Run a sweep with and without faults, and compare; returns the faults."""
    run_without_ray(space_of(tmp_path / "calm", model, data, settings, "./sweeps"))
    upstream = s3.partition("endpoint_override=")[2].partition("&")[0]
    host, _, port = upstream.partition(":")
    credentials = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    with (
        FaultyS3(host, int(port)) as storage,
        Cluster(tmp_path, head_cpus=1, env=credentials) as cluster,
    ):
        address = f"s3://lab/chaos_{settings}?endpoint_override={storage.address}&scheme=http"
        space = space_of(tmp_path / "wild", model, data, settings, address)
        direct = Folder(f"s3://lab/chaos_{settings}?endpoint_override={upstream}&scheme=http") / "tiny"
        chaos = Chaos(cluster, storage, space, direct, cluster.env | credentials, seed=settings)
        chaos.run(kinds, most, seconds=1500)
    expected = weights(Folder(str(tmp_path / "calm" / "sweeps" / "tiny")))
    place = chaos.place
    validator, seen = jsonschema.Draft202012Validator(json_schema()), Counter()
    for _, result in read_sweep(place):
        validator.validate(result.model_dump(mode="json"))
        assert result.status == "completed", result.error
        seen[result.trial_id] += 1
    assert set(seen.values()) == {1} and len(seen) == 2 * settings == len(expected)
    completed = Counter(e["trial"] for e in read_events(place) if e["event"] == "completed")
    assert max(completed.values()) == 1, completed
    found = weights(place)
    assert found.keys() == expected.keys()
    for name, tensors in expected.items():
        assert all(torch.equal(tensors[key], found[name][key]) for key in tensors), name
    assert not [name for name in place.files(recursive=True) if "/checkpoints/" in name]
    return chaos.faults, storage.injected


def test_a_short_storm(tmp_path, tiny_model_dir, data_files, s3_uri):
    kinds = ["worker", "storage", "driver", "node"]
    faults, _ = survive(tmp_path, tiny_model_dir, data_files, s3_uri, settings=3, kinds=kinds, most=4)
    assert all(faults[kind] for kind in kinds)


@pytest.mark.chaos
def test_processes_that_freeze_and_wake_up(tmp_path, tiny_model_dir, data_files, s3_uri, capsys):
    kinds = ["frozen_driver", "frozen_worker", "driver"]
    faults, _ = survive(tmp_path, tiny_model_dir, data_files, s3_uri, settings=4, kinds=kinds, most=8)
    with capsys.disabled():
        sys.stdout.write(f"\n8 trials survived {dict(faults)}\n")


@pytest.mark.chaos
def test_a_long_storm(tmp_path, tiny_model_dir, data_files, s3_uri, capsys):
    kinds = ["worker", "storage", "node", "driver", "frozen_driver", "frozen_worker"]
    faults, injected = survive(tmp_path, tiny_model_dir, data_files, s3_uri, settings=24, kinds=kinds, most=60)
    with capsys.disabled():
        sys.stdout.write(f"\n48 trials survived {dict(faults)}, storage requests disturbed: {injected}\n")
