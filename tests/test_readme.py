"""What the README and the shipped search spaces say is what happens."""

import re
import tomllib
from pathlib import Path

import pytest
import torch

from selgen_ray.plan import check_data
from selgen_ray.space import load_space
from selgen_ray.trainers import build_config, get_trainer, strategies

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted((ROOT / "search_spaces").glob("*.yaml")), ids=lambda p: p.name)
def test_every_shipped_search_space_can_be_planned(path):
    spec = load_space(path)
    assert spec.trials and not spec.notes
    assert check_data(spec) == []


def test_the_quickstart_is_what_it_promises():
    spec = load_space(ROOT / "search_spaces" / "quickstart.yaml")
    by_strategy: dict[str, set[str]] = {}
    for trial in spec.trials:
        by_strategy.setdefault(trial.config.proxy_strategy, set()).add(trial.slug)
    assert len(by_strategy) >= 3
    assert all(len(slugs) >= 2 for slugs in by_strategy.values())
    assert {trial.config.seed for trial in spec.trials} == {1, 2, 3}


def test_exactly_two_set_up_commands_go_through_the_constraints_file():
    blocks = re.findall(r"<!-- (\w+) -->\s*```bash\n(.*?)```", README, re.S)
    assert [name for name, _ in blocks] == ["quickstart", "test"]
    for _, command in blocks:
        assert command.count("\n") == 1
        assert "-m venv" in command and "-c constraints.txt" in command
    assert README.index(blocks[1][1]) < 3000  # the first screen


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


def test_the_strategies_table_names_every_strategy_and_knob():
    table = README[README.index("| `proxy_strategy` |") :].split("\n\n")[0]
    for name, trainer in strategies().items():
        if trainer.__module__.startswith("selgen_ray."):
            assert f"`{name}`" in table
            for knob in trainer.knobs():
                assert f"`{knob}`" in table


def test_the_strategy_of_the_readme_trains(make_config):
    code = re.search(r"```python\n(from selgen_ray.trainers import knob.*?)```", README, re.S)[1]
    assert code.count("\n") <= 20
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    trainer = get_trainer("scaled")(build_config(make_config("scaled", scale=3.0, epochs=1)))
    before = {name: p.detach().clone() for name, p in trainer.parameters.items()}
    record = trainer.train()
    assert any(not torch.equal(before[name], p) for name, p in trainer.parameters.items())
    loss = record.eval_results["task_train"]["loss"][0]
    assert record.train_losses["loss"][0] == pytest.approx(3 * loss, rel=0.2)
    trainer.close()
