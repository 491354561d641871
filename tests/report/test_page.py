"""What is in the page and beside it: words, data, safety, size; watching, exporting, several sweeps at once."""

from __future__ import annotations

import base64
import gzip
import json
import math
import os
import re
import runpy
import subprocess
import sys
import threading
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from fake_sweep import fake_result, publish

from selgen_ray.driver.plan import make_plan
from selgen_ray.errors import StorageError
from selgen_ray.reading import load_results
from selgen_ray.records.control import LIVE, Control
from selgen_ray.report import cli, main, write_report
from selgen_ray.report.colours import COLOURS, CONTROL_COLOURS, DARK_COLOURS, colour_of, dark_colour_of, symbol_of
from selgen_ray.report.details import MOST_POINTS, common_config, packed, place_of, rounded, shortened, thinned
from selgen_ray.report.page import SCRIPTS
from selgen_ray.report.places import Places
from selgen_ray.report.settings import STRATEGIES
from selgen_ray.space import load_space
from selgen_ray.storage import Folder
from selgen_ray.sweep import run

ROOT = Path(__file__).parents[2]
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    folder = tmp_path / "lab"
    for seed in (1, 2, 3):
        publish(folder, fake_result("naive", seed, 0.9, 0.3 + seed / 50, top={"train_on_proxy": False}))
        publish(folder, fake_result("kl_divergence", seed, 0.8 + seed / 50, 0.7, beta_kl=10.0))
    publish(folder, fake_result("kl_divergence", 4, 1.0, 1.0, "diverged", beta_kl=99.0, changes={"error": EVIL}))
    return folder


class Elements(HTMLParser):
    """The elements of a page, and its text outside of scripts and styles."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.data: dict[str, str] = {}
        self.inside = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = str(dict(attrs).get("id") or tag)

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        self.data[self.inside] = self.data.get(self.inside, "") + data
        if self.inside not in ("script", "style", "data") and not self.inside.startswith("group-"):
            self.words += data


def page_of(folder: Path, **options) -> Elements:
    return Elements(Path(write_report(str(folder), **options).paths["index.html"]).read_text())


def policy_of(page: Elements) -> str:
    (policy,) = [a["content"] or "" for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    return policy


def test_the_page_is_one_file_that_may_load_nothing(sweep):
    page = page_of(sweep)
    assert not any({"src", "srcset", "action", "poster"} & attributes.keys() for _, attributes in page.tags)
    links = [a.get("href") or "" for tag, a in page.tags if tag in ("a", "link")]
    assert all(link.startswith(("#", "data:")) for link in links)
    policy = policy_of(page)
    assert policy.startswith("default-src 'none'") and "http" not in policy and "'self'" not in policy
    assert sum(tag == "script" for tag, _ in page.tags) == 5  # the scheme, data, a group, the library, our own


def test_the_page_says_what_a_reader_asks(sweep):
    words = page_of(sweep).words
    for expected in (
        "kl_divergence, the only strategy, beats the task alone in skill and alignment together",
        "0.700, no spread",
        "Next:",
        "seeds that chose it",
        "1 diverged",
        "exactly right",
        "The question and the setting",
        "Where this comes from",
    ):
        assert expected in " ".join(words.split()), expected


def test_text_of_results_is_never_markup(sweep):
    samples = {"align_test": [{"prompt": EVIL, "reply": EVIL, "base_reply": EVIL}]}
    publish(sweep, fake_result("dpo", 1, note=EVIL, changes={"samples": samples, "flags": [EVIL]}))
    path = write_report(str(sweep), title=EVIL).paths["index.html"]
    assert "<script>alert" not in Path(path).read_text() and "<img" not in Path(path).read_text()
    page = Elements(Path(path).read_text())
    assert EVIL in page.words
    assert json.loads(page.data["data"])["title"] == EVIL


def test_no_path_of_this_machine_is_on_the_page(sweep):
    """Case 15 of the verdicts; paths in a config, a message, an event, the search space, of models and of results."""
    trace = f'Traceback\n  File "{ROOT}/selgen_ray/trial/run.py", line 1\nOSError: cannot read {sweep}/naive/x'
    changes = {"error": trace, "flags": ["not saved at /data/eve/model/"], "model_path": f"{sweep}/m/model"}
    publish(sweep, fake_result("dpo", 1, changes=changes, status="failed", top={"file": "/home/eve/data/rows.jsonl"}))
    other = {"file": "~/rows/other.jsonl", "endpoint": "https://api.openai.com/v1"}
    publish(sweep, fake_result("dpo", 2, top=other))
    (sweep / "space.yaml").write_text("base: {data: {outcome: /home/eve/data/rows.jsonl}}\n")
    Folder(str(sweep)).write("events.jsonl", json.dumps({"trial": "x", "why": str(sweep / "x")}).encode() + b"\n")
    paths = write_report(str(sweep)).paths
    html = Path(paths["index.html"]).read_text()
    groups = re.findall(r'id="group-\d+">([^<]*)<', html)
    shown = "\n".join([html, *(gzip.decompress(base64.b64decode(group)).decode() for group in groups)])
    for text in (str(sweep), str(sweep.parent), str(ROOT), "/home/eve", "/data/eve", "~/rows"):
        assert text not in shown and text not in Path(paths["report.md"]).read_text(), text
    assert "lab/naive/x" in shown and "…/rows.jsonl" in shown and "https://api.openai.com/v1" in shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/tmp/x/lab/naive/seed_1", "lab/naive/seed_1"),
        ("at /tmp/x/lab.", "at lab."),
        ("/tmp/x/laboratory/y.txt", "…/y.txt"),
        ("file:///tmp/x/lab/a", "lab/a"),
        ("file:///root/a/b.txt", "…/b.txt"),
        ("C:\\Users\\eve\\rows.jsonl", "…/rows.jsonl"),
        ("s3://bucket/other/x.json", "s3://bucket/other/x.json"),
        ("http://judge:8000/v1/chat", "http://judge:8000/v1/chat"),
        ("align_test/loss, and/or Qwen/Qwen3-8B, data/rows.jsonl, 3/4", None),
    ],
)
def test_what_a_path_is(text, shown):
    assert Places([Folder("/tmp/x/lab")]).text(text) == (shown or text)


def test_every_file_is_there_and_the_page_is_last(sweep, capsys):
    report = write_report(str(sweep))
    figures = [f"figures/{name}.{kind}" for name in ("pareto", "hypervolumes", "paths") for kind in ("png", "svg")]
    tables = ["results.parquet", "results.csv", "summary.json", "report.md"]
    assert set(report.paths) == {*tables, *figures, "index.html", "version.js"}
    assert all(Path(path).stat().st_size for path in report.paths.values())
    assert main([str(sweep)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"report: {sweep / 'report' / 'index.html'}"


def test_the_same_results_are_the_same_version(sweep):
    version = lambda: Path(write_report(str(sweep)).paths["version.js"]).read_text()  # noqa: E731
    before = version()
    assert version() == before
    publish(sweep, fake_result("naive", 5, 0.9, 0.4, top={"train_on_proxy": False}))
    assert version() != before


def test_the_markdown_holds_the_tables(sweep):
    text = Path(write_report(str(sweep)).paths["report.md"]).read_text()
    assert "| kl\\_divergence" in text or "| kl_divergence" in text
    assert "![pareto](figures/pareto.png)" in text and "## Provenance" in text
    assert "<script>" not in text.replace("\\<", "")


def test_several_sweeps_are_one_report(sweep, tmp_path, monkeypatch):
    publish(tmp_path / "other", fake_result("dpo", 1, 0.7, 0.7), fake_result("dpo", 2, 0.7, 0.8))
    publish(tmp_path / "other", fake_result("naive", 1, 0.9, 0.32, top={"train_on_proxy": False}))  # also in the first
    monkeypatch.chdir(tmp_path)
    assert main([str(sweep), str(tmp_path / "other")]) == 0
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert summary["title"] == "lab, other" and summary["counts"]["completed"] == 8
    assert {s["strategy"] for s in summary["settings"]} == {"naive", "kl_divergence", "dpo"}
    assert not (sweep / "report").exists()
    assert main([str(sweep), "--out", str(tmp_path / "there"), "--title", "mine", "--reference", "0,0"]) == 0
    assert json.loads((tmp_path / "there" / "summary.json").read_text())["strategies"]["reference"]["x"] == 0


@pytest.mark.parametrize(
    ("option", "told"),
    [
        (["--reference", "0.5"], "two numbers"),
        (["--reference", "nan,0"], "finite"),
        (["--watch", "soon"], "number of seconds"),
        (["--watch", "0"], "0.2 or more"),
    ],
)
def test_options_are_checked(sweep, option, told, capsys):
    with pytest.raises(SystemExit) as caught:
        main([str(sweep), *option])
    assert caught.value.code == 2 and told in capsys.readouterr().err


def test_a_missing_one_of_several_is_named(sweep, capsys):
    assert main([str(sweep), str(sweep.with_name("laab"))]) == 2
    assert f"Did you mean {str(sweep)!r}" in capsys.readouterr().err


def test_a_report_that_fails_says_so_and_is_no_failure_of_the_sweep(tmp_path, capsys):
    space = tmp_path / "space.yaml"
    content = {"name": "lab", "storage_path": str(tmp_path), "base": {"finetune_config": {"model": "toy"}}}
    space.write_text(yaml.safe_dump(content | {"strategies": {"naive": {}}}))
    spec = load_space(space)
    plan = make_plan(spec)
    publish(plan.folder, fake_result("naive", 1), fake_result("dpo", 1))
    plan.folder.write("report", b"a file in the place of the folder")
    told = run._report(spec, plan)
    assert told.startswith("the report could not be written (StorageError: ")
    assert told.endswith(f"python -m selgen_ray.report {tmp_path}/lab --x capability --y alignment")
    plan.folder.remove("report")
    assert run._report(spec, plan) == f"report: {tmp_path}/lab/report/index.html"
    assert "2 completed" in capsys.readouterr().out


# -- watching --------------------------------------------------------------------------------------------------------


def test_a_watched_report_follows_the_sweep_and_ends_with_it(sweep):
    control = Control(Folder(str(sweep)))
    live = {"over": False, "total": 9, "finished": {"completed": 6}, "updated_at": "2026-01-02T03:04:05+00:00"}
    control.folder.write_json(LIVE, live)
    codes: list[int] = []
    watcher = threading.Thread(target=lambda: codes.append(main([str(sweep), "--watch", "0.2"])))
    watcher.start()
    page = sweep / "report" / "index.html"
    wait_for(lambda: page.exists() and (sweep / "report" / "version.js").exists())
    first = Elements(page.read_text())
    assert "script-src 'unsafe-inline' 'self' file:" in policy_of(first)
    assert json.loads(first.data["data"])["watch"] == 0.2
    assert "not ended, as of 2026-01-02T03:04:05+00:00: 6 of 9 trials are over" in first.words
    publish(sweep, fake_result("dpo", 1, 0.6, 0.6))
    wait_for(lambda: "dpo" in json.loads(Elements(page.read_text()).data["data"])["strategies"])
    control.folder.write_json(LIVE, live | {"over": True})
    watcher.join(60)
    assert codes == [0]
    last = Elements(page.read_text())
    assert json.loads(last.data["data"])["watch"] == 0 and "'self'" not in policy_of(last)


def test_a_storage_that_fails_while_it_is_watched_is_said_in_a_line(sweep, monkeypatch, capsys):
    def refuse(*_: object) -> None:
        raise StorageError("cannot list the folder: gone")

    monkeypatch.setattr(cli, "watch", refuse)
    assert main([str(sweep), "--watch"]) == 2
    assert capsys.readouterr().err == "cannot list the folder: gone\n"


def test_ctrl_c_during_the_imports_ends_without_a_traceback(tmp_path):
    """Case 15 of the verdicts."""
    (tmp_path / "numpy.py").write_text("raise KeyboardInterrupt\n")
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    line = [sys.executable, "-m", "selgen_ray.report", "lab"]
    done = subprocess.run(line, capture_output=True, text=True, env=env, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


# -- parts -----------------------------------------------------------------------------------------------------------


def test_long_curves_are_thinned_with_their_ends(sweep):
    assert thinned(5) == [0, 1, 2, 3, 4]
    places = thinned(10_001)
    assert len(places) == MOST_POINTS and (places[0], places[-1]) == (0, 10_000)
    assert max(np.diff(places)) - min(np.diff(places)) <= 1


def test_the_base_of_a_sweep_is_what_trials_share_and_what_the_space_says():
    trials = [fake_result("naive", 1, beta=1.0), fake_result("dpo", 1, beta=2.0), fake_result("dpo", 2, beta=3.0)]
    base = common_config(trials, {"finetune_config.beta": 2.0, "finetune_config.model": "elsewhere"})
    assert base["finetune_config.beta"] == 2.0 and base["finetune_config.model"] == "toy"
    assert "proxy_strategy" not in base and "seed" not in base


def test_groups_hold_every_trial(sweep):
    groups = packed([{"n": i} for i in range(50)])
    unpacked = [json.loads(gzip.decompress(base64.b64decode(group))) for group in groups]
    assert [one["n"] for group in unpacked for one in group] == list(range(50))
    assert place_of(49) == (2, unpacked[2].index({"n": 49}))


def test_numbers_of_curves_are_short():
    values = [None, 0.0, 1 / 3, -123456.789, 1e-9 / 7, math.nan, 5.0] * 10
    for short in (shortened(values), [rounded(value) for value in values]):
        assert short[:2] == [None, 0.0] and short[5:7] == [None, 5.0]
        assert short[2:5] == pytest.approx(values[2:5], rel=1e-4)
        assert max(len(repr(value)) for value in short) <= len("-123456.789")


def lab(colour: str, matrix: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of a colour as seen through a matrix on linear sRGB (D65)."""
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.clip(matrix @ np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4), 0, 1)
    to_xyz = np.array([[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]])
    t = to_xyz @ linear / [0.9505, 1, 1.0888]
    f = np.where(t > 216 / 24389, np.cbrt(t), (24389 / 27 * t + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


# Machado et al. 2009, severity 1: without red, green, blue cones
SIGHTS = (
    np.eye(3),
    np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
    np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]),
)


@pytest.mark.parametrize(
    "colours",
    [
        (*COLOURS, *(light for light, _ in CONTROL_COLOURS)),
        (*DARK_COLOURS, *(dark for _, dark in CONTROL_COLOURS)),
    ],
)
def test_colours_can_be_told_apart_by_everybody(colours):
    for matrix in SIGHTS:
        seen = [lab(colour, matrix) for colour in colours]
        nearest = min(np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i])
        assert nearest > 14.5


def test_an_unknown_strategy_has_its_own_stable_look():
    assert colour_of("mine") == colour_of("mine") != dark_colour_of("mine") and symbol_of("mine")
    assert len({symbol_of(name) for name in STRATEGIES}) == 12
    assert len({(colour_of(name), symbol_of(name)) for name in STRATEGIES}) == len(STRATEGIES) == 21


def test_the_scripts_use_no_markup_of_strings():
    for name in SCRIPTS:
        text = (ROOT / "selgen_ray" / "report" / "assets" / name).read_text()
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|https?://(?!www\.w3\.org)", text
        )


# -- for others ------------------------------------------------------------------------------------------------------


def test_an_export_is_two_tables_and_a_card(sweep, tmp_path, capsys):
    assert main([str(sweep), "--export", str(tmp_path / "set")]) == 0
    trials, epochs = (pd.read_parquet(tmp_path / "set" / f"{name}.parquet") for name in ("trials", "epochs"))
    assert (len(trials), len(epochs)) == (7, 14)
    assert set(epochs["epoch"]) == {0.0, 1.0}
    _, head, words = (tmp_path / "set" / "README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(head)
    assert [c["config_name"] for c in card["configs"]] == ["trials", "epochs"]
    assert card["configs"][0]["data_files"] == [{"split": "train", "path": "trials.parquet"}]
    assert "`trial_id`" in words and "7 rows" in words


def test_the_example_of_an_analysis_runs(sweep, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["analysis.py", str(sweep)])
    found = runpy.run_path(str(ROOT / "search_spaces" / "analysis.py"))
    assert sorted(found["settings"]["seeds"]) == [3, 3] and found["settings"]["on_front"].sum() == 2
    out = capsys.readouterr().out
    assert re.search(r"kl_divergence\S*: alignment \+0\.360 ± 0\.050 over 3 seeds, p = \d", out), out


def test_a_result_of_any_status_has_its_page(sweep):
    nothing = {"error": "no", "eval_epochs": [], "eval_steps": [], "eval_versions": []}
    broken = fake_result("dpo", 1, None, None, "failed", base=None, changes=nothing)
    publish(sweep, broken)
    data = json.loads(page_of(sweep).data["data"])
    assert broken.trial_id in [trial["id"] for trial in data["trials"]]
    assert data["sample_trials"] == []


def test_columns_have_their_types_whatever_is_missing(tmp_path):
    publish(tmp_path, fake_result("naive", 1, None, None, base=None))
    evals = {"task_test": {"exact_match": [None, None]}}
    publish(tmp_path, fake_result("dpo", 1, None, None, "failed", base=None, evals=evals))
    for per in ("trial", "epoch"):
        types = load_results(str(tmp_path), per=per, status="all").dtypes.astype(str)
        names = ["capability", "alignment", "coherence", "base_alignment", "eval.task_test.exact_match"]
        assert set(types[names]) == {"float64"} and types["seed"] == "int64" and types["timings.total_s"] == "float64"
