"""Good search spaces: what they expand to."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selgen_ray.errors import SpecError
from selgen_ray.space import SweepSpec, load_space

Load = Callable[..., SweepSpec]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load a search space given as text; the other files are written beside it."""

    def write_and_load(text: str, name: str = "space.yaml", **files: str) -> SweepSpec:
        for other, content in files.items():
            (tmp_path / other.replace("__", ".")).write_text(content)
        (tmp_path / name).write_text(text)
        return load_space(tmp_path / name)

    return write_and_load


def ids(spec: SweepSpec) -> list[str]:
    return [trial.trial_id for trial in spec.trials]


def test_the_smallest_space_is_one_trial(load: Load) -> None:
    spec = load("name: smoke\n")
    (trial,) = spec.trials
    assert (spec.name, spec.storage_path) == ("smoke", "./sweeps")
    assert (trial.config.proxy_strategy, trial.config.seed) == ("naive", 42)
    assert re.fullmatch(r"[0-9a-f]{16}", trial.trial_id)
    assert re.fullmatch(r"naive_[0-9a-f]{6}", trial.slug)
    assert trial.name == f"{trial.slug}/seed_42"
    assert spec.notes == []


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("base: {proxy_strategy: kl_divergence}", {"kl_divergence": 1}),
        ("seeds: [1, 2, 3]", {"naive": 3}),
        ("base: {seed: 7}", {"naive": 1}),
        ("grid: {finetune_config.r: [4, 8], finetune_config.epochs: [1, 2, 3]}", {"naive": 6}),
        (
            "zip: [{finetune_config.r: 4, finetune_config.lora_alpha: 8}, {finetune_config.r: 8}]",
            {"naive": 2},
        ),
        ("strategies: {naive: , kl_divergence: {}}", {"naive": 1, "kl_divergence": 1}),
        (
            "seeds: [1, 2]\n"
            "grid: {finetune_config.epochs: [1, 2, 3]}\n"
            "zip: [{finetune_config.r: 4}, {finetune_config.r: 8}]\n"
            "strategies:\n"
            "  naive: {}\n"
            "  kl_divergence:\n"
            "    grid: {finetune_config.beta_kl: [1, 3]}\n"
            "    zip: [{finetune_config.optim: sgd}]\n",
            {"naive": 12, "kl_divergence": 24},
        ),
        ("overrides: [{finetune_config: {r: 4}}, {}]\nseeds: [1, 2]", {"naive": 4}),
        ("strategies: {naive: {}}\noverrides: [{finetune_config: {r: 4}}]\nseeds: [1, 2]", {"naive": 4}),
        ("strategies: {naive: {}, task_trained: {fixed: {train_on_proxy: false}}}", {"naive": 2}),
        ("grid: {finetune_config.target_modules: [[q_proj], [q_proj, v_proj], all-linear]}", {"naive": 3}),
    ],
)
def test_counts(load: Load, text: str, counts: dict[str, int]) -> None:
    spec = load(text)
    assert Counter(trial.config.proxy_strategy for trial in spec.trials) == counts
    assert len(set(ids(spec))) == len({trial.name for trial in spec.trials}) == sum(counts.values())
    assert not spec.notes


def test_values_arrive(load: Load) -> None:
    spec = load(
        "base: {finetune_config: {epochs: 2, target_modules: [a, b]}, experiment_name: mine}\n"
        "zip: [{finetune_config: {r: 4, lora_alpha: 9}}]\n"
        "grid: {finetune_config.learning_rate: [1e-5]}\n"
        "strategies:\n"
        "  positive_negative_proxy:\n"
        "    fixed: {finetune_config: {lambda_proxy: 3, target_modules: [c]}}\n"
    )
    config = spec.trials[0].config
    found = config.finetune_config.model_dump()
    wanted = {
        "epochs": 2,
        "target_modules": ["c"],
        "r": 4,
        "lora_alpha": 9.0,
        "learning_rate": 1e-5,
        "lambda_proxy": 3.0,
    }
    assert {key: found[key] for key in wanted} == wanted
    assert config.experiment_name == "mine"


def test_nested_is_dotted(load: Load) -> None:
    nested = load(
        "base: {finetune_config: {r: 4}, data: {toy: {num_outcome: 9}}}\ngrid: {finetune_config: {epochs: [1, 2]}}\n"
    )
    dotted = load("base.finetune_config.r: 4\nbase.data: {toy.num_outcome: 9}\ngrid: {finetune_config.epochs: [1, 2]}")
    mixed = load("base: {finetune_config.r: 4, data.toy: {num_outcome: 9}}\ngrid.finetune_config: {epochs: [1, 2]}")
    assert ids(nested) == ids(dotted) == ids(mixed)


def test_the_order_of_keys_changes_nothing(load: Load) -> None:
    one = load("base: {finetune_config: {r: 4, epochs: 2}, seed: 3}")
    other = load("base: {seed: 3, finetune_config: {epochs: 2, r: 4}}")
    assert ids(one) == ids(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("strategies: {naive: {}}", "strategies: {task_trained: {}}"),
        ("base: {proxy_strategy: task_trained}", "name: x"),
        (
            "base: {finetune_config: {learning_rate: 1e-5}}",
            "base: {finetune_config: {learning_rate: 0.00001}}",
        ),
        ("base: {finetune_config: {learning_rate: 1}}", "base: {finetune_config: {learning_rate: 1.0}}"),
        ("base: {finetune_config: {r: 8}}", "name: x"),
        ("base: {finetune_config.seed: 5}", "seeds: [5]"),
        ("base: {seed: 5, data_seed: 5, model_seed: 5}", "seeds: [5]"),
        ("base: {data_seed: 5, model_seed: 5}", "seeds: [5]"),
        ("base: {seed: 5, data_seed: -1, model_seed: null}", "seeds: [5]"),
        (
            "base: &b {seed: 3}\noverrides: [{<<: *b, finetune_config.r: 4}]",
            "overrides: [{seed: 3, finetune_config.r: 4}]",
        ),
    ],
)
def test_two_ways_to_say_the_same(load: Load, one: str, other: str) -> None:
    first, second = load(one), load(other)
    assert ids(first) == ids(second)
    assert [trial.name for trial in first.trials] == [trial.name for trial in second.trials]


NULLS = [
    "base: {finetune_config: {r: null, learning_rate: ~, dtype: null, is_peft: null, target_modules: null}}",
    "base: {finetune_config: {max_steps: null, model: null}, data: {toy: {num_outcome: null}, outcome: null}}",
    "base: {finetune_config: null, data: {toy: null}}\noverrides: [{data: null}]",
    "base: {proxy_strategy: null, seed: null, data_seed: null, train_on_proxy: null, experiment_name: null}",
    "base: {finetune_config: {beta_kl: null, lambda_proxy: null}}",  # knobs that `naive` does not have
    "strategies: {naive: {fixed: {finetune_config: {beta_kl: null, r: null}}}}",
    "overrides: [{proxy_strategy: null, finetune_config: {r: null, beta_kl: null}}]",
    "base: {seed: null, finetune_config.seed: 42}",
    "base: {seed: 42, finetune_config.seed: null}",
    "seeds: [null]",
    "grid: {finetune_config.r: [null]}",
    "base: {finetune_config.r: 16, proxy_strategy: kl_divergence}\n"
    "overrides: [{finetune_config.r: null, proxy_strategy: null}]",
    "name: null\nstorage_path: null\nresources: {cpus: null, max_failures: ~}\npareto: {x: null}",
]


@pytest.mark.parametrize("text", NULLS)
def test_null_is_the_default(load: Load, text: str) -> None:
    """First-generation files list every key they do not use as null."""
    spec, plain = load(text), load("seeds: [42]")
    assert ids(spec) == ids(plain)
    assert [trial.name for trial in spec.trials] == [trial.name for trial in plain.trials]
    assert [trial.config for trial in spec.trials] == [trial.config for trial in plain.trials]
    assert spec.model_dump(exclude={"trials"}) == plain.model_dump(exclude={"trials"})
    assert not spec.notes


@pytest.mark.parametrize(
    ("text", "number"), [("'0100'", 100), ("1_000", 1000), ("0x40", 64), ("0b100", 4), ("0100.0", 100), ("08", 8)]
)
def test_a_number_is_that_which_is_written(load: Load, text: str, number: int) -> None:
    (trial,) = load(f"base: {{finetune_config.max_seq_length: {text}}}").trials
    assert trial.config.finetune_config.max_seq_length == number


def test_null_in_a_list_of_values_is_the_default(load: Load) -> None:
    spec = load("base: {finetune_config.epochs: 9}\ngrid: {finetune_config: {r: [null, 3], epochs: [null]}}")
    assert [(t.config.finetune_config.r, t.config.finetune_config.epochs) for t in spec.trials] == [(8, 3), (3, 3)]
    assert [trial.slug.rpartition("_")[0] for trial in spec.trials] == ["naive_r-8", "naive_r-3"]
    assert ids(spec) == ids(load("grid: {finetune_config.r: [8, 3]}"))
    assert load("grid: {finetune_config.r: [null, 8]}").notes


def test_null_is_a_value_where_a_key_has_another_default(load: Load) -> None:
    spec = load("strategies: {steering_weights: {grid: {finetune_config.negative_proxy: [null, proxy_neg]}}}")
    assert [t.config.finetune_config.model_dump()["negative_proxy"] for t in spec.trials] == [None, "proxy_neg"]
    assert len(set(ids(spec))) == 2


def test_an_override_with_a_null_seed_has_none_of_its_own(load: Load) -> None:
    spec = load("seeds: [1, 2]\noverrides: [{seed: null, data_seed: null, finetune_config.r: 4}]")
    assert [trial.config.seed for trial in spec.trials] == [1, 2]
    fixed = "base: {data_seed: 3, model_seed: 3}\noverrides: [{%s}]"
    assert ids(load(fixed % "seed: null")) == ids(load(fixed % ""))


@pytest.mark.parametrize("exclude", ["{finetune_config.r: null}", "{finetune_config: {r: ~, max_steps: null}}"])
def test_null_excludes_the_default(load: Load, exclude: str) -> None:
    spec = load(f"grid: {{finetune_config.r: [4, 8]}}\nexclude: [{exclude}]")
    assert [trial.config.finetune_config.r for trial in spec.trials] == [4]


def test_a_key_beside_a_merge_replaces_what_is_merged(load: Load) -> None:
    """`<<` is shallow, as everywhere in YAML."""
    spec = load(
        "strategies:\n"
        "  naive: {fixed: &shared {finetune_config: {r: 4}, train_on_proxy: false}}\n"
        "  task_trained: {fixed: {<<: *shared, finetune_config: {epochs: 2}}}\n"
    )
    configs = [trial.config for trial in spec.trials]
    assert [(c.finetune_config.r, c.finetune_config.epochs) for c in configs] == [(4, 3), (8, 2)]
    assert [c.model_dump()["train_on_proxy"] for c in configs] == [False, False]


# seeds ----------------------------------------------------------------------------------------------------


def test_seeds_share_a_slug_and_nothing_random(load: Load) -> None:
    spec = load("seeds: [1, 5]\ngrid: {finetune_config.r: [4, 8]}")
    assert len(set(ids(spec))) == 4
    assert [trial.config.seed for trial in spec.trials] == [1, 5, 1, 5]
    assert (
        [trial.config.data_seed for trial in spec.trials]
        == [trial.config.model_seed for trial in spec.trials]
        == [1, 5, 1, 5]
    )
    slugs = [trial.slug for trial in spec.trials]
    assert slugs[0] == slugs[1] != slugs[2] == slugs[3]


def test_one_fixed_stream_keeps_the_seeds_of_a_setting_together(load: Load) -> None:
    spec = load("base: {data_seed: 1}\nseeds: [1, 5]")
    assert [(t.config.data_seed, t.config.model_seed) for t in spec.trials] == [(1, 1), (1, 5)]
    assert len({trial.slug for trial in spec.trials}) == 1
    assert spec.trials[0].slug != load("seeds: [1, 5]").trials[0].slug


def test_an_equal_seed_with_other_streams_is_another_setting(load: Load) -> None:
    spec = load("overrides: [{seed: 1}, {seed: 1, data_seed: 2}, {seed: 1, data_seed: 2, model_seed: 3}]")
    assert [trial.config.seed for trial in spec.trials] == [1, 1, 1]
    assert len({trial.name for trial in spec.trials}) == 3


def test_overrides_with_seeds_of_their_own_are_not_multiplied(load: Load) -> None:
    spec = load("seeds: [1, 2]\noverrides: [{finetune_config.r: 4}, {seed: 9}, {data_seed: 8, finetune_config.r: 2}]")
    assert [(t.config.finetune_config.r, t.config.seed, t.config.data_seed) for t in spec.trials] == [
        (4, 1, 1),
        (4, 2, 2),
        (8, 9, 9),
        (2, 42, 8),
    ]


def test_first_generation_files(load: Load) -> None:
    """A config.json that lists the knobs of every strategy, and overrides that carry their seeds."""
    config = {
        "proxy_strategy": "naive",
        "data_seed": 1,
        "model_seed": 1,
        "train_on_proxy": False,
        "finetune_config": {"learning_rate": 1e-05, "optim": "sgd", "beta_kl": 0, "lambda_proxy": 2.0},
    }
    seeds = [{"data_seed": s, "model_seed": s} for s in (1, 5, 42)]
    overrides: list[dict[str, Any]] = [
        {"proxy_strategy": "kl_divergence", **s, "finetune_config": {"beta_kl": 3}} for s in seeds
    ]
    overrides += [{"proxy_strategy": "naive", "finetune_config": {"epochs": 2}}]
    spec = load(
        "base: config.json\noverrides: attributes_to_vary.json",
        config__json=json.dumps(config, indent="\t"),
        attributes_to_vary__json=json.dumps(overrides),
    )
    assert Counter(trial.config.proxy_strategy for trial in spec.trials) == {"kl_divergence": 3, "naive": 1}
    kl = spec.trials[:3]
    assert len({trial.slug for trial in kl}) == 1
    assert [trial.name.rpartition("/")[2] for trial in kl] == ["seed_1", "seed_5", "seed_42"]
    assert {trial.config.finetune_config.learning_rate for trial in spec.trials} == {1e-5}
    assert not any(hasattr(t.config.finetune_config, "beta_kl") for t in spec.trials[3:])
    (note,) = spec.notes
    assert "config.json" in note
    assert "lambda_proxy" in note
    assert "positive_negative_proxy" in note


# exclude, duplicates, notes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        ("{proxy_strategy: kl_divergence}", 3),
        ("{finetune_config.learning_rate: 3e-5}", 6),
        ("{finetune_config: {learning_rate: 3.0e-5}, proxy_strategy: task_trained}", 8),
        ("{finetune_config.beta_kl: 1}", 6),
        ("{finetune_config.beta_kl: 1.0, finetune_config.learning_rate: 1e-5}", 8),
        ("{finetune_config.learning_rate: 1e-5}, {proxy_strategy: naive}", 4),
    ],
)
def test_exclude(load: Load, exclude: str, left: int) -> None:
    space = (
        "grid: {finetune_config.learning_rate: [1e-5, 2e-5, 3e-5]}\n"
        "strategies: {naive: {}, kl_divergence: {grid: {finetune_config.beta_kl: [1, 3]}}}\n"
    )
    spec = load(space + f"exclude: [{exclude}]")
    assert len(spec.trials) == left
    assert "of 9 trials" in spec.notes[0]


def test_an_exclusion_that_matches_nothing_is_told(load: Load) -> None:
    spec = load("seeds: [1, 2]\nexclude:\n  - {seed: 3}\n")
    assert len(spec.trials) == 2
    assert spec.notes[0].endswith("space.yaml:3: exclude[0]: matches no trial.")


def test_duplicates_run_once_and_are_told(load: Load) -> None:
    spec = load("seeds: [1]\nstrategies: {naive: {}}\noverrides: [{finetune_config.r: 8}, {}, {finetune_config.r: 4}]")
    assert len(spec.trials) == 2
    (note,) = spec.notes
    told = "is given 3 times and runs once: strategies.naive, overrides[0], overrides[1]"
    assert note == f"{spec.trials[0].name} {told}"


# names and slugs ------------------------------------------------------------------------------------------


def test_slugs_say_what_varies(load: Load) -> None:
    spec = load(
        "base: {finetune_config: {epochs: 2}}\n"
        "strategies:\n"
        "  naive: {}\n"
        "  kl_divergence: {grid: {finetune_config.beta_kl: [1, 10, 0.1]}}\n"
    )
    readable = [trial.slug.rpartition("_")[0] for trial in spec.trials]
    assert readable == [
        "naive",
        "kl_divergence_beta_kl-1",
        "kl_divergence_beta_kl-10",
        "kl_divergence_beta_kl-0.1",
    ]


def test_slugs_are_unique_and_safe(load: Load) -> None:
    values = [
        "[q_proj, v/proj]",
        "'.*[qv]_proj$'",
        "'../../etc'",
        "'" + "x" * 300 + "'",
        "'" + "x" * 301 + "'",
        "'é ü'",
    ]
    spec = load(
        f"seeds: [1, 2]\ngrid: {{finetune_config.target_modules: [{', '.join(values)}], finetune_config.r: [1, 2]}}\n"
    )
    slugs = {trial.slug for trial in spec.trials}
    assert len(slugs) == len(spec.trials) / 2 == 12
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", slug) for slug in slugs)


def test_a_slug_tells_values_apart_that_print_alike(load: Load) -> None:
    spec = load("grid: {finetune_config.learning_rate: [0.10000001, 0.10000002]}")
    assert len({trial.slug for trial in spec.trials}) == 2


def test_a_clash_of_short_hashes_makes_them_longer(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selgen_ray.space.slugs._DIGITS", 0)
    spec = load("grid: {finetune_config.learning_rate: [0.10000001, 0.10000002]}")
    assert len({trial.slug for trial in spec.trials}) == 2


def test_slugs_of_fractions_and_choices(load: Load) -> None:
    spec = load(
        "strategies: {kl_divergence: {grid: {finetune_config.beta_kl: [1, 0.5]}}}\n"
        "overrides: [{}, {train_on_proxy: false}]\n"
    )
    readable = [trial.slug.rpartition("_")[0] for trial in spec.trials]
    assert readable[:2] == ["kl_divergence_beta_kl-1", "kl_divergence_beta_kl-0.5"]
    assert readable[2:] == ["naive_train_on_proxy-true", "naive_train_on_proxy-false"]


def test_the_name_comes_from_the_file(load: Load) -> None:
    assert load("seeds: [1]", name="my space (2).yaml").name == "my-space-2"


def test_settings_of_the_sweep(load: Load) -> None:
    spec = load(
        "storage_path: s3://bucket/sweeps\nresources: {gpus: 0.5, max_concurrent: 8}\npareto: {x: task_test/accuracy}\n"
    )
    assert spec.storage_path == "s3://bucket/sweeps"
    assert (spec.resources.gpus, spec.resources.cpus, spec.resources.max_concurrent) == (0.5, 1, 8)
    assert (spec.pareto.x, spec.pareto.y) == ("task_test/accuracy", "alignment")
    assert load("name: x").resources.gpus is None


def test_several_workers_are_part_of_what_a_trial_is(load: Load) -> None:
    """The global batch grows with them; who shares the work out, and on what, changes nothing."""
    plain = load("seeds: [1]")
    assert plain.trials[0].config.num_workers == 1
    assert ids(load("seeds: [1]\nresources: {workers: 1}")) == ids(load("resources: {workers: null}\nseeds: [1]"))
    spec = load("seeds: [1]\nresources: {workers: 4, cpus_per_worker: 2, gpus_per_worker: 1.0}\noverrides: [{}]")
    (trial,) = spec.trials
    assert trial.config.num_workers == 4 and trial.trial_id != plain.trials[0].trial_id
    assert (spec.resources.gpus_per_worker, spec.resources.cpus_per_worker, spec.resources.strategy) == (1, 2, None)
    assert ids(spec) == ids(load("seeds: [1]\nresources: {workers: 4, strategy: fsdp, gpus_per_worker: 0}"))


def test_a_config_of_an_earlier_run_has_the_workers_of_this_one(load: Load) -> None:
    text = "base: config.json\nseeds: [1]\nresources: {workers: %s}"
    assert load(text % 4, config__json='{"num_workers": 4}').trials[0].config.num_workers == 4
    assert load(text % "null", config__json='{"num_workers": 1}').trials[0].config.num_workers == 1
    with pytest.raises(SpecError, match=r"config\.json:1: num_workers: found 4, .* set resources\.workers: 4"):
        load(text % "null", config__json='{"num_workers": 4}')


def test_early_stopping_is_off_by_default(load: Load) -> None:
    assert load("name: x").early_stopping.scheduler is None
    assert load("early_stopping: {}").early_stopping == load("early_stopping: null").early_stopping
    rule = load("early_stopping: {scheduler: asha, metric: align_test/loss, keep: [task_trained]}").early_stopping
    assert (rule.scheduler, rule.metric, rule.grace_epochs, rule.keep) == ("asha", "align_test/loss", 1, ["naive"])
    rule = load("early_stopping: {scheduler: median, min_settings: 5, mode: min, grace_epochs: 2}").early_stopping
    assert (rule.scheduler, rule.min_settings, rule.mode, rule.grace_epochs) == ("median", 5, "min", 2)
    steps = "early_stopping: {scheduler: asha, grace_epochs: 8}\nbase: {finetune_config.max_steps: 10}"
    assert load(steps).early_stopping.grace_epochs == 8, "how many epochs ten steps are, the data says"


# files ----------------------------------------------------------------------------------------------------


def test_data_counts_by_content(load: Load, tmp_path: Path) -> None:
    text = "base: {data: {outcome: rows.jsonl}}"
    first = load(text, rows__jsonl="1")
    assert first.trials[0].config.data.outcome.path == str(tmp_path.resolve() / "rows.jsonl")
    assert set(first.trials[0].data_hashes) == {"outcome"}
    moved = load("base: {data: {outcome: other.jsonl}}", other__jsonl="1")
    changed = load(text, rows__jsonl="2")
    assert ids(first) == ids(moved) != ids(changed)


def test_paths_are_looked_up_beside_the_file_first_then_here(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    (here / "a.jsonl").write_text("here")
    (here / "b.jsonl").write_text("here")
    data = load("base: {data: {outcome: a.jsonl, proxy: b.jsonl}}", a__jsonl="beside").trials[0].config.data
    assert (data.outcome.path, data.proxy.path) == (
        str(tmp_path.resolve() / "a.jsonl"),
        str(here.resolve() / "b.jsonl"),
    )


def test_paths_in_a_config_are_beside_the_config(load: Load, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "rows.jsonl").write_text("1")
    (tmp_path / "sub" / "config.json").write_text('{"data": {"outcome": "rows.jsonl"}}')
    spec = load("base: sub/config.json")
    assert spec.trials[0].config.data.outcome.path == str((tmp_path / "sub" / "rows.jsonl").resolve())


@pytest.mark.parametrize("model", ["./model", "model"])
def test_a_local_model_becomes_absolute(load: Load, tmp_path: Path, model: str) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("w")
    spec = load(f"base: {{finetune_config: {{model: {model}}}, data: {{world: toy}}}}")
    assert spec.trials[0].config.finetune_config.model == str(tmp_path.resolve() / "model")
    assert re.fullmatch("[0-9a-f]{64}", spec.trials[0].model_hash)


def test_a_local_model_is_looked_up_in_the_current_directory_too(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere" / "models" / "small").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    spec = load("base: {finetune_config: {model: models/small}, data: {world: toy}}")
    assert spec.trials[0].config.finetune_config.model == str(tmp_path.resolve() / "elsewhere" / "models" / "small")


def test_a_hub_model_stays_as_it_is(load: Load) -> None:
    spec = load("base: {finetune_config: {model: Qwen/Qwen3-8B}, data: {world: toy}}")
    assert spec.trials[0].config.finetune_config.model == "Qwen/Qwen3-8B"
    assert spec.trials[0].model_hash == "hub:Qwen/Qwen3-8B@main"


def test_extends_merges_deeply_and_lists_replace(load: Load) -> None:
    parent = (
        "name: parent\nbase: {finetune_config: {r: 4, epochs: 2}}\nseeds: [1, 2, 3]\n"
        "strategies: {kl_divergence: {grid: {finetune_config.beta_kl: [1, 3]}}}\n"
    )
    spec = load(
        "extends: parent.yaml\nbase.finetune_config.r: 16\nseeds: [7]\nstrategies: {naive: }",
        parent__yaml=parent,
    )
    assert spec.name == "parent"
    assert Counter(trial.config.proxy_strategy for trial in spec.trials) == {"kl_divergence": 2, "naive": 1}
    assert {(t.config.finetune_config.r, t.config.finetune_config.epochs, t.config.seed) for t in spec.trials} == {
        (16, 2, 7)
    }


def test_extends_over_a_config_json(load: Load) -> None:
    spec = load(
        "extends: parent.yaml\nbase: {finetune_config.epochs: 1}",
        parent__yaml="base: config.json",
        config__json='{"finetune_config": {"epochs": 9, "r": 3}}',
    )
    assert (spec.trials[0].config.finetune_config.epochs, spec.trials[0].config.finetune_config.r) == (1, 3)


def test_ten_thousand_trials(load: Load) -> None:
    spec = load(
        f"seeds: {list(range(10))}\n"
        f"grid: {{finetune_config.learning_rate: {[i / 1e6 for i in range(1, 26)]}}}\n"
        f"strategies: {{kl_divergence: {{grid: {{finetune_config.beta_kl: {list(range(40))}}}}}}}\n"
    )
    assert len(spec.trials) == len(set(ids(spec))) == len({trial.name for trial in spec.trials}) == 10_000
    assert len({trial.slug for trial in spec.trials}) == 1000


def test_a_spec_survives_json(load: Load) -> None:
    """The knobs of a strategy are not lost on the way (they are not fields of TrialConfig)."""
    spec = load("strategies: {kl_divergence: {fixed: {finetune_config.beta_kl: 3}}}")
    assert json.loads(spec.model_dump_json())["trials"][0]["config"]["finetune_config"]["beta_kl"] == 3


# -- controls ---------------------------------------------------------------------------------------------------------


def control_trials(folder, model, data, text):
    sources = f"{{outcome: {data['outcome']}, proxy: {data['proxy']}}}"
    base = f"base:\n  finetune_config: {{model: {model}}}\n  data: {sources}\nseeds: [1, 2]\n"
    (folder / "space.yaml").write_text(base + text)
    return load_space(folder / "space.yaml")


def test_controls_are_trials_with_a_name_and_all_seeds(tmp_path, tiny_model_dir, data_files):
    spec = control_trials(
        tmp_path,
        tiny_model_dir,
        data_files,
        "grid: {finetune_config.r: [2, 4]}\n"
        "strategies: {kl_divergence: {}}\n"
        f"controls:\n  oracle: {{data.outcome: {data_files['collateral']}}}\n  placebo: {{inoculation_prompt: Hi.}}\n"
        "  mixed in: {proxy_strategy: naive, train_on_proxy: true}\n",
    )
    found = {}
    for trial in spec.trials:
        found.setdefault(trial.config.control, []).append(trial)
    assert {name: len(trials) for name, trials in found.items()} == {
        "task alone": 2,
        "oracle": 2,
        "placebo": 2,
        "mixed in": 2,
        None: 4,
    }
    assert all({t.config.seed for t in trials} == {1, 2} for trials in found.values())
    configs = {name: trials[0].config for name, trials in found.items()}
    assert {name: config.proxy_strategy for name, config in configs.items() if name} == {
        "task alone": "naive",
        "oracle": "naive",
        "placebo": "inoculation_prompting",
        "mixed in": "naive",
    }
    assert [configs[name].train_on_proxy for name in ("task alone", "oracle", "mixed in")] == [False, False, True]
    assert configs["oracle"].data.outcome.path == data_files["collateral"]
    assert configs["placebo"].finetune_config.inoculation_prompt == "Hi."
    assert {trial.slug.rpartition("_")[0] for trial in spec.trials if trial.config.control} == {
        *("control_task-alone", "control_oracle", "control_placebo", "control_mixed-in")
    }


def test_a_control_has_the_id_of_the_setting_and_its_name_wins(tmp_path, tiny_model_dir, data_files):
    naive = "strategies: {naive: {grid: {train_on_proxy: [false, true]}}}\n"
    plain = control_trials(tmp_path, tiny_model_dir, data_files, naive)
    named = control_trials(tmp_path, tiny_model_dir, data_files, naive + "controls: {}\n")
    assert {t.trial_id for t in plain.trials} == {t.trial_id for t in named.trials}
    assert {(t.config.train_on_proxy, t.config.control) for t in named.trials} == {(False, "task alone"), (True, None)}
    mixed = {t.trial_id: t.slug for t in plain.trials if t.config.train_on_proxy}
    assert mixed.keys() == {t.trial_id for t in named.trials if not t.config.control}


@pytest.mark.parametrize(
    ("controls", "message"),
    [
        ("{x: {beta_kl: 3}}", r"names no proxy_strategy; strategies that have its knobs: kl_divergence, repr"),
        ("{x: {seed: 3}}", "list the seeds under `seeds`"),
        ("{x: {lerning_rate: 3}}", "Did you mean"),
        ("[1]", "a mapping"),
    ],
)
def test_a_control_that_is_none_is_an_error_with_its_line(tmp_path, tiny_model_dir, data_files, controls, message):
    with pytest.raises(SpecError, match=rf"space\.yaml:6: .*{message}"):
        control_trials(tmp_path, tiny_model_dir, data_files, f"strategies: {{naive: {{}}}}\ncontrols: {controls}\n")
    with pytest.raises(SpecError, match="write it as a key of the section `controls`"):
        control_trials(tmp_path, tiny_model_dir, data_files, "strategies: {naive: {fixed: {control: x}}}\n")


def test_a_part_of_a_source_can_be_given_alone(load: Load) -> None:
    rows = '{"prompt": "a", "completion": "b"}\n'
    text = "base: {data: {outcome: {path: rows.jsonl}}}\ngrid: {data.outcome.form: [chat, null]}"
    sources = [trial.config.data.outcome for trial in load(text, rows__jsonl=rows).trials]
    assert [source and source.form for source in sources] == ["chat", None]


def test_a_yes_no_knob_may_bear_the_name_of_another_strategys_number(load: Load) -> None:
    plugin = """
from selgen_ray.trainers import knob
from selgen_ray.trainers.naive import StandardTrainer


class Mine(StandardTrainer):
    \"\"\"A strategy with a knob that elsewhere is a number.\"\"\"

    proxy_strategy_name = "yes_or_no"
    beta_kl: bool = knob(False, "whether")
"""
    strategies = "strategies: {yes_or_no: {grid: {finetune_config.beta_kl: [true, false]}}}"
    spec = load(f"plugins: [mine.py]\n{strategies}", mine__py=plugin)
    assert [trial.config.model_dump()["finetune_config"]["beta_kl"] for trial in spec.trials] == [True, False]
    with pytest.raises(SpecError, match="found true; allowed: a finite number"):
        load(f"plugins: [mine.py]\n{strategies.replace('yes_or_no', 'kl_divergence')}", mine__py=plugin)
