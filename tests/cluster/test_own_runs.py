"""Our trials in a Tuner and a TorchTrainer that are the user's own."""

from __future__ import annotations

import pickle

import pytest
import yaml
from guides import blocks
from ray import tune
from running import write_space

import selgen_ray
from selgen_ray.errors import SpecError
from selgen_ray.reading import read_trials
from selgen_ray.records.results import TrialResult
from selgen_ray.report import write_report
from selgen_ray.storage import Folder
from selgen_ray.trial.of_values import Change, TrialSource, flat_values
from selgen_ray.trial.run import run_trial

BETA = "finetune_config.beta_kl"


@pytest.fixture
def space(tmp_path, tiny_model_dir, data_files, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finetune = {"epochs": 3, "save_model_locally": False, "max_to_eval": 4}
    return yaml.safe_load(write_space(tmp_path, tiny_model_dir, data_files, finetune).read_text())


@pytest.fixture
def source(space) -> TrialSource:
    return pickle.loads(pickle.dumps(selgen_ray.Sweep.from_dict(space).source()))  # as workers get it


def refused(make) -> str:
    with pytest.raises(SpecError) as caught:
        make()
    return str(caught.value)


def test_a_strategy_is_a_flat_space_and_several_are_a_grid_of_them(space):
    kl = {"proxy_strategy": "kl_divergence", BETA: tune.grid_search([1.0, 10.0]), "seed": tune.grid_search([1, 2])}
    assert selgen_ray.tune.param_space(space, "kl_divergence") == kl
    naive = {"proxy_strategy": "naive", "seed": tune.grid_search([1, 2])}
    assert selgen_ray.tune.param_space(space) == {"setting": tune.grid_search([kl, naive])}
    variants = list(tune.search.variant_generator.generate_variants(selgen_ray.tune.param_space(space)))
    assert len(variants) == 6 and all("grid_search" not in str(config) for _, config in variants)
    whole = {"kl_divergence": {"grid": {BETA: [1, 3]}}}
    (values,) = selgen_ray.tune.param_space(space | {"strategies": whole})[BETA].values()
    assert [type(value) for value in values] == [float, float]  # else PBT would make 1, 0 or 1 again of them
    pairs = [{"finetune_config.r": 2, "finetune_config.lora_alpha": 4}, {"finetune_config.r": 4}]
    zipped = {"zip": pairs, "fixed": {"finetune_config.epochs": 2}}
    flat = selgen_ray.tune.param_space(space | {"strategies": {"naive": zipped}, "seeds": [7]})
    assert flat == {"proxy_strategy": "naive", "together 1": tune.grid_search(pairs), "seed": 7}


def test_searched_ranges_are_tunes_domains(space):
    search = {
        "num_settings": 3,
        BETA: {"min": 0.1, "max": 10.0, "log": True},
        "finetune_config.r": {"min": 2, "max": 4},
    }
    search |= {
        "finetune_config.kl_on": {"choices": ["proxy", "outcome"]},
        "finetune_config.lora_dropout": {"min": 0, "max": 0.5},
    }
    for algorithm in ("random", "optuna"):
        section = {"kl_divergence": {"search": search | {"algorithm": algorithm}}}
        made = selgen_ray.tune.param_space(space | {"strategies": section})
        assert (made[BETA].lower, made[BETA].upper) == (0.1, 10.0) and "Log" in type(made[BETA].sampler).__name__
        assert isinstance(made["finetune_config.r"], tune.search.sample.Integer)
        assert {made["finetune_config.r"].sample() for _ in range(100)} == {2, 3, 4}
        assert made["finetune_config.kl_on"].categories == ["proxy", "outcome"]
        assert made["finetune_config.lora_dropout"].upper == 0.5


def test_what_a_tuner_cannot_do_is_refused(space):
    assert "strategies: found no 'klx'" in refused(lambda: selgen_ray.tune.param_space(space, "klx"))
    excluded = space | {"exclude": [{"seed": 1, BETA: 1.0}]}
    assert "exclude[0]: is not heeded here" in refused(lambda: selgen_ray.tune.param_space(excluded))
    workers = space | {"resources": {"workers": 2}}
    assert "resources.workers: is given" in refused(lambda: selgen_ray.tune.trainable(workers))
    loop = {"space": space, "proxy_strategy": "naive"}
    assert "storage_path: is relative" in refused(lambda: selgen_ray.train.loop(loop))


def test_a_trial_of_values_is_that_of_the_sweep(space, source):
    trials = {trial.trial_id: trial for trial in selgen_ray.Sweep.from_dict(space).spec.trials}
    made = [
        source.task({"proxy_strategy": "naive", "seed": 2}, "a"),
        source.task({"proxy_strategy": "kl_divergence", "seed": 1, "finetune_config": {"beta_kl": 10.0}}, "a"),
        source.task({"setting": {"section": "strategies.kl_divergence", BETA: 1.0, "seed": 2}}, "a"),
    ]
    for task in made:
        trial = trials[task.trial_id]
        assert task.config == trial.config.model_dump(mode="json") and task.model_hash == trial.model_hash
        assert task.slug.rpartition("_")[2] == trial.slug.rpartition("_")[2]  # a report joins them
    assert flat_values({"together 1": {BETA: 3.0}, "data.outcome": {"path": "x"}}) == {
        BETA: 3.0,
        "data.outcome": {"path": "x"},
    }


def test_values_that_are_wrong_are_named(source):
    assert "proxy_strategy: found 'klx'; allowed: kl_divergence, naive" in refused(
        lambda: source.task({"proxy_strategy": "klx"}, "a")
    )
    assert "section: is not given" in refused(lambda: source.task({"seed": 1}, "a"))
    text = refused(lambda: source.task({"proxy_strategy": "naive", BETA: 3.0}, "a"))
    assert f"{BETA}: unknown key" in text
    assert "seed: found 'x'" in refused(lambda: source.task({"proxy_strategy": "naive", "seed": "x"}, "a"))


def test_only_strengths_change_while_a_trial_trains(source):
    before = {"proxy_strategy": "kl_divergence", "seed": 1, BETA: 1.0}
    assert source.changed(before, before) == {}
    assert source.changed(before, before | {BETA: 3.0}) == {BETA: 3.0}
    text = refused(lambda: source.changed(before, before | {"finetune_config.learning_rate": 1e-4, BETA: 0.0}))
    assert "finetune_config.learning_rate: was changed from 0.005 to 0.0001" in text and f"can change {BETA}" in text
    assert "to or from 0, which leaves the strategy out" in text
    assert "seed: was changed" in refused(lambda: source.changed(before, before | {"seed": 2}))


def test_a_trial_that_changed_is_another_trial(source):
    first = {"proxy_strategy": "kl_divergence", "seed": 1, BETA: 1.0}
    last = first | {BETA: 3.0}
    tasks = [
        source.task(last, "a"),
        source.task(last, "a", [Change(6, {BETA: 3.0})], first),
        source.task(last, "a", [Change(12, {BETA: 3.0})], first),
        source.task(last, "a", [Change(6, {BETA: 3.0})], first | {BETA: 2.0}),
    ]
    assert len({task.trial_id for task in tasks}) == len({task.slug for task in tasks}) == 4
    assert all(task.config == tasks[0].config for task in tasks)
    assert tasks[1].slug.startswith("kl_divergence_changed_")


def test_the_report_holds_changed_trials_apart(source):
    first = {"proxy_strategy": "kl_divergence", "seed": 1, BETA: 1.0, "finetune_config.epochs": 1}
    last = first | {BETA: 3.0}
    for task in (source.task(last, "a"), source.task(last, "b", [Change(6, {BETA: 3.0})], first)):
        run_trial(task)
    report = write_report(source.folder)
    plain, changed = sorted(report.settings, key=lambda setting: setting.role.is_control)
    assert (plain.label, plain.num_trials) == ("kl_divergence β=3", 1) or plain.group == "kl_divergence"
    assert changed.group == "kl_divergence, changed on the way" and changed.num_trials == 1 and not changed.on_front
    assert [one.flag for one in report.flagged if "changed while" in one.flag] == [
        "changed while it trained, beta_kl to 3 at step 6: it is compared with no setting"
    ]


def results_of(folder: str) -> list[TrialResult]:
    return [result for _, result in read_trials(Folder(folder))]


@pytest.mark.ray
def test_the_guide_on_a_real_cluster(tmp_path, joined, monkeypatch):
    """A population of four on the toy world that changes its strengths; a trial on two workers of a TorchTrainer."""
    import ray

    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE"):
        monkeypatch.setenv(name, joined[name])
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    ray.init(log_to_driver=False)
    try:
        for block in blocks("python", "selgen_ray/sweep/README.md")[3:]:
            text = block.text.replace("/tmp/", f"{tmp_path}/").replace('"epochs": 3', '"epochs": 2')
            exec(text.replace('"num_outcome": 48, "num_truth": 14', '"num_outcome": 24, "num_truth": 7'), names)
        found = names["tuner"].fit()
        trained = names["trainer"].fit()
    finally:
        ray.shutdown()
    assert not found.errors and len(found) == 4
    own = tmp_path / "sweeps" / "population_own"
    results = {result.trial_id: result for result in results_of(str(own))}
    finished = [results[one.metrics["selgen_id"]] for one in found]
    assert {result.status for result in results.values()} == {"completed"}
    assert all(result.eval_epochs == [0, 1, 2] for result in finished)
    changed = [result for result in finished if result.changes]
    assert changed and all(r.config["finetune_config"]["beta_kl"] == r.changes[-1]["values"][BETA] for r in changed)
    report = write_report(str(own))
    assert "kl_divergence, changed on the way" in {setting.group for setting in report.settings}
    assert (own / "report" / "index.html").exists()
    (both,) = results_of(str(tmp_path / "selgen_train"))
    assert trained.metrics["selgen_id"] == both.trial_id and both.config["num_workers"] == 2
    assert both.status == "completed" and trained.checkpoint is not None
