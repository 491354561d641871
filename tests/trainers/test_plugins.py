"""Strategies in files that a search space names."""

from __future__ import annotations

import inspect
import json
import pickle
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from plugin_sources import MINE, run_python

from selgen_ray.driver.plan import make_plan
from selgen_ray.driver.preflight import check_data
from selgen_ray.errors import PluginError, SpecError
from selgen_ray.evals import registry as evals_registry
from selgen_ray.report.colours import colour_of, marker_of
from selgen_ray.space import SweepSpec, load_space
from selgen_ray.trainers import build_config, get_trainer, plugins, strategies
from selgen_ray.trainers.identity import identity_of_trial, trial_id
from selgen_ray.trainers.plugins import Plugin

SPACE = (
    "plugins: [mine.py]\nbase: {data.world: toy}\nseeds: [1, 2]\nstrategies: {mine: {fixed: {finetune_config.push: 2}}}"
)


CHILD = """\
from selgen_ray.trainers import get_trainer


class Child(get_trainer("mine")):
    proxy_strategy_name = "child"
"""


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    plugins.register_exactly(())


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., SweepSpec]:
    """load('text of space.yaml', mine='text of mine.py')"""
    monkeypatch.chdir(tmp_path)

    def write_and_load(text: str = SPACE, **modules: str) -> SweepSpec:
        for name, source in ({"mine": MINE} | modules).items():
            (tmp_path / f"{name}.py").write_text(source)
        Path("space.yaml").write_text(text)
        return load_space("space.yaml")

    return write_and_load


def ids(spec: SweepSpec) -> list[str]:
    return [trial.trial_id for trial in spec.trials]


# -- a search space with plugins -------------------------------------------------------------------------------------


def test_a_plugin_is_a_strategy_like_any_other(load, tmp_path):
    spec = load()
    assert [trial.config.proxy_strategy for trial in spec.trials] == ["mine", "mine"]
    assert {trial.config.finetune_config.push for trial in spec.trials} == {2.0}
    assert spec.plugins == [str(tmp_path / "mine.py")]
    assert [plugin.source for plugin in spec.plugin_sources] == [MINE]
    assert ids(load(SPACE.replace("mine:", "my_own:"))) == ids(spec)
    assert check_data(spec) == []
    (problem,) = problems_of(load, SPACE.replace("push", "pusch"))
    assert problem.endswith("Did you mean 'strategies.mine.fixed.finetune_config.push'?")


def test_what_a_space_can_use_depends_on_itself_alone(load):
    spec = load()
    (problem,) = problems_of(
        load, SPACE.replace("plugins: [mine.py]\n", "").replace("{fixed: {finetune_config.push: 2}}", "")
    )
    assert "Invalid proxy strategy 'mine'" in problem
    assert "mine" not in strategies()
    assert check_data(spec) == [], "a space that was read before still finds its strategies"
    assert "mine" in strategies()


def test_extends_finds_plugins_beside_the_file_that_names_them(load, tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "mine.py").write_text(MINE.replace('"mine"', '"deep"'))
    (tmp_path / "below" / "parent.yaml").write_text("plugins: [mine.py]\nbase: {data.world: toy}")
    assert load("extends: below/parent.yaml\nbase.proxy_strategy: deep").plugins == [str(tmp_path / "below/mine.py")]
    replaced = load("extends: below/parent.yaml\nplugins: [mine.py]\nbase.proxy_strategy: mine")
    assert replaced.plugins == [str(tmp_path / "mine.py")]
    assert load("extends: below/parent.yaml\nplugins:\n").plugins == []


PROBLEMS = [
    ("nowhere.py", "", "plugins[0]: found 'nowhere.py', but there is no such file; tried {here}/nowhere.py."),
    ("space.yaml", "", "plugins[0]: found 'space.yaml'; allowed: the path of a Python file, *.py."),
    (
        "bad.py",
        "x = (\n",
        "plugins[0]: found 'bad.py', which cannot be used: {here}/bad.py:1: SyntaxError: '(' was never closed",
    ),
    ("bad.py", "\nimport no_such_module\n", "{here}/bad.py:2: ModuleNotFoundError: No module named 'no_such_module'"),
    ("bad.py", "def f():\n    return {}['a']\n\nf()\n", "{here}/bad.py:2: KeyError: 'a'"),
    ("bad.py", "import sys\nsys.exit(3)\n", "{here}/bad.py:2: SystemExit: 3"),
    ("bad.py", "# coding: klingon\n", "{here}/bad.py: cannot be read: unknown encoding: klingon"),
    (
        "bad.py",
        "from selgen_ray.trainers.naive import StandardTrainer\n",
        "{here}/bad.py: ImportError: defines no strategy",
    ),
    (
        "bad.py",
        MINE.replace('"mine"', '"naive"'),
        "{here}/bad.py:5: ValueError: proxy strategy 'naive' is already taken by selgen_ray.",
    ),
    (
        "bad.py",
        MINE.replace("my_own", "task_trained"),
        "{here}/bad.py:5: ValueError: proxy strategy 'task_trained' is already taken",
    ),
    (
        "bad.py",
        MINE.replace('"mine"', '"a.b"'),
        "proxy strategy 'a.b': allowed: letters, digits, '_' and '-', a letter first",
    ),
    ("bad.py", MINE.replace("push: float", "push"), "{here}/bad.py:5: TypeError: Mine.push: write its type"),
    (
        "bad.py",
        MINE.replace("gt=0", "max_length=3"),
        "{here}/bad.py: TypeError: Mine.push: Unable to apply constraint 'max_length'",
    ),
    ("bad.py", MINE.replace("1.0", "0.0"), "Mine.push: the default 0.0 is not allowed: Input should be greater than 0"),
    (
        "bad.py",
        MINE.replace("push", "_push"),
        "{here}/bad.py: PydanticUserError: Fields must not use names with leading",
    ),
]


def problems_of(load: Callable[..., SweepSpec], text: str, **modules: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load(text, **modules)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(("name", "source", "told"), PROBLEMS)
def test_what_is_wrong_with_a_plugin(load, tmp_path, name, source, told):
    (problem,) = problems_of(load, f"seeds: [1]\nplugins: [{name}]\nstrategies: {{mine: }}", bad=source)
    assert problem.startswith("space.yaml:2: plugins[0]: found ")
    assert told.format(here=tmp_path) in problem
    assert "mine" not in strategies() and not [name for name in sys.modules if name.startswith("selgen_plugin_bad")]


def test_every_plugin_that_is_wrong_is_said(load):
    told = problems_of(load, "plugins: [mine.py, other.py, 3, nope.py]", other=MINE + "# another content\n")
    assert "is already taken by selgen_plugin_mine_" in told[0] and "plugins[1]" in told[0]
    assert "plugins[2]: found 3; allowed: the path of a file." in told[1]
    assert "plugins[3]: found 'nope.py'" in told[2] and len(told) == 3
    assert problems_of(load, "plugins: mine.py") == ["space.yaml:1: plugins: found 'mine.py'; allowed: a list."]


def test_what_failed_can_be_put_right(load):
    problems_of(load, SPACE, mine=MINE.replace("import knob", "import knobb"))
    assert len(load().trials) == 2


# -- identity --------------------------------------------------------------------------------------------------------


def test_changed_code_is_a_new_trial_and_the_others_are_untouched(load, tmp_path):
    both = SPACE.replace("strategies: {", "strategies: {naive: , ")
    first, again = load(both), load(both)
    assert ids(again) == ids(first)
    changed = load(both, mine=MINE + "# changed\n")
    by_strategy = {name: i for i, name in enumerate(["naive", "naive", "mine", "mine"])}
    assert ids(changed)[: by_strategy["mine"] - 1] == ids(first)[:2]
    assert not set(ids(changed)[2:]) & set(ids(first))
    alone = load("base: {data.world: toy}\nseeds: [1, 2]\nstrategies: {naive: }")
    assert ids(alone) == ids(first)[:2]
    Path("moved.py").write_text(MINE.replace("\n", "\r\n"))
    assert ids(load(both.replace("mine.py", "moved.py"))) == ids(first), "a moved file, other line ends"


def test_what_a_strategy_inherits_from_another_plugin_counts(load):
    space = "plugins: [mine.py, child.py]\nbase: {data.world: toy, proxy_strategy: child}"
    first = load(space, child=CHILD)
    hashes = [f"plugin:{plugin.sha256}" for plugin in first.plugin_sources]
    config = first.trials[0].config
    assert get_trainer("my_own") is get_trainer("mine"), "an alias is not inherited"
    assert identity_of_trial(config, {}, "m")["strategy_code"] == hashes[::-1]
    assert ids(load(space, child=CHILD, mine=MINE + "# changed\n")) != ids(first)
    assert "strategy_code" not in identity_of_trial(build_config({}), {}, "m")


# -- loading ---------------------------------------------------------------------------------------------------------


def test_the_same_content_runs_once_and_a_changed_one_replaces_it(capsys):
    counted = Plugin("/nowhere/mine.py", MINE + "print('run')\n")
    plugins.register_plugin(counted)
    plugins.register_plugin(counted)
    plugins.register_exactly([counted, Plugin("/elsewhere/copy.py", counted.source)])
    assert capsys.readouterr().out == "run\n"
    plugins.register_plugin(Plugin("/nowhere/mine.py", MINE.replace("1.0", "7.0").replace("my_own", "my_new")))
    assert build_config({"proxy_strategy": "my_new"}).finetune_config.push == 7.0
    with pytest.raises(ValueError, match="Invalid proxy strategy 'my_own'"):
        get_trainer("my_own")
    with pytest.raises(PluginError, match=r"^/elsewhere/mine.py:5: ValueError: .*'mine' is already taken"):
        plugins.register_plugin(Plugin("/elsewhere/mine.py", MINE))
    assert get_trainer("mine").push.default == 7.0
    plugins.register_exactly(())
    assert "mine" not in strategies()


def test_it_is_a_real_module_whose_lines_are_known_without_the_file():
    broken = MINE.replace("return self.push", "1 / 0\n        return self.push")
    plugins.register_plugin(Plugin("/nowhere/mine.py", "from __future__ import annotations\n" + broken))
    trainer = get_trainer("mine")
    assert re.fullmatch(r"selgen_plugin_mine_[0-9a-f]{8}", trainer.__module__)
    assert pickle.loads(pickle.dumps(trainer)) is trainer
    assert inspect.getsource(trainer).startswith("class Mine(BaseTrainer):")
    with pytest.raises(ZeroDivisionError) as caught:
        trainer._compute_loss(None, None)
    assert traceback.format_tb(caught.tb)[-1].splitlines()[:2] == [
        '  File "/nowhere/mine.py", line 12, in _compute_loss',
        "    1 / 0",
    ]


def test_the_source_travels_with_the_task(load, tmp_path, make_config):
    """A process that has neither the file nor anything in memory runs what it was handed."""
    base = {k: v for k, v in make_config("mine", epochs=1).items() if k != "proxy_strategy"}
    spec = load("plugins: [mine.py]\nstrategies: {mine: }\nbase: " + json.dumps(base))
    (task,) = make_plan(spec).to_run
    (tmp_path / "task").write_bytes(pickle.dumps(task))
    (tmp_path / "mine.py").unlink()
    code = "import pickle, sys, selgen_ray.trial.run as t; print(t.run_trial(pickle.load(open('task', 'rb'))).status)"
    done = run_python("-c", code, cwd=tmp_path)
    assert done.stdout == "completed\n", done.stderr


def test_a_strategy_nobody_knows_has_a_colour_that_stays():
    """Of its name alone: a figure must not change with what is registered."""
    before = colour_of("mine"), marker_of("mine")
    plugins.register_plugin(Plugin("/nowhere/mine.py", MINE))
    assert (colour_of("mine"), marker_of("mine")) == before == ("#87D433", "P")


def test_the_id_of_a_plugin_trial_is_pinned():
    plugins.register_plugin(Plugin("/nowhere/mine.py", MINE))
    assert trial_id(build_config({"proxy_strategy": "mine"}), {}, "m") == "f7a69ca211d0a985"


METRIC = """\
from selgen_ray.evals.registry import metric


@metric(shares=("shortness",), others=("length",))
def shortness(eval_set):
    length = sum(map(len, eval_set.encoded)) / len(eval_set.rows)
    return {"length": length, "shortness": 1 / length}
"""
MEASURED = (
    "plugins: [mine.py]\nbase: {data.world: toy, evals: {alignment: align_test/shortness}}\nstrategies: {naive: {}}"
)


def test_a_plugin_may_hold_a_metric_alone(tmp_path: Path) -> None:
    def load(source: str, space: str = MEASURED) -> SweepSpec:
        (tmp_path / "mine.py").write_text(source)
        (tmp_path / "space.yaml").write_text(space)
        return load_space(tmp_path / "space.yaml")

    spec = load(METRIC)
    assert "shortness" in evals_registry.all_metrics()
    changed = load(METRIC.replace("1 / length", "2 / length"))
    assert spec.trials[0].trial_id != changed.trials[0].trial_id
    unused = MEASURED.replace("alignment: align_test/shortness", "metrics: [loss]")
    assert load(METRIC, unused).trials[0].trial_id == load(METRIC + "\n", unused).trials[0].trial_id
    with pytest.raises(SpecError, match="'shortness'"):
        load(METRIC.replace("def shortness", "def other").replace('("shortness",)', '("other",)'))
    with pytest.raises(SpecError, match="already taken"):
        load(METRIC.replace("def shortness", "def loss"))
    plugins.register_exactly(())
    assert (
        "shortness" not in evals_registry.all_metrics()
        and evals_registry.all_metrics()["loss"].compute.__module__ == "selgen_ray.evals.metrics.loss"
    )


def test_a_metric_of_a_plugin_is_measured(tmp_path: Path, make_config: Callable[..., dict[str, Any]]) -> None:
    plugins.register_exactly([Plugin("mine.py", METRIC)])
    top = {"evals": {"alignment": "align_test/shortness", "metrics": ["shortness"]}}
    with get_trainer("naive")(make_config(top=top)) as trainer:
        lengths = [len(e) for e in trainer.sets.evals["align_test"].encoded]
        found = trainer.evaluate()["align_test"]
    assert found == pytest.approx({"length": sum(lengths) / len(lengths), "shortness": len(lengths) / sum(lengths)})
