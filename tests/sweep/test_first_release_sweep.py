"""A sweep that the first release left on disk (`fixtures/first_release_sweep`) is reported, resumed and extended."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest
from running import dry_run, in_process, run_without_ray

from selgen_ray.sweep import main

LEFT_BEHIND = Path(__file__).parents[1] / "fixtures" / "first_release_sweep"
COMPLETED = ["kl_divergence_d44a85/seed_1", "naive_8d1aaa/seed_1", "naive_8d1aaa/seed_2"]
CUT_OFF = "kl_divergence_d44a85/seed_2"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(LEFT_BEHIND, tmp_path / "copy"))


def files_of_results(folder: Path) -> dict[str, Path]:
    """Trial name -> its results.json; a trial with two of them is an error."""
    files = sorted(folder.glob("sweeps/first/*/seed_*/results/*/results.json"))
    names = ["/".join(path.parts[-5:-3]) for path in files]
    assert len(names) == len(set(names))
    return dict(zip(names, files, strict=True))


def test_nothing_of_the_machine_that_made_it_is_in_it() -> None:
    content = b"".join(path.read_bytes() for path in LEFT_BEHIND.rglob("*") if path.is_file())
    assert len(content) < 1_500_000
    for text in (b"/tmp", b"/home", b"/root", b"/work", b"@", b"hf_"):
        assert text not in b"".join(p.read_bytes() for p in LEFT_BEHIND.rglob("*.json*")), text


def test_it_is_reported(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["report", str(folder / "sweeps" / "first")])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("selgen_ray.report", run_name="__main__")
    out, err = capsys.readouterr()
    assert ended.value.code == 0 and err == ""
    assert "first: 3 completed, 1 running" in out
    # the mean of the two seeds' capability, by hand
    seeds = [json.loads(path.read_text()) for name, path in files_of_results(folder).items() if "naive" in name]
    mean = sum(one["capability"] for one in seeds) / 2
    assert re.search(rf"naive proxy mixed in +2 +{mean:.3f} ", out), out
    summary = json.loads((folder / "sweeps/first/report/summary.json").read_text())
    assert CUT_OFF.split("/")[0] in json.dumps(summary)
    assert (folder / "sweeps/first/report/index.html").exists()


def test_it_is_resumed_and_extended(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = folder / "space.yaml"
    before = {name: path.read_bytes() for name, path in files_of_results(folder).items()}
    assert sorted(before) == sorted([*COMPLETED, CUT_OFF])
    dry = dry_run(space)
    assert "3 completed, skipped" in dry and "1 cut off, continued from the last checkpoint" in dry and "new" not in dry

    more = folder / "more.yaml"  # another seed of naive
    more.write_text(space.read_text().replace("seeds: [1, 2]", "seeds: [3]").split("  kl_divergence")[0])
    monkeypatch.chdir(folder)
    assert main(["add", str(space), str(more)]) == 0
    text = space.read_text().replace("beta_kl: [0.1]", "beta_kl: [0.1, 10.0]")  # another value of the grid
    space.write_text(text.replace("resources: {max_concurrent: 1}", ""))
    dry = dry_run(space)
    assert "3 completed, skipped" in dry and "1 cut off" in dry and "3 new" in dry

    run_without_ray(space)
    status, out, err = in_process(space)
    assert status == 0 and "7 completed, skipped" in out, out + err
    files = files_of_results(folder)
    added = sorted(files.keys() - before.keys())
    assert len(added) == 3 and added[2].startswith("naive_") and added[2].endswith("seed_3")
    assert all(json.loads(path.read_bytes())["status"] == "completed" for path in files.values())
    assert all(files[name].read_bytes() == before[name] for name in COMPLETED), "a finished trial was run again"
    old, new = json.loads(before[CUT_OFF]), json.loads(files[CUT_OFF].read_bytes())
    assert new["num_resumes"] == 1 and new["trial_id"] == old["trial_id"]
    assert new["started_at"] == old["started_at"] and new["eval_epochs"] == [0.0, 1.0, 2.0, 3.0]
    assert new["train_steps"] == [3, 6, 9, 12, 15, 18, 21, 24, 27]
    for name, losses in old["train_losses"].items():
        assert new["train_losses"][name][:3] == losses, "what was trained before the checkpoint is trained again"
    assert not list(folder.rglob("checkpoints"))
