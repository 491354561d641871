"""`selgen_ray.Sweep`: the sweep as an object of a program or a notebook. All but one test do without Ray."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
import types
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import yaml
from guides import blocks
from matplotlib.figure import Figure
from running import write_space

import selgen_ray
from selgen_ray import errors
from selgen_ray.driver import display
from selgen_ray.driver.display import Board, Progress, make_display
from selgen_ray.driver.driver import claim
from selgen_ray.records.control import Control
from selgen_ray.space import load_space
from selgen_ray.storage import Folder
from selgen_ray.sweep import interface
from selgen_ray.trial.run import run_trial


@pytest.fixture
def space(tmp_path, tiny_model_dir, data_files, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_space(tmp_path, tiny_model_dir, data_files, {"epochs": 1, "save_model_locally": False})


@pytest.fixture
def content(space):
    return yaml.safe_load(space.read_text())


def refused(content) -> str:
    with pytest.raises(errors.SpecError) as caught:
        selgen_ray.Sweep.from_dict(content)
    assert all(problem.line is None and problem.file == "" for problem in caught.value.problems)
    return str(caught.value)


def test_a_dict_gives_the_trials_of_the_file(space, content):
    base = content.pop("base")
    finetune = base["finetune_config"] | {"learning_rate": np.float64(5e-3), "epochs": np.int64(1)}
    content |= {"seeds": tuple(content["seeds"]), "base.finetune_config": finetune, "base.data": base["data"]}
    of_dict, of_file = selgen_ray.Sweep.from_dict(content), selgen_ray.Sweep.from_yaml(space)
    assert of_dict.spec.trials == of_file.spec.trials and len(of_dict.spec.trials) == 6
    assert (of_dict.name, of_dict.folder) == ("tiny", str(space.parent / "sweeps" / "tiny"))


def test_errors_of_a_dict_name_the_path_of_the_key(content):
    content["base"]["finetune_config"] |= {"learning_rat": 1, "epochs": -1, "r": object()}
    content |= {"seeds": [1, 1], 3: 4}
    text = refused(content)
    assert "  - base.finetune_config.learning_rat: unknown key" in text and "learning_rate'" in text
    assert "  - base.finetune_config.epochs: found -1" in text
    assert "  - seeds[1]: the seed 1 is given twice." in text
    assert "  - base.finetune_config.r: found <object" in text and "what YAML can hold" in text
    assert "found the key 3 (int); keys are text" in text
    looped: dict = {"name": "x"}
    looped["base"] = looped
    assert "does it contain itself?" in refused(looped)
    assert "found a list; allowed: a mapping of keys." in refused([1])


def test_a_kept_dict_is_a_search_space_that_stands_alone(content, data_files, tmp_path, monkeypatch):
    content["base"]["data"]["outcome"] = "rows.jsonl"
    (tmp_path / "rows.jsonl").write_bytes(Path(data_files["outcome"]).read_bytes())
    sweep = selgen_ray.Sweep.from_dict(content)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "space.yaml").write_bytes(sweep._kept_text())
    monkeypatch.chdir(elsewhere)
    assert load_space("space.yaml").trials == sweep.spec.trials


def test_plan_status_results_report_and_plots(space):
    sweep = selgen_ray.Sweep.from_yaml(space)
    assert "capability" in "\n".join(sweep.check())
    assert sweep.status().counts == {"pending": 6} and not sweep.status().is_running
    with pytest.raises(errors.StorageError, match="has not been run yet"):
        sweep.results()
    with pytest.raises(errors.StorageError, match="has not been run yet"):
        sweep.report()
    assert not (space.parent / "sweeps").exists()  # looking writes nothing
    plan = sweep.plan()
    assert list(plan["status"]) == ["pending"] * 6 and list(plan["seed"]) == [1, 2] * 3
    assert list(plan["beta_kl"].dropna()) == [1.0, 1.0, 10.0, 10.0] and plan["trial_id"].is_unique
    for trial in sweep._plan(["seed=1"]).planned:
        run_trial(trial.task)
    assert sorted(sweep.plan()["status"]) == ["completed"] * 3 + ["pending"] * 3
    assert sweep.status().counts == {"completed": 3} and "3 completed" in str(sweep.status())
    table = sweep.results()
    assert len(table) == 3 and sorted(table["beta_kl"].dropna()) == [1.0, 10.0]
    page = sweep.report()
    assert page == str(space.parent / "sweeps/tiny/report/index.html") and Folder(page.rpartition("/")[0]).exists()
    figure = sweep.plot()
    assert isinstance(figure, Figure) and figure._repr_png_().startswith(b"\x89PNG")
    assert isinstance(sweep.plot("strengths"), Figure)
    with pytest.raises(errors.SelectionError, match=r"no picture 'paretto'; there are: pareto, .* mean 'pareto'\?"):
        sweep.plot("paretto")


def test_what_is_wrong_is_an_exception_and_nothing_has_begun(space, content):
    with pytest.raises(errors.SelectionError, match=r"no trial has it. Found: 1, 2"):
        selgen_ray.Sweep.from_dict(content).run(only=["seed=3"])
    content["base"]["data"]["outcome"] = str(space.parent / "bad.jsonl")
    (space.parent / "bad.jsonl").write_text('{"messages": 3}\n')
    sweep = selgen_ray.Sweep.from_dict(content)
    with pytest.raises(errors.DataError, match=r"bad.jsonl:1"):
        sweep.run()
    good = selgen_ray.Sweep.from_yaml(space)
    with (
        claim(Control(Folder(good.folder))),
        pytest.raises(errors.SweepBusyError, match="is running this sweep"),
    ):
        good.run()


def test_an_interrupt_is_raised_once_the_sweep_has_ended(space):
    sweep = selgen_ray.Sweep.from_yaml(space)
    with mock.patch.object(interface, "launch_sweep", return_value="Ctrl-C"), pytest.raises(KeyboardInterrupt):
        sweep.run(progress="none")
    with mock.patch.object(interface, "launch_sweep", return_value="the time budget is used up"):
        assert list(sweep.run(progress="none", time_budget_s=1)["status"]) == ["pending"] * 6
    assert (space.parent / "sweeps/tiny/space.yaml").read_text() == space.read_text()


@pytest.mark.parametrize("in_main_thread", [True, False])
def test_a_cluster_that_is_gone_is_an_exception_of_the_thread_that_waits(space, in_main_thread):
    def launch(spec, plan, display, abandon, lease, time_budget_s=None):
        threading.Timer(0.05, abandon, ["the Ray cluster is gone"]).start()
        for _ in range(1000):
            time.sleep(0.01)
        raise AssertionError("nobody woke this thread")

    caught = []

    def run():
        try:
            selgen_ray.Sweep.from_yaml(space).run(progress="none")
        except errors.ClusterError as error:
            caught.append(str(error))

    with mock.patch.object(interface, "launch_sweep", launch):
        if in_main_thread:
            run()
        else:
            thread = threading.Thread(target=run)
            thread.start()
            thread.join()
    assert caught == ["the Ray cluster is gone; what was finished is on storage, run() goes on"]


def test_a_function_gets_the_progress_and_is_dropped_when_it_raises(caplog):
    seen: list[Progress] = []
    board = Board(total=3, running={"naive_1/seed_1": {"step": 2, "num_steps": 4}})
    shown = make_display(seen.append)
    shown.update(board)
    shown.update(board)  # too soon
    board.end("naive_1/seed_1", "completed")
    shown.line("completed  naive_1/seed_1", board)
    assert [one.message for one in seen] == ["", "completed  naive_1/seed_1"]
    assert seen[0].finished == {} and seen[0].running == {"naive_1/seed_1": {"step": 2, "num_steps": 4}}
    assert seen[1].finished == {"completed": 1} and seen[1].summary.startswith("1/3 finished")
    calls = []

    def fails(progress):
        calls.append(progress)
        raise ValueError("mine")

    broken = make_display(fails)
    broken.line("a", board)
    broken.line("b", board)
    assert len(calls) == 1 and "not called again" in caplog.text


def test_a_notebook_is_redrawn_in_place(monkeypatch):
    drawn: list[str] = []
    handle = types.SimpleNamespace(update=drawn.append)
    shown = types.SimpleNamespace(HTML=str, display=lambda html, display_id: handle)
    kernel = types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: kernel, display=shown))
    monkeypatch.setitem(sys.modules, "IPython.display", shown)
    notebook = make_display()
    assert isinstance(notebook, display.NotebookDisplay)
    notebook.start()
    board = Board(total=2, running={"naive_1/seed_1": {"step": 2, "num_steps": 4, "loss": 0.5}})
    notebook.update(board)
    notebook.line("completed  <naive>/seed_2  capability 0.500", board)  # too soon: it is in the next drawing
    notebook.stop()
    assert len(drawn) == 2 and all(html.startswith("<pre>") for html in drawn)
    assert "step 2/4" in drawn[0] and "naive_1" in drawn[0]
    assert "&lt;naive&gt;/seed_2" in drawn[1] and "capability" in drawn[1]
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: None))
    assert not isinstance(make_display(), display.NotebookDisplay)  # IPython in a terminal


@pytest.mark.ray
def test_the_guide_in_a_program_that_is_connected_to_ray(tmp_path, joined, monkeypatch, capsys):
    """With an event loop that runs, as in a notebook's kernel; the program keeps its connection."""
    import ray

    example, progress, *_ = (block.text for block in blocks("python", "selgen_ray/sweep/README.md"))
    monkeypatch.chdir(tmp_path)
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE"):
        monkeypatch.setenv(name, joined[name])
    before = {name: value for name, value in os.environ.items() if name.startswith("TUNE_")}
    names: dict = {}

    async def cell(code):
        exec(code, names)

    ray.init(log_to_driver=False)
    try:
        asyncio.run(cell(example))
        asyncio.run(cell(progress))  # nothing is left to run
        assert ray.is_initialized() and ray.get(ray.put(1)) == 1
    finally:
        ray.shutdown()
    assert {name: value for name, value in os.environ.items() if name.startswith("TUNE_")} == before
    assert list(names["table"]["status"]) == ["completed"] * 6 and len(names["results"]) == 6
    assert isinstance(names["figure"], Figure)
    shown = capsys.readouterr().out
    assert "completed  naive" in shown and f"{tmp_path}/sweeps/from_python/report/index.html" in shown
