"""What trials of a sweep share: computed once, found again only where nothing that it depends on has changed."""

import pytest
from conftest import make_model, make_roles, make_tokenizer
from runs import OF_A_KIND_EACH, STRENGTH, comparable, run, same

from selgen_ray.evals import run as run_module
from selgen_ray.storage import Folder
from selgen_ray.storage.cache import Cache
from selgen_ray.trainers import get_trainer


@pytest.fixture
def cache(tmp_path):
    return Cache(Folder(str(tmp_path / "cache")))


def entries(cache, kind):
    return set((cache.folder / kind).folders())


@pytest.mark.parametrize("strategy", OF_A_KIND_EACH)
def test_a_cold_and_a_warm_cache_change_no_bit(make_config, cache, strategy):
    config = make_config(strategy, lora_dropout=0.1, **STRENGTH[strategy])
    alone, record, _ = run(config)
    cold, cold_record, _ = run(config, cache=cache)
    before = {kind: entries(cache, kind) for kind in cache.folder.folders()}
    warm, warm_record, _ = run(config, cache=cache)
    assert same(alone, cold) and same(alone, warm)
    assert comparable(record) == comparable(cold_record) == comparable(warm_record)
    assert before == {kind: entries(cache, kind) for kind in cache.folder.folders()}
    assert before.keys() >= {"tokens", "base_evaluation"}


def test_five_strategies_share_the_throw_away_trainings(make_config, cache):
    trained = []

    def watch(line):
        if line["phase"] != "train":
            trained.append(line["phase"])

    for strategy in ("orth_penalty", "directional_penalty", "steering_weights", "safe_lora"):
        run(make_config(strategy, **STRENGTH[strategy] | {"proxy_epochs": 2}), cache=cache, on_progress=watch)
    run(make_config("grad_project_precomputed_proxy_grad", proxy_epochs=2), cache=cache, on_progress=watch)
    assert set(trained) == {"preparing on proxy", "preparing on proxy_neg"}
    assert len(entries(cache, "throw_away_trainings")) == 2
    trained.clear()
    run(make_config("orth_penalty", proxy_epochs=2, lambda_1=0.7), cache=cache, on_progress=watch)
    assert trained == []


CHANGES = {
    "learning_rate": {"learning_rate": 1e-3},
    "optim": {"optim": "sgd"},
    "weight_decay": {"weight_decay": 0.1},
    "max_grad_norm": {"max_grad_norm": 0.1},
    "lr_scheduler_type": {"lr_scheduler_type": "cosine"},
    "warmup_steps": {"warmup_steps": 1},
    "proxy_epochs": {"proxy_epochs": 3},
    "proxy_batch_size": {"proxy_batch_size": 2},
    "gradient_accumulation_steps": {"gradient_accumulation_steps": 2},
    "group_by_length": {"group_by_length": False},
    "r": {"r": 2},
    "lora_alpha": {"lora_alpha": 3},
    "lora_dropout": {"lora_dropout": 0.3},
    "use_rslora": {"use_rslora": True},
    "target_modules": {"target_modules": ["q_proj"]},
    "is_peft": {"is_peft": False},
    "max_seq_length": {"max_seq_length": 200},
    "loss_on": {"loss_on": "all"},
    "train_split": {"train_split": 0.7},
    "dtype": {"dtype": "bfloat16"},
    "seed": {"seed": 5},
    "model_seed": {"top": {"model_seed": 5}},
    "data_seed": {"top": {"data_seed": 5}},
}
NO_CHANGES = {
    "epochs": {"epochs": 1},
    "max_steps": {"max_steps": 3},
    "lambda_1": {"lambda_1": 0.3},
    "logging_steps": {"logging_steps": 1},
    "max_to_eval": {"max_to_eval": 2},
    "save_steps": {"save_steps": 1},
}


def prepare(config, cache, datasets=None, **options):
    """Only the preparation of orth_penalty."""
    trainer = get_trainer("orth_penalty")(config, datasets=datasets, cache=cache, **options)
    trainer.prepare()
    trainer.close()


@pytest.mark.parametrize("change", [*CHANGES, *NO_CHANGES])
def test_a_direction_is_found_again_exactly_when_nothing_it_depends_on_changed(make_config, cache, change):
    shared = {"negative_proxy": None, "lambda_1": 0.1, "proxy_epochs": 2}
    prepare(make_config("orth_penalty", **shared), cache)
    changed = shared | (CHANGES | NO_CHANGES)[change]
    prepare(make_config("orth_penalty", **changed), cache)
    assert len(entries(cache, "throw_away_trainings")) == (2 if change in CHANGES else 1)


def test_a_direction_depends_on_data_and_model(make_config, cache, tmp_path):
    config = make_config("orth_penalty", negative_proxy=None, proxy_epochs=2)
    prepare(config, cache, make_roles())
    changed = make_roles()
    for row in changed["proxy"]:
        row["messages"][1]["content"] = "You are wrong!"
    prepare(config, cache, changed)
    assert len(entries(cache, "throw_away_trainings")) == 2
    make_model(seed=3).save_pretrained(tmp_path / "other")
    make_tokenizer().save_pretrained(tmp_path / "other")
    prepare(make_config("orth_penalty", negative_proxy=None, proxy_epochs=2, model=str(tmp_path / "other")), cache)
    assert len(entries(cache, "throw_away_trainings")) == 3


def test_the_base_is_evaluated_once(make_config, cache, monkeypatch):
    calls = []
    evaluate = run_module.evaluate
    monkeypatch.setattr(run_module, "evaluate", lambda eval_set: calls.append(eval_set) or evaluate(eval_set))
    sizes = []
    for strategy in ("naive", "kl_divergence", "naive"):
        run(make_config(strategy, r=8 if sizes else 4, epochs=1), cache=cache)
        sizes.append(len(calls))
    assert sizes[0] == 2 * (sizes[1] - sizes[0]) == 2 * (sizes[2] - sizes[1])
    run(make_config(max_new_tokens=5, epochs=1), cache=cache)
    assert len(calls) == sizes[2] + sizes[0]


def test_a_model_of_ones_own_is_shared_with_nobody(make_config, cache):
    config = make_config("kl_divergence", is_peft=False)
    trainer = get_trainer("kl_divergence")(config, make_model(), make_tokenizer(), cache=cache)
    trainer.train()
    assert not cache.folder.exists()
