"""Worlds as a search space names them: one at a time, and its options alone."""

from __future__ import annotations

import pytest
from world_checks import ROLES

from selgen_ray.config.data import DataConfig
from selgen_ray.data.rows import load_roles
from selgen_ray.errors import SpecError
from selgen_ray.space import load_space
from selgen_ray.trainers import build_config
from selgen_ray.trainers.identity import trial_id
from selgen_ray.worlds import WORLDS, generate


def of_world(name, **options):
    return build_config({"finetune_config": {"model": "a/model"}, "data": {"world": name, name: options}})


@pytest.mark.parametrize("name", sorted(WORLDS))
def test_a_trial_gets_the_rows_of_its_world_for_its_data_seed(name):
    config = build_config({"data": {"world": name, name: {"num_proxy": 6}}, "data_seed": 7})
    roles = load_roles(config)
    assert list(roles) == ROLES
    assert roles == generate(name, getattr(config.data, name), 7)
    assert len(roles["proxy"]) == 6


@pytest.mark.parametrize("name", sorted(WORLDS))
def test_world_and_options_are_part_of_the_identity(name):
    ids = {trial_id(of_world(other), {}, "m") for other in WORLDS}
    assert len(ids) == len(WORLDS)
    assert trial_id(of_world(name, num_truth=8), {}, "m") not in ids
    default = type(getattr(DataConfig(), name)).model_fields["num_truth"].default
    assert trial_id(of_world(name, num_truth=default), {}, "m") in ids


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("{world: points, triggers: {coverage: 0.5}}", "data.triggers.coverage is given, but data.world is points"),
        ("{triggers: {coverage: 0.5}}", "but data.world is not: set world: triggers, or leave it out"),
        ("{world: careless, toy: {num_truth: 8}}", "data.toy.num_truth is given, but data.world is careless"),
        ("{outcome: rows.jsonl, toy: {num_truth: 8}}", "data.toy.num_truth is given, but data.world is not"),
        ("{world: points, points: {num_proxy: 1000}}", "found 1000; allowed: a whole number"),
        ("{world: triggers, triggers: {coverage: 0.33}}", "the nearest that is one is 0.3"),
        ("{world: point}", "Did you mean 'points'?"),
    ],
)
def test_options_of_a_world_that_makes_no_rows_are_refused_at_their_place(tmp_path, data, told):
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    space = tmp_path / "space.yaml"
    space.write_text(f"base:\n  finetune_config: {{model: toy}}\n  data: {data}\n")
    with pytest.raises(SpecError) as caught:
        load_space(space)
    (problem,) = {str(problem): problem for problem in caught.value.problems}.values()
    assert problem.line == 3
    assert told in problem.message


def test_options_that_say_the_default_are_no_options():
    assert DataConfig.model_validate({"world": "points", "toy": {}}).world == "points"
