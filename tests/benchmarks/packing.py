"""What packing trials saves: K LoRA trials over one base in one process, against the same trials one after the other.

    python tests/benchmarks/packing.py [--layers 26] [--width 8] [--only operators step evaluation]

Prints ratios, alone over packed, of three things; more than 1 is a gain. Evaluations are left out of the first two.
`operators`: PyTorch operators dispatched for each step of a trial, which is what costs where kernels are small: on a
GPU at small batches. `step`: CPU time of a step, at batch 2 and 32. `evaluation`: CPU time of an evaluation of a set of
8 or 32 rows with generated replies, at K = 4; median of three.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))
from conftest import chat, make_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from selgen_ray.models.loading import Source
from selgen_ray.trainers import get_trainer
from selgen_ray.trainers.base import BaseTrainer
from selgen_ray.trainers.catalogue import build_config
from selgen_ray.trainers.engine.course import main_phase
from selgen_ray.trainers.engine.loop import fit
from selgen_ray.trainers.pack.pack import Pack

WARM_UP, STEPS = 2, 6


class Counter(TorchDispatchMode):
    """Counts operators while `on`, in the thread that entered it."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        Counter.count += 1
        return func(*args, **(kwargs or {}))


def save_model(folder: str, layers: int, hidden: int) -> None:
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        vocab_size=300,
        pad_token_id=0,
        eos_token_id=1,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)


OPTIM = {"name": "adamw_torch"}


def config(folder: str, seed: int, batch: int) -> dict[str, Any]:
    finetune = {"model": folder, "r": 8, "per_device_train_batch_size": batch, "max_steps": WARM_UP + STEPS}
    finetune |= {
        "learning_rate": 1e-3,
        "train_split": 1.0,
        "logging_steps": 1000,
        "max_new_tokens": 24,
        "optim": OPTIM["name"],
    }
    return {"proxy_strategy": "naive", "seed": seed, "finetune_config": finetune}


def rows(number: int) -> dict[str, list[dict[str, Any]]]:
    outcome = [chat(f"{i:03d} {'x' * 20}", "y" * 20, answer="y") for i in range(number)]
    return {"outcome": outcome, "collateral": outcome[:16]}


class Meter:
    """CPU seconds or operators from when all trials of a pack are warm until the first of them ends."""

    def __init__(self, read: Callable[[], float], trials: int):
        self.read, self.left, self.begun, self.total, self.trials = read, trials, 0, 0.0, trials

    def begin(self) -> None:
        self.begun += 1
        if self.begun == self.trials:  # all are warm
            self.start = self.read()

    def end(self) -> None:
        if self.left == self.trials:  # as long as all run
            self.total = self.read() - self.start
        self.left -= 1


def steps(trainer: BaseTrainer, meter: Meter, count: bool) -> None:
    phase = main_phase(trainer.run, trainer)

    def after_step(progress: Any) -> None:
        if progress.step == WARM_UP:
            meter.begin()
        if progress.step == WARM_UP + STEPS:
            meter.end()

    with Counter() if count else contextlib.nullcontext():
        fit(phase.job, phase.start(None), after_step)


def evaluate(trainer: BaseTrainer, meter: Meter, count: bool) -> None:
    trainer.evaluations.now()  # once to warm up
    meter.begin()
    for _ in range(3):
        trainer.evaluations.now()
    meter.end()


def measure(
    folder: str, width: int, batch: int, work: Callable[..., None], read: Callable[[], float], number: int = 32
) -> float:
    """Return the ratio of one trial alone, times `width`, to the pack; the data have `number` rows."""
    count = read is not time.process_time

    def run(source: Source | None, seed: int, meter: Meter) -> None:
        with get_trainer("naive")(config(folder, seed, batch), datasets=rows(number), source=source) as trainer:
            work(trainer, meter, count)

    own, totals = Meter(read, 1), Meter(read, width)
    run(None, 1, own)
    pack = Pack(width, build_config(config(folder, 1, batch)).finetune_config, "cpu")
    jobs: Iterator[Any] = ((lambda source, seed=seed: run(source, seed, totals)) for seed in range(1, width + 1))
    failed: list[BaseException] = []
    with Counter() if count else contextlib.nullcontext():
        pack.run(jobs, lambda outcome: failed.append(outcome.error) if outcome.error else None)
    if failed:
        raise failed[0]
    if count:
        print(f"  operators a trial-step: alone {own.total / STEPS:.0f}, packed {totals.total / STEPS / width:.0f}")
    return own.total * width / totals.total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=26)
    parser.add_argument("--hidden", type=int, default=32)
    parser.add_argument("--width", type=int, default=8)
    kinds = ["operators", "step", "evaluation"]
    parser.add_argument("--only", nargs="+", choices=kinds, default=kinds)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        save_model(folder, args.layers, args.hidden)
        print(f"{args.layers} layers of {args.hidden} features; alone / packed, more is better")
        for name in ("adamw_torch", "adamw_torch_fused") if "operators" in args.only else ():
            OPTIM["name"] = name
            found = measure(folder, args.width, 2, steps, lambda: Counter.count)
            print(f"operators, batch 2, K = {args.width}, {name}: {found:.2f}")
        OPTIM["name"] = "adamw_torch_fused"
        for batch in (2, 32) if "step" in args.only else ():
            for width in (2, 4, args.width):
                found = measure(folder, width, batch, steps, time.process_time)
                print(f"CPU time of a step, fused AdamW, batch {batch}, K = {width}: {found:.2f}", flush=True)
        for number in (8, 32) if "evaluation" in args.only else ():
            found = statistics.median(measure(folder, 4, 2, evaluate, time.process_time, number) for _ in range(3))
            print(f"CPU time of an evaluation of {number} rows with replies, K = 4: {found:.2f}", flush=True)


if __name__ == "__main__":
    main()
