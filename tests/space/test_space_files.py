"""Knobs whose value is a file: its path in a search space, its content in the identity."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import make_model, make_roles, write_jsonl

from selgen_ray.config.trial import TrialConfig
from selgen_ray.errors import SpecError
from selgen_ray.hashing import file_sha256
from selgen_ray.space import SweepSpec, Trial, load_space
from selgen_ray.trainers import build_config, catalogue, knob, registry
from selgen_ray.trainers.base import BaseTrainer
from selgen_ray.trainers.identity import identity_of_trial

Load = Callable[[str], SweepSpec]
VECTOR = "finetune_config.vector_path"


@pytest.fixture(autouse=True)
def strategy() -> Iterator[None]:
    """A strategy that reads `vector_path` with `load_vector`, and always `mask_path` where it is given."""

    class Reading(BaseTrainer):
        proxy_strategy_name = "test_reading"
        load_vector: bool = knob(False, "read it")
        vector_path: str | None = knob(None, "read or written", file=True, identity=False)
        mask_path: str | None = knob(None, "read", file=True, section="")

        @classmethod
        def input_files(cls, config: TrialConfig) -> dict[str, str]:
            both = {VECTOR: config.finetune_config.vector_path if config.finetune_config.load_vector else None}
            both["mask_path"] = config.mask_path
            return {key: path for key, path in both.items() if path}

    yield
    registry.forget(__name__)


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Load `there/space.yaml` from the folder `here`."""
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def write_and_load(base: str) -> SweepSpec:
        Path("../there/space.yaml").write_text("base:\n  proxy_strategy: test_reading\n" + base)
        return load_space("../there/space.yaml")

    return write_and_load


def path_of(spec: SweepSpec) -> str:
    return spec.trials[0].config.finetune_config.model_dump()["vector_path"]


def test_what_a_knob_says_about_itself() -> None:
    found = {name: info.json_schema_extra for name, (_, info) in catalogue.get_trainer("test_reading").knobs().items()}
    assert found == {
        "load_vector": {"identity": True, "section": "finetune_config", "file": False},
        "vector_path": {"identity": False, "section": "finetune_config", "file": True},
        "mask_path": {"identity": True, "section": "", "file": True},
    }


def test_a_file_is_looked_up_beside_the_search_space_first(load: Load, tmp_path: Path) -> None:
    text = "  finetune_config: {vector_path: v.pt}"
    assert path_of(load(text)) == str(tmp_path / "here" / "v.pt"), "not there yet: an output of this run"
    (tmp_path / "here" / "v.pt").write_text("here")
    (tmp_path / "there" / "v.pt").write_text("there")
    found = path_of(load(text))
    assert Path(found).is_absolute()
    assert Path(found).samefile(tmp_path / "there" / "v.pt")
    assert path_of(load("  finetune_config: {vector_path: /nowhere/v.pt}")) == "/nowhere/v.pt"
    assert load("  finetune_config: {vector_path: null}").trials[0].config == load("").trials[0].config


def test_the_path_of_an_output_is_no_part_of_the_identity(load: Load) -> None:
    one, other = (load(f"  finetune_config: {{vector_path: {name}}}") for name in ("a.pt", "b.pt"))
    assert one.trials[0].trial_id == other.trials[0].trial_id == load("").trials[0].trial_id


@pytest.mark.parametrize("key", ["finetune_config: {load_vector: true, vector_path: %s}", "mask_path: %s"])
def test_the_content_of_a_file_that_is_read_counts_and_its_path_does_not(load: Load, tmp_path: Path, key: str) -> None:
    for name, content in {"a": "1", "same": "1", "b": "2"}.items():
        (tmp_path / "there" / name).write_text(content)
    first, same, other = (load("  " + key % name).trials[0] for name in ("a", "same", "b"))
    assert first.trial_id == same.trial_id
    assert first.slug.rpartition("_")[2] == same.slug.rpartition("_")[2]
    assert first.trial_id != other.trial_id
    (tmp_path / "there" / "a").write_text("a new content")
    assert load("  " + key % "a").trials[0].trial_id not in (first.trial_id, other.trial_id)


def test_a_slug_says_which_file(load: Load, tmp_path: Path) -> None:
    for name in ("a.pt", "b.pt"):
        (tmp_path / "there" / name).write_text(name)
    spec = load("  finetune_config.load_vector: true\ngrid: {finetune_config.vector_path: [a.pt, b.pt]}")
    readable = [trial.slug.rpartition("_")[0] for trial in spec.trials]
    assert readable == ["test_reading_vector_path-a.pt", "test_reading_vector_path-b.pt"]


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ("  finetune_config:\n    load_vector: true\n    vector_path: vektor.pt", 5, f"base.{VECTOR}"),
        ("  mask_path: vektor.pt", 3, "base.mask_path"),
        ("grid:\n  mask_path:\n  - vector.pt\n  - vektor.pt", 6, "grid.mask_path[1]"),
    ],
)
def test_a_missing_input_is_a_problem(load: Load, tmp_path: Path, text: str, line: int, key: str) -> None:
    (tmp_path / "here" / "vector.pt").write_text("")
    with pytest.raises(SpecError) as caught:
        load(text)
    (problem,) = {str(problem) for problem in caught.value.problems}
    assert problem.startswith(f"../there/space.yaml:{line}: {key}: found ")
    assert problem.endswith("vektor.pt', but there is no such file. Did you mean 'vector.pt'?")


def test_the_settings_of_a_trial_hold_the_hash(tmp_path: Path) -> None:
    path = tmp_path / "mask"
    path.write_text("1")
    config = build_config({"proxy_strategy": "test_reading", "mask_path": str(path)})
    found = identity_of_trial(config, {}, "m")
    assert found["files"] == {"mask_path": file_sha256(path)}
    assert str(path) not in str(found)
    assert "files" not in identity_of_trial(build_config({"proxy_strategy": "test_reading"}), {}, "m")
    path.unlink()
    with pytest.raises(FileNotFoundError):
        identity_of_trial(config, {}, "m")


def test_the_unaligned_model_of_safe_lora_is_found_beside_the_file_and_counts_by_content(
    tmp_path: Path, tiny_model_dir: str
) -> None:
    def load(folder: str) -> Trial:
        space = tmp_path / "space.yaml"
        knob = f"finetune_config.safe_lora_base_model: {folder}"
        space.write_text(
            f"base: {{finetune_config: {{model: toy}}}}\nstrategies: {{safe_lora: {{fixed: {{{knob}}}}}}}\n"
        )
        return load_space(space).trials[0]

    shutil.copytree(tiny_model_dir, tmp_path / "unaligned")
    first = load("unaligned")
    assert first.config.finetune_config.model_dump()["safe_lora_base_model"] == str(tmp_path / "unaligned")
    (tmp_path / "unaligned").rename(tmp_path / "moved")
    assert load("moved").trial_id == first.trial_id
    make_model(seed=4).save_pretrained(tmp_path / "moved")
    assert load("moved").trial_id != first.trial_id


# environment variables in paths -------------------------------------------------------------------------------------

IN_PATHS = """\
storage_path: $SCRATCH/sweeps
base:
  proxy_strategy: test_reading
  data.outcome: ${SCRATCH}/rows.jsonl
  data.proxy: {path: $SCRATCH/rows.jsonl}
  mask_path: $SCRATCH/mask
  finetune_config: {model: $SCRATCH/model, output_dir: $SCRATCH/out, vector_path: $SCRATCH/v.pt}
"""


def test_environment_variables_in_paths_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCH", str(tmp_path))
    make_model().save_pretrained(tmp_path / "model")
    write_jsonl(tmp_path / "rows.jsonl", make_roles()["outcome"])
    (tmp_path / "mask").write_text("m")
    (tmp_path / "space.yaml").write_text(IN_PATHS)
    monkeypatch.chdir(tmp_path / "model")
    spec = load_space("../space.yaml")
    assert spec.storage_path == f"{tmp_path}/sweeps"
    config = spec.trials[0].config
    assert {source.path for source in config.data.sources().values()} == {str(tmp_path / "rows.jsonl")}
    assert config.model_dump()["mask_path"] == str(tmp_path / "mask")
    finetune = config.finetune_config.model_dump()
    assert [finetune[key] for key in ("model", "output_dir", "vector_path")] == [
        *(str(tmp_path / name) for name in ("model", "out", "v.pt"))
    ]
    text = "{{ '$SCRATCH' }}"  # a chat template, not the path of one
    space = f'base: {{finetune_config.chat_template: "{text}"}}\nstrategies: {{naive: }}\n'
    (tmp_path / "space.yaml").write_text(space)
    assert load_space("../space.yaml").trials[0].config.finetune_config.chat_template == text


@pytest.mark.parametrize("value", [None, ""], ids=["unset", "empty"])
def test_a_variable_that_is_not_set_is_an_error(
    value: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRATCH_2", "/somewhere")
    monkeypatch.delenv("SCRATCH", raising=False)
    if value is not None:
        monkeypatch.setenv("SCRATCH", value)
    (tmp_path / "space.yaml").write_text(IN_PATHS)
    with pytest.raises(SpecError) as raised:
        load_space(tmp_path / "space.yaml")
    problems = raised.value.problems
    assert [problem.line for problem in problems] == [1, 4, 5, 6, 7, 7, 7]
    assert problems[0].key == "storage_path" and problems[3].key == "base.mask_path"
    for problem in problems:
        assert "the environment variable SCRATCH is not set" in problem.message, problem
        assert problem.file.endswith("space.yaml")
    assert value == "" or "Did you mean 'SCRATCH_2'?" in str(raised.value)


def test_the_folder_of_a_tracker_is_expanded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("SCRATCH", str(tmp_path))
    space = 'trackers: [{name: wandb, mode: offline, dir: "$SCRATCH/runs"}]\nstrategies: {naive: }\n'
    (tmp_path / "space.yaml").write_text(space)
    assert load_space(tmp_path / "space.yaml").trackers[0].options["dir"] == f"{tmp_path}/runs"
