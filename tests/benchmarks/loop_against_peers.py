"""Our training step beside a bare PyTorch loop, Hugging Face's Trainer and TRL's SFTTrainer; by hand.

    python tests/benchmarks/loop_against_peers.py [--hidden 256 --layers 6 --vocab 8000 --batch 8 --steps 12 --rounds 3]

All four train the same LoRA, from the same values, on the same batches of the same rows, in the same order, with
AdamW and the same linear schedule, without clipping, in float32, in one process with one thread. Each has its own
collation, its own loss and its own logging (every 10 steps), as a user gets them: losses are those of the replies
alone. They take turns for `--rounds` rounds. A step's time is its CPU seconds, from the end of the step before to its
own end, so with the making of its batch; the first step of a turn is left out. Prints the median of our steps over the
median of each peer's, and by how much the trained weights differ at most from ours: all did the same work.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # CPU seconds are what is measured
os.environ["TQDM_DISABLE"] = "1"
import transformers
import trl
from conftest import chat, make_tokenizer
from datasets import Dataset
from peft import get_peft_model
from step_time import save_model
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

from selgen_ray.trainers import get_trainer
from selgen_ray.trainers.engine.course import Course, PhaseCourse

LEARNING_RATE, LOG_EVERY = 1e-3, 10
Rows = list[dict[str, list[int]]]


def make_rows(count: int) -> list[dict[str, Any]]:
    """Chats of 60 to 140 tokens, about half of them the reply's."""
    draw = random.Random(0)
    return [chat(f"{i:03d} {'x' * draw.randint(25, 65)}", f"ok {'y' * draw.randint(25, 65)}") for i in range(count)]


class Ours:
    """The engine's loop with the strategy `naive` on the task alone: what a trial of a sweep runs."""

    def __init__(self, model: str, args: argparse.Namespace):
        rows = make_rows(args.batch * args.steps)
        cfg = {"model": model, "per_device_train_batch_size": args.batch, "learning_rate": LEARNING_RATE, "r": 8}
        cfg |= {"epochs": 1, "train_split": 1.0, "logging_steps": LOG_EVERY, "save_steps": 10**6}
        top = {"train_on_proxy": False, "evals": {"during": {"every": "never"}}}
        config = {"proxy_strategy": "naive", "seed": 1, "finetune_config": cfg, **top}
        roles = {"outcome": rows, "proxy": rows[:2]}
        self.trainer = get_trainer("naive")(config, datasets=roles)
        self.start = {name: p.detach().clone() for name, p in self.trainer.parameters.items()}
        encoded = self.trainer.sets.union("outcome")
        job = self._course().phase.job
        batches = [batch.rows for step in range(args.steps) for batch in job.micro_batches("outcome", step)]
        self.batches: list[Rows] = [[_row(encoded[number]) for number in numbers] for numbers in batches]

    def _course(self) -> Course:
        return Course(self.trainer.run, self.trainer, self.trainer.evaluations)

    def __call__(self) -> list[float]:
        with torch.no_grad():
            for name, parameter in self.trainer.parameters.items():
                parameter.copy_(self.start[name])
        times: list[float] = []
        course = self._course()
        after_step: Callable[[Any], None] = PhaseCourse.after_step.__get__(course)

        def timed(progress: Any) -> None:
            after_step(progress)  # logs and looks for a stop; no evaluation
            times.append(time.process_time())

        self.trainer.run.fit(course.phase.job, course.phase.start(None), timed)
        return times

    def weights(self) -> dict[str, torch.Tensor]:
        return dict(self.trainer.parameters)


def _row(encoded: Any) -> dict[str, list[int]]:
    ids, scored = [int(token) for token in encoded.ids], [bool(one) for one in encoded.is_reply]
    return {"input_ids": ids, "labels": [token if one else -100 for token, one in zip(ids, scored, strict=True)]}


class Peer:
    """Another way to train the same."""

    def __init__(self, model: str, args: argparse.Namespace, ours: Ours):
        self.args, self.ours, self.tokenizer = args, ours, make_tokenizer()
        lora = next(iter(ours.trainer.model.peft_config.values()))
        self.model: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(model), lora)
        self.trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.rows: Rows = [row for batch in ours.batches for row in batch]

    def __call__(self) -> list[float]:
        with torch.no_grad():
            for (_, mine), start in zip(sorted(self.trained.items()), self._sorted(self.ours.start), strict=True):
                mine.copy_(start)
        times: list[float] = []
        self.train(times)
        return times

    def train(self, times: list[float]) -> None:
        raise NotImplementedError

    def difference(self) -> float:
        """The largest difference of a trained weight from ours."""
        ours = self._sorted(self.ours.weights())
        pairs = zip((p for _, p in sorted(self.trained.items())), ours, strict=True)
        return max(float((mine - one).abs().max()) for mine, one in pairs)

    @staticmethod
    def _sorted(tensors: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        return [tensor for _, tensor in sorted(tensors.items())]

    def settings(self, kind: type, **more: Any) -> Any:
        return kind(
            output_dir=self.args.scratch,
            per_device_train_batch_size=self.args.batch,
            max_steps=self.args.steps,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="linear",
            optim="adamw_torch",
            max_grad_norm=0.0,
            weight_decay=0.0,
            logging_steps=LOG_EVERY,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            seed=1,
            **more,
        )


class Bare(Peer):
    """The loop that one writes by hand: pad, forward, backward, AdamW, schedule; transformers' own loss."""

    def train(self, times: list[float]) -> None:
        self.model.train()
        optimizer = torch.optim.AdamW(list(self.trained.values()), LEARNING_RATE, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / self.args.steps)
        for step, batch in enumerate(self.ours.batches, 1):
            loss = self.model(**self._padded(batch)).loss
            loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            if step % LOG_EVERY == 0:
                loss.item()
            times.append(time.process_time())

    def _padded(self, rows: Rows) -> dict[str, torch.Tensor]:
        width = max(len(row["input_ids"]) for row in rows)
        ids = torch.tensor([row["input_ids"] + [0] * (width - len(row["input_ids"])) for row in rows])
        labels = torch.tensor([row["labels"] + [-100] * (width - len(row["labels"])) for row in rows])
        mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"])) for row in rows])
        return {"input_ids": ids, "labels": labels, "attention_mask": mask}


class Times(TrainerCallback):
    """Notes when each step ends."""

    def __init__(self, times: list[float]):
        self.times = times

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.times.append(time.process_time())


class HuggingFace(Peer):
    """transformers.Trainer, with its collator for labels that are there already."""

    def train(self, times: list[float]) -> None:
        class InOrder(Trainer):
            def _get_train_sampler(self, *_: Any) -> Any:
                return SequentialSampler(self.train_dataset)

        rows = [row | {"attention_mask": [1] * len(row["input_ids"])} for row in self.rows]
        collator = transformers.DataCollatorForSeq2Seq(self.tokenizer)
        trainer = InOrder(
            self.model, self.settings(TrainingArguments), collator, Dataset.from_list(rows), callbacks=[Times(times)]
        )
        trainer.train()


class Trl(Peer):
    """trl.SFTTrainer on rows that are tokens already, with its own collator, loss and metrics."""

    def train(self, times: list[float]) -> None:
        class InOrder(trl.SFTTrainer):
            def _get_train_sampler(self, *_: Any) -> Any:
                return SequentialSampler(self.train_dataset)

        rows = [
            {"input_ids": row["input_ids"], "completion_mask": [int(label != -100) for label in row["labels"]]}
            for row in self.rows
        ]
        config = self.settings(trl.SFTConfig, completion_only_loss=True, gradient_checkpointing=False, bf16=False)
        trainer = InOrder(
            self.model,
            config,
            train_dataset=Dataset.from_list(rows),
            processing_class=self.tokenizer,
            callbacks=[Times(times)],
        )
        trainer.train()


PEERS = {"a bare PyTorch loop": Bare, "transformers.Trainer": HuggingFace, "trl.SFTTrainer": Trl}


def steps_of(times: list[float]) -> Iterator[float]:
    """CPU seconds of each step but the first."""
    return (b - a for a, b in itertools.pairwise(times))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    sizes = {"hidden": 256, "layers": 6, "vocab": 8000, "batch": 8, "steps": 12, "rounds": 3}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", default="float32")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in ("transformers", "trl"):
        logging.getLogger(name).setLevel(logging.ERROR)
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        args.scratch, model = scratch, str(Path(scratch, "model"))
        save_model(args, model)
        ours = Ours(model, args)
        peers = {name: peer(model, args, ours) for name, peer in PEERS.items()}
        seconds: dict[str, list[float]] = {}
        for _ in range(args.rounds):
            for name, train in {"ours": ours, **peers}.items():
                seconds.setdefault(name, []).extend(steps_of(train()))
        median = {name: statistics.median(each) for name, each in seconds.items()}
        del args.scratch
        versions = f"torch {torch.__version__}, transformers {transformers.__version__}, trl {trl.__version__}"
        print(f"{vars(args)}; {versions}")
        print(f"our step: {1000 * median['ours']:.1f} ms of CPU time")
        for name, peer in peers.items():
            print(f"ours / {name:22s} {median['ours'] / median[name]:.3f}   weights differ by {peer.difference():.1e}")


if __name__ == "__main__":
    main()
