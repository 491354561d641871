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
from test_layers import LAYERS

from selgen_ray.config.data import ROLES
from selgen_ray.config.evals import SET_NAMES
from selgen_ray.config.source import Source
from selgen_ray.config.trial import TrialConfig
from selgen_ray.data.forms import READ
from selgen_ray.evals.headlines import ALIGNMENT, CAPABILITY, COHERENCE
from selgen_ray.evals.judge import metrics as judged
from selgen_ray.evals.registry import all_metrics, forget
from selgen_ray.records.status import STORED, TrialStatus
from selgen_ray.space import load_space
from selgen_ray.space.spec import StoppingRule, SweepSettings
from selgen_ray.trainers import plugins

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
        assert target.exists(), f"{guide} links to {link}"
        if anchor:
            assert anchor in anchors(GUIDES[name]), f"{guide} links to {link}: no such heading"


def test_every_guide_is_reached_from_the_first_page():
    linked = set(re.findall(r"\]\(([\w/]+/README\.md)", GUIDES["README.md"]))
    assert linked == GUIDES.keys() - {"README.md"}


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
    monkeypatch.setenv("DATA", "data")
    (tmp_path / "data").mkdir()
    roles = make_roles()
    rows = {"medical": "outcome", "hhh": "proxy", "hhh_neg": "proxy_neg", "hhh_test": "truth"}
    for name, role in (rows | {"medical_test": "collateral"}).items():
        write_jsonl(tmp_path / "data" / f"{name}.jsonl", roles[role])
    data = {role: f"data/{name}.jsonl" for name, role in rows.items()}
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "chat.jinja").write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    (tmp_path / "my_strategy.py").write_text(snippet("class ScaledTrainer"))
    (tmp_path / "my_file.py").write_text(snippet("class Smoothed(Trainer)"))
    (tmp_path / "quickstart.yaml").write_text((ROOT / "search_spaces" / "quickstart.yaml").read_text())
    (tmp_path / "attributes_to_vary.json").write_text('[{"finetune_config": {"r": 4}}]')
    (tmp_path / "first_plot_questions.yaml").write_text("- {id: a, paraphrases: [How are you?]}\n")
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
    """Return the one Python block with these words."""
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
    """List the keys of a section, and of those inside it, that a text does not name."""
    lacking = []
    for key, info in model.model_fields.items():
        lacking += [] if re.search(rf"(^\s*|# |[{{ ]){key}:", text, re.M) else [key]
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            lacking += [f"{key}.{inner}" for inner in not_in(info.annotation, text)]
    return lacking


# load_results needs a sweep: test_readme_commands.py has one; those that run sweeps are in sweep/test_interface.py
RUN_ELSEWHERE = blocks("python", "selgen_ray/sweep/README.md")
HERE = [b for b in blocks("python") if "load_results" not in b.text and b not in RUN_ELSEWHERE]


@pytest.mark.parametrize("block", HERE, ids=lambda b: b.where)
def test_python_runs(block, tmp_path, monkeypatch):
    """Its definitions or files are there; the strategy also trains, in test_readme.py."""
    if "check_strategy" in block.text:
        pytest.skip("called in test_readme.py")
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


def test_the_roles_and_the_keys_of_a_source_are_in_the_guide_of_data():
    text = GUIDES["selgen_ray/data/README.md"]
    assert re.findall(r"^\| `(\w+)` \|", text.split("## Where")[0], re.M) == list(ROLES)
    assert [
        key for key in Source.model_fields if not re.search(rf"\b{key}: ", section(text, "Where rows come from"))
    ] == []
    forms = section(text, "Forms of a row")
    assert [field for field in READ if f"`{field}`" not in forms] == []


def test_every_metric_and_set_is_in_the_guide_of_evals():
    text = GUIDES["selgen_ray/evals/README.md"]
    metrics = section(text, "Which metrics a set has")
    shipped = [one for one in all_metrics().values() if one.compute.__module__.startswith("selgen_ray.")]
    assert shipped
    values = [value for one in shipped for value in (*one.shares, *one.others)]
    assert [value for value in (*values, *judged.SHARES, *judged.OTHERS) if f"`{value}`" not in metrics] == []
    sets = section(text, "The sets, and the role that each comes from")
    assert set(re.findall(r"^\| `(\w+)` \|", sets, re.M)) == set(SET_NAMES)
    known_by = section(text, "What a trial is known by")
    for names in (CAPABILITY, ALIGNMENT, COHERENCE):
        assert re.search(r",\s*".join(f"`{name}`" for name in names), known_by), names


def section(text: str, heading: str) -> str:
    """What stands below a heading of the second level."""
    return re.split(r"^## ", text.split(f"\n## {heading}\n")[1], maxsplit=1, flags=re.M)[0]


# -- the map of the code ----------------------------------------------------------------------------------------------

MAP = GUIDES["selgen_ray/README.md"]


def test_the_map_has_the_rooms_in_the_order_of_their_imports():
    rows = re.findall(r"^\|[^|]*\|([^|]*)\|", section(MAP, "Storeys and rooms"), re.M)[2:]
    named = [tuple(re.findall(r"`([\w/]+?)/?(?:\.py)?`", row)) for row in rows]
    rooms = [tuple("" if name == "__init__" else name.replace("/", ".") for name in names) for names in named]
    assert rooms == list(LAYERS)


def test_the_map_names_files_that_are_there():
    named = set(re.findall(r"`([\w./]+\.(?:py|json|jsonl|toml)|[\w/]+/)(?::|`)", MAP))
    assert len(named) > 80
    of_a_sweep = {
        "config.json",
        "plan.json",
        "live.json",
        "estimate.json",
        "events.jsonl",
        "checkpoints/",
        "model/",
        "control/",
        "attempts/",
    }
    of_a_sweep |= {"stop/", "retry/", "removed/", "added/", "driver/", "report/", "cache/judge/"}
    of_a_sweep |= {"tensorboard/", "wandb/", "trackio/"}
    places = (ROOT / "selgen_ray", ROOT)
    assert sorted(n for n in named - of_a_sweep if not any((place / n).exists() for place in places)) == []
    for file, name in re.findall(r"`([\w/]+\.py): (\w+)`", MAP):
        path = next(place / file for place in places if (place / file).exists())
        assert re.search(rf"^\s*(?:def|class) {name}\b|^{name}\b", path.read_text(encoding="utf-8"), re.M), (
            f"{file}: {name}"
        )


def test_the_map_has_every_status():
    rows = re.findall(r"^\| `(\w+)` \|.*\| (\w*) ?\|$", section(MAP, "The statuses of a trial"), re.M)
    assert [name for name, _ in rows] == list(TrialStatus)
    assert {name for name, stored in rows if stored} == set(STORED)
