"""A strategy of the newest kind, written by a user in one file, with a search space that names it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from runs import trained

from selgen_ray.space import load_space
from selgen_ray.testing import check_strategy
from selgen_ray.trainers import get_trainer, plugins

PLUGIN = Path(__file__).parent / "recontextualization.py"


@pytest.fixture(autouse=True)
def _named_in_a_search_space(tmp_path):
    space = tmp_path / "space.yaml"
    space.write_text(f"plugins: [{PLUGIN}]\nbase: {{data.world: toy}}\nstrategies: {{recontextualization: {{}}}}\n")
    (trial,) = load_space(space).trials
    assert trial.config.proxy_strategy == "recontextualization"
    yield
    plugins.register_exactly(())


def test_it_keeps_the_promises_of_a_strategy():
    check_strategy(get_trainer("recontextualization"), {"finetune_config.context_scale": 3.0})


def test_it_learns_otherwise_than_plain_training_and_is_off_when_measured(make_config):
    """As `training_scope` promises: also through gradient checkpointing, and not in an evaluation."""
    plain, before = trained(make_config("naive", top={"train_on_proxy": False}))
    shifted, record = trained(make_config("recontextualization", context_scale=3.0))
    again, _ = trained(make_config("recontextualization", context_scale=3.0, use_gradient_checkpointing=True))
    assert record.eval_results["task_test"]["loss"][0] == before.eval_results["task_test"]["loss"][0]
    assert any(not torch.equal(plain[name], shifted[name]) for name in plain)
    assert all(torch.allclose(again[name], shifted[name], atol=1e-6) for name in again)
