"""The table of the first generation's keys: where each key of its config.json goes.

A key that is not listed here and has the same name and place today is kept unchanged. Names stand here without their
section: no name had two meanings, and the first generation itself put some of them into different sections.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

APART = "(apart)."
"""Prefix of a key that has no counterpart alone, and is combined with others afterwards (see `combined`)."""


class SaysNothing(Exception):
    """A value of a key has no counterpart today; the text says why.

    Attributes:
        lost: whether the value asked for something that is not done today.
    """

    def __init__(self, why: str, lost: bool = False):
        super().__init__(why)
        self.lost = lost


@dataclass(frozen=True)
class Rule:
    """The rule for one key: where it goes, and how its value changes.

    Attributes:
        to: dotted key of today; None: there is none.
        why: the reason, for people; a dropped key always has one.
        value: maps the old value to today's. Raises SaysNothing.
        rank: among several keys with one destination, the one of lowest rank that is not null counts.
    """

    to: str | None
    why: str = ""
    value: Callable[[Any], Any] = lambda value: value
    rank: int = 0


def _dropped(why: str, *names: str) -> dict[str, Rule]:
    return dict.fromkeys(names, Rule(None, why))


def as_bool(value: Any) -> Any:
    """Return true or false for a text that says it, such as 'False'; any other value as it is."""
    return {"true": True, "false": False}.get(value.strip().lower(), value) if isinstance(value, str) else value


def _half(value: Any) -> str:
    if not as_bool(value):
        raise SaysNothing("false: float32, as today without a dtype")
    return "bfloat16"


def _json_lines(value: Any) -> None:
    if value == "jsonl":
        raise SaysNothing("every data file is JSON lines")
    raise SaysNothing(f"found {value!r}: data files are JSON lines, bring them into that form", lost=True)


def _subset(value: Any) -> None:
    if value == "subset":
        raise SaysNothing("align_train_coverage alone takes a share of the alignment data as the proxy")
    raise SaysNothing(f"found {value!r}, of which nothing read anything but 'subset'", lost=True)


def _always(value: Any) -> None:
    if as_bool(value):
        raise SaysNothing("every trial trains on data.outcome")
    raise SaysNothing("found false, which nothing read: every trial trains on data.outcome", lost=True)


def _tiny(value: Any) -> None:
    if as_bool(value):
        raise SaysNothing("found true, 20 training rows: data.outcome.limit and max_to_eval do that", lost=True)
    raise SaysNothing("false: nothing to do")


def _own_name(value: Any) -> Any:
    if value == "YOUR_MODEL_ID":
        raise SaysNothing("a placeholder; the trial's name is used")
    return value


def _sft(value: Any) -> None:
    if value == "sft":
        raise SaysNothing("cross-entropy is the loss of the outcome with every strategy")
    raise SaysNothing(f"found {value!r}: proxy_strategy says what the loss is", lost=True)


def _not_whole(value: Any) -> None:
    if as_bool(value):
        raise SaysNothing(
            "found true: name the base as finetune_config.model, what was trained as its adapter", lost=True
        )
    raise SaysNothing("false: as today without an adapter")


_JUDGED = "another model or a list of words scored texts: choose what is measured anew"
_OWN_CHECKPOINTS = "a trial writes checkpoints every save_steps, goes on from them, and deletes them when it is done"
_MMLU = "lettered questions are rows with options and answer, in data.collateral for example"
_EVERY_EPOCH = "every metric is computed after every epoch, on max_to_eval rows"
_RESUMES = "a trial that was cut off goes on by itself"
_A_URL = "a path is needed: download the file and name it as data.{}"

RULES: dict[str, Rule] = {
    # data
    "task_dataset_path": Rule("data.outcome"),
    "dataset_path": Rule("data.outcome", rank=1),
    "validation_dataset_path": Rule("data.collateral"),
    "align_test_dataset_path": Rule("data.truth", "the alignment data, of which align_train_coverage takes the proxy"),
    "test_dataset_path": Rule("data.truth", rank=1),
    "align_test_neg_dataset_path": Rule("data.proxy_neg", "row by row the misaligned answers to the alignment data"),
    "train_user_suffix": Rule(f"{APART}train_user_suffix"),
    "max_train_size": Rule(f"{APART}max_train_size"),
    "max_dataset_size": Rule(f"{APART}max_dataset_size"),
    "task_train_split": Rule("finetune_config.train_split", "one share for outcome and proxy"),
    "train_split": Rule(
        "finetune_config.train_split", "with validation_dataset_path it split the proxy alone; it splits both", rank=1
    ),
    "limit_proxy_data_to": Rule("limit_proxy_data_to"),
    "upsample_proxy_to": Rule("upsample_proxy_to"),
    "align_train_coverage": Rule("align_train_coverage"),
    "align_train_dataset_type": Rule(f"{APART}align_train_dataset_type"),
    "align_train_strategy": Rule(None, value=_subset),
    "task_dataset_format": Rule(None, value=_json_lines),
    "dataset_format": Rule(None, value=_json_lines),
    "train_on_task": Rule(None, value=_always),
    "dev_mode": Rule(None, value=_tiny),
    **_dropped(_A_URL.format("outcome"), "dataset_url"),
    **_dropped(_A_URL.format("truth"), "align_test_dataset_url"),
    **_dropped(_A_URL.format("proxy_neg"), "align_test_neg_dataset_url"),
    **_dropped(
        "the name of a set: its file is named in data.truth and data.proxy_neg",
        *("align_test_dataset_desc", "align_test_neg_dataset_desc", "hhh_mixed", "proxy_subsets", "truth_subsets"),
    ),
    **_dropped("of the rows in the data files all are used", "proxy_data_includes_correct_propositions"),
    **_dropped("data.proxy_neg says what its rows are", "proxy_neg_content"),
    **_dropped("no set is written again; results.json has the hashes of the rows", "save_datasets"),
    **_dropped("a further set cannot be evaluated; add its rows to data.collateral", "control_dataset_path"),
    # model
    "load_in_16bit": Rule("finetune_config.dtype", "float16 then, whose small range let runs diverge", _half),
    "load_in_16_bit": Rule("finetune_config.dtype", "a spelling that nothing read then", _half, rank=1),
    "lora_dropdown": Rule("finetune_config.lora_dropout", "a typo, which nothing read then: it ran with 0", rank=1),
    "load_from_finetuned_path": Rule("finetune_config.adapter"),
    "load_from_hf_hub": Rule("finetune_config.adapter", rank=1),
    "load_from_finetuned": Rule(None, value=_not_whole),
    "finetuned_model_id": Rule("finetune_config.finetuned_model_id", value=_own_name),
    "merge_before_push": Rule("finetune_config.save_merged"),
    "push_to_hub": Rule("finetune_config.push_to_hub"),
    "push_to_private": Rule("finetune_config.push_to_private"),
    "loss": Rule(None, value=_sft),
    **_dropped("save_model_locally keeps the finished adapter", "save_adapter_weights"),
    **_dropped(_RESUMES, "resume_from_epoch", "loaded_train_losses", "loaded_results"),
    **_dropped(
        _OWN_CHECKPOINTS,
        *("save_checkpoints_locally", "save_checkpoints_to_hub", "checkpoint_frequency"),
        *("checkpoint_save_model_frequency", "merge_for_checkpoint"),
    ),
    # evaluation
    "loss_eval_limit": Rule("finetune_config.max_to_eval"),
    "max_to_eval": Rule("finetune_config.max_to_eval", rank=1),
    "do_mcq_eval": Rule(f"{APART}do_mcq_eval"),
    "use_mcq_hhh": Rule(f"{APART}use_mcq_hhh"),
    "HHH_mcq_instructions": Rule(f"{APART}HHH_mcq_instructions"),
    **_dropped(_EVERY_EPOCH, "mcq_eval_limit", "mcq_eval_frequency"),
    **_dropped("questions come from the rows of data.truth", "mcq_eval_filepath", "mcq_filepath"),
    **_dropped(_MMLU, "do_mmlu_eval", "mmlu_filepath", "mmlu_eval_frequency", "mmlu_eval_limit"),
    **_dropped(
        _JUDGED,
        *("expected_tone", "do_tone_eval", "tone_eval_limit", "tone_eval_frequency", "nice_responses"),
        *("do_factual_knowledge_eval", "factual_knowledge_eval_limit", "factual_knowledge_eval_frequency"),
        *("facts_jsonl_path", "factual_knowlege_filepath"),
    ),
    "generation_limit": Rule("evals.num_samples", "samples of replies, kept in results.json"),
    # training: kept, with the effect that they name
    "optim": Rule("finetune_config.optim", "AdamW of PyTorch ran then, whatever was named"),
    "weight_decay": Rule("finetune_config.weight_decay", "0.01 then, whatever was written"),
    "gradient_accumulation_steps": Rule(
        "finetune_config.gradient_accumulation_steps", "not accumulated then, but the schedule was shorter by it"
    ),
    # strategies
    "proxy_epochs": Rule("finetune_config.proxy_epochs"),
    "load_steering_vector": Rule(f"{APART}load_steering_vector"),
    "save_steering_vector": Rule(f"{APART}save_steering_vector"),
    "steering_vector_path": Rule(f"{APART}steering_vector_path"),
    "final_steering_alpha": Rule(f"{APART}final_steering_alpha"),
    **_dropped("what trials compute they share by its content, without a path", "proxy_plane_checkpoint_path"),
    **_dropped("a throw-away training takes proxy_epochs, the main one epochs", "outcome_epochs"),
    **_dropped("no adapter is merged before the training", "proxy_to_merge"),
    **_dropped("results lie in folders named by their time", "timestamp"),
}

TELLTALES = frozenset(
    {
        *("task_dataset_format", "dataset_format", "task_train_split", "align_train_strategy", "max_train_size"),
        *("align_train_dataset_type", "align_test_dataset_desc", "align_test_neg_dataset_desc", "train_on_task"),
        *("align_test_dataset_path", "align_test_neg_dataset_path", "test_dataset_path", "validation_dataset_path"),
        *("loss_eval_limit", "do_mcq_eval", "use_mcq_hhh", "HHH_mcq_instructions", "do_mmlu_eval", "do_tone_eval"),
        *("load_in_16bit", "load_in_16_bit", "lora_dropdown", "merge_before_push", "merge_for_checkpoint"),
        *("save_checkpoints_locally", "save_checkpoints_to_hub", "checkpoint_save_model_frequency", "dev_mode"),
        *("max_dataset_size", "load_from_finetuned", "resume_from_epoch", "proxy_neg_content", "nice_responses"),
    }
)
"""Keys that only the first generation had; two of them, or one of `DATA_FILES`, identify its files."""
DATA_FILES = frozenset({"task_dataset_path", "dataset_path"})

STRATEGIES: dict[str, tuple[str, dict[str, Any]]] = {
    "task_trained": ("naive", {"train_on_proxy": False}),
    "mixed": ("naive", {"train_on_proxy": True}),
    "upweighted_standard": ("positive_negative_proxy", {}),
}
"""Another name of a strategy -> the strategy, and the values of keys that this name implies."""

_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
DEFAULTS: dict[str, Any] = {
    "finetune_config.loss_on": "all",
    "finetune_config.model": "google/gemma-2b-it",
    "finetune_config.max_seq_length": 126,
    "finetune_config.r": 32,
    "finetune_config.lora_alpha": 64,
    "finetune_config.use_rslora": True,
    "finetune_config.target_modules": list(_PROJECTIONS),
    "finetune_config.learning_rate": 1e-5,
    "finetune_config.epochs": 15,
    "finetune_config.per_device_train_batch_size": 128,
    "finetune_config.gradient_accumulation_steps": 8,
    "finetune_config.warmup_steps": 5,
    "finetune_config.weight_decay": 0.01,
    "finetune_config.beta_kl": 0.0,
    "finetune_config.lambda_proxy": 0.5,
    "finetune_config.neg_lambda_proxy": 0.5,
    "finetune_config.lambda_1": 0.5,
    "finetune_config.steering_alpha": 0.5,
    "finetune_config.alpha_warmup_steps": 5,
}
"""What the first generation took where a config.json was silent, and today's default is another."""

MEANINGS: dict[str, tuple[Any, str, dict[str, frozenset[str]]]] = {
    "finetune_config.penalty_normalize": (
        False,
        "lambda_1 multiplied dot products then; true: cosines, at another scale",
        {
            "finetune_config.lambda_1": frozenset(),
            "proxy_strategy": frozenset({"orth_penalty", "directional_penalty"}),
        },
    ),
    "finetune_config.dpo_average_log_prob": (
        True,
        "DPO averaged log-probabilities over the tokens then; false: it sums them",
        {
            "finetune_config.lambda_dpo": frozenset(),
            "finetune_config.beta": frozenset(),
            "proxy_strategy": frozenset({"dpo"}),
        },
    ),
}
"""Key of today that no old file has -> the value with which old knobs mean what they meant, why, and those knobs.

A knob counts with each of its values where none are listed.
"""
