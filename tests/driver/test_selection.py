"""Selection of trials by `--only key=value`, without Ray."""

from __future__ import annotations

from typing import Any

import pytest

from selgen_ray.driver.selection import SelectionError, parse_only
from selgen_ray.storage import Folder
from selgen_ray.trial.task import TrialTask


def tasks(*configs: dict[str, Any]) -> list[TrialTask]:
    return [
        TrialTask(config, f"{i:016x}", "slug", Folder("/nowhere"), git_commit=None) for i, config in enumerate(configs)
    ]


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("seed=8", [8]),
        ("seed=8,10", [8, 10]),
        ("learning_rate=1.0e-5", [8]),
        ("learning_rate=0.00003", [10]),
        ("is_peft=true", [10]),
        ("is_peft=False", [8]),
        ("is_peft=false,true", [8, 10]),
        ("lora_dropout=0", [8]),
        ("control=null", [8, 10]),
    ],
)
def test_values_are_read_like_those_of_a_search_space(text: str, seeds: list[int]) -> None:
    rest = {"control": None}
    eight = {"seed": 8, "finetune_config": {"learning_rate": 1e-5, "is_peft": False, "lora_dropout": 0.0}} | rest
    ten = {"seed": 10, "finetune_config": {"learning_rate": 3e-5, "is_peft": True, "lora_dropout": False}} | rest
    both = tasks(eight, ten)
    accepts = parse_only([text], both)
    assert [task.config["seed"] for task in both if accepts(task)] == seeds


@pytest.mark.parametrize("text", ["seed=010", "seed=0:8", "seed=[8"])
def test_a_number_that_no_search_space_takes_chooses_no_trial(text: str) -> None:
    with pytest.raises(SelectionError, match="no trial has it"):
        parse_only([text], tasks({"seed": 8}))
