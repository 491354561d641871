"""Step time of every strategy, relative to an outcome-only step of `naive`, with and without the caches; by hand.

    python tests/benchmarks/step_time.py [--hidden 512 --layers 8 --vocab 32000 --batch 8 --rounds 3]

Prints a line a strategy. `step`: median of its step times over that of outcome-only steps taken in turn with them.
`no cache`: the same with the base asked in every step instead of once. `prepare`: seconds before the first step,
`again`: the same when the sweep's cache holds what another trial computed (the strategies that share the throw-away
trainings come after the one that computed them).

Measured on a 2-core x86 CPU machine, one thread, --hidden 384 --layers 6 --vocab 16000 (in brackets: asking the base in
every step): kl_divergence 1.99 (2.44), representation_constraint 1.81 (2.23), dpo 3.20 (3.87), positive_negative_proxy
and grad_project with a proxy_neg 3.0, safe_lora 1.20, all others 1.0. With the defaults (512, 8, 32000): kl_divergence
2.07 (2.34); there the softmax over 32,000 words is a larger part of the step.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))
from conftest import chat, make_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from selgen_ray.models.forward import adapter_off
from selgen_ray.storage import Folder
from selgen_ray.storage.cache import Cache
from selgen_ray.trainers import get_trainer, strategies
from selgen_ray.trainers.base import BaseTrainer
from selgen_ray.trainers.engine.course import main_phase
from selgen_ray.trainers.engine.loop import fit
from selgen_ray.trainers.engine.reference import BaseLogProbs, BaseValues

KNOBS: dict[str, dict[str, Any]] = {"positive_negative_proxy": {"neg_lambda_proxy": 0.1}}


def make_rows(kind: str, count: int) -> list[dict[str, Any]]:
    """Chats of about 100 tokens, half of them the reply's; all alike, so that the draw of a batch decides nothing."""
    return [chat(f"{i:03d} {'x' * 45}", f"{kind[-1]}{'y' * 49}") for i in range(count)]


def save_model(args: argparse.Namespace, folder: str) -> None:
    """A random Llama of the asked-for size, and a tokenizer that uses a small part of its vocabulary."""
    sizes = {"hidden_size": args.hidden, "intermediate_size": 3 * args.hidden, "num_hidden_layers": args.layers}
    heads = max(1, args.hidden // 64)
    config = LlamaConfig(**sizes, num_attention_heads=heads, vocab_size=args.vocab, pad_token_id=0, eos_token_id=1)
    LlamaForCausalLM(config).to(getattr(torch, args.dtype)).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)


def time_steps(trainer: BaseTrainer, num_steps: int) -> list[float]:
    """Seconds of each optimizer step, the first one (allocations, optimizer state) left out."""
    times: list[float] = []

    def after_step(*_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter())

    phase = main_phase(trainer.run, trainer)
    phase.job.num_steps = num_steps + 2
    fit(phase.job, phase.start(None), after_step)
    return [b - a for a, b in itertools.pairwise(times)]


def ask_base_every_step(trainer: Any) -> None:
    """Replace what the trainer computed once by a forward pass of the frozen base in each step."""

    def live(values: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def ask(batch: Any) -> Any:
            with torch.no_grad(), adapter_off(trainer.model):
                return values(batch)

        return ask

    for name, value in list(vars(trainer).items()):
        if isinstance(value, BaseLogProbs):
            setattr(trainer, name, live(lambda batch: trainer.scored_logits(batch).log_softmax(-1)))
        elif isinstance(value, BaseValues) and hasattr(trainer, "_log_probs"):
            setattr(trainer, name, live(trainer._log_probs))
        elif isinstance(value, BaseValues):
            setattr(trainer, name, live(lambda batch: torch.cat(trainer._rows(batch))))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    for name, default in (("hidden", 512), ("layers", 8), ("vocab", 32_000), ("batch", 8), ("rounds", 3), ("steps", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("strategies", nargs="*", default=list(strategies()))
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        model = str(Path(scratch, "model"))
        save_model(args, model)
        roles = {role: make_rows(role, 8 * args.batch) for role in ("outcome", "proxy", "proxy_neg")}
        cfg = {"model": model, "per_device_train_batch_size": args.batch, "dtype": args.dtype, "epochs": 100}

        def make(strategy: str, **top: Any) -> BaseTrainer:
            cache = Cache(Folder(str(Path(scratch, "cache"))))
            config = {"proxy_strategy": strategy, "seed": 1, "finetune_config": cfg | KNOBS.get(strategy, {}), **top}
            return get_trainer(strategy)(config, datasets=roles, cache=cache)

        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU, one thread"
        print(f"{device}, {vars(args)}\n{'':38s} {'step':>6s} {'no cache':>9s} {'prepare':>9s} {'again':>9s}")
        plain = make("naive", train_on_proxy=False)
        time_steps(plain, 2)
        for strategy in args.strategies:
            measure(make, strategy, plain, args)


def measure(make: Callable[..., BaseTrainer], strategy: str, plain: BaseTrainer, args: argparse.Namespace) -> None:
    """Print the line of one strategy."""
    seconds = []
    for _ in range(2):  # the second one finds what the first one put into the cache
        trainer = make(strategy)
        trainer.record.eval_versions.append("aligned")  # Safe LoRA: the evaluation is no preparation
        start = time.perf_counter()
        trainer.prepare()
        seconds.append(time.perf_counter() - start)
        if len(seconds) == 1:
            trainer.close()
    has_reference = any(isinstance(v, BaseLogProbs | BaseValues) for v in vars(trainer).values())
    ratios = [ratio(trainer, plain, args)]
    if has_reference:
        ask_base_every_step(trainer)
        ratios.append(ratio(trainer, plain, args))
    trainer.close()
    without = f"{ratios[1]:8.2f}x" if has_reference else f"{'-':>9s}"
    prepared = "".join(f" {s:8.1f}s" if strategy_prepares(trainer) else f" {'-':>9s}" for s in seconds)
    print(f"{strategy:38s} {ratios[0]:5.2f}x {without}{prepared}", flush=True)


def strategy_prepares(trainer: BaseTrainer) -> bool:
    """Whether the strategy has anything to do before its first step."""
    return type(trainer).prepare is not BaseTrainer.prepare


def ratio(trainer: BaseTrainer, plain: BaseTrainer, args: argparse.Namespace) -> float:
    """Median step time over that of outcome-only steps, rounds of both in turn."""
    rounds = [(time_steps(trainer, args.steps), time_steps(plain, args.steps)) for _ in range(args.rounds)]
    ours, theirs = ([t for pair in rounds for t in pair[i]] for i in range(2))
    return statistics.median(ours) / statistics.median(theirs)


if __name__ == "__main__":
    main()
