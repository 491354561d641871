"""The shipped model: a plan takes for granted what is held here, so that it need not import what builds models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, get_scheduler

from selgen_ray.config.finetune import FinetuneConfig
from selgen_ray.config.trial import TrialConfig
from selgen_ray.data.tokens import tokenizer_hash
from selgen_ray.models import checks
from selgen_ray.models.tokenizer import load_tokenizer
from selgen_ray.trainers.engine.optim import schedule
from selgen_ray.worlds.toy import MODEL_DIR

QUICKSTART = Path(__file__).parents[2] / "search_spaces" / "quickstart.yaml"
PLAN = """
import sys
from selgen_ray.sweep.run import main
assert main([sys.argv[1], "--dry-run"]) == 0
slow = {"peft", "accelerate", "transformers.modeling_utils", "torch._dynamo", "torch.distributed.tensor", "ray"}
assert not slow & sys.modules.keys(), slow & sys.modules.keys()
"""


def test_what_a_plan_says_of_it_is_what_building_it_says(monkeypatch):
    shipped = TrialConfig()
    said = checks.positions_of(shipped.finetune_config), checks._vocabulary(shipped.finetune_config)
    assert checks.is_shipped(shipped.finetune_config) and checks.model_problems(shipped) == []
    layers = checks._shipped_config()["num_hidden_layers"]
    monkeypatch.setattr(checks, "is_shipped", lambda cfg: False)
    assert (checks.positions_of(shipped.finetune_config), checks._vocabulary(shipped.finetune_config)) == said
    assert checks.model_problems(shipped) == []
    assert checks._skeleton(shipped.finetune_config).config.num_hidden_layers == layers
    assert sum(".lora_A." in name for name, _ in checks.adapted_skeleton(shipped.finetune_config).named_parameters())


@pytest.mark.parametrize(
    "changed", [{"use_dora": True}, {"target_modules": ["q_proj"]}, {"lora_bias": "all"}, {"save_merged": True}]
)
def test_another_adapter_is_checked(changed):
    assert not checks.is_shipped(FinetuneConfig(**changed))


def test_its_tokenizer_is_the_one_that_transformers_finds():
    ours, found = load_tokenizer(FinetuneConfig()), AutoTokenizer.from_pretrained(MODEL_DIR)
    assert type(ours) is type(found) and tokenizer_hash(ours) == tokenizer_hash(found)


def test_the_plan_of_the_quickstart_imports_no_models(tmp_path):
    done = subprocess.run([sys.executable, "-c", PLAN, str(QUICKSTART)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant", "constant_with_warmup", "polynomial"])
@pytest.mark.parametrize("warmup", [{}, {"warmup_steps": 3}, {"warmup_ratio": 0.5}, {"warmup_steps": 9}])
def test_a_plan_knows_the_schedules_of_transformers(kind, warmup):
    cfg, steps = FinetuneConfig(lr_scheduler_type=kind, learning_rate=0.01, **warmup), 9
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.01)
    number = warmup.get("warmup_steps") or (5 if warmup else 0)
    scheduler = get_scheduler(kind, optimizer, num_warmup_steps=number, num_training_steps=steps)
    assert schedule(cfg, steps) == pytest.approx([scheduler.lr_lambdas[0](step) for step in range(steps)], abs=1e-12)
