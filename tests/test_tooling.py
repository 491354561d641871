"""What a contributor's tools are told."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


def test_every_hook_before_a_commit_is_a_program_of_the_environment():
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local", "nothing is fetched"
    for hook in repository["hooks"]:
        assert hook["language"] == "system"
        assert (BIN / hook["entry"].split()[0]).exists(), hook["id"]


def test_the_core_is_checked_strictly():
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pyright"]
    assert told["typeCheckingMode"] == "strict"
    assert len(told["strict"]) > 50 and all((ROOT / path).exists() for path in told["strict"])
    strategies = {path.name for path in (ROOT / "selgen_ray" / "trainers").glob("*_p*.py")}
    # two files meet PyTorch functions whose stubs have no types
    assert strategies <= {Path(path).name for path in told["strict"]} | {
        "log_probabilities.py",
        "activation_penalty.py",
    }


@pytest.mark.by_hand
def test_the_hooks_pass(tmp_path):
    if not (BIN / "pre-commit").exists():
        pytest.skip("pre-commit is not installed: pip install -c constraints.txt -e '.[dev]'")
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(tmp_path / "clone")], check=True)
    env = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "PRE_COMMIT_HOME": str(tmp_path / "home")}
    command = ["pre-commit", "run", "--all-files"]
    done = subprocess.run(command, cwd=tmp_path / "clone", env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("Passed") == 5, done.stdout
    shutil.rmtree(tmp_path / "clone")
