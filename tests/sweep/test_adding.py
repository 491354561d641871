"""`sweep add`: trials that join a sweep have its base, seeds, data and evaluations, and compare with its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import write_jsonl
from running import write_space

from selgen_ray.space import load_space
from selgen_ray.space.kept import kept_text
from selgen_ray.storage import Folder
from selgen_ray.sweep import commands

Add = Callable[..., tuple[int, str]]


@pytest.fixture
def place(tmp_path: Path, tiny_model_dir: str, data_files: dict[str, str]) -> Path:
    """A sweep whose run has begun: naive and two kl_divergence settings of seeds 1 and 2, and nothing done."""
    begun(tmp_path, write_space(tmp_path, tiny_model_dir, data_files, {"epochs": 3}))
    return tmp_path / "sweep"


def begun(folder: Path, space: Path, left_out: tuple[str, ...] = ()) -> None:
    sweep = Folder(str(folder / "sweep"))
    plan = {trial.trial_id: trial.name for trial in load_space(space).trials}
    kept = {i: name for i, name in plan.items() if not name.startswith(left_out or ("-",))}
    sweep.write_json("control/plan.json", {"trials": kept, "left_out": {i: plan[i] for i in plan.keys() - kept.keys()}})
    sweep.write("space.yaml", kept_text(space))


@pytest.fixture
def add(tmp_path: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> Add:
    def run(*args: str, **more: Any) -> tuple[int, str]:
        if more:
            (tmp_path / "more.yaml").write_text(yaml.safe_dump(more))
            args = (str(tmp_path / "more.yaml"), *args)
        capsys.readouterr()
        status = commands.main(["add", str(place), *args])
        shown = capsys.readouterr()
        return status, shown.out + shown.err

    return run


def joined(place: Path) -> dict[str, dict[str, Any]]:
    """'<slug>/seed_<N>' -> config, of what was added."""
    marks = [json.loads(path.read_text()) for path in (place / "control" / "added").glob("*.json")]
    return {f"{mark['slug']}/seed_{mark['config']['seed']}": mark["config"] for mark in marks}


def test_it_inherits_base_seeds_data_and_evaluations_and_says_what_is_new(add: Add, place: Path) -> None:
    dpo = {"dpo": {"fixed": {"finetune_config.lambda_dpo": 0.3}}}
    status, out = add(strategies=dpo | {"kl_divergence": {"grid": {"finetune_config.beta_kl": [10.0, 100.0]}}})
    assert status == 0 and "added 4 trials" in out and "2 are in the sweep already" in out, out
    new = joined(place)
    assert sorted(config["seed"] for config in new.values()) == [1, 1, 2, 2]
    assert {config["finetune_config"]["epochs"] for config in new.values()} == {3}
    assert all(config["data"]["outcome"].endswith("outcome.jsonl") for config in new.values())
    lines = {line.split(": ")[0].strip(): line for line in out.splitlines()[1:]}
    assert lines.keys() >= new.keys()
    (line,) = (line for name, line in lines.items() if name.startswith("kl") and name.endswith("seed_1"))
    assert line.endswith(": beta_kl 100.0 (the sweep: 1.0, 10.0)")
    (line,) = (line for name, line in lines.items() if name.startswith("dpo") and name.endswith("seed_1"))
    assert "proxy_strategy dpo (the sweep: kl_divergence, naive)" in line and "lambda_dpo 0.3" in line


@pytest.mark.parametrize("key", ["epochs", "model", "data", "evals", "generation"])
def test_what_does_not_compare_is_refused_unless_told(
    key: str, add: Add, place: Path, tmp_path: Path, roles: dict[str, list[dict[str, Any]]]
) -> None:
    outcome = write_jsonl(tmp_path / "other.jsonl", roles["outcome"][:-1])
    base, named = {
        "epochs": ({"finetune_config.epochs": 1}, "finetune_config.epochs 1 (the sweep: 3)"),
        "model": ({"finetune_config.model": "toy"}, "finetune_config.model toy (the sweep: /"),
        "data": ({"data.outcome": outcome}, f"data.outcome {outcome} (the sweep: /"),
        "evals": ({"evals.extractor": "last_line"}, "evals.extractor last_line (the sweep: auto)"),
        "generation": ({"finetune_config.max_new_tokens": 2}, "finetune_config.max_new_tokens 2 (the sweep: 4)"),
    }[key]
    status, out = add(base=base, strategies={"dpo": {}})
    assert status == 2 and named in out and "more.yaml:2: dpo" in out and "--different" in out, out
    assert not joined(place)
    status, out = add("--different", base=base, strategies={"dpo": {}})
    assert status == 0 and named in out and len(joined(place)) == 2, out


def test_a_setting_of_the_sweep_keeps_its_name(add: Add, place: Path) -> None:
    kl = {"kl_divergence": {"fixed": {"finetune_config.beta_kl": 10.0}}}
    status, out = add(strategies=kl, seeds=[7])
    plan = json.loads((place / "control" / "plan.json").read_text())["trials"].values()
    (slug,) = {name.split("/")[0] for name in plan if "beta_kl-10" in name}
    assert status == 0 and set(joined(place)) == {f"{slug}/seed_7"} and "seed 7 (the sweep: 1, 2)" in out


def test_further_seeds_of_all_or_some_settings_those_that_joined_included(add: Add, place: Path) -> None:
    status, out = add("--seeds", "2", "4", "--strategies", "naive")
    assert status == 0 and "added 1 trial:" in out and "1 are in the sweep already" in out
    (name,) = joined(place)
    assert name.startswith("naive") and name.endswith("/seed_4")
    config = joined(place)[name]
    assert config["data_seed"] == config["model_seed"] == 4
    assert add(strategies={"dpo": {}})[0] == 0
    status, out = add("--seeds", "4", "5")
    slugs = {name.split("/")[0] for name in joined(place)}
    assert status == 0 and len(slugs) == 4 and "added 7 trials" in out
    assert {f"{slug}/seed_{seed}" for slug in slugs for seed in (4, 5)} <= joined(place).keys()
    (slug,) = (slug for slug in slugs if slug.startswith("dpo"))
    status, out = add("--seeds", "6", "--strategies", f"{slug},kl*")
    assert status == 0 and "added 3 trials" in out
    status, out = add("--seeds", "6", "--strategies", "dpoo")
    assert status == 2 and "--strategies dpoo: no such strategy or setting" in out and "Did you mean 'dpo'" in out


def test_seeds_after_a_data_file_changed_are_refused(
    tmp_path: Path, tiny_model_dir: str, roles: dict[str, list[dict[str, Any]]], add: Add
) -> None:
    data = {role: write_jsonl(tmp_path / f"{role}.jsonl", rows) for role, rows in roles.items()}
    begun(tmp_path, write_space(tmp_path, tiny_model_dir, data), left_out=("kl_divergence",))
    assert add("--seeds", "3", "--strategies", "naive")[0] == 0  # what `--only` left out is no change
    write_jsonl(tmp_path / "outcome.jsonl", roles["outcome"][:-1])
    status, out = add("--seeds", "4")
    assert status == 2 and "6 of 6 trials are others than when the sweep ran" in out


def test_one_of_the_two_forms_is_needed(add: Add) -> None:
    assert "give either a search space, more.yaml, or --seeds" in add()[1]
    assert "--strategies belongs to --seeds" in add("--strategies", "dpo", strategies={"dpo": {}})[1]


def test_without_a_kept_search_space_nothing_is_added_unless_told(
    add: Add, place: Path, tiny_model_dir: str, data_files: dict[str, str]
) -> None:
    (place / "space.yaml").unlink()
    whole = {"data": data_files, "finetune_config": {"model": tiny_model_dir}}
    status, out = add(base=whole, strategies={"dpo": {}}, seeds=[1])
    assert status == 2 and "space.yaml: is not there" in out and "--different" in out
    status, out = add("--different", base=whole, strategies={"dpo": {}}, seeds=[1])
    assert status == 0 and "nothing is inherited" in out and len(joined(place)) == 1


def test_the_kept_space_needs_no_other_file(
    tmp_path: Path, tiny_model_dir: str, data_files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lone = write_space(tmp_path, tiny_model_dir, data_files)
    lone.write_text("# mine\n" + lone.read_text())
    assert kept_text(lone) == lone.read_bytes()  # comments and all
    here = tmp_path / "here"
    here.mkdir()
    (here / "rows.jsonl").write_bytes(Path(data_files["outcome"]).read_bytes())
    (here / "below.yaml").write_text(lone.read_text())
    (here / "space.yaml").write_text("extends: below.yaml\nbase: {data.outcome: rows.jsonl}\nseeds: [5]\n")
    before = load_space(here / "space.yaml")
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")
    Path("space.yaml").write_bytes(kept_text(here / "space.yaml"))
    assert "below.yaml" in Path("space.yaml").read_text().splitlines()[0]
    (here / "below.yaml").unlink()
    after = load_space("space.yaml")
    assert [t.trial_id for t in after.trials] == [t.trial_id for t in before.trials] and len(after.trials) == 3
