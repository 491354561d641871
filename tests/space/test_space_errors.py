"""Bad search spaces: a problem names file, line and key, what was found, what is allowed, what is nearest."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from selgen_ray.errors import SpecError
from selgen_ray.space import load_space
from selgen_ray.trainers import build_config

Fail = Callable[..., SpecError]


@pytest.fixture
def fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fail:
    """The error of a search space given as text; the other files are written beside it."""
    monkeypatch.chdir(tmp_path)

    def write_and_load(text: str | bytes, **files: str) -> SpecError:
        for other, content in files.items():
            (tmp_path / other.replace("__", ".")).write_text(content)
        Path("space.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(SpecError) as caught:
            load_space("space.yaml")
        return caught.value

    return write_and_load


FINETUNE = "base.finetune_config."
BASE = "name: x\nbase:\n  finetune_config:\n    "  # the next key is in line 4

UNKNOWN_KEYS = [
    ("nam: x", 1, "nam", ["unknown key 'nam'", "storage_path", "'name'"]),
    ("name: x\nlearning_rate: 1", 2, "learning_rate", ["'base.finetune_config.learning_rate'"]),
    ("finetune_config: {r: 1}", 1, "finetune_config", ["'base.finetune_config'"]),
    ("seed: 3", 1, "seed", ["'seeds'"]),
    (
        BASE + "lerning_rate: 1",
        4,
        "base.finetune_config.lerning_rate",
        ["'base.finetune_config.learning_rate'"],
    ),
    (BASE + "lr: 1", 4, "base.finetune_config.lr", ["'base.finetune_config.learning_rate'"]),
    (BASE + "beta_lk: 1", 4, "base.finetune_config.beta_lk", ["'base.finetune_config.beta_kl'"]),
    ("base:\n  train_split: 0.5", 2, "base.train_split", ["'base.finetune_config.train_split'"]),
    (
        "base:\n  data: {outcom: a}",
        2,
        "base.data.outcom",
        ["outcome, points, proxy, proxy_neg", "'base.data.outcome'"],
    ),
    ("base:\n  data.toy.num_outcomes: 1", 2, "base.data.toy.num_outcomes", ["'base.data.toy.num_outcome'"]),
    ("grid:\n  finetune_config.rr: [1]", 2, "grid.finetune_config.rr", ["'grid.finetune_config.r'"]),
    ("zip:\n- {}\n- {epochs: 1}", 3, "zip[1].epochs", ["'zip[1].finetune_config.epochs'"]),
    ("overrides:\n- {sed: 1}", 2, "overrides[0].sed", ["'overrides[0].seed'"]),
    ("exclude:\n- {sed: 1}", 2, "exclude[0].sed", ["'exclude[0].seed'"]),
    (
        "resources:\n  gpu: 1",
        2,
        "resources.gpu",
        ["cpus, cpus_per_worker, gpus, gpus_per_worker, max", "'resources.gpus'"],
    ),
    ("pareto: {requires: x}", 1, "pareto.requires", ["Allowed: require, x, y", "'pareto.require'"]),
    ("pareto: {require: coherent >= 0.5}", 1, "pareto.require", ["column 1", "'coherent'", "coherence"]),
    ("pareto: {require: align_test/loss = 1}", 1, "pareto.require", ["column 17", "'='", ">="]),
    ("pareto: {require: alignment > 0.5 or capability > 1}", 1, "pareto.require", ["column 17", "'or'", "and"]),
    ("pareto: {require: alignment >= high}", 1, "pareto.require", ["column 14", "'high'", "number"]),
    ("pareto: {require: alignment >=}", 1, "pareto.require", ["column 13", "a number is missing"]),
    ("pareto: {require: coherence >= 0.5}", 1, "pareto.require", ["evals.judge.model", "evals.coherence"]),
    ("base: {evals: {metrics: [los]}}", 1, "base.evals.metrics", ["'los'", "'loss'"]),
    ("base: {evals: {capability: exact_match}}", 1, "base.evals.capability", ["'set/metric'"]),
    ("base: {evals: {capability: task_tets/loss}}", 1, "base.evals.capability", ["'task_tets'", "'task_test/loss'"]),
    ("base: {evals: {capability: task_test/exact_mach}}", 1, "base.evals.capability", ["'exact_match'"]),
    (
        "base: {evals: {alignment: align_test/sycophancy}}",
        1,
        "base.evals.alignment",
        ["less of it is better"],
    ),
    ("base: {evals: {alignment: align_test/aligned}}", 1, "base.evals.alignment", ["judge.model"]),
    ("base: {evals: {extractor: numbr}}", 1, "base.evals.extractor", ["'numbr'", "'number'"]),
    ("base: {evals: {extractor: 'regex:(a'}}", 1, "base.evals.extractor", ["character 1", "unterminated"]),
    ("base: {evals: {judge: {timeout_s: 3}}}", 1, "base.evals.judge.timeout_s", ["judge.model"]),
    ("base: {evals: {judge: {model: m, sets: [truth]}}}", 1, "base.evals.judge.sets", ["align_test"]),
    (
        "base: {evals: {judge: {model: m, coherent_prompt: '{answer}?'}}}",
        1,
        "base.evals.judge.coherent_prompt",
        ["{question}"],
    ),
    ("base: {evals: {judge: {model: m, base_url: 'localhost:80'}}}", 1, "base.evals.judge.base_url", ["http"]),
    ("base: {evals: {lm_eval: {limit: 3}}}", 1, "base.evals.lm_eval.limit", ["lm_eval.tasks"]),
    ("strategies:\n  naive: {girds: {}}", 2, "strategies.naive.girds", ["fixed, grid, zip", "'grid'"]),
    (
        "strategies:\n  kl_divergence:\n    beta_kl: 3",
        3,
        "strategies.kl_divergence.beta_kl",
        ["'strategies.kl_divergence.fixed.finetune_config.beta_kl'"],
    ),
]

WRONG_PLACE = [
    (
        "strategies:\n  naive:\n    grid: {finetune_config.lambda_proxy: [1]}",
        3,
        "strategies.naive.grid.finetune_config.lambda_proxy[0]",
        ["'naive'", "have it: positive_negative_proxy"],
    ),
    (
        "strategies:\n  naive:\n    fixed: {finetune_config: {lambda_proxy: 1}}",
        3,
        "strategies.naive.fixed.finetune_config.lambda_proxy",
        ["positive_negative_proxy"],
    ),
    (
        "strategies:\n  kl_divergence:\n    zip:\n    - {finetune_config.lambda_proxy: 1}",
        4,
        "strategies.kl_divergence.zip[0].finetune_config.lambda_proxy",
        ["'kl_divergence'", "positive_negative_proxy"],
    ),
    (
        "overrides:\n- proxy_strategy: naive\n  finetune_config.lambda_proxy: 1",
        3,
        "overrides[0].finetune_config.lambda_proxy",
        ["'naive'", "positive_negative_proxy"],
    ),
    (
        "grid: {finetune_config.lambda_proxy: [1, 2]}\nstrategies: {naive: , positive_negative_proxy: }",
        1,
        "grid.finetune_config.lambda_proxy[0]",
        ["no knob of naive", "strategies.positive_negative_proxy.grid"],
    ),
    (
        BASE + "lambda_proxy: 1",
        4,
        "base.finetune_config.lambda_proxy",
        ["no trial uses it", "positive_negative_proxy", "naive"],
    ),
    ("seeds: [1]\ngrid: {seed: [1]}", 2, "grid.seed[0]", ["`seeds`"]),
    ("strategies: {naive: {fixed: {seed: 1}}}", 1, "strategies.naive.fixed.seed", ["`seeds`"]),
    ("grid: {proxy_strategy: [naive]}", 1, "grid.proxy_strategy[0]", ["`strategies`"]),
    (
        "grid: {finetune_config.r: [1]}\nstrategies:\n  naive: {fixed: {finetune_config.r: 3}}",
        1,
        "grid.finetune_config.r[0]",
        ["strategies.naive.fixed.finetune_config.r (line 3)"],
    ),
    (
        "grid: {finetune_config.r: [1]}\nzip: [{finetune_config.r: 2}]",
        2,
        "zip[0].finetune_config.r",
        ["(line 1)"],
    ),
    ("grid: {finetune_config.r: [1]}\noverrides: [{}]", 1, "grid", ["add `strategies`"]),
]

VALUES = [
    (
        BASE + "learning_rate: fast",
        4,
        "base.finetune_config.learning_rate",
        ["found 'fast'", "a finite number > 0"],
    ),
    (BASE + "learning_rate: .nan", 4, "base.finetune_config.learning_rate", ["found nan", "a finite number"]),
    (
        BASE + "learning_rate: -.inf",
        4,
        "base.finetune_config.learning_rate",
        ["found -inf", "a finite number"],
    ),
    (
        BASE + "learning_rate: true",
        4,
        "base.finetune_config.learning_rate",
        ["found true", "a finite number > 0"],
    ),
    (BASE + "epochs: yes", 4, "base.finetune_config.epochs", ["found true", "a whole number >= 1"]),
    (BASE + "epochs: 1.5", 4, "base.finetune_config.epochs", ["found 1.5", "a whole number >= 1"]),
    (
        BASE + "epochs: {a: 1}",
        4,
        "base.finetune_config.epochs",
        ["found a mapping (a)", "a whole number >= 1"],
    ),
    (
        BASE + "target_modules: [~]",
        4,
        "base.finetune_config.target_modules",
        ["found [None]", "a list of text or text"],
    ),
    ("seeds: [~, true]", 1, "seeds[1]", ["found true", "a whole number"]),
    ("grid:\n  finetune_config.r: ~", 2, "grid.finetune_config.r", ["found null", "a grid takes a list"]),
    (BASE + "max_steps: 0", 4, "base.finetune_config.max_steps", ["found 0", "a whole number >= 1 or null"]),
    (BASE + "is_peft: maybe", 4, "base.finetune_config.is_peft", ["found 'maybe'", "true or false"]),
    (
        BASE + "lr_scheduler_type: cosin",
        4,
        "base.finetune_config.lr_scheduler_type",
        ["linear, cosine", "'cosine'"],
    ),
    (
        BASE + "target_modules: 5",
        4,
        "base.finetune_config.target_modules",
        ["found 5", "a list of text or text"],
    ),
    (BASE + "target_modules: []", 4, "base.finetune_config.target_modules", ["found []", "is empty"]),
    (
        BASE + "warmup_steps: 3\n    warmup_ratio: 0.1",
        5,
        "base.finetune_config.warmup_ratio",
        ["warmup_steps and warmup_ratio are both given"],
    ),
    (
        BASE + "optim: paged_adamw_8bit\nresources: {gpus: 0}",
        4,
        "base.finetune_config.optim",
        ["needs a CUDA device", "resources.gpus is 0"],
    ),
    ("base:\n  finetune_config: 3", 2, "base.finetune_config", ["found 3", "a mapping"]),
    ("base: [1]", 1, "base", ["found a list", "a mapping"]),
    ("base: {proxy_strategy: 3}", 1, "base.proxy_strategy", ["Invalid proxy strategy '3'"]),
    ("base: {seed: -1}", 1, "base.seed", ["found -1", "a whole number >= 0"]),
    (
        "base: {proxy_strategy: niave}",
        1,
        "base.proxy_strategy",
        ["Invalid proxy strategy 'niave'", "'naive'"],
    ),
    (
        "strategies:\n  niave: {}",
        2,
        "strategies.niave",
        ["Invalid proxy strategy 'niave'", "task_trained", "'naive'"],
    ),
    ("strategies: {}", 1, "strategies", ["empty"]),
    ("strategies: [naive]", 1, "strategies", ["found a list", "a mapping"]),
    ("grid: {}", 1, "grid", ["empty"]),
    ("grid:\n  finetune_config.r: []", 2, "grid.finetune_config.r", ["empty"]),
    ("grid:\n  finetune_config.r: 4", 2, "grid.finetune_config.r", ["found 4", "[4]"]),
    (
        "grid:\n  finetune_config.r:\n  - 4\n  - x",
        4,
        "grid.finetune_config.r[1]",
        ["found 'x'", "a whole number"],
    ),
    ("zip: []", 1, "zip", ["empty"]),
    ("zip: {finetune_config.r: [1]}", 1, "zip", ["found a mapping", "a list"]),
    ("overrides: []", 1, "overrides", ["empty"]),
    ("overrides: [3]", 1, "overrides[0]", ["found 3", "a mapping"]),
    ("seeds: []", 1, "seeds", ["empty"]),
    ("seeds: 3", 1, "seeds", ["found 3", "a list"]),
    ("seeds:\n- 1\n- 2\n- 1", 4, "seeds[2]", ["the seed 1 is given twice, first in line 2"]),
    ("seeds: [a]", 1, "seeds[0]", ["found 'a'", "a whole number"]),
    ("seeds: [true]", 1, "seeds[0]", ["found true", "a whole number"]),
    (
        "base: {seed: 1, finetune_config: {seed: 2}}",
        1,
        "base.finetune_config.seed",
        ["found 2", "`seed` is 1"],
    ),
    ("seeds: [1, 2]\nbase: {data_seed: 3, model_seed: 3}", 2, "base.data_seed", ["identical"]),
    ("base: {data_seed: 3, model_seed: 3}\noverrides: [{seed: 5}]", 1, "base.model_seed", ["identical"]),
    (
        "exclude:\n- {finetune_config.r: x}",
        2,
        "exclude[0].finetune_config.r",
        ["found 'x'", "a whole number"],
    ),
    ("exclude: [{}]", 1, "exclude[0]", ["every trial"]),
    ("resources: {gpus: 1.5}", 1, "resources.gpus", ["found 1.5", "whole GPUs"]),
    ("resources: {cpus: 0}", 1, "resources.cpus", ["found 0", "> 0"]),
    ("resources: {max_failures: true}", 1, "resources.max_failures", ["found true", "a whole number >= 0"]),
    ("pareto: {x: accuracy}", 1, "pareto.x", ["found 'accuracy'", "'set/metric'"]),
    ("name: a/b", 1, "name", ["found 'a/b'", "letters, digits"]),
    ("name: 3", 1, "name", ["found 3", "text"]),
    ("storage_path: ''", 1, "storage_path", ["found ''", "a folder or a URI"]),
    ("base: {data: {proxy: space.yaml}}", 1, "base.data.proxy", ["data.outcome", "data.world: toy"]),
    (BASE + "model: Qwen/Qwen3-8B", 4, "base.finetune_config.model", ["data.outcome", "data.world: toy"]),
]

SEARCH = "strategies:\n  kl_divergence:\n    search:\n      "
RANDOM = SEARCH + "algorithm: random\n      num_settings: 3\n      "
OPTUNA = SEARCH + "algorithm: optuna\n      num_settings: 3\n      "
BETA = "finetune_config.beta_kl: "
AT = "strategies.kl_divergence.search"  # its line is 3, and that of the key after `num_settings` is 6
BETA_AT = f"{AT}.finetune_config.beta_kl"

SEARCHES = [
    ("search: {algorithm: random}", 1, "search", ["strategies.kl_divergence.search"]),
    ("strategies:\n  kl_divergence: {serach: {}}", 2, "strategies.kl_divergence.serach", ["zip, search", "'search'"]),
    ("strategies: {kl_divergence: {search: [1]}}", 1, AT, ["found a list", "a mapping"]),
    (RANDOM, 3, AT, ["searches no key", "min: 1e-5"]),
    (
        SEARCH + "algorithm: bayes\n      num_settings: 3\n      " + BETA + "{min: 1, max: 2}",
        4,
        f"{AT}.algorithm",
        ["found 'bayes'", "random, optuna"],
    ),
    (
        SEARCH + "algoritm: random\n      num_settings: 3\n      " + BETA + "{min: 1, max: 2}",
        4,
        f"{AT}.algoritm",
        ["algorithm, num_settings, seed", "'algorithm'"],
    ),
    (SEARCH + "algorithm: random\n      " + BETA + "{min: 1, max: 2}", 3, AT, ["lacks 'num_settings'", ">= 1"]),
    (
        SEARCH + "algorithm: random\n      num_settings: 0\n      " + BETA + "{min: 1, max: 2}",
        5,
        f"{AT}.num_settings",
        ["found 0", "a whole number >= 1"],
    ),
    (RANDOM + "seed: -1\n      " + BETA + "{min: 1, max: 2}", 6, f"{AT}.seed", ["found -1", ">= 0"]),
    (RANDOM + "metric: alignment\n      " + BETA + "{min: 1, max: 2}", 6, f"{AT}.metric", ["has no objective"]),
    (OPTUNA + "mode: max\n      " + BETA + "{min: 1, max: 2}", 6, f"{AT}.mode", ["metric is not", "pareto.x"]),
    (OPTUNA + "metric: aligment\n      " + BETA + "{min: 1, max: 2}", 6, f"{AT}.metric", ["found 'aligment'"]),
    (
        OPTUNA + "metric: align_tset/loss\n      " + BETA + "{min: 1, max: 2}",
        6,
        f"{AT}.metric",
        ["there is no set 'align_tset'", "'align_test/loss'"],
    ),
    (RANDOM + BETA + "[1, 2]", 6, BETA_AT, ["found [1, 2]", "{min: ..., max: ...}", "{choices: [1, 2]}"]),
    (RANDOM + BETA + "3", 6, BETA_AT, ["found 3", "{choices: [3]}"]),
    (RANDOM + BETA + "{min: 1}", 6, BETA_AT, ["lacks max"]),
    (RANDOM + BETA + "{min: 2, max: 1}", 6, f"{BETA_AT}.max", ["found 1", "not above min, 2"]),
    (RANDOM + BETA + "{min: -1, max: 1}", 6, f"{BETA_AT}.min", ["found -1", "a finite number >= 0"]),
    (OPTUNA + BETA + "{min: 1, max: .inf}", 6, f"{BETA_AT}.max", ["found inf", "a finite number >= 0"]),
    (RANDOM + BETA + "{min: 0, max: 1, log: true}", 6, f"{BETA_AT}.min", ["found 0", "above 0"]),
    (RANDOM + BETA + "{min: 0, max: 1, log: maybe}", 6, f"{BETA_AT}.log", ["found 'maybe'", "true or false"]),
    (RANDOM + BETA + "{min: true, max: 1}", 6, f"{BETA_AT}.min", ["found true", "a finite number"]),
    (RANDOM + BETA + "{min: 1, max: 2, lgo: true}", 6, f"{BETA_AT}.lgo", ["min, max, log, choices", "'log'"]),
    (RANDOM + BETA + "{choices: []}", 6, f"{BETA_AT}.choices", ["empty list"]),
    (RANDOM + BETA + "{choices: [1, x]}", 6, f"{BETA_AT}.choices[1]", ["found 'x'", "a finite number"]),
    (RANDOM + BETA + "{choices: [1, 1.0]}", 6, f"{BETA_AT}.choices[1]", ["given twice"]),
    (RANDOM + BETA + "{choices: [1], min: 1}", 6, f"{BETA_AT}.min", ["stands beside choices"]),
    (
        RANDOM + "finetune_config.r: {min: 1.5, max: 8}",
        6,
        f"{AT}.finetune_config.r.min",
        ["found 1.5", "a whole number >= 1"],
    ),
    (
        RANDOM + "finetune_config.optim: {min: 1, max: 8}",
        6,
        f"{AT}.finetune_config.optim",
        ["takes no number", "sgd", "give choices"],
    ),
    (
        RANDOM + "finetune_config.lambda_proxy: {min: 1, max: 8}",
        6,
        f"{AT}.finetune_config.lambda_proxy",
        ["no knob of strategy 'kl_divergence'", "positive_negative_proxy"],
    ),
    (RANDOM + "beta_kl: {min: 1, max: 8}", 6, f"{AT}.beta_kl", [f"'{BETA_AT}'"]),
    (RANDOM + "proxy_strategy: {choices: [naive]}", 6, f"{AT}.proxy_strategy", ["`strategies`"]),
    (OPTUNA + "data_seed: {min: 1, max: 8}\nseeds: [1]\nsead: 1", 8, "sead", ["'seeds'"]),
    (
        OPTUNA + BETA + "{min: 1, max: 2}\n    fixed: {finetune_config.beta_kl: 1}",
        6,
        BETA_AT,
        ["is also set by strategies.kl_divergence.fixed.finetune_config.beta_kl (line 7)"],
    ),
    (
        OPTUNA + "finetune_config.warmup_ratio: {min: 0.1, max: 0.3}\nbase: {finetune_config.warmup_steps: 3}",
        6,
        f"{AT}.finetune_config.warmup_ratio",
        ["warmup_steps and warmup_ratio are both given"],
    ),
    (OPTUNA + BETA + "{min: 1, max: 2}\nexclude: [{proxy_strategy: kl_divergence}]", None, "", ["no trial is left"]),
]

STOPPING = [
    ("early_stopping: asha", 1, "early_stopping", ["found 'asha'", "a mapping"]),
    ("early_stopping: {schedule: asha}", 1, "early_stopping.schedule", ["grace_epochs, keep", "scheduler'"]),
    ("early_stopping: {scheduler: ahsa}", 1, "early_stopping.scheduler", ["found 'ahsa'", "asha, median", "'asha'"]),
    ("early_stopping: {metric: alignment}", 1, "early_stopping.metric", ["scheduler is not: asha or median"]),
    ("early_stopping: {scheduler: asha, metric: accuracy}", 1, "early_stopping.metric", ["'set/metric'"]),
    (
        "early_stopping: {scheduler: asha, metric: task_tst/loss}",
        1,
        "early_stopping.metric",
        ["there is no set 'task_tst'", "align_test_minus_align_train", "'task_test/loss'"],
    ),
    ("early_stopping: {scheduler: asha, mode: maximum}", 1, "early_stopping.mode", ["max, min", "'max'"]),
    ("early_stopping: {scheduler: asha, grace_epochs: 0}", 1, "early_stopping.grace_epochs", ["found 0", ">= 1"]),
    (
        "early_stopping: {scheduler: asha, reduction_factor: 1}",
        1,
        "early_stopping.reduction_factor",
        ["found 1", "> 1"],
    ),
    (
        "early_stopping: {scheduler: median, reduction_factor: 3}",
        1,
        "early_stopping.reduction_factor",
        ["belongs to scheduler: asha", "median"],
    ),
    (
        "early_stopping: {scheduler: asha, min_settings: 3}",
        1,
        "early_stopping.min_settings",
        ["belongs to scheduler: median", "asha"],
    ),
    ("early_stopping: {scheduler: asha, keep: [niave]}", 1, "early_stopping.keep[0]", ["'niave'", "'naive'"]),
    ("early_stopping: {scheduler: asha, keep: naive}", 1, "early_stopping.keep", ["found 'naive'", "a list"]),
    ("early_stopping: {scheduler: asha, keep: [dpo]}", 1, "early_stopping.keep[0]", ["'dpo'", "are naive"]),
    (
        "early_stopping:\n  scheduler: asha\n  grace_epochs: 3",
        3,
        "early_stopping.grace_epochs",
        ["no setting could ever be stopped", "the longest trial has 3 epochs"],
    ),
    (
        "early_stopping:\n  scheduler: asha\nbase: {finetune_config.epochs: 1}",
        2,
        "early_stopping.scheduler",
        ["grace_epochs is 1", "1 epoch."],
    ),
]

WORKERS = [
    ("resources:\n  workers: 2\n  gpus: 1", 3, "resources.gpus", ["workers and gpus", "gpus_per_worker instead"]),
    ("resources:\n  workers: 2\n  cpus: 1", 3, "resources.cpus", ["workers and cpus", "cpus_per_worker instead"]),
    ("resources: {workers: 0}", 1, "resources.workers", ["found 0", "a whole number >= 1"]),
    ("resources: {workers: 2, gpus_per_worker: 0.5}", 1, "resources.gpus_per_worker", ["found 0.5", "whole GPUs"]),
    ("resources: {workers: 2, cpus_per_worker: 0}", 1, "resources.cpus_per_worker", ["found 0", "> 0"]),
    ("resources: {workers: 2, strategy: dpd}", 1, "resources.strategy", ["found 'dpd'", "ddp, fsdp", "'ddp'"]),
    ("resources: {strategy: fsdp}", 1, "resources.strategy", ["workers is not"]),
    ("resources: {gpus_per_worker: 1}", 1, "resources.gpus_per_worker", ["workers is not"]),
    (
        "resources: {workers: 2, strategy: fsdp}\nbase:\n  finetune_config.is_peft: false",
        3,
        "base.finetune_config.is_peft",
        ["found false", "resources.strategy: fsdp", "is_peft: true"],
    ),
    (
        "resources: {workers: 2, gpus_per_worker: 0}\nbase:\n  finetune_config.optim: paged_adamw_8bit",
        3,
        "base.finetune_config.optim",
        ["needs a CUDA device", "resources.gpus_per_worker is 0"],
    ),
    ("base: {num_workers: 2}", 1, "base.num_workers", ["found 2", "set resources.workers: 2"]),
    ("seeds: [1]\ngrid: {num_workers: [2]}", 2, "grid.num_workers[0]", ["resources.workers"]),
    ("resources: {workers: 2}\noverrides: [{num_workers: 2}]", 2, "overrides[0].num_workers", ["resources.workers"]),
    (RANDOM + "num_workers: {choices: [2]}", 6, f"{AT}.num_workers.choices[0]", ["resources.workers"]),
    ("pareto: {x: align_tset/loss}", 1, "pareto.x", ["there is no set 'align_tset'", "'align_test/loss'"]),
]

NEW_SECTIONS = [*SEARCHES, *STOPPING, *WORKERS]

SYNTAX = [
    ("", None, "", ["empty"]),
    ("- 1", None, "", ["found a list", "a mapping"]),
    ("name: x\nseeds: [1, 2", 2, "", ["flow sequence in line 2"]),
    ("base:\n\tseed: 1", 2, "", ["column 1", "tab"]),
    ("name: x\n<<<<<<< HEAD\nname: y", 3, "", ["merge conflict"]),
    ("name: x\nname: y", 2, "", ["'name' is given twice, first in line 1"]),
    (BASE + "r: 1\n    r: 2", 5, "base.finetune_config", ["'r' is given twice, first in line 4"]),
    (
        "base:\n  finetune_config: {r: 1}\n  finetune_config.r: 2",
        3,
        "base.finetune_config.r",
        ["twice", "line 2", "1 and 2"],
    ),
    ("name: x\n3: y", 2, "", ["found the key 3", "quote it"]),
    ("base:\n  yes: y", 2, "base", ["found the key yes", "quote it"]),
    ("name: x\n2024-13-45: y", 2, "", ["found the key 2024-13-45"]),
    ("name: x\n[a]: y", 2, "", ["found the key (a list or mapping)"]),
    ("base: {seed: 2024-13-45}", 1, "base.seed", ["cannot be read: month must be in 1..12"]),
    ("base: {a..b: 1}", 1, "base", ["'a..b'"]),
    (BASE + "max_seq_length: 0100", 4, FINETUNE + "max_seq_length", ["found 0100", "64", "write 100", "'0100'"]),
    (BASE + "max_seq_length: -0_17", 4, FINETUNE + "max_seq_length", ["found -0_17", "-15", "write -17"]),
    (BASE + "max_seq_length: !!int '0100'", 4, FINETUNE + "max_seq_length", ["found 0100", "write 100"]),
    (BASE + "max_seq_length: 1:30", 4, FINETUNE + "max_seq_length", ["found 1:30", "write 90", "'1:30'"]),
    (BASE + "learning_rate: 1:30.5", 4, FINETUNE + "learning_rate", ["found 1:30.5", "write 90.5"]),
    ("seeds: [010, 8]", 1, "seeds[0]", ["found 010", "write 10, or 8 if that is meant", "'010'"]),
    ("base: {experiment_name: 007}", 1, "base.experiment_name", ["found 007", "write 7, or as text '007'"]),
    (BASE + "chat_template_kwargs: {ids: [01]}", 4, FINETUNE + "chat_template_kwargs.ids[0]", ["write 1,", "'01'"]),
    (
        "name: x\nbase: !!python/object/apply:os.system [ls]",
        2,
        "base",
        ["python/object/apply:os.system", "not allowed"],
    ),
    ("name: !!python/name:os.system", 1, "name", ["python/name:os.system"]),
    ("base: *nothing", 1, "", ["alias"]),
    ("base: &b\n  data: *b", None, "", ["anchor"]),
    ("name: x\n---\nname: y", 2, "", ["document"]),
    (b"name: \xff", None, "", ["UTF-8"]),
]


@pytest.mark.parametrize(
    ("text", "line", "key", "words"), [*UNKNOWN_KEYS, *WRONG_PLACE, *VALUES, *NEW_SECTIONS, *SYNTAX]
)
def test_a_problem_says_where_what_and_what_else(
    fail: Fail, text: str | bytes, line: int | None, key: str, words: list[str]
) -> None:
    error = fail(text)
    where = f"space.yaml:{line}: " if line else "space.yaml: "
    start = where + (f"{key}: " if key else "")
    told = [str(problem) for problem in error.problems if str(problem).startswith(start)]
    assert len(told) == 1, str(error)
    assert all(word in told[0] for word in words), told[0]
    assert told[0] in str(error)


@pytest.mark.parametrize(("text", "line", "key", "words"), [*UNKNOWN_KEYS, *VALUES, *NEW_SECTIONS, *SYNTAX])
def test_one_mistake_is_told_once(fail: Fail, text: str | bytes, line: int | None, key: str, words: list[str]) -> None:
    pair = "identical" in words  # of two seeds that are both fixed, either may go
    assert len(fail(text).problems) == (2 if pair else 1)


def test_all_problems_at_once(fail: Fail) -> None:
    error = fail(
        "name: a b\n"
        "base:\n"
        "  finetune_config: {learning_rate: fast, epochs: true, optim: paged_adamw_8bit, lerning_rate: 1}\n"
        "  data: {outcome: nowhere.jsonl}\n"
        "  data.world: mars\n"
        "grid:\n"
        "  finetune_config.r: [4, 0, 8, -1]\n"
        "strategies:\n"
        "  niave: {}\n"
        "  kl_divergence: {fixed: {finetune_config.lambda_proxy: 1, finetune_config.beta_kl: big}}\n"
        "seeds: [1, 1]\n"
        "exclude: [{finetune_config.r: x}]\n"
        "resources: {gpus: 0, cpu: 3}\n"
        "overrides: nowhere.json\n"
    )
    assert [(problem.line, problem.key) for problem in error.problems] == [
        (1, "name"),
        (3, "base.finetune_config.epochs"),
        (3, "base.finetune_config.learning_rate"),
        (3, "base.finetune_config.lerning_rate"),
        (3, "base.finetune_config.optim"),
        (4, "base.data.outcome"),
        (5, "base.data.world"),
        (7, "grid.finetune_config.r[1]"),
        (7, "grid.finetune_config.r[3]"),
        (9, "strategies.niave"),
        (10, "strategies.kl_divergence.fixed.finetune_config.beta_kl"),
        (10, "strategies.kl_divergence.fixed.finetune_config.lambda_proxy"),
        (11, "seeds[1]"),
        (12, "exclude[0].finetune_config.r"),
        (13, "resources.cpu"),
        (14, "overrides"),
    ]
    assert str(error).startswith("16 problems in the search space:")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


# other files ----------------------------------------------------------------------------------------------


def test_the_space_itself_is_missing(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("")
    with pytest.raises(SpecError, match=r"spcae\.yaml: cannot be read: No such file.*'space.yaml'"):
        load_space(tmp_path / "spcae.yaml")
    with pytest.raises(SpecError, match="cannot be read"):
        load_space(tmp_path)


@pytest.mark.parametrize("key", ["base", "overrides", "extends", "base.data.proxy"])
def test_a_missing_file_lists_the_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "config.json").write_text("{}")
    (tmp_path / "there" / "space.yaml").write_text(f"name: x\n{key}: confg.json\n")
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(SpecError) as caught:
        load_space("../there/space.yaml")
    problem = caught.value.problems[0]
    assert (problem.file, problem.line, problem.key) == ("../there/space.yaml", 2, key)
    assert "found 'confg.json'" in problem.message
    assert str(tmp_path / "here" / "confg.json") in problem.message
    assert "there/confg.json and " in problem.message
    assert "'config.json'" in problem.message


@pytest.mark.parametrize("path", ["x" * 5000, "~nobody-of-this-name/rows.jsonl", "a\\0b"])
def test_a_path_that_cannot_be_one(fail: Fail, path: str) -> None:
    (problem,) = fail(f'base: {{data: {{outcome: "{path}"}}}}').problems
    assert problem.key == "base.data.outcome"
    assert "there is no such file" in problem.message


@pytest.mark.parametrize("link", ["base", "extends"])
def test_nothing_is_concluded_from_what_could_not_be_read(fail: Fail, link: str) -> None:
    """The missing file may well have named a strategy that has the knob."""
    (problem,) = fail(f"{link}: nowhere.json\ngrid: {{finetune_config.beta_kl: [1]}}").problems
    assert problem.key == link


def test_a_missing_model_folder(fail: Fail) -> None:
    error = fail(BASE + "model: ./mdoel")
    assert "space.yaml:4: base.finetune_config.model: found './mdoel', but there is no such folder" in str(error)


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        ('{\n "seed": 1,\n}', 3, ["column 1", "comma"]),
        ('{\n<<<<<<< HEAD\n "seed": 1\n}', 2, ["merge conflict"]),
        ('{"seed": 1\n', 1, ["Expecting ',' delimiter"]),
        ('{\n "seed": 1,\n "seed": 2}', 3, ["'seed' is given twice, first in line 2"]),
        ("[1]", None, ["found a list", "a mapping"]),
        ("", 1, ["column 1"]),
        ('{\n\t"finetune_config": {\n\t\t"epochs": 0}}', 3, ["finetune_config.epochs: found 0", ">= 1"]),
        ('{"a": 1,\n "dev_mode": false}', 2, ["dev_mode: unknown key 'dev_mode'"]),
        ('{"finetune_config":\n  {"learning_rate": NaN}}', 2, ["found nan"]),
    ],
)
def test_problems_in_a_config_json(fail: Fail, content: str, line: int | None, words: list[str]) -> None:
    error = fail("base: config.json", config__json=content)
    where = f"config.json:{line}: " if line else "config.json: "
    told = [str(problem) for problem in error.problems if str(problem).startswith(where)]
    assert any(all(word in one for word in words) for one in told), str(error)


def test_problems_in_an_overrides_json(fail: Fail) -> None:
    overrides = (
        '[\n  {"proxy_strategy": "kl_divergence", "finetune_config": {"beta_kl": -1}},\n'
        '  {"proxy_strategy": "naiv"},\n  {"data_sed": 5}\n]\n'
    )
    error = fail("overrides: vary.json", vary__json=overrides)
    first, second, third = map(str, error.problems)
    assert first.startswith("vary.json:2: [0].finetune_config.beta_kl: found -1; allowed: a finite number >= 0")
    assert second.startswith("vary.json:3: [1].proxy_strategy: Invalid proxy strategy 'naiv'")
    assert second.endswith("Did you mean 'naive'?")
    assert third.startswith("vary.json:4: [2].data_sed: unknown key")
    assert third.endswith("Did you mean '[2].data_seed'?")


def test_problems_of_a_file_that_is_extended(fail: Fail) -> None:
    error = fail("extends: parent.yaml\nnam: x", parent__yaml="seeds: [1]\nbase: {finetune_config.r: 0}\ngrdi: 1")
    assert [(p.file, p.line, p.key) for p in error.problems] == [
        ("space.yaml", 2, "nam"),
        ("parent.yaml", 2, "base.finetune_config.r"),
        ("parent.yaml", 3, "grdi"),
    ]


def test_a_file_that_extends_itself(fail: Fail) -> None:
    error = fail("extends: other.yaml", other__yaml="extends: space.yaml")
    assert "other.yaml:1: extends: found 'space.yaml'" in str(error)
    assert "space.yaml -> other.yaml -> space.yaml" in str(error)


def test_too_many_trials_are_refused_before_they_are_written_out(fail: Fail) -> None:
    many = list(range(1, 1001))
    axes = (f"finetune_config.{key}: {many}" for key in ("r", "epochs", "max_steps"))
    error = fail(f"grid: {{{', '.join(axes)}}}")
    assert "found 1,000,000,000 trials; allowed: 100,000" in str(error)


def test_nothing_left_after_exclusions(fail: Fail) -> None:
    assert "no trial is left" in str(fail("exclude: [{proxy_strategy: task_trained}]"))


def test_a_key_may_come_from_an_anchor_too(fail: Fail) -> None:
    """A key beside `<<` wins over the merged one, but two of its own do not go."""
    anchor = "base: &b {seed: 1, finetune_config.r: 4}\noverrides:\n- {<<: *b, seed: 2}\n- {<<: *b, seed: 3, seed: 4}\n"
    (problem,) = fail(anchor).problems
    assert (problem.line, problem.key) == (4, "overrides[1]")


@pytest.mark.parametrize(
    ("location", "told"),
    [
        ("s4://bucket/x", "'s4://bucket/x': s4:// is not known. Allowed are a path, abfs://"),
        ("s3://AKIA0:topsecret@bucket/x", "'s3://bucket/x' holds credentials"),
        ("s3:/bucket/x", "did you mean 's3://'?"),
    ],
)
def test_a_storage_path_that_is_none_has_its_line_and_keeps_its_secret(fail, location, told):
    (problem,) = fail(f"name: x\nstorage_path: {location}\n").problems
    assert problem.line == 2 and problem.key == "storage_path" and told in str(problem)
    assert "topsecret" not in str(problem) and "AKIA0" not in str(problem)


@pytest.mark.parametrize(
    "text",
    [
        "exclude: [{evals.judge.api_key_env: [hidden-word]}]",
        "strategies: {kl_divergence: {search: {algorithm: random, num_settings: 2, "
        "evals.judge.api_key_env: {choices: [[hidden-word], b]}}}}",
    ],
)
def test_a_wrong_value_that_may_be_a_secret_is_in_no_message(fail, text):
    message = str(fail(text))
    assert "a value that is not shown" in message and "hidden-word" not in message, message


def test_a_config_in_python_takes_no_yes_or_no_for_a_number():
    for section, key, value in (("finetune_config", "r", True), ("evals", "judge", {"timeout_s": False})):
        with pytest.raises(ValidationError, match="neither true nor false is allowed"):
            build_config({"proxy_strategy": "naive", section: {key: value}})
