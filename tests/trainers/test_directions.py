"""Directions that are zero, or of a model that hardly moved, are refused or flagged, whatever their cause."""

import pytest
import safetensors.torch
import torch
from conftest import make_roles

from selgen_ray.errors import DataError
from selgen_ray.trainers import build_config, get_trainer

PLANES = ["steering_weights", "steering_weights_add_alignment_plane", "orth_penalty", "directional_penalty"]
DIRECTED = [*PLANES, "grad_project_precomputed_proxy_grad"]
ELEVEN = {"train_split": 1.0, "per_device_train_batch_size": 8, "proxy_epochs": 1, "optim": "sgd", "max_steps": 2}
STILL = ELEVEN | {"learning_rate": 1e-300}  # zero in float32


@pytest.fixture
def start(make_config):
    """start('orth_penalty', warmup_steps=1) -> a trainer on eleven rows of each role."""

    def make(strategy, top=None, **finetune):
        events = []
        roles = {role: (rows * 11)[:11] for role, rows in make_roles().items()}
        config = make_config(strategy, top=top, logging_steps=1, **ELEVEN | finetune)
        trainer = get_trainer(strategy)(config, datasets=roles, on_event=events.append)
        trainer.events, trainer.roles = events, roles
        return trainer

    return make


@pytest.mark.parametrize("strategy", DIRECTED)
@pytest.mark.parametrize(
    ("top", "finetune", "why"),
    [
        ({}, {"warmup_steps": 1}, "2 steps, of which warmup_steps: 1 leaves 1 with a learning rate"),
        ({}, {"warmup_ratio": 0.1}, "2 steps, of which warmup_ratio: 0.1 leaves 1"),
        ({"limit_proxy_data_to": 8}, {}, r"8 training rows of proxy \(limit_proxy_data_to: 8\) is one step"),
        ({}, {"train_split": 0.7}, "one step"),
    ],
)
def test_too_few_steps_with_a_learning_rate_are_refused(start, strategy, top, finetune, why):
    with pytest.raises(DataError, match=why):
        start(strategy, top, **finetune)
    start(strategy)  # two steps suffice
    start(strategy, is_peft=False, top=top, **finetune)  # without LoRA the first gradient is one


@pytest.mark.parametrize(
    ("strategy", "finetune"),
    [
        ("safe_lora", {"warmup_steps": 1}),
        ("orth_penalty", {"warmup_steps": 1, "calc_alignment_plane_using_fully_finetuned_weights": True}),
    ],
)
def test_weights_that_do_not_change_are_refused(start, strategy, finetune):
    is_peft = strategy == "safe_lora"
    with pytest.raises(DataError, match="changes no weight"):
        start(strategy, {"limit_proxy_data_to": 8}, is_peft=is_peft, **finetune)
    start(strategy, is_peft=is_peft, **finetune)


def test_a_training_on_the_outcome_is_not_told_to_change_what_is_the_proxy_s(start):
    with pytest.raises(DataError, match="changes no weight") as error:
        start("interleaving", {"limit_proxy_data_to": 8}, per_device_train_batch_size=11, warmup_steps=1)
    assert "11 training rows of outcome is one step" in str(error.value)
    assert "lower finetune_config.per_device_train_batch_size" in str(error.value)


@pytest.mark.parametrize("strategy", ["orth_penalty", "directional_penalty", "safe_lora"])
def test_a_training_that_changed_nothing_is_refused_when_it_is_found(start, strategy):
    with pytest.raises(DataError, match="is zero, so that the strategy would do nothing"):
        start(strategy, **STILL).train()


@pytest.mark.parametrize("strategy", ["steering_weights", "grad_project_precomputed_proxy_grad"])
def test_a_direction_that_is_zero_in_part_says_in_which_share(start, strategy):
    shares = start(strategy, **STILL).train().train_metrics["plane_zero_share"]
    assert shares == [0.5, 0.5]  # each A, no B
    assert "plane_zero_share" not in start(strategy, learning_rate=0.5).train().train_metrics


@pytest.mark.parametrize("strategy", PLANES)
@pytest.mark.parametrize(("value", "why"), [(0.0, "tensors that are used is zero"), (float("nan"), "NaN")])
def test_a_loaded_vector_is_looked_at(start, tmp_path, strategy, value, why):
    path = tmp_path / "v.safetensors"
    trainer = start(strategy, load_steering_vector=True, steering_vector_path=str(path))
    safetensors.torch.save_file({n: torch.full_like(p, value) for n, p in trainer.parameters.items()}, path)
    with pytest.raises(DataError, match=f"{path}.*{why}"):
        trainer.train()


@pytest.mark.parametrize("strategy", ["orth_penalty", "grad_project_precomputed_proxy_grad", "safe_lora"])
def test_a_throw_away_training_that_never_reaches_its_peak_says_so(start, strategy):
    trainer = start(strategy, warmup_steps=10, proxy_epochs=2)
    notes = type(trainer).row_notes(trainer.config, trainer.roles)
    assert "on proxy has 4 steps and ends in its warm-up (warmup_steps: 10), at 0.3 of the learning rate" in notes[0]
    record = trainer.train()
    assert record.flags[: len(notes)] == notes
    assert [event["why"] for event in trainer.events if event["event"] == "peak_not_reached"] == notes
    warm = start(strategy, warmup_steps=3, proxy_epochs=2)
    assert type(warm).row_notes(warm.config, warm.roles) == []
    assert not [flag for flag in warm.train().flags if "warm-up" in flag]


@pytest.mark.parametrize(
    ("strategy", "strength", "knobs"),
    [
        ("asft", "lambda_asft", {}),
        ("inoculation_adapter", "trait_scale", {}),
        ("concept_ablation", "ablate_components", {"ablate_from": "tuned"}),
        ("interleaving", "interleave_share", {}),
        ("weight_steering", "steer_k", {}),
    ],
)
def test_no_note_tells_of_a_training_that_strength_zero_skips(make_config, strategy, strength, knobs):
    roles = {role: (rows * 11)[:11] for role, rows in make_roles().items()}
    roles["trait"] = roles["outcome"]
    trainer = get_trainer(strategy)
    for value in (0, None):
        finetune = knobs | ELEVEN | {"warmup_steps": 10, strength: value}
        del finetune["proxy_epochs"]
        config = build_config(make_config(strategy, **{k: v for k, v in finetune.items() if v is not None}))
        assert bool(trainer.row_notes(config, roles)) is (value is None)
