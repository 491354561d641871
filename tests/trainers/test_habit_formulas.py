"""The strategies that know the habit, by its directions or its text, against a second computation in float64."""

import copy

import pytest
import torch
from conftest import uneven_roles
from plain_formulas import (
    assert_weights,
    change_layer,
    cross_entropy,
    descend,
    habit,
    on_role,
    trainable,
)

from selgen_ray.errors import DataError, ModelError
from selgen_ray.trainers import get_trainer


def check_learning_in(trainer, changed):
    """Three steps on O by `changed`, a copy of the trainer's model with what is on while learning; measured without."""
    descend(trainer, changed, 3, on_role(trainer, "outcome"))
    record = trainer.train()
    assert_weights(trainer, trainable(changed))
    held = trainer.sets.evals["align_train"].encoded
    assert record.eval_results["align_train"]["loss"][-1] == pytest.approx(
        float(cross_entropy(trainer.model.eval(), held).detach()), rel=1e-10
    )


STEERED = [
    ({"steer_alpha": 5.0}, [1]),  # of two layers the middle one
    ({"steer_alpha": -5.0, "steer_layers": [2, 1], "gradient_accumulation_steps": 2}, [2, 1]),
    ({"steer_alpha": 5.0, "steer_layers": [2], "is_peft": False, "use_gradient_checkpointing": True}, [2]),
]


@pytest.mark.parametrize(("knobs", "layers"), STEERED, ids=["middle", "both, accumulated", "last, full, recomputed"])
def test_preventative_steering(start, knobs, layers):
    trainer = start("preventative_steering", **knobs)
    vectors = {layer: habit(trainer, layer) for layer in layers}
    model = copy.deepcopy(trainer.model)
    for layer, v in vectors.items():
        change_layer(model, layer, lambda h, v=v: h + knobs["steer_alpha"] * v)
    check_learning_in(trainer, model)
    for layer, v in vectors.items():
        logged = trainer.record.train_metrics[f"direction_norm/layer_{layer}"]
        assert logged == pytest.approx([float(v.norm())] * 3)


def test_a_random_direction_has_the_true_one_s_norm_and_one_value_for_data_seed_and_layer(start):
    def vectors(data_seed, control="random", layers=(1, 2)):
        trainer = start(
            "preventative_steering", top={"data_seed": data_seed}, steer_layers=[*layers], direction_control=control
        )
        trainer.prepare()
        return trainer.vectors

    true, drawn, alone, other = vectors(1, None), vectors(1), vectors(1, layers=[2]), vectors(2)
    assert torch.equal(drawn[2], alone[2])
    for layer, v in true.items():
        assert float(drawn[layer].norm()) == pytest.approx(float(v.norm()))
        for another in (v, other[layer], drawn[3 - layer]):
            assert not torch.allclose(drawn[layer], another)


def test_each_different_row_counts_once_in_a_direction(start):
    outcome = uneven_roles()["outcome"] * 8
    once, repeated = (
        start("preventative_steering", uneven_roles() | {"outcome": outcome}, top=top)
        for top in ({}, {"upsample_proxy_to": 0.5})
    )
    assert len(repeated.sets.numbers["proxy"]) == 40
    for trainer in (once, repeated):
        trainer.prepare()
    assert torch.allclose(once.vectors[1], repeated.vectors[1], atol=1e-12)


@pytest.mark.parametrize(("layers", "found"), [([0], "0"), ([1, 3], "3"), ([2, 2], "2 twice")])
def test_layers_that_the_model_does_not_have_are_an_error_that_says_how_many_it_has(start, layers, found):
    with pytest.raises(ModelError, match=rf"steer_layers: found {found}; this model has the layers 1 to 2"):
        start("preventative_steering", steer_layers=layers).train()


def test_a_direction_of_zero_is_an_error_that_names_the_layer(start):
    same = uneven_roles() | {"proxy_neg": uneven_roles()["proxy"]}
    with pytest.raises(DataError, match="direction of layer 1 is zero"):
        start("preventative_steering", same).train()


def test_both_sides_are_needed(make_config):
    with pytest.raises(DataError, match=r"needs data\.proxy_neg"):
        get_trainer("preventative_steering")(
            make_config("preventative_steering"),
            datasets={role: rows for role, rows in uneven_roles().items() if role != "proxy_neg"},
        )
