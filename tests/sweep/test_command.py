"""The command before a sweep begins: what is not one of its words, and Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from running import environment, wait_for

from selgen_ray.sweep import main


@pytest.mark.parametrize(("word", "meant"), [("stauts", "status"), ("retyr", "retry"), ("stopp", "stop")])
def test_a_misspelt_command_gets_a_hint(
    word: str, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([word, "sweeps/quickstart"]) == 2
    assert f"{word!r} is no file" in (err := capsys.readouterr().err) and f"Did you mean {meant!r}?" in err
    (tmp_path / word).write_text("nme: x\n")  # a file of that name is a search space
    assert main([word]) == 2
    assert f"{word}:1: " in capsys.readouterr().err


def test_ctrl_c_during_the_imports_prints_no_traceback(tmp_path: Path) -> None:
    reached = tmp_path / "reached"
    slow = f"import pathlib, time\npathlib.Path({str(reached)!r}).touch()\ntime.sleep(60)\n"
    (tmp_path / "torch.py").write_text(slow)  # the import that takes longest
    env = environment() | {"PYTHONPATH": f"{tmp_path}:{environment()['PYTHONPATH']}"}
    command = [sys.executable, "-m", "selgen_ray.sweep", "space.yaml"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, cwd=tmp_path
    )
    wait_for(reached.exists)
    time.sleep(0.5)  # it sleeps now: inside a callback of the import system Python would lose the signal
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == ("", "interrupted\n")
    assert process.returncode == 130
