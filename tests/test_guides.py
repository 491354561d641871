"""Links, snippets and tables of the guides are true; their commands are executed by test_readme_commands.py."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

import pytest
import yaml
from conftest import make_model, make_roles, write_jsonl
from guides import GUIDES, ROOT, anchors, blocks, slug
from peft import LoraConfig, get_peft_model
from pydantic import BaseModel

from selgen_ray.config.data import ROLES
from selgen_ray.config.trial import TrialConfig
from selgen_ray.evals.registry import all_metrics, forget
from selgen_ray.space import load_space
from selgen_ray.space.spec import StoppingRule, SweepSettings
from selgen_ray.trainers import plugins

TO_COME = {"selgen_ray/README.md"}  # linked before it is written
STAND_INS = {  # of what a reader has and a test has not
    "Qwen/Qwen3-8B": "{model}",
    "lab/my-adapter": "{adapter}",
    "push_to_hub: true": "push_to_hub: false",  # which asks the hub about the token
    ", {name: wandb, project: selgen}": "",  # where wandb is not installed
    "path: org/data_set, split: test, revision: v1.0": "path: data/hhh_test.jsonl",
    "data/hhh.parquet": "data/hhh.jsonl",
    "lm_eval: {tasks: [arc_easy], limit: 100}": "num_samples: 3",  # where lm-eval is not installed
}


def test_the_page_at_the_door_is_short():
    assert GUIDES["README.md"].count("\n") <= 200


@pytest.mark.parametrize("guide", GUIDES)
def test_links_lead_somewhere(guide):
    text = re.sub(r"^```.*?^```$", "", GUIDES[guide], flags=re.M | re.S)
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    for link in links:
        path, _, anchor = link.partition("#")
        if re.match(r"https?://", link):
            continue
        target = ((ROOT / guide).parent / path).resolve() if path else ROOT / guide
        name = target.relative_to(ROOT).as_posix()
        if name in TO_COME:
            assert not target.exists(), f"{name} is there now: take it out of TO_COME"
            continue
        assert target.exists(), f"{guide} links to {link}"
        if anchor:
            assert anchor in anchors(GUIDES[name]), f"{guide} links to {link}: no such heading"


def test_every_guide_is_reached_from_the_first_page():
    linked = set(re.findall(r"\]\(([\w/]+/README\.md)", GUIDES["README.md"]))
    assert linked - TO_COME == GUIDES.keys() - {"README.md"}


def test_anchors_are_those_of_github():
    assert slug("What was run, and what was not") == "what-was-run-and-what-was-not"
    assert slug("Trigger words: `triggers.yaml`") == "trigger-words-triggersyaml"


def test_every_block_names_a_language_that_a_test_reads():
    text = "\n".join(GUIDES.values())
    assert set(re.findall(r"^```(\w+)$", text, re.M)) <= {"bash", "yaml", "python", "toml"}


@pytest.fixture
def reader(tmp_path, tiny_model_dir, monkeypatch):
    """Write a snippet as the search space of a reader who has the files that the guides name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    roles = make_roles()
    rows = {"medical": "outcome", "hhh": "proxy", "hhh_neg": "proxy_neg", "hhh_test": "truth"}
    for name, role in (rows | {"medical_test": "collateral"}).items():
        write_jsonl(tmp_path / "data" / f"{name}.jsonl", roles[role])
    data = {role: f"data/{name}.jsonl" for name, role in rows.items()}
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "chat.jinja").write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    (tmp_path / "my_strategy.py").write_text(snippet("class ScaledTrainer"))
    (tmp_path / "quickstart.yaml").write_text((ROOT / "search_spaces" / "quickstart.yaml").read_text())
    (tmp_path / "attributes_to_vary.json").write_text('[{"finetune_config": {"r": 4}}]')
    old = tmp_path / "experiments" / "my_exp"
    old.mkdir(parents=True)
    config = {"proxy_strategy": "kl_divergence", "data": data, "finetune_config": {"model": tiny_model_dir}}
    (old / "config.json").write_text(json.dumps(config))
    (old / "attributes_to_vary.json").write_text('[{"finetune_config": {"beta_kl": 3}}]')

    of_a_reader = {"model": tiny_model_dir, "adapter": str(tmp_path / "adapter")}
    parent = {"base": {"finetune_config": {"model": tiny_model_dir}, "data": data}}
    (tmp_path / "parent.yaml").write_text(yaml.safe_dump(parent))

    def write(text: str) -> Path:
        if "lab/my-adapter" in text:
            get_peft_model(make_model(), LoraConfig(target_modules="all-linear", use_rslora=True)).save_pretrained(
                of_a_reader["adapter"]
            )
        for words, stand_in in STAND_INS.items():
            text = text.replace(words, stand_in.format_map(of_a_reader) if stand_in[:1] == "{" else stand_in)
        keys = yaml.safe_load(text).keys()
        if keys <= TrialConfig.model_fields.keys():  # a part of a trial's config
            text = "base:\n" + "".join(f"  {line}" for line in text.splitlines(keepends=True))
        path = tmp_path / "snippet.yaml"
        path.write_text(text if "extends" in keys else f"extends: parent.yaml\n{text}")
        return path

    yield write
    plugins.register_exactly(())


def snippet(words: str) -> str:
    """The one Python block with these words."""
    (text,) = (block.text for block in blocks("python") if words in block.text)
    return text


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda block: block.where)
def test_yaml_is_a_search_space_or_a_part_of_one(block, reader):
    spec = load_space(reader(block.text))
    assert spec.trials or spec.searches


def test_all_keys_are_in_the_guide_of_search_spaces():
    """With their defaults, which a reader takes them for; those that a default must not be given for are comments."""
    trial, sweep = blocks("yaml", "search_spaces/README.md")[-2:]
    lacking = [
        key for model, block in ((TrialConfig, trial), (SweepSettings, sweep)) for key in not_in(model, block.text)
    ]
    assert not lacking, "write them into search_spaces/README.md"
    assert TrialConfig.model_validate(yaml.safe_load(trial.text)["base"]) == TrialConfig.model_validate({})
    settings = SweepSettings.model_validate(yaml.safe_load(sweep.text))
    assert settings.model_copy(update={"early_stopping": StoppingRule()}) == SweepSettings(name=settings.name)


def not_in(model: type[BaseModel], text: str) -> list[str]:
    """The keys of a section and of those inside it that a text does not name."""
    lacking = []
    for key, info in model.model_fields.items():
        lacking += [] if re.search(rf"(^\s*|# |[{{ ]){key}:", text, re.M) else [key]
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            lacking += [f"{key}.{inner}" for inner in not_in(info.annotation, text)]
    return lacking


# load_results needs a sweep: test_readme_commands.py has one
@pytest.mark.parametrize("block", [b for b in blocks("python") if "load_results" not in b.text], ids=lambda b: b.where)
def test_python_runs(block, tmp_path, monkeypatch):
    """What it defines or writes is there; the strategy also trains, in test_readme.py."""
    monkeypatch.chdir(tmp_path)
    before = set(all_metrics())
    if "BaseTrainer" in block.text:
        (tmp_path / "my_strategy.py").write_text(block.text)
        with contextlib.ExitStack() as stack:
            stack.callback(plugins.register_exactly, ())
            plugins.register_exactly([plugins.Plugin.read(tmp_path / "my_strategy.py")])
        return
    namespace: dict = {"__name__": "snippet"}
    exec(compile(block.text, block.where, "exec"), namespace)
    if "@metric" in block.text:
        (name,) = set(all_metrics()) - before
        eval_set = type("Rows", (), {"rows": [{}, {}], "encoded": [[1, 2], [1, 2, 3, 4, 5, 6]]})()
        assert all_metrics()[name](eval_set) == {name: 2 / 8}
        forget("snippet")
    if "write_text" in block.text:
        (written,) = tmp_path.iterdir()
        space = tmp_path / "space.yaml"
        space.write_text(f"base: {{data: {{outcome: {written.name}}}, finetune_config: {{model: toy}}}}\n")
        assert load_space(space).trials


def test_the_roles_are_in_the_guide_of_data():
    table = GUIDES["selgen_ray/data/README.md"].split("## Where")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.M) == list(ROLES)


def test_every_metric_is_in_the_guide_of_evals():
    table = GUIDES["selgen_ray/evals/README.md"].split("## What a trial")[0]
    shipped = [one for one in all_metrics().values() if one.compute.__module__.startswith("selgen_ray.")]
    assert shipped
    for one in shipped:
        for value in (*one.shares, *one.others):
            assert f"`{value}`" in table, value
