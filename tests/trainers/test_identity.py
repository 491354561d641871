"""What makes two trials the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from selgen_ray.hashing import file_sha256
from selgen_ray.models.fingerprint import model_fingerprint
from selgen_ray.trainers.catalogue import build_config
from selgen_ray.trainers.identity import trial_id


def id_of(model_hash: str = "m", data_hashes: dict[str, str] | None = None, **raw: Any) -> str:
    return trial_id(build_config(raw), data_hashes or {}, model_hash)


def test_ids_do_not_change_between_versions() -> None:
    """Pinned: a change here makes every finished trial of every sweep run again."""
    assert id_of() == "b1faa429b3966238"
    kl = {
        "proxy_strategy": "kl_divergence",
        "seed": 5,
        "data": {"outcome": "/anywhere/task.jsonl", "proxy": "/anywhere/proxy.jsonl"},
        "finetune_config": {"model": "Qwen/Qwen3-8B", "learning_rate": 1e-5, "r": 32, "beta_kl": 10},
    }
    hashes = {"outcome": "a" * 64, "proxy": "b" * 64}
    assert id_of("hub:Qwen/Qwen3-8B@main", hashes, **kl) == "9524fc53d694744b"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"finetune_config": {"learning_rate": 1}}, {"finetune_config": {"learning_rate": 1.0}}),
        ({"finetune_config": {"learning_rate": 1.0}}, {"finetune_config": {"learning_rate": "1e0"}}),
        ({"finetune_config": {"learning_rate": 5e-5}}, {}),
        ({"finetune_config": {}}, {}),
        ({"finetune_config": {"r": 4, "epochs": 2}}, {"finetune_config": {"epochs": 2, "r": 4}}),
        ({"proxy_strategy": "task_trained"}, {"proxy_strategy": "naive"}),
        ({"proxy_strategy": "naive", "train_on_proxy": True}, {}),
        ({"data": {"world": "toy"}}, {}),
        ({"experiment_name": "a"}, {"experiment_name": "b"}),
        ({"finetune_config": {"output_dir": "a", "finetuned_model_id": "b"}}, {}),
        ({"seed": 7}, {"data_seed": 7, "model_seed": 7}),
        ({"proxy_strategy": None, "seed": None, "finetune_config": {"max_seq_length": None, "r": None}}, {}),
        ({"data": None, "finetune_config": None, "train_on_proxy": None}, {}),
        (
            {"proxy_strategy": "kl_divergence", "finetune_config": {"beta_kl": None}},
            {"proxy_strategy": "kl_divergence"},
        ),
    ],
)
def test_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert id_of(**one) == id_of(**other)


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 43},
        {"data_seed": 7},
        {"model_seed": 7},
        {"finetune_config": {"learning_rate": 5.0000001e-5}},
        {"proxy_strategy": "kl_divergence"},
        {"train_on_proxy": False},
        {"data": {"toy": {"num_outcome": 12}}},
    ],
)
def test_different(other: dict[str, Any]) -> None:
    assert id_of(**other) != id_of()


def test_data_counts_by_content_and_role_not_by_path() -> None:
    def with_data(path: str, content: str, role: str = "outcome") -> str:
        return id_of(data_hashes={role: content}, data={role: path})

    assert with_data("/a/x.jsonl", "1") == with_data("/b/y.jsonl", "1")
    assert with_data("/a/x.jsonl", "1") != with_data("/a/x.jsonl", "2")
    assert with_data("/a/x.jsonl", "1") != with_data("/a/x.jsonl", "1", role="proxy")


def test_the_model_counts_by_fingerprint() -> None:
    assert id_of("m1") != id_of("m2")
    here, there = ({"finetune_config": {"model": model}, "data": {"world": "toy"}} for model in ("/a", "/b"))
    assert id_of("m1", **here) == id_of("m1", **there)
    revision = {"finetune_config": {"model_revision": "main"}}
    assert id_of("m1", **revision) == id_of("m1"), "the revision is in the fingerprint already"


def test_file_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert file_sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(OSError, match="nowhere"):
        file_sha256(tmp_path / "nowhere")


def test_hub_models_are_told_apart_by_revision() -> None:
    assert model_fingerprint("org/model", None) == model_fingerprint("org/model", "main") == "hub:org/model@main"
    assert model_fingerprint("org/model", "v2") == "hub:org/model@v2"


def test_local_models_are_told_apart_by_content(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / "weights").write_bytes(b"w")
        (folder / "config.json").write_text("{}")
    first = model_fingerprint(str(one), None)
    assert first == model_fingerprint(str(other), None)
    (other / ".cache").mkdir()
    (other / ".cache" / "downloaded_at").write_text("now")
    assert first == model_fingerprint(str(other), None), "a download cache is not part of the model"
    (other / "sub" / "weights").write_bytes(b"other")
    assert first != model_fingerprint(str(other), None)
    (one / "sub" / "weights").rename(one / "weights")
    assert first != model_fingerprint(str(one), None)


def test_the_toy_model_has_a_content_hash() -> None:
    assert len(model_fingerprint("toy", None)) == 64
