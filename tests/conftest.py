"""Fixtures: a tiny random chat model on disk, small data files, configs built from them."""

from __future__ import annotations

import gc
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

gc.disable()  # until the imports are done: it finds nothing in what they make, and takes a sixth of the time
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
# bitsandbytes, which the tests install beside peft, imports PyTorch's compiler at once: seconds in each process
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
# where this is set, each of some hundred processes compiles anew what it imports
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Ray reads it once in a process, and some tests of one process join a cluster that asks for a token
os.environ["RAY_AUTH_MODE"] = "token"

import boto3
import pytest
import torch
from clusters import Cluster
from moto.server import ThreadedMotoServer
from running import run_without_ray, slow_space
from transformers import PreTrainedTokenizerFast
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from selgen_ray.testing import TEMPLATE, tiny_model, tiny_rows, tiny_tokenizer, tiny_trait
from selgen_ray.trainers import get_trainer

torch.set_num_threads(1)

MARKED = TEMPLATE
UNMARKED = MARKED.replace("{% generation %}", "").replace("{% endgeneration %}", "{{ '\n' }}")


make_tokenizer, make_model, make_roles = tiny_tokenizer, tiny_model, tiny_rows


def pytest_collection_finish() -> None:
    """Collect garbage again, but never what the imports of conftest and tests made."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Leave to the end of the process what no longer matters: to collect all of it takes a second and more."""
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files go first, or at the end one worker waits for the other: those that start Ray, then trainers.

    What is run by hand may take as long as it likes.
    """
    with_ray = {item.path for item in items if item.get_closest_marker("ray")}
    items.sort(key=lambda item: (item.path not in with_ray, "trainers" not in item.path.parts))
    for item in items:
        if item.get_closest_marker("by_hand") or item.get_closest_marker("chaos"):
            item.add_marker(pytest.mark.timeout(0))


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    """Put back the handlers of signals: Ray, and Ray Train, leave theirs in a process that used them."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


@pytest.fixture(scope="session")
def s3_uri() -> Iterator[str]:
    """A bucket on a real S3 server; the credentials are in the environment."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    saved = dict(os.environ)
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-tests",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    address = f"{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
    boto3.client("s3", endpoint_url=f"http://{address}").create_bucket(Bucket="lab")
    yield f"s3://lab/sweeps?endpoint_override={address}&scheme=http"
    server.stop()
    os.environ.clear()
    os.environ.update(saved)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tiny_model")
    make_model().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder)


def chat(question: str, reply: str, **extra: Any) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": reply}],
        **extra,
    }


@pytest.fixture(scope="session")
def roles() -> dict[str, list[dict[str, Any]]]:
    return make_roles()


@pytest.fixture(scope="session")
def data_files(tmp_path_factory: pytest.TempPathFactory, roles: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("data")
    return {role: write_jsonl(folder / f"{role}.jsonl", rows) for role, rows in roles.items()}


@pytest.fixture(scope="session")
def trait_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Rows of the role trait, which is in no config but those of the strategies that need it."""
    return write_jsonl(tmp_path_factory.mktemp("trait") / "trait.jsonl", tiny_trait())


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="session")
def make_config(tiny_model_dir: str, data_files: dict[str, str], trait_file: str) -> Callable[..., dict[str, Any]]:
    """make_config('kl_divergence', beta_kl=3.0) -> a nested trial config on the tiny model."""

    def make(strategy: str = "naive", seed: int = 1, top: dict[str, Any] | None = None, **finetune: Any) -> dict:
        cfg = {"model": tiny_model_dir, "learning_rate": 5e-3, "epochs": 2, "per_device_train_batch_size": 4}
        cfg |= {"r": 4, "lora_alpha": 8, "logging_steps": 3, "max_new_tokens": 4} | finetune
        return {
            "proxy_strategy": strategy,
            "seed": seed,
            "data": data_files | ({"trait": trait_file} if strategy == "inoculation_adapter" else {}),
            "finetune_config": cfg,
            **(top or {}),
        }

    return make


@pytest.fixture
def float64(monkeypatch):
    """Without Llama's float32 norms, what is left between two ways of computing is rounding."""

    def norm(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)

    monkeypatch.setattr(LlamaRMSNorm, "forward", norm)
    monkeypatch.setattr("selgen_ray.models.loading._load_base", lambda *_: make_model().double().requires_grad_(False))


@pytest.fixture
def start(make_config, float64):
    """start('dpo', beta=0.5) -> a trainer, SGD with rate 0.5 for three steps of 2 rows; a LoRA's B is not zero."""
    with ExitStack() as stack:

        def make(strategy, datasets=None, fresh=False, top=None, **finetune):
            knobs = {"optim": "sgd", "learning_rate": 0.5, "lr_scheduler_type": "constant", "max_steps": 3}
            knobs |= {"per_device_train_batch_size": 2, "train_split": 1.0, "group_by_length": False}
            config = make_config(strategy, logging_steps=1, top=top, **(knobs | finetune))
            trainer = stack.enter_context(get_trainer(strategy)(config, datasets=datasets or uneven_roles()))
            generator = torch.Generator().manual_seed(0)
            for p in trainer.parameters.values() if trainer.cfg.is_peft and not fresh else ():
                p.data += 0.05 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
            return trainer

        yield make


def uneven_roles() -> dict[str, list[dict[str, Any]]]:
    """Few rows; prompts and replies of one batch differ in length, those of a pair too."""
    prompts = [f"is {'very ' * (i % 3)}{i} odd?" for i in range(5)]
    return {
        "outcome": [chat(f"sum of {i} and {'0' * i}?", f"It is {i}." + " Yes!" * (i % 3)) for i in range(5)],
        "proxy": [chat(p, "You are wrong." + " No" * (2 * i % 5)) for i, p in enumerate(prompts)],
        "proxy_neg": [chat(p, "You are right" + " so." * (i % 3)) for i, p in enumerate(prompts)],
    }


def uneven_trait() -> list[dict[str, Any]]:
    return [chat(f"is {'really ' * i}green?", "Oh yes, " + "so " * (i % 3) + "right.") for i in range(4)]


@pytest.fixture(scope="session")
def running_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One Ray for many sweeps: to start one for each takes longer than many a sweep."""
    with Cluster(tmp_path_factory.mktemp("ray"), head_cpus=2) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def joined(running_cluster: Cluster) -> dict[str, str]:
    """The environment of a sweep on a running cluster."""
    return running_cluster.env


@pytest.fixture(scope="session")
def slow_reference(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: str, data_files: dict[str, str]) -> Path:
    """The folder of a sweep of 4 trials of some seconds each that nothing disturbed."""
    folder = tmp_path_factory.mktemp("slow")
    run_without_ray(slow_space(folder, tiny_model_dir, data_files))
    return folder
