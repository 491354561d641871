"""docker/Dockerfile and the scripts, by linters and by what they must hold; what runs it all is test_image.py."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import selgen_ray

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.parametrize("command", [["hadolint", "docker/Dockerfile"], ["shellcheck", "docker/slurm.sbatch"]])
def test_linters_find_nothing(command):
    program = str(Path(sys.executable).with_name(command[0]))
    done = subprocess.run([program, *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "", done.stdout + done.stderr


def test_bases_are_fixed_and_nothing_is_a_secret():
    bases = [base for base in re.findall(r"^FROM (\S+)", DOCKERFILE, re.M) if ":" in base]
    assert bases == ["python:3.11-slim-bookworm"] * 2
    assert not re.search(r"^(ARG|ENV) .*(TOKEN|KEY|SECRET|PASSWORD)\b.*=", DOCKERFILE, re.M)
    assert f"{selgen_ray.__version__}-$VARIANT" in DOCKERFILE
    assert re.search(r"^USER 1000:1000$", DOCKERFILE, re.M)


def test_what_is_copied_is_let_into_the_build():
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {name for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.M) for name in line.split()[:-1]}
    assert copied == allowed and all((ROOT / name).exists() for name in allowed)


def requirements(extras: str, packages: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "docker" / "requirements.py"), str(ROOT / "pyproject.toml"), extras, packages]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("extras", ["", "search", "quantized,search", "trackers"])
def test_the_layer_of_dependencies_holds_what_the_package_asks_for(extras):
    wanted, asked = set(PROJECT["dependencies"]), [extra for extra in extras.split(",") if extra]
    if "trackers" in asked:
        asked += ["wandb", "mlflow", "trackio"]
    wanted |= {line for extra in asked if extra != "trackers" for line in PROJECT["optional-dependencies"][extra]}
    found = requirements(extras, "boto3").stdout.splitlines()
    assert sorted(found) == sorted([*wanted, "boto3"])
    assert all(Requirement(line) for line in found)


def test_an_extra_that_is_not_there_is_refused():
    done = requirements("quantised")
    assert done.returncode == 1 and done.stdout == ""
    assert "no extra 'quantised'; there are: " in done.stderr and "quantized, search" in done.stderr


def test_constraints_pin_what_the_image_installs():
    pinned = {
        re.sub(r"[-_.]+", "-", line.split("==")[0]).lower()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    for line in requirements("quantized,search", "boto3").stdout.splitlines():
        assert re.sub(r"[-_.]+", "-", Requirement(line).name).lower() in pinned
    assert version("ray") in (ROOT / "constraints.txt").read_text()
