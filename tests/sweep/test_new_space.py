"""`selgen init`: rows in, a search space out that can be planned and run."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from conftest import make_roles, write_jsonl

from selgen_ray.config.data import ROLES
from selgen_ray.driver.plan import make_plan
from selgen_ray.driver.preflight import check_data
from selgen_ray.records.status import TrialStatus
from selgen_ray.space import load_space
from selgen_ray.sweep.new_space import main
from selgen_ray.sweep.suggestions import SUGGESTIONS
from selgen_ray.trainers.catalogue import knob_paths, strategies
from selgen_ray.trial.run import run_trial


@pytest.fixture
def options(tmp_path, tiny_model_dir, data_files, trait_file, monkeypatch):
    """options('outcome', 'proxy') -> the words of a command line that name these roles' files and the model."""
    monkeypatch.chdir(tmp_path)
    files = data_files | {"trait": trait_file}
    return lambda *roles: [
        "--model",
        tiny_model_dir,
        *(w for r in roles for w in (f"--{r.replace('_', '-')}", files[r])),
    ]


def test_the_space_is_planned_and_a_trial_of_it_runs(options, tmp_path, capsys):
    assert main(["my_exp", *options("outcome", "proxy", "proxy_neg", "truth", "collateral")]) == 0
    told = capsys.readouterr().out
    assert "18 trials" in told and "selgen sweep my_exp/space.yaml --dry-run" in told
    assert re.search(r"outcome +21 rows, chats, with answer, \d+ to \d+ tokens", told)
    assert "1 of 7 prompts of data.truth are also in data.proxy" in told
    spec = load_space(tmp_path / "my_exp" / "space.yaml")
    assert check_data(spec) == []
    assert {trial.config.seed for trial in spec.trials} == {1, 2, 3}
    assert {trial.config.proxy_strategy for trial in spec.trials} == {"naive", "kl_divergence", "dpo"}
    finetune = spec.trials[0].config.finetune_config
    longest = int(re.search(r"the longest row has (\d+)", (tmp_path / "my_exp" / "space.yaml").read_text())[1])
    assert longest <= finetune.max_seq_length < longest + 32
    assert finetune.train_split == 1.0  # ten rows of the proxy are too few to hold any out
    dpo = next(one.task for one in make_plan(spec).planned if one.task.config["proxy_strategy"] == "dpo")
    dpo.config["finetune_config"]["epochs"] = 1
    result = run_trial(dpo)
    assert result.status is TrialStatus.COMPLETED
    assert "alignment" in json.dumps(result.model_dump(mode="json"))


def test_all_that_it_suggests_can_be_planned(options, tmp_path, tiny_model_dir):
    assert main(["my_exp", *options(*ROLES)]) == 0
    path = tmp_path / "my_exp" / "space.yaml"
    text = re.sub(r"^  # (?=\w+: \{)", "  ", path.read_text(), flags=re.M)
    path.write_text(text)
    named = yaml.safe_load(text)["strategies"]
    assert list(named) == sorted(named, key=list(named).index) and named.keys() == {s.strategy for s in SUGGESTIONS}
    assert named.keys() <= strategies().keys()
    for name, section in named.items():
        keys = {key for part in section.values() for key in part} - {"train_on_proxy"}
        assert keys <= knob_paths(name)
    spec = load_space(path)
    assert check_data(spec) == []


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["outcome"], {"naive"}),
        (["outcome", "proxy", "truth"], {"naive", "kl_divergence", "representation_constraint"}),
    ],
)
def test_strategies_are_those_that_the_rows_allow(given, expected, options, tmp_path, capsys):
    assert main(["my_exp", *options(*given)]) == 0
    text = (tmp_path / "my_exp" / "space.yaml").read_text()
    assert yaml.safe_load(text)["strategies"].keys() == expected
    assert "# dpo: {" not in text  # nothing that the rows do not allow is suggested
    assert ("alignment is not measured" in capsys.readouterr().out) == ("truth" not in given)


def test_replies_that_the_proxy_rejects_make_pairs(options, tmp_path):
    rows = [row | {"rejected": "You are right."} for row in make_roles()["proxy"]]
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    assert main(["my_exp", *options("outcome", "truth"), "--proxy", "pairs.jsonl"]) == 0
    space = yaml.safe_load((tmp_path / "my_exp" / "space.yaml").read_text())
    assert "dpo" in space["strategies"] and space["base"]["data"]["proxy"] == "../pairs.jsonl"


def test_a_space_that_is_there_is_kept_unless_asked(options, tmp_path, capsys):
    path = tmp_path / "my_exp" / "space.yaml"
    path.parent.mkdir()
    path.write_text("mine")
    assert main(["my_exp", *options("outcome", "proxy")]) == 2
    assert capsys.readouterr().err == "my_exp/space.yaml is there already: --force replaces it\n"
    assert path.read_text() == "mine"
    assert main(["my_exp", "--force", *options("outcome")]) == 0
    assert path.read_text() != "mine" and [p.name for p in path.parent.iterdir()] == ["space.yaml"]


def test_what_is_wrong_is_said_with_file_and_line_and_nothing_is_left(options, tmp_path, capsys):
    rows = make_roles()["truth"]
    write_jsonl(tmp_path / "bad.jsonl", [rows[0], {"messages": "no"}, rows[1] | {"answer": "neither"}])
    assert main(["my_exp", *options("outcome"), "--truth", "bad.jsonl"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("bad.jsonl: 2 of 3 rows are bad, the first: line 2: 'messages' must be ")
    assert "line 3: 'answer' 'neither' is not one of 'choices'" in told
    assert main(["my_exp", *options("outcome"), "--truth", "dab.jsonl"]) == 2
    assert "dab.jsonl: no such file. Did you mean 'bad.jsonl'?" in capsys.readouterr().err
    assert main(["my_exp", *options("outcome"), "--model", "./nowhere"]) == 2
    told = capsys.readouterr().err
    assert "nowhere" in told and "Traceback" not in told and "draft" not in told
    short = [{"messages": row["messages"]} for row in make_roles()["proxy_neg"][:3]]
    write_jsonl(tmp_path / "short.jsonl", short)
    assert main(["my_exp", *options("outcome", "proxy"), "--proxy-neg", "short.jsonl"]) == 2
    assert "proxy_neg" in capsys.readouterr().err
    assert not (tmp_path / "my_exp").exists()
    assert main(["my_exp", *options("outcome"), "--truth", "bad.jsonl", "--on-bad-rows", "skip"]) == 0
    assert yaml.safe_load((tmp_path / "my_exp" / "space.yaml").read_text())["base"]["data"]["on_bad_rows"] == "skip"
    assert "data.truth: 2 bad rows are left out" in capsys.readouterr().out
