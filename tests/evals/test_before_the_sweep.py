"""What is wrong with `evals` is found when the search space is read, and no message holds a key."""

import pytest
from judge_server import KEY

from selgen_ray.driver.preflight import check_data
from selgen_ray.errors import SpecError
from selgen_ray.evals.checking import missing_data
from selgen_ray.space import load_space

JUDGED = "base: {data: {world: toy}, evals: {judge: {model: m, api_key_env: JUDGE_KEY}}}"


def load(tmp_path, text):
    (tmp_path / "space.yaml").write_text(text)
    return load_space(tmp_path / "space.yaml")


def test_the_key_must_be_in_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    (problem,) = check_data(load(tmp_path, JUDGED))
    assert "evals.judge.api_key_env" in problem and "JUDGE_KEY" in problem
    monkeypatch.setenv("JUDGE_KEY", KEY)
    assert check_data(load(tmp_path, JUDGED)) == []


def test_a_judged_set_must_have_rows(tmp_path):
    text = JUDGED.replace("world: toy", "world: toy, toy: {num_truth: 0}").replace("JUDGE_KEY", "null")
    (problem,) = check_data(load(tmp_path, text))
    space = tmp_path / "space.yaml"
    assert (
        problem
        == f"{space}:1: base.evals.judge.model: evals.judge.sets names align_test, but the trial has no data.truth"
    )
    config = load(tmp_path, "base: {data: {world: toy}, evals: {capability: task_test/exact_match}}").trials[0].config
    assert list(missing_data(config.evals, {"outcome": []})) == [
        "evals.capability names task_test, but the trial has no data.collateral"
    ]


@pytest.mark.parametrize("wrong", [f"api_key_env: {KEY}", f"base_url: 'https://user:{KEY}@host/v1'", f"api_key: {KEY}"])
def test_a_key_in_the_file_is_refused_and_not_repeated(tmp_path, wrong):
    with pytest.raises(SpecError) as error:
        load(tmp_path, JUDGED.replace("api_key_env: JUDGE_KEY", wrong))
    assert "space.yaml:1" in str(error.value) and wrong.split(":")[0] in str(error.value)
    assert KEY not in str(error.value)


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "WANDB_API_KEY", "HOME"])
def test_no_variable_of_another_purpose_is_sent_to_a_judge(tmp_path, name):
    with pytest.raises(SpecError, match=r"must not be sent to a judge; allowed are names such as OPENAI_API_KEY"):
        load(tmp_path, JUDGED.replace("JUDGE_KEY", name))


def test_a_requirement_on_coherence_needs_one(tmp_path):
    require = "\npareto: {require: coherence >= 0.5}"
    for section in ("judge: {model: m}", "coherence: align_test/token_probability"):
        spec = load(tmp_path, f"base: {{data: {{world: toy}}, evals: {{{section}}}}}{require}")
        (condition,) = spec.pareto.conditions
        assert (condition.metric, condition.sign, condition.bound) == ("coherence", ">=", 0.5)
    with pytest.raises(SpecError, match="coherence"):
        load(tmp_path, f"base: {{data: {{world: toy}}}}{require}")
