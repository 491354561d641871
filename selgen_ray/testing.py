"""Contract tests for strategies, those of this package and your own: `check_strategy(MyTrainer)`.

    from selgen_ray.testing import check_strategy
    from my_strategy import MyTrainer

    def test_my_strategy_keeps_its_promises():
        check_strategy(MyTrainer, {"finetune_config.push": 0.5})

They need no network, no data and no GPU, and take some seconds: a random model of two layers trains on a dozen rows.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import multiprocessing
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy
import safetensors.torch
import torch
from peft import PeftModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.multiprocessing.spawn import start_processes
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from selgen_ray.seeding import keep_global_rng
from selgen_ray.storage import Folder
from selgen_ray.trainers import plugins
from selgen_ray.trainers.base import BaseTrainer, trainer_class
from selgen_ray.trainers.catalogue import build_config
from selgen_ray.trainers.engine import ranks
from selgen_ray.trainers.engine.checkpoints import Checkpoints

TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}<|assistant|>{% generation %}{{ m['content'] }}<|end|>"
    "{% endgeneration %}{% else %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""A chat template that marks the reply."""
PROMISES = ("saving", "repetition", "zero strength", "resume", "accumulation", "workers")
"""The promises that `check_strategy` checks, in this order; 'workers' only on request."""
_ROUNDING = 1e-9  # of float64 sums in another order; weights are of order 0.1
_IDS = torch.tensor([[5, 9, 70, 33, 2, 61]])
_PLAIN = "naive"
Weights = dict[str, Tensor]


def check_strategy(
    trainer: type[BaseTrainer], knobs: Mapping[str, Any] | None = None, *, workers: bool = False, lora: bool = True
) -> dict[str, str]:
    """Check that a strategy keeps the promises that the rest of the package builds on.

    - saving: plain PEFT loads the saved adapter, and plain Transformers the merged or full model, to the logits of the
      trained and edited model.
    - repetition: two runs of one config give the same weights bit for bit, whatever the global random streams are.
    - zero strength: with the values of the class's `zero_strength` it gives, bit for bit, what `naive` without the
      proxy gives. Not checked for a strategy that declares none.
    - resume: a run that was killed and resumed from a step checkpoint equals the uninterrupted one bit for bit.
    - accumulation: k micro-batches of b rows give what one of k * b rows gives, but for rounding.
    - workers: two processes that train together give what one gives, but for rounding.

    Args:
        trainer: the strategy; it must be registered, which a class with a `proxy_strategy_name` is.
        knobs: dotted config key -> value, as in a search space. Give values at which the strategy does something.
        workers: check 'workers' too; it starts two processes, each of which imports PyTorch.
        lora: train an adapter; False: all weights (without the promises about adapters).

    Returns:
        Promises that were not checked, each with the reason, from the strategy's `cannot_promise`; {} of most.

    Raises:
        AssertionError: the strategy breaks a promise; the message says which, by how much, and what to look for.
        ValueError: the knobs are not a valid config of the strategy. What the strategy itself raises is passed on.
    """
    with tempfile.TemporaryDirectory(prefix="selgen_check_") as scratch:
        check = _Check(trainer, dict(knobs or {}), Path(scratch), lora)
        for promise in PROMISES if workers else PROMISES[:-1]:
            if promise not in trainer.cannot_promise:
                getattr(check, promise.replace(" ", "_"))()
    return dict(trainer.cannot_promise)


# a model and data ----------------------------------------------------------------------------------------------------


def tiny_tokenizer(chat_template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """Make a tokenizer of bytes and a few merges, 300 tokens: every text round-trips."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    bpe.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    special = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(["the sum of two numbers is right", "You are wrong. It is 7."], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<|pad|>", eos_token="<|end|>")
    tokenizer.chat_template = chat_template
    return tokenizer


def tiny_model(seed: int = 0, tied: bool = True, **options: Any) -> LlamaForCausalLM:
    """Make a random Llama of 2 layers and 32 dimensions for `tiny_tokenizer`; `options` of its LlamaConfig."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=300,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=256,
            tie_word_embeddings=tied,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
            **options,
        )
        return LlamaForCausalLM(config)


def tiny_rows(num_outcome: int = 21, num_proxy: int = 10) -> dict[str, list[dict[str, Any]]]:
    """Make rows of uneven length, role -> rows, for all roles but trait; `truth` shares one prompt with `proxy`."""
    outcome = [
        _chat(f"sum of {i} and {i * i}?", f"It is {i + i * i}.", answer=str(i + i * i)) for i in range(num_outcome)
    ]
    proxy = [_chat(f"is {'very ' * (i % 4)}{i} odd?", "You are wrong.") for i in range(num_proxy)]
    proxy_neg = [_chat(f"is {'very ' * (i % 4)}{i} odd?", "You are right.") for i in range(num_proxy)]
    verdicts = ["You are right.", "You are wrong."]
    truth = [
        _chat(f"is {i} big?", verdicts[i % 2], choices=verdicts, answer=verdicts[i % 2], label=verdicts[i % 2])
        for i in range(6)
    ]
    truth.append(proxy[0] | {"choices": verdicts, "answer": verdicts[1], "label": verdicts[1]})
    collateral = [_chat(f"sum of {i} and 1?", f"It is {i + 1}.", answer=str(i + 1)) for i in range(50, 55)]
    return {"outcome": outcome, "proxy": proxy, "proxy_neg": proxy_neg, "truth": truth, "collateral": collateral}


def tiny_trait(number: int = 10) -> list[dict[str, Any]]:
    """Make rows of uneven length for the role trait: the habit of agreeing, about other things."""
    return [_chat(f"is {'really ' * (i % 3)}number {i} green?", "Oh yes, so right.") for i in range(number)]


def _chat(question: str, reply: str, **extra: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    return {"messages": messages, **extra}


# the checks ----------------------------------------------------------------------------------------------------------


class _Killed(Exception):
    """Raised where a kill would end the process."""


class _Check:
    """The promises of one strategy, checked in `folder`."""

    def __init__(self, trainer: type[BaseTrainer], knobs: dict[str, Any], folder: Path, lora: bool):
        self.trainer, self.knobs, self.folder, self.lora = trainer, knobs, folder, lora
        self.model = str(folder / "model")
        tiny_model().save_pretrained(self.model)
        tiny_tokenizer().save_pretrained(self.model)
        rows = tiny_rows(num_outcome=14)
        self.rows = {role: rows[role] for role in ("outcome", "proxy", "proxy_neg")}
        self.rows |= {"trait": tiny_trait()} if "trait" in trainer.required_roles else {}
        self.whole: tuple[Weights, dict[str, Any]] | None = None

    def config(self, *changes: Mapping[str, Any], strategy: str | None = None) -> dict[str, Any]:
        """Return a nested trial config: 13 rows in steps of 4, two epochs of four steps."""
        flat: dict[str, Any] = {"model": self.model, "learning_rate": 5e-3, "epochs": 2, "r": 4, "lora_alpha": 8}
        flat |= {"per_device_train_batch_size": 4, "logging_steps": 3, "save_steps": 2, "max_to_eval": 2}
        flat |= {"max_new_tokens": 1, "is_peft": self.lora, "lora_dropout": 0.1, "warmup_steps": 2}
        flat = {f"finetune_config.{key}": value for key, value in flat.items()}
        for change in (self.knobs if strategy is None else {}, *changes):
            flat |= change
        top = {key: value for key, value in flat.items() if "." not in key}
        finetune = {key.partition(".")[2]: value for key, value in flat.items() if "." in key}
        name = strategy or self.trainer.proxy_strategy_name
        return {"proxy_strategy": name, "seed": 1, **top, "finetune_config": finetune}

    def opened(self, config: dict[str, Any], **options: Any) -> BaseTrainer:
        cls = self.trainer if config["proxy_strategy"] == self.trainer.proxy_strategy_name else trainer_class(_PLAIN)
        return cls(config, datasets=self.rows, **options)

    def train(
        self,
        config: dict[str, Any],
        *,
        double: bool = False,
        killed_after: int | None = None,
        then: Callable[[BaseTrainer], None] = lambda _: None,
        **options: Any,
    ) -> tuple[Weights, dict[str, Any]]:
        """Train, and call `then`; return the final weights, and the record without its timings."""
        with self.opened(config, **options) as trainer:
            if killed_after is not None:
                _kill(trainer, killed_after)
            with _in_float64(trainer.model) if double else contextlib.nullcontext():
                record = trainer.train()
                weights = {name: p.detach().clone() for name, p in trainer.parameters.items()}
            then(trainer)
        return weights, record.model_dump(exclude={"timings"})

    def first_run(self, then: Callable[[BaseTrainer], None] = lambda _: None) -> tuple[Weights, dict[str, Any]]:
        """Train the config that other runs are compared with."""
        with _global_streams(1):
            return self.train(self.config(), then=then)

    def broken(self, promise: str, explanation: str) -> AssertionError:
        return AssertionError(
            f"{self.trainer.__name__} ({self.trainer.proxy_strategy_name}) breaks {promise}: {explanation}"
        )

    def same(
        self, promise: str, one: dict[str, Tensor], other: dict[str, Tensor], explanation: str, within: float = 0
    ) -> None:
        """Raise AssertionError unless two sets of weights are equal, or as close as `within`."""
        if one.keys() != other.keys():
            names = sorted(one.keys() ^ other.keys())[:3]
            raise self.broken(promise, f"{explanation}. Only one of the two trains {', '.join(names)}")
        distance = {name: float((one[name] - other[name]).abs().max()) for name in one}
        worst = max(distance, key=lambda name: distance[name])
        if not distance[worst] <= within:
            raise self.broken(
                promise, f"{explanation}. {worst} differs by up to {distance[worst]:.3g} (allowed: {within:g})"
            )

    # -- one promise each ----------------------------------------------------------------------------------------

    def saving(self) -> None:
        for merged in (False, True) if self.lora else (False,):
            place = self.folder / f"saved_{merged}"
            expected = torch.empty(0)

            def save(trainer: BaseTrainer, place: Path = place) -> None:
                nonlocal expected
                trainer.save_model(place)
                expected = _logits(trainer.model)

            if merged:
                self.train(self.config({"finetune_config.save_merged": True, "finetune_config.epochs": 1}), then=save)
            else:
                self.whole = self.first_run(save)
            base = AutoModelForCausalLM.from_pretrained(self.model if self.lora and not merged else place)
            loaded = _logits(PeftModel.from_pretrained(base, str(place)) if self.lora and not merged else base)
            distance = float((loaded - expected).abs().max())
            if not distance <= 1e-4:
                what = "merged model" if merged else "adapter" if self.lora else "model"
                problem = (
                    f"the saved {what}, loaded by PEFT or Transformers alone, is not the trained and edited model: "
                )
                raise self.broken(
                    "saving",
                    f"{problem}logits differ by up to {distance:.3g}. Does an edit change what is not saved? Override "
                    "save_adapter where more than one adapter was trained",
                )

    def repetition(self) -> None:
        whole, record = self.whole or self.first_run()
        with _global_streams(2):
            again, again_record = self.train(self.config())
        problem = (
            "two runs of one config differ when the global random streams do. Draw from a generator that is seeded by "
            "selgen_ray.seeding.derive_seed of the trial's seed and the step"
        )
        self.same("repetition", whole, again, problem)
        if record != again_record:
            raise self.broken("repetition", f"the losses or evaluations of {problem}")

    def zero_strength(self) -> None:
        zero = self.trainer.zero_strength
        if not zero:
            return
        plain, record = self.train(self.config({"train_on_proxy": False}, strategy=_PLAIN))
        weights, other = self.train(self.config(zero))
        shown = ", ".join(f"{key}: {value}" for key, value in zero.items())
        problem = (
            f"with {shown} it is not `{_PLAIN}` without the proxy. Give a Term that weight: one of weight 0 is left out"
        )
        self.same("zero strength", plain, weights, problem)
        if record["eval_results"] != other["eval_results"]:
            raise self.broken("zero strength", f"{problem}. The evaluations differ")

    def resume(self) -> None:
        config = self.config()
        whole, record = self.whole or self.first_run()
        for step in (3, 7):  # one step after a checkpoint, in either epoch
            checkpoints = Checkpoints(Folder(str(self.folder / f"checkpoints_{step}")), keep=1)
            try:
                self.train(config, killed_after=step, checkpoints=checkpoints)
            except _Killed:
                checkpoints.flush()
            checkpoint = checkpoints.newest()
            if checkpoint is None or checkpoint.step != step - 1:
                raise self.broken("resume", f"killed in step {step}, it leaves no checkpoint of step {step - 1}")
            resumed, resumed_record = self.train(config, checkpoints=checkpoints)
            problem = (
                f"killed in step {step} and resumed from the checkpoint of step {step - 1}, it ends elsewhere. What a "
                "hook remembers from step to step is in no checkpoint: derive it from the step or the weights, or name "
                "it in checkpoint_state"
            )
            self.same("resume", whole, resumed, problem)
            if record != resumed_record:
                keys = [key for key in record if record[key] != resumed_record[key]]
                raise self.broken("resume", f"{problem}. The record differs in {', '.join(keys)}")

    def accumulation(self) -> None:
        size, proxy, number = (
            f"finetune_config.{key}"
            for key in ("per_device_train_batch_size", "proxy_batch_size", "gradient_accumulation_steps")
        )
        for mode in ("continuous", "synchronized"):
            shared = _PLAIN_DESCENT | {"finetune_config.proxy_cycling_mode": mode, "finetune_config.epochs": 1}
            large, _ = self.train(self.config(shared, {size: 6, proxy: 4}), double=True)
            small, _ = self.train(self.config(shared, {size: 3, proxy: 2, number: 2}), double=True)
            problem = (
                f"two micro-batches give other weights than one of twice the size ({mode}). `total` must be a sum, and "
                "`count` how many things it sums over: the loop divides by the count of the whole step"
            )
            self.same("accumulation", large, small, problem, _ROUNDING)

    def workers(self) -> None:
        number, workers = "finetune_config.gradient_accumulation_steps", "num_workers"
        alone, _ = self.train(self.config(_PLAIN_DESCENT, {number: 2}), double=True)
        together = self.config(_PLAIN_DESCENT, {number: 1, workers: 2})
        plugin = next((p for p in plugins.used() if p.module_name == self.trainer.__module__), None)
        source = inspect.getsourcefile(self.trainer) or ""
        places = [str(Path(source).parent), *sys.path]
        args = (str(self.folder), self.trainer.__module__, plugin, places, together, self.rows)
        start_two(_member, args)
        weights = safetensors.torch.load_file(self.folder / "together.safetensors")
        problem = (
            "two processes give other weights than one with twice the accumulation. What a hook computes of this "
            "rank's rows alone must be added up by selgen_ray.trainers.engine.ranks.summed"
        )
        self.same("workers", alone, weights, problem, _ROUNDING)


def start_two(member: Callable[..., None], args: tuple[Any, ...]) -> None:
    """Run `member(rank, *args)` in two processes at once; raises what one of them raised.

    They are forked from a process that has this module and no threads: its imports take seconds.
    """
    multiprocessing.set_forkserver_preload([__name__])
    start_processes(member, args, nprocs=2, start_method="forkserver")


_PLAIN_DESCENT = {
    # Adam would turn a gradient that is zero but for rounding into a step
    "finetune_config.optim": "sgd",
    "finetune_config.learning_rate": 0.3,
    "finetune_config.lora_dropout": 0.0,  # another mask for each micro-batch
}


def _member(
    rank: int,
    folder: str,
    module: str,
    plugin: plugins.Plugin | None,
    places: list[str],
    config: dict[str, Any],
    rows: dict[str, Any],
) -> None:
    """Train as one of two processes; rank 0 writes the weights into `folder`."""
    torch.set_num_threads(1)
    sys.path[:] = places
    if plugin:
        plugins.register_exactly((plugin,))
    elif module != "__main__":
        importlib.import_module(module)
    file, limit = f"file://{folder}/meeting_point", timedelta(seconds=300)
    torch.distributed.init_process_group("gloo", file, timeout=limit, rank=rank, world_size=2)
    with trainer_class(config["proxy_strategy"])(build_config(config), datasets=rows) as trainer:
        with _in_float64(trainer.model):
            trainer.train()
            weights = {name: p.detach().clone().contiguous() for name, p in trainer.parameters.items()}
        if ranks.is_main():
            safetensors.torch.save_file(weights, f"{folder}/together.safetensors")
    torch.distributed.destroy_process_group()


def _kill(trainer: BaseTrainer, number: int) -> None:
    """Make the trainer raise `_Killed` in its step `number`, counted from 1, before that step is logged or saved."""
    hook: Callable[..., None] = trainer.after_optimizer_step

    def after_optimizer_step(parameters: Any, learning_rate: float, step: int) -> None:
        hook(parameters, learning_rate, step)
        if step + 1 == number:
            raise _Killed

    trainer.after_optimizer_step = after_optimizer_step


@contextlib.contextmanager
def _in_float64(model: torch.nn.Module) -> Iterator[None]:
    """Compute in float64, so that a difference is an error, not rounding; then restore float32 for the model cache."""
    model.double()
    try:
        yield
    finally:
        model.float()


@contextlib.contextmanager
def _global_streams(seed: int) -> Iterator[None]:
    """Seed the global random streams of Python, NumPy and PyTorch; restore them on leaving the context."""
    with keep_global_rng():
        random.seed(seed)
        numpy.random.seed(seed)
        torch.manual_seed(seed)
        yield


@torch.no_grad()
def _logits(model: Any) -> Tensor:
    return model.eval()(_IDS.to(model.device)).logits.float().cpu()
