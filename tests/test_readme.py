"""The guides and the shipped search spaces say what happens."""

import json
import re
import sys
import tomllib

import pytest
import torch
import yaml
from conftest import make_roles, write_jsonl
from guides import GUIDES, ROOT, blocks
from running import results, sweep_on, write_space

from selgen_ray.config.data import ROLES
from selgen_ray.driver.plan import make_plan
from selgen_ray.driver.preflight import check_data
from selgen_ray.errors import SpecError
from selgen_ray.space import load_space
from selgen_ray.trainers import build_config, get_trainer, plugins, registry, strategies

README = GUIDES["README.md"]
TRAINERS = "selgen_ray/trainers/README.md"


@pytest.mark.parametrize("path", sorted((ROOT / "search_spaces").glob("*.yaml")), ids=lambda p: p.name)
def test_every_shipped_search_space_can_be_planned(path, tmp_path, tiny_model_dir):
    spec = load_space(with_stand_ins(path, tmp_path, tiny_model_dir))
    assert spec.trials and not spec.notes
    assert check_data(spec) == []


def with_stand_ins(path, folder, model):
    """Return the search space, or where it names files or a model that its user brings, a copy beside stand-ins."""
    space = yaml.safe_load(path.read_text())
    if "extends" in space:  # of a space that needs none
        return path
    base = space["base"]
    files = {role: given for role, given in base.get("data", {}).items() if role in ROLES}
    for role, given in files.items():
        file = folder / (given["path"] if isinstance(given, dict) else given)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_jsonl(file, make_roles(num_outcome=200)[role])
    named = base["finetune_config"]["model"]  # of the hub, or downloaded by its user
    copy = folder / path.name
    copy.write_text(
        path.read_text().replace(f"model: {named}", f"model: {model}") if named != "toy" else path.read_text()
    )
    return copy if files or named != "toy" else path


def test_files_that_the_user_brings_are_asked_for():
    with pytest.raises(SpecError, match=r"data/hhh\.jsonl"):
        load_space(ROOT / "search_spaces" / "emergent_misalignment.yaml")


def test_the_quickstart_is_what_it_promises():
    spec = load_space(ROOT / "search_spaces" / "quickstart.yaml")
    by_strategy: dict[str, set[str]] = {}
    for trial in spec.trials:
        by_strategy.setdefault(trial.config.proxy_strategy, set()).add(trial.slug)
    assert len(by_strategy) >= 3
    assert all(len(slugs) >= 2 for slugs in by_strategy.values())
    assert {trial.config.seed for trial in spec.trials} == {1, 2, 3}


def test_exactly_two_set_up_commands_go_through_the_constraints_file():
    quickstart, test, *others = blocks("bash", "README.md")
    assert (quickstart.marker, test.marker) == ("quickstart", "test")
    for block in (quickstart, test):
        assert block.text.count("\n") == 1
        assert "-m venv" in block.text and "-c constraints.txt" in block.text
    assert not any("-m venv" in block.text for block in others)
    assert README.index(test.text) < 3000  # the first screen


def test_every_dependency_is_pinned():
    pinned = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line.startswith("#"):
            name, version = line.split("==")
            pinned[re.sub(r"[-_.]+", "-", name).lower()] = version
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    names = {re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", w)[0]).lower() for w in wanted}
    assert names <= pinned.keys()
    assert pinned["torch"] == "2.13.0"


def test_the_strategies_tables_name_every_strategy_and_knob():
    text = GUIDES[TRAINERS]
    table = text[text.index("| `proxy_strategy` |") : text.index("## How the pieces fit")]
    overview = README[README.index("## Strategies") : README.index("## What fits")]
    for name, trainer in strategies().items():
        if trainer.__module__.startswith("selgen_ray."):
            assert f"| `{name}` |" in overview
            assert f"| `{name}`" in table
            for knob in trainer.knobs():
                assert f"`{knob}`" in table


@pytest.fixture(scope="module")
def strategy_file(tmp_path_factory):
    """The complete strategy of the guide, under the name that its YAML gives the file."""
    (code,) = (block.text for block in blocks("python", TRAINERS) if "BaseTrainer" in block.text)
    assert code.count("\n") <= 20
    path = tmp_path_factory.mktemp("outside") / "my_strategy.py"
    path.write_text(code)
    return path


@pytest.fixture(scope="module")
def its_section():
    """The part that the guide's YAML adds to a search space."""
    text = next(block.text for block in blocks("yaml", TRAINERS) if block.text.startswith("plugins:"))
    assert text.count("\n") == 3
    return yaml.safe_load(text)


def test_the_strategy_of_the_readme_trains(make_config, strategy_file):
    plugins.register_exactly([plugins.Plugin.read(strategy_file)])
    try:
        with get_trainer("scaled")(build_config(make_config("scaled", scale=3.0, epochs=1))) as trainer:
            before = {name: p.detach().clone() for name, p in trainer.parameters.items()}
            record = trainer.train()
            assert any(not torch.equal(before[name], p) for name, p in trainer.parameters.items())
    finally:
        plugins.register_exactly(())
    loss = record.eval_results["task_train"]["loss"][0]
    assert record.train_losses["loss"][0] == pytest.approx(3 * loss, rel=0.2)


def test_the_strategy_of_the_readme_keeps_its_promises(strategy_file, monkeypatch):
    (code,) = (block.text for block in blocks("python", TRAINERS) if "check_strategy" in block.text)
    monkeypatch.syspath_prepend(strategy_file.parent)
    namespace: dict = {}
    try:
        exec(compile(code, TRAINERS, "exec"), namespace)
        namespace["test_scaled"]()
    finally:
        registry.forget(strategy_file.stem)
        sys.modules.pop(strategy_file.stem, None)


@pytest.mark.ray
def test_the_strategy_of_the_readme_runs_in_a_sweep_of_two_trials(
    strategy_file, its_section, tiny_model_dir, data_files, joined, monkeypatch
):
    folder = strategy_file.parent
    space = write_space(folder, tiny_model_dir, data_files, {"epochs": 1}, seeds=[1], **its_section)
    done = sweep_on(joined, space)
    assert done.returncode == 0 and done.stderr == "", done.stdout + done.stderr
    trials = results(folder)
    assert len(trials) == 2 and {r["status"] for r in trials.values()} == {"completed"}
    by_scale = {r["config"]["finetune_config"]["scale"]: r for r in trials.values()}
    assert by_scale.keys() == {0.5, 2.0}
    first = {scale: r["train_losses"]["total"][0] for scale, r in by_scale.items()}
    assert first[2.0] > 2 * first[0.5], "the factor is in the loss"
    configs = [json.loads(path.read_text()) for path in (folder / "sweeps").rglob("config.json")]
    assert sorted(c["finetune_config"]["scale"] for c in configs) == [0.5, 2.0]
    monkeypatch.chdir(folder)
    assert make_plan(load_space(space)).to_run == []
    strategy_file.write_text(strategy_file.read_text().replace("self.scale *", "2 * self.scale *"))
    assert len(make_plan(load_space(space)).to_run) == 2, "changed code is a new trial"


def test_the_knob_of_the_readme_is_checked(strategy_file):
    space = strategy_file.with_name("wrong.yaml")
    space.write_text("plugins: [my_strategy.py]\nbase:\n  proxy_strategy: scaled\n  finetune_config.scale: -1\n")
    with pytest.raises(SpecError) as caught:
        load_space(space)
    (problem,) = caught.value.problems
    assert (problem.file, problem.line, problem.key) == (str(space), 4, "base.finetune_config.scale")
    assert problem.message == "found -1; allowed: a finite number > 0."
