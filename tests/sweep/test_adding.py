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

from selgen_ray.driver.plan import make_plan
from selgen_ray.records.results import TrialResult
from selgen_ray.space import Trial, load_space
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


R, ALPHA, RATE = "finetune_config.r", "finetune_config.lora_alpha", "finetune_config.learning_rate"
STRENGTH = {"finetune_config.lambda_dpo": 0.3}
PAIRS = [(2, 4.0), (8, 16.0)]


@pytest.fixture
def varied(tmp_path: Path, place: Path, tiny_model_dir: str, data_files: dict[str, str]) -> Path:
    """A sweep that varies learning rate, r with lora_alpha, and a knob of its one strategy, each for all trials."""
    grid = {RATE: [1e-4, 1e-3], "finetune_config.beta_kl": [1.0, 10.0]}
    zipped = [{R: r, ALPHA: alpha} for r, alpha in PAIRS]
    strategies = {"kl_divergence": {}}
    begun(tmp_path, write_space(tmp_path, tiny_model_dir, data_files, grid=grid, zip=zipped, strategies=strategies))
    return place


@pytest.mark.parametrize(
    ("more", "rates", "pairs"),
    [
        ({"strategies": {"dpo": {"fixed": STRENGTH}}}, [1e-4, 1e-3], PAIRS),
        ({"strategies": {"dpo": {"fixed": STRENGTH | {RATE: 1e-3}}}}, [1e-3], PAIRS),
        ({"strategies": {"dpo": {"grid": {RATE: [1e-3, 1e-2]}}}}, [1e-3, 1e-2], PAIRS),
        ({"strategies": {"dpo": {}}, "grid": {RATE: [1e-2]}}, [1e-2], PAIRS),
        ({"strategies": {"dpo": {}}, "base": {RATE: 1e-2}}, [1e-2], PAIRS),
        ({"strategies": {"dpo": {"zip": [{R: 2, ALPHA: 8.0}]}}}, [1e-4, 1e-3], [(2, 8.0)]),
        ({"strategies": {"dpo": {}}, "zip": [STRENGTH]}, [1e-4, 1e-3], PAIRS),
        ({"overrides": [{"proxy_strategy": "dpo"}]}, [5e-3], [(4, 8.0)]),
    ],
)
def test_the_values_that_the_sweep_gives_all_strategies_multiply_those_that_join(
    add: Add, varied: Path, more: dict[str, Any], rates: list[float], pairs: list[tuple[int, float]]
) -> None:
    status, out = add(**more)
    assert status == 0, out
    found = [config["finetune_config"] | {"seed": config["seed"]} for config in joined(varied).values()]
    expected = [(rate, *pair, seed) for rate in rates for pair in pairs for seed in (1, 2)]
    assert sorted((c["learning_rate"], c["r"], c["lora_alpha"], c["seed"]) for c in found) == expected


def test_those_that_join_have_the_ids_they_would_have_in_the_search_space(
    add: Add, varied: Path, tmp_path: Path
) -> None:
    kl = {"kl_divergence": {"fixed": {"finetune_config.beta_kl": 5.0}}}
    assert add(strategies=kl)[0] == 0
    space = yaml.safe_load((varied / "space.yaml").read_text())
    space["grid"]["finetune_config.beta_kl"] = [5.0]
    (tmp_path / "whole.yaml").write_text(yaml.safe_dump(space))
    ids = {trial.trial_id for trial in load_space(tmp_path / "whole.yaml").trials}
    assert {path.stem for path in (varied / "control" / "added").glob("*.json")} == ids and len(ids) == 8


def test_a_part_of_what_the_sweep_varies_together_is_refused(add: Add, varied: Path) -> None:
    status, out = add(strategies={"dpo": {"fixed": {R: 8}}})
    assert status == 2 and "more.yaml:4: strategies.dpo.fixed.finetune_config.r" in out, out
    assert "varies it together with finetune_config.lora_alpha: give dpo these too" in out
    assert not joined(varied)


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
    assert "give either a search space, more.yaml, or --from TRIAL" in add()[1]
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


# `--from TRIAL --set KEY=VALUE`: a trial of the sweep once more, with other values


@pytest.fixture
def kl(tmp_path: Path, place: Path) -> str:
    """The name of the trial of kl_divergence with beta_kl 10 and seed 1."""
    names = [trial.name for trial in load_space(tmp_path / "space.yaml").trials]
    return next(name for name in names if "beta_kl-10" in name and name.endswith("seed_1"))


def sets(*changes: str) -> list[str]:
    return [word for change in changes for word in ("--set", change)]


def trial_of(folder: Path, name: str) -> Trial:
    return next(trial for trial in load_space(folder / "space.yaml").trials if trial.name == name)


def test_one_key_is_changed_and_all_else_is_the_trials(add: Add, place: Path, kl: str, tmp_path: Path) -> None:
    status, out = add("--from", kl, "--set", "finetune_config.beta_kl=3")
    ((name, config),) = joined(place).items()
    assert status == 0 and "added 1 trial" in out and f"{name}: beta_kl 3.0 (the sweep: 1.0, 10.0)" in out, out
    assert name.startswith("kl_divergence_beta_kl-3_") and name.endswith("/seed_1")
    original = next(t for t in load_space(tmp_path / "space.yaml").trials if t.name == kl).config.model_dump(
        mode="json"
    )
    assert config["finetune_config"].pop("beta_kl") == 3.0 and original["finetune_config"].pop("beta_kl") == 10.0
    assert config == original  # seed and rows and evaluations included
    again = add("--from", kl, "--set", "finetune_config.beta_kl=3.0")
    assert again[0] == 0 and "nothing to add" in again[1] and "1 are in the sweep already" in again[1]


def test_its_id_is_that_of_the_same_trial_written_in_a_search_space(add: Add, place: Path, kl: str) -> None:
    add("--from", kl, "--set", "finetune_config.beta_kl=3")
    cloned = set(joined(place))
    status, out = add(strategies={"kl_divergence": {"fixed": {"finetune_config.beta_kl": 3.0}}}, seeds=[1])
    assert status == 0 and "nothing to add" in out and set(joined(place)) == cloned


def test_by_the_beginning_of_an_id_with_seeds_and_a_strategy(add: Add, place: Path, kl: str, tmp_path: Path) -> None:
    trial = trial_of(tmp_path, kl)
    status, out = add("--from", trial.trial_id[:8], "--seeds", "1", "2", "7")
    assert status == 0 and set(joined(place)) == {f"{trial.slug}/seed_7"} and "2 are in the sweep already" in out
    null = "finetune_config.beta_kl=null"
    status, out = add(
        "--from", kl, "--set", "proxy_strategy=dpo", "--set", null, "--set", "finetune_config.lambda_dpo=.5"
    )
    assert status == 0 and any(name.startswith("dpo_lambda_dpo-0.5") for name in joined(place)), out
    assert sorted(config["data_seed"] for config in joined(place).values()) == [1, 7]


def test_of_a_trial_with_a_result_whose_space_is_another_now(add: Add, place: Path, kl: str, tmp_path: Path) -> None:
    config = trial_of(tmp_path, kl).config.model_dump(mode="json")
    config["finetune_config"] |= {"beta_kl": 77.0}
    result: Any = {"trial_id": "ab" * 8, "slug": "kl_old_abab12", "seed": 1, "status": "running", "config": config}
    TrialResult(**result).publish(Folder(str(place)) / "kl_old_abab12/seed_1/results" / ("ab" * 8))
    status, out = add("--from", "abab", "--set", "finetune_config.beta_kl=78")
    assert status == 0 and "beta_kl-78" in next(iter(joined(place))), out


@pytest.mark.parametrize(
    ("args", "messages"),
    [
        (["--set", "finetune_config.beta_kll=3"], ["--set: finetune_config.beta_kll", "mean 'finetune_config.b"]),
        (["--set", "finetune_config.beta_kl=no one"], ["--set: finetune_config.beta_kl: found 'no one'"]),
        (["--set", "finetune_config.lambda_dpo=1"], ["is no knob of strategy 'kl_divergence'"]),
        (["--set", "finetune_config.beta_kl=[1, "], ["--set finetune_config.beta_kl:1: cannot be parsed"]),
        (["--set", "finetune_config.beta_kl"], ["write KEY=VALUE"]),
        (["--set", "seed=2", "--set", "seed=3"], ["seed: is given twice"]),
        (["--set", "seed=2", "--seeds", "3"], ["both give a seed"]),
        (["--set", "finetune_config.beta_kl=10"], ["nothing changed", "has finetune_config.beta_kl=10 already"]),
        (["--set", "finetune_config.logging_steps=1"], ["nothing changed", "or its result does not depend on it"]),
        (["--set", "finetune_config.epochs=1"], ["not compare", "epochs 1 (the sweep: 3)", "--different"]),
        (["--set", "data.outcome=gone.jsonl"], ["--set: data.outcome", "gone.jsonl"]),
        (["--strategies", "dpo", "--set", "a=1"], ["--from names a trial"]),
        ([], ["would change nothing"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_key(
    args: list[str], messages: list[str], add: Add, place: Path, kl: str
) -> None:
    status, out = add("--from", kl, *args)
    assert status == 2 and all(message in out for message in messages), out
    assert not joined(place)


def test_which_trial_must_be_clear(add: Add, kl: str) -> None:
    status, out = add("--from", kl.partition("/")[0], "--set", "finetune_config.beta_kl=3")
    assert status == 2 and "names 2 trials, and one is needed" in out and kl in out
    status, out = add("--from", kl[1:], "--set", "finetune_config.beta_kl=3")
    assert status == 2 and f"Did you mean '{kl}'" in out
    assert "--set belongs to --from" in add("--set", "seed=3", "--seeds", "3")[1]


def test_a_part_of_a_source_and_a_mapping(add: Add, place: Path, kl: str) -> None:
    changes = ["data.outcome.limit=6", "finetune_config={epochs: 2, r: 2}"]
    status, out = add("--from", kl, "--different", *sets(*changes))
    (config,) = joined(place).values()
    assert status == 0 and config["data"]["outcome"]["limit"] == 6 and config["data"]["outcome"]["path"], out
    assert [config["finetune_config"][key] for key in ("epochs", "r", "beta_kl")] == [2, 2, 10.0]


def test_the_next_run_plans_it(add: Add, place: Path, kl: str, tmp_path: Path) -> None:
    add("--from", kl, "--set", "finetune_config.beta_kl=3")
    spec = load_space(tmp_path / "space.yaml")
    plan = make_plan(spec.model_copy(update={"storage_path": str(place.parent), "name": place.name}))
    assert set(joined(place)) <= {planned.task.name for planned in plan.planned}


def test_what_was_added_before_and_cannot_be_read_any_more_is_named(add: Add, place: Path) -> None:
    assert add(strategies={"dpo": {}}, seeds=[1])[0] == 0
    (file,) = (place / "control" / "added").glob("*.json")
    mark = json.loads(file.read_text())
    mark["config"]["finetune_config"]["gone"] = 1
    file.write_text(json.dumps(mark))
    status, out = add("--seeds", "7")
    assert status == 2 and "which was added before, cannot be read (finetune_config.gone: " in out and file.name in out


def test_a_data_file_of_an_added_trial_that_moved_holds_up_no_other(add: Add, place: Path, tmp_path: Path) -> None:
    rows = tmp_path / "more.jsonl"
    config = yaml.safe_load((place / "space.yaml").read_text())["base"]
    rows.write_bytes(Path(config["data"]["outcome"]).read_bytes())
    more = {"strategies": {"dpo": {}}, "seeds": [1], "base": {"data": {"outcome": str(rows)}}}
    assert add("--different", **more)[0] == 0
    rows.unlink()
    status, out = add("--seeds", "7", "--strategies", "naive")
    assert status == 0 and "added 1 trial" in out, out
