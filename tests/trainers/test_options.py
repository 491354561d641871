"""No option is accepted and ignored: every field of the config is classed here, and does what its class says."""

import pytest
import torch
from conftest import make_model
from test_strategies import same, trained

from selgen_ray.config import DataConfig, FinetuneConfig, TrialConfig
from selgen_ray.fingerprint import trial_id
from selgen_ray.trainers import build_config, get_trainer
from selgen_ray.worlds import WORLDS

# another value changes the trained weights
CHANGES_WEIGHTS = {
    "dtype": "bfloat16",
    "epochs": 3,
    "max_steps": 4,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 3,
    "warmup_ratio": 0.4,
    "optim": "sgd",
    "weight_decay": 0.5,
    "max_grad_norm": 1e-3,
    "per_device_train_batch_size": 3,
    "proxy_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "proxy_cycling_mode": "synchronized",
    "group_by_length": False,
    "train_split": 0.5,
    "max_seq_length": 28,
    "loss_on": "all",
    "is_peft": False,
    "r": 2,
    "lora_alpha": 3.0,
    "lora_dropout": 0.3,
    "lora_bias": "all",
    "use_rslora": True,
    "target_modules": ["q_proj"],
}
# changes what is reported, not the weights
CHANGES_RESULTS = {"max_to_eval": 1, "max_new_tokens": 1}
# changes neither; not part of a trial's identity
EXECUTION = {
    "use_gradient_checkpointing": True,
    "per_device_eval_batch_size": 2,
    "auto_batch": True,
    "logging_steps": 1,
    "save_steps": 2,
    "max_checkpoints_to_keep": 1,
    "save_model_locally": True,
    "output_dir": "/somewhere",
    "finetuned_model_id": "name",
}
# tested elsewhere: another model (test_fingerprint); how it is loaded, and that device_map is refused (test_hardware)
ELSEWHERE = {"model", "model_revision", "load_in_4bit", "load_in_8bit", "attn_implementation", "device_map"}
# kl_divergence reads a second stream, continuous and shorter than outcome
STRATEGY = ("kl_divergence", {"beta_kl": 2.0})


def test_every_field_is_classed():
    classed = CHANGES_WEIGHTS.keys() | CHANGES_RESULTS.keys() | EXECUTION.keys() | ELSEWHERE
    assert classed == FinetuneConfig.model_fields.keys()
    assert TrialConfig.model_fields.keys() == {
        *("proxy_strategy", "seed", "data_seed", "model_seed", "experiment_name", "data", "finetune_config"),
        "num_workers",  # test_ranks
    }
    roles = {"outcome", "proxy", "proxy_neg", "truth", "collateral"}
    assert DataConfig.model_fields.keys() == {*roles, "world", *WORLDS}  # their options: tests/worlds


def id_of(config):
    return trial_id(build_config(config), dict.fromkeys(config["data"], "hash"), "model")


@pytest.fixture
def plain(make_config):
    name, knobs = STRATEGY
    return trained(make_config(name, **knobs))


@pytest.mark.parametrize("field", sorted(CHANGES_WEIGHTS.keys() - {"lora_bias"}))
def test_a_setting_changes_the_weights_and_the_identity(make_config, plain, field):
    name, knobs = STRATEGY
    changed = make_config(name, **knobs, **{field: CHANGES_WEIGHTS[field]})
    weights, _ = trained(changed)
    assert not same(weights, plain[0])
    assert id_of(changed) != id_of(make_config(name, **knobs))


@pytest.mark.parametrize("field", sorted(EXECUTION))
def test_an_execution_field_changes_neither(make_config, plain, field):
    name, knobs = STRATEGY
    changed = make_config(name, **knobs, **{field: EXECUTION[field]})
    weights, record = trained(changed)
    # padding and recomputation may move the last bit
    assert all(torch.allclose(weights[n], plain[0][n], atol=1e-6) for n in weights)
    assert record.eval_results["task_test"]["loss"] == pytest.approx(plain[1].eval_results["task_test"]["loss"])
    assert id_of(changed) == id_of(make_config(name, **knobs))


@pytest.mark.parametrize("field", sorted(CHANGES_RESULTS))
def test_a_reporting_field_changes_the_identity_only(make_config, plain, field):
    name, knobs = STRATEGY
    changed = make_config(name, **knobs, **{field: CHANGES_RESULTS[field]})
    weights, _ = trained(changed)
    assert same(weights, plain[0])
    assert id_of(changed) != id_of(make_config(name, **knobs))


def test_lora_bias_trains_biases_and_gives_the_base_its_own_back(make_config, monkeypatch):
    base = make_model(attention_bias=True).requires_grad_(False)
    before = {name: p.clone() for name, p in base.named_parameters()}
    monkeypatch.setattr("selgen_ray.models._load_base", lambda *_: base)
    trainer = get_trainer("naive")(make_config(lora_bias="all"))
    biases = {name: p.detach().clone() for name, p in trainer.parameters.items() if name.endswith(".bias")}
    assert biases
    trainer.train()
    assert all(not torch.equal(trainer.parameters[name], bias) for name, bias in biases.items())
    trainer.close()
    assert all(torch.equal(before[name], p) for name, p in base.named_parameters())
    assert id_of(make_config(lora_bias="all")) != id_of(make_config())


def test_fused_adamw_is_adamw(make_config):
    plain, _ = trained(make_config())
    fused, _ = trained(make_config(optim="adamw_torch_fused"))
    assert all(torch.allclose(plain[n], fused[n], atol=1e-5) for n in plain)


@pytest.mark.parametrize("name", ["linear", "cosine", "constant", "constant_with_warmup", "polynomial"])
def test_every_schedule_runs(make_config, name):
    seen = []
    config = make_config(lr_scheduler_type=name, warmup_steps=2, logging_steps=1)
    trainer = get_trainer("naive")(config, on_progress=lambda m: seen.append(m["learning_rate"]))
    trainer.train()
    trainer.close()
    assert max(seen) == pytest.approx(5e-3)
    if name.startswith("constant"):
        assert seen[-1] == pytest.approx(5e-3)
    else:
        assert seen[-1] < 1e-6 + seen[2] / 10
