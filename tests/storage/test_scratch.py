"""Temporary folders of processes that were killed are removed by the next process, and those in use are not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import environment

from selgen_ray.storage.scratch import make_scratch, scratch

HOLDER = """
import sys, time
from selgen_ray.storage.scratch import make_scratch
folder = make_scratch("model")
(folder / "model.safetensors").write_bytes(b"x" * 1000)
print(folder, flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield tmp_path
    tempfile.tempdir = None


def test_a_folder_ends_with_its_use_or_after_its_process(temp: Path) -> None:
    options = {"stdout": subprocess.PIPE, "text": True, "env": environment() | {"TMPDIR": str(temp)}}
    holder = subprocess.Popen([sys.executable, "-c", HOLDER], **options)  # pyright: ignore
    try:
        held = Path(holder.stdout.readline().strip())  # pyright: ignore
        with scratch("model") as mine:
            assert held.exists() and not list(mine.iterdir()) and mine.parent.parent == temp
        assert not mine.parent.exists() and held.exists()
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert (held / "model.safetensors").exists()
    kept = make_scratch("tune")
    assert not held.parent.exists() and kept.exists()


def test_one_that_another_process_is_making_just_now_stays(temp: Path) -> None:
    """It has its lock's file, and is about to take the lock."""
    made = temp / "selgen_model_a"
    made.mkdir()
    (made / ".lock").touch()
    with scratch("check"):
        assert made.exists()
    (made / "content").mkdir()
    with scratch("check"):
        assert not made.exists()


def test_folders_of_others_and_new_ones_without_a_lock_stay(temp: Path) -> None:
    new, old, link, other = (
        temp / name for name in ("selgen_model_a", "selgen_train_b", "selgen_tune_c", "mine_model_d")
    )
    for folder in (new, old, other):
        folder.mkdir()
    link.symlink_to(other)
    for folder in (old, other):
        os.utime(folder, (time.time() - 10**6,) * 2)
    with scratch("check"):
        assert new.exists() and link.exists() and other.exists() and not old.exists()
