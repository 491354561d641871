"""The notebook-style script of search_spaces/ runs from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure

SCRIPT = Path(__file__).parents[2] / "search_spaces" / "notebook.py"


def cells() -> list[str]:
    """The code cells, without those of text."""
    parts = re.split(r"^# %%(.*)$", SCRIPT.read_text(encoding="utf-8"), flags=re.M)[1:]
    return [code for kind, code in zip(parts[::2], parts[1::2], strict=True) if "markdown" not in kind]


@pytest.mark.ray
def test_its_cells_run_one_after_another(tmp_path, joined, monkeypatch, capsys):
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE"):
        monkeypatch.setenv(name, joined[name])
    monkeypatch.setenv("SELGEN_SMALL", "1")
    monkeypatch.setenv("SELGEN_SWEEPS", str(tmp_path))
    names: dict = {}
    shown = []
    for code in cells():
        *_, last = code.strip().splitlines()
        exec(code, names)
        shown.append(eval(last, names) if last.startswith("sweep.") else None)  # as a notebook shows the last line
    assert list(names["trials"]["status"]) == ["completed"] * 6
    assert sum(isinstance(one, Figure) for one in shown) == 2
    assert f"the page: {tmp_path}/notebook/report/index.html" in capsys.readouterr().out
