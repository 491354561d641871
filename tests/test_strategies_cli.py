"""`python -m selgen_ray.strategies`: the list, one strategy in detail, and what the docstrings give."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from selgen_ray.space import load_space
from selgen_ray.strategies import BAD_INPUT, DONE, describe, main
from selgen_ray.trainers import get_trainer, plugins, strategies

Run = Callable[..., list[str]]
# other tests may have registered some of their own
SHIPPED = [name for name, trainer in strategies().items() if trainer.__module__.startswith("selgen_ray.")]

PLUGIN = '''"""`mine`: a loss of one's own.

It is a plugin.
"""

from __future__ import annotations

from typing import Literal

from selgen_ray.trainers import knob
from selgen_ray.trainers.base import BaseTrainer


class Documented(BaseTrainer):
    """Minimise L_O + a * L_X. Source: Nobody 2099, "The Source: a Reader";
    and another.

    The open source: not a citation. Detail of it.

    - one
    - two

    Source: a second one.
    """

    proxy_strategy_name = "mine"
    aliases = ("my_own",)
    required_roles = ("outcome", "truth")
    how: Literal["a", "b"] = knob("b", "which of the two")
    a: float = knob(0.5, "weight", ge=0, lt=2)
    names: list[str] = knob(["x: y", "z"], "a list", section="")
    nothing: str | None = knob(None, "may be absent")


class Silent(Documented):
    proxy_strategy_name = "silent"
    aliases = ()
    b: int = knob(7, "own")


class Bare(BaseTrainer):
    proxy_strategy_name = "bare"
'''


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """The lines that a command writes in a terminal of 80 columns; it must succeed."""
    monkeypatch.setenv("COLUMNS", "80")

    def lines(*argv: str | Path) -> list[str]:
        assert main(list(map(str, argv))) == DONE
        captured = capsys.readouterr()
        assert captured.err == ""
        return captured.out.splitlines()

    yield lines
    plugins.register_exactly(())


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN)
    return path


def test_the_list_has_every_strategy(run: Run) -> None:
    lines = run()
    names = [line.split()[0] for line in lines if line and not line.startswith(" ")]
    assert names == list(strategies())
    assert "naive (or task_trained, mixed)" in lines
    start = lines.index("kl_divergence")
    assert lines[start : lines.index("", start)] == [
        "kl_divergence",
        "  keep the model's predictions on the proxy near those it had before.",
        "  formula   Minimise L_O + beta_kl * mean over the proxy's scored tokens of",
        "              KL(p_theta || p_base).",
        "  needs     outcome, proxy",
        "  knobs     finetune_config.beta_kl = 1.0: a finite number >= 0",
        "            finetune_config.kl_on = proxy: proxy, outcome",
        '  source    Azarbal et al. 2025, "Selective Generalization"; on the outcome:',
        "              Kaczér et al. 2025 (arXiv 2508.06249).",
    ]


@pytest.mark.parametrize(("columns", "width"), [("20", 80), ("100", 100), ("500", 120)])
def test_lines_fit(run: Run, monkeypatch: pytest.MonkeyPatch, columns: str, width: int) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    lines = [*run(), *run("show", "dpo")]
    assert width - 10 < max(map(len, lines)) <= width


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_strategy_is_documented(name: str) -> None:
    told = describe(get_trainer(name))
    assert told.summary
    assert told.formula
    assert "Source:" not in told.formula


@pytest.mark.parametrize("name", SHIPPED)
def test_the_snippet_of_every_strategy_is_a_search_space(run: Run, tmp_path: Path, name: str) -> None:
    lines = run("show", name)
    space, plain = tmp_path / "space.yaml", tmp_path / "plain.yaml"
    space.write_text("\n".join(lines[lines.index("in a search space:") + 1 :]))
    plain.write_text(f"strategies: {{{name}: }}")
    first = load_space(space).trials
    if name == "inoculation_prompting":  # it has no default text, so an example stands there
        (trial,) = first
        assert trial.config.finetune_config.inoculation_prompt
        return
    second = load_space(plain).trials
    assert [trial.trial_id for trial in first] == [trial.trial_id for trial in second]


def test_one_strategy_in_detail(run: Run, plugin: Path) -> None:
    lines = run("show", "my_own", "--plugin", plugin)
    assert lines == [
        "mine (or my_own)",
        "  a loss of one's own.",
        "",
        'Minimise L_O + a * L_X. Source: Nobody 2099, "The Source: a Reader"; and',
        "another.",
        "",
        "The open source: not a citation. Detail of it.",
        "",
        "- one",
        "- two",
        "",
        "Source: a second one.",
        "",
        "knobs",
        "  finetune_config.how",
        "    which of the two",
        "    a, b; default: b",
        "  finetune_config.a",
        "    weight",
        "    a finite number >= 0 and < 2; default: 0.5",
        "  names",
        "    a list",
        "    a list of text; default: ['x: y', z]",
        "  finetune_config.nothing",
        "    may be absent",
        "    text or null; default: null",
        "",
        "needs     data.outcome, data.truth",
        'source    Nobody 2099, "The Source: a Reader"; and another. a second one.',
        f"class     {get_trainer('mine').__module__}.Documented",
        f"file      {plugin}",
        "",
        "in a search space:",
        "",
        "strategies:",
        "  mine:",
        "    fixed:",
        "      finetune_config.how: b",
        "      names: ['x: y', z]",
        "    grid:",
        "      finetune_config.a: [0.5]  # add the values to compare",
    ]


def test_a_strategy_without_docstring_says_nothing_of_the_one_it_inherits_from(run: Run, plugin: Path) -> None:
    told = describe(get_trainer("naive"))
    assert told.formula
    lines = run("--plugin", plugin)
    start = lines.index("silent")
    assert lines[start : lines.index("", start)] == [
        "silent",
        "  needs     outcome, truth",
        "  knobs     finetune_config.b = 7: a whole number",
        "            finetune_config.how = b: a, b",
        "            finetune_config.a = 0.5: a finite number >= 0 and < 2",
        "            names = ['x: y', z]: a list of text",
        "            finetune_config.nothing = null: text or null",
    ]
    assert lines[lines.index("bare") :][:2] == ["bare", "  needs     outcome"]
    assert run("--plugin", plugin, "show", "bare") == [
        "bare",
        "",
        "knobs: none",
        "",
        "needs     data.outcome",
        f"class     {get_trainer('bare').__module__}.Bare",
        f"file      {plugin}",
        "",
        "in a search space:",
        "",
        "strategies:",
        "  bare: {}",
    ]


def test_an_unknown_name_is_told_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "kl_divergance"]) == BAD_INPUT
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("Invalid proxy strategy 'kl_divergance'. Allowed: ")
    assert captured.err.endswith("Did you mean 'kl_divergence'?\n")


def test_a_plugin_that_cannot_be_used_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--plugin", str(tmp_path / "nowhere.py")]) == BAD_INPUT
    assert "nowhere.py" in capsys.readouterr().err
    (tmp_path / "broken.py").write_text("x = 1\ny = z\n")
    assert main(["show", "naive", "--plugin", str(tmp_path / "broken.py")]) == BAD_INPUT
    assert "broken.py:2: NameError" in capsys.readouterr().err


def test_the_module_is_a_command() -> None:
    command = [sys.executable, "-m", "selgen_ray.strategies", "show", "naive"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True)
    assert done.stdout.startswith("naive (or task_trained, mixed)\n")
    assert "\x1b" not in done.stdout
