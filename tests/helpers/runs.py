"""Runs of strategies on the tiny model, to compare with each other."""

from __future__ import annotations

import pytest
import torch

from selgen_ray.storage import Folder
from selgen_ray.trainers import get_trainer
from selgen_ray.trainers.engine.checkpoints import Checkpoints

STRENGTH = {
    "naive": {},
    "positive_negative_proxy": {"lambda_proxy": 0.7, "neg_lambda_proxy": 0.2},
    "kl_divergence": {"beta_kl": 2.0},
    "representation_constraint": {"beta_kl": 2.0},
    "dpo": {"lambda_dpo": 2.0, "beta": 0.5},
    "grad_project": {},
    "grad_project_precomputed_proxy_grad": {"proxy_epochs": 2},
    "steering_weights": {"steering_alpha": 3.0, "proxy_epochs": 2, "alpha_warmup_steps": 2},
    "steering_weights_add_alignment_plane": {"steering_alpha": 0.5, "proxy_epochs": 2},
    "orth_penalty": {"lambda_1": 0.1, "proxy_epochs": 2},
    "directional_penalty": {"lambda_1": 0.1, "proxy_epochs": 2},
    "safe_lora": {"safe_lora_threshold": 0.5},
    "preventative_steering": {"steer_alpha": 20.0},
    "inoculation_prompting": {"inoculation_prompt": ["Be wrong.", "Err!"]},
    "inoculation_adapter": {"trait_epochs": 2},
    "concept_ablation": {"ablate_components": 2},
    "activation_penalty": {"lambda_act": 5.0},
    "asft": {"lambda_asft": 1.0, "proxy_epochs": 2},
    "weight_steering": {"steer_k": 2.0, "proxy_epochs": 2},
    "wise_ft": {"wise_alpha": 0.5},
    "interleaving": {"interleave_share": 0.3, "proxy_epochs": 2},
}
# what they do beside their formula is what others do: left out where each further strategy would only take time
_LIKE_OTHERS = {"inoculation_prompting", "wise_ft", "activation_penalty", "concept_ablation", "asft"}
_LIKE_OTHERS |= {"positive_negative_proxy", "representation_constraint", "directional_penalty"}
_LIKE_OTHERS |= {"steering_weights_add_alignment_plane"}
OF_A_KIND_EACH = [strategy for strategy in STRENGTH if strategy not in _LIKE_OTHERS]


def trained(config, datasets=None):
    """Final weights and record of a run."""
    trainer = get_trainer(config["proxy_strategy"])(config, datasets=datasets)
    record = trainer.train()
    weights = {name: p.detach().clone() for name, p in trainer.parameters.items()}
    trainer.close()
    return weights, record


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def close(a, b, tolerance):
    return all(torch.allclose(a[name], b[name], rtol=0, atol=tolerance) for name in a)


class Stop(Exception):
    """Stands for a kill: nothing after it runs."""


def run(config, checkpoints=None, stop_at=None, **options):
    trainer = get_trainer(config["proxy_strategy"])(config, checkpoints=checkpoints, **options)
    if stop_at is not None:
        hook = trainer.after_optimizer_step

        def after_optimizer_step(parameters, learning_rate, step):
            hook(parameters, learning_rate, step)
            if step + 1 == stop_at:
                raise Stop

        trainer.after_optimizer_step = after_optimizer_step
    try:
        record = trainer.train()
        return {n: p.detach().clone() for n, p in trainer.parameters.items()}, record, trainer.run.num_resumes
    finally:
        trainer.close()


def comparable(record):
    return record.model_dump(exclude={"timings"})


def assert_resumed_twice_is_whole(config, folder, stops):
    """Stop a run twice and let it go on: weights and record are those of the uninterrupted one, bit for bit.

    Args:
        stops: number of steps -> the two steps after which it is stopped.
    """
    whole, record, _ = run(config)
    checkpoints = Checkpoints(Folder(str(folder)), keep=1)
    for stop_at in stops(record.eval_steps[-1]):
        with pytest.raises(Stop):
            run(config, checkpoints, stop_at)
    resumed, resumed_record, num_resumes = run(config, checkpoints)
    assert num_resumes == 2
    assert same(whole, resumed)
    assert comparable(record) == comparable(resumed_record)
