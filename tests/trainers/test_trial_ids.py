"""The ids of the trials of every shipped search space: a change makes each finished trial of users' sweeps run again.

`python tests/test_trial_ids.py` writes the table anew, for a search space that was added or changed on purpose.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from selgen_ray.space import load_space

ROOT = Path(__file__).parents[2]
SPACES = sorted((ROOT / "search_spaces").glob("*.yaml"))
TABLE = Path(__file__).parents[1] / "fixtures" / "trial_ids.json"
# what users bring: its content is in the ids, so it is always this
STAND_INS = {
    "models/smollm2/config.json": "{}\n",
    "data/bad_medical_advice.jsonl": "outcome\n",
    "data/hhh.jsonl": "proxy\n",
    "data/hhh_neg.jsonl": "proxy_neg\n",
    "data/hhh_test.jsonl": "truth\n",
    "data/medical_test.jsonl": "collateral\n",
}


def planned_ids(space: Path, folder: Path) -> dict[str, str]:
    """Trial name -> id, of a copy of the search space beside the stand-ins, with `folder` as the current directory."""
    for name, content in STAND_INS.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode())
    for one in SPACES:  # of which some extend others
        shutil.copy(one, folder)
    copy = folder / space.name
    return {trial.name: trial.trial_id for trial in load_space(copy).trials}


@pytest.mark.parametrize("space", SPACES, ids=lambda path: path.name)
def test_the_ids_of_a_shipped_search_space_stay(space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a models/smollm2 in the developer's directory would be taken instead
    assert planned_ids(space, tmp_path) == json.loads(TABLE.read_text())[space.name]


def test_the_table_has_no_search_space_that_is_gone() -> None:
    assert sorted(json.loads(TABLE.read_text())) == [path.name for path in SPACES]


def _write_table() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        table = {space.name: planned_ids(space, Path(folder)) for space in SPACES}
    TABLE.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    _write_table()
