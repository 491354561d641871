"""Strategies of installed packages, which are found through their entry points."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from plugin_sources import MINE, run_python
from running import environment, sweep


def install(site: Path, name: str, version: str, entries: str, files: dict[str, str]) -> None:
    """What an installer leaves behind, as far as entry points are concerned."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    meta = {"METADATA": metadata, "entry_points.txt": f"[selgen_ray.trainers]\n{entries}\n"}
    for path, source in (
        {info / key: text for key, text in meta.items()} | {site / k: v for k, v in files.items()}
    ).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)


def named(name: str) -> str:
    return MINE.replace('"mine"', f'"{name}"').replace("my_own", f"my_{name}")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    site = tmp_path_factory.mktemp("site")
    install(
        site,
        "Lab_Strategies",
        "1.2",
        "lab = lab.names",
        {"lab/names.py": "import lab.code", "lab/code.py": named("lab")},
    )
    install(site, "lab-class", "0.1", "one = lab_class:Mine", {"lab_class.py": named("by_class")})
    half = {"half/fine.py": named("fine"), "half/broken.py": named("broken") + "1 / 0\n"}
    install(site, "lab-half", "3.0", "broken = half.broken\nfine = half.fine", half)
    wrong = {"lab_wrong.py": named("wrong").replace("1.0", "0.0"), "lab_empty.py": "nothing = 1\n"}
    install(site, "lab-wrong", "3.1", "wrong = lab_wrong\nempty = lab_empty:nothing", wrong)
    return site


ASK = """
import json
from selgen_ray.trainers.identity import identity_of_trial as settings
from selgen_ray.trainers import build_config, get_trainer, strategies
needs = {"inoculation_prompting": {"finetune_config": {"inoculation_prompt": "Be wrong."}}}
raw = {name: {"proxy_strategy": name} | needs.get(name, {}) for name in strategies()}
code = {name: settings(build_config(one), {}, "m").get("strategy_code") for name, one in raw.items()}
try:
    get_trainer("mine")
except ValueError as error:
    print(json.dumps([code, str(error)]))
"""


def test_entry_points_are_found_and_a_broken_one_stops_nobody(tmp_path, site):
    done = run_python("-c", ASK, cwd=tmp_path, site=site)
    assert done.returncode == 0, done.stderr
    code, error = json.loads(done.stdout)
    assert code["lab"] == ["lab-strategies==1.2"] and code["by_class"] == ["lab-class==0.1"]
    assert code["fine"] == ["lab-half==3.0"] and "broken" not in code and "wrong" not in code
    assert code["naive"] is None
    assert "Invalid proxy strategy 'mine'" in error
    warnings = done.stderr.splitlines()
    told = [
        "the entry point 'broken' of lab-half==3.0 could not be loaded: ZeroDivisionError: division by zero",
        "the entry point 'empty' of lab-wrong==3.1 could not be loaded: ImportError: lab_empty:nothing is no strategy",
        "the entry point 'wrong' of lab-wrong==3.1 could not be loaded: TypeError: Mine.push: the default 0.0",
    ]
    for expected, warning in zip(told, warnings, strict=True):
        assert warning.startswith(expected) and expected in error


@pytest.mark.ray
@pytest.mark.by_hand
def test_workers_import_entry_points_and_the_report_needs_no_plugin(tmp_path, site, tiny_model_dir, data_files):
    """One trial of a plugin and one of an installed package, on real workers, then the report without either."""
    finetune = {"model": tiny_model_dir, "epochs": 1, "max_new_tokens": 1}
    base = json.dumps({"data": data_files, "finetune_config": finetune})
    (tmp_path / "mine.py").write_text(MINE)
    space = tmp_path / "space.yaml"
    space.write_text(f"name: tiny\nplugins: [mine.py]\nbase: {base}\nstrategies: {{mine: , lab: }}")
    env = environment()
    env["PYTHONPATH"] += f":{site}"
    done = sweep(space, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"^completed +(?:lab|mine)_", done.stdout, re.M)) == 2
    (tmp_path / "mine.py").unlink()
    report = run_python("-m", "selgen_ray.report", "sweeps/tiny", cwd=tmp_path)
    assert report.returncode == 0 and report.stderr == ""
    assert re.search(r"\bmine\b", report.stdout) and re.search(r"\blab\b", report.stdout)
