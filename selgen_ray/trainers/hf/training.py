"""A Trainer's own loop as the training of a run: it trains, and between its steps the run's course logs, evaluates,
saves and stops."""

from __future__ import annotations

import contextlib
import copy
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import torch
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback

from selgen_ray.seeding import keep_global_rng
from selgen_ray.trainers.engine.checkpoints import Checkpoint, progress_of, sums_of
from selgen_ray.trainers.engine.context import Hooks, RunContext
from selgen_ray.trainers.engine.loop import Progress, accelerator
from selgen_ray.trainers.hf import arguments, classes, rows

_NOT_A_METRIC = {"loss", "learning_rate", "epoch", "step", "total_flos", "num_tokens", "num_input_tokens_seen"}
_LEFT_OUT = ("training_args", "tokenizer", "special_tokens", "chat_template", "vocab", "merges", "README")


class HfTraining:
    """Trains a run's model by a class of Transformers' Trainer, on the rows of the other strategies in their order.

    Its checkpoints are the Trainer's own: weights, optimizer, schedule, random streams and callbacks.

    Args:
        run: its model, rows, settings and progress are used; `run.num_steps` is set.
        hooks: `after_optimizer_step` is called after each step.
        trainer: the class.
        name: what `trainer_class` calls it.
        given: `trainer_args`.
        train: the roles that are trained on.
        folder: a local folder that is removed after the run.
    """

    name = "train"

    def __init__(
        self,
        run: RunContext,
        hooks: Hooks,
        trainer: type[Trainer],
        name: str,
        given: dict[str, Any],
        train: str,
        folder: Path,
    ):
        self._run, self._hooks, self._folder = run, hooks, folder
        self._kind, self._given = trainer, given
        self._form: classes.Form = classes.form_of(trainer, name)
        stream = rows.stream_of(self._form, train)
        self._stream = run.sets.streams([stream], self.name)[stream]
        self._checkpoint: Checkpoint | None = None
        self._is_training = False
        run.num_steps = self.num_steps

    @property
    def epoch_steps(self) -> int:
        """Optimizer steps of an epoch."""
        return self._stream.steps_per_epoch

    @property
    def num_steps(self) -> int:
        """Optimizer steps in total."""
        return self._run.cfg.max_steps or self._run.cfg.epochs * self.epoch_steps

    def start(self, checkpoint: Checkpoint | None) -> Progress:
        """Make the Trainer, with the weights of the checkpoint if there is one; return the progress."""
        self._checkpoint = checkpoint
        self._batches = rows.Batches(self._stream, as_they_lie=self._form == "labelled")
        self._use_cache = self._run.model.config.use_cache
        self._trainer = self._make()
        self._run.progress = progress_of(checkpoint, accelerator().device) if checkpoint else Progress()
        if checkpoint:
            for name, content in checkpoint.files.items():
                place = self._resumed / name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(content)
            self._trainer._load_from_checkpoint(str(self._resumed))  # for an evaluation that is due
        return self._run.progress

    @property
    def _resumed(self) -> Path:
        return self._folder / "resumed"

    def _make(self) -> Any:
        run, cfg = self._run, self._run.cfg
        args = arguments.make(
            run.config,
            self._kind,
            self._given,
            self._form,
            folder=str(self._folder),
            num_steps=self.num_steps,
            micro_batch=self._stream.micro_batch,
        )
        args._n_gpu = min(args.n_gpu, 1)  # several visible devices would each get a part of a micro-batch
        tokenizer = rows.own_tokenizer(run.tokenizer)
        options: dict[str, Any] = {"model": run.model, "args": args, "processing_class": tokenizer}
        options["train_dataset"] = rows.dataset_of(run.sets, self._form, self._stream, run.tokenizer)
        if not classes.is_of_trl(self._kind):
            options["data_collator"] = rows.Padding(tokenizer)
        if not cfg.is_peft and classes.has_reference(self._kind):
            # TRL would load it by its name, of whatever revision
            options["ref_model"] = copy.deepcopy(run.model).requires_grad_(False)
        with _without_progress_bars():
            trainer = _watched(self._kind, self)(**options)
        trainer.remove_callback(PrinterCallback)
        return trainer

    def loader(self) -> DataLoader[Any]:
        """Return the batches of the epochs; they draw nothing from the global random streams."""
        trainer = self._trainer
        return DataLoader(
            trainer.train_dataset,
            batch_sampler=self._batches,
            collate_fn=trainer.data_collator,
            generator=torch.Generator(),
        )

    def fit(self, progress: Progress, after_step: Callable[[Progress], None]) -> None:
        """Let the Trainer train the steps that are left, calling `after_step` after each."""
        if progress.step >= self.num_steps:
            return
        self._trainer.add_callback(_Steps(self, progress, after_step))
        self._is_training = True
        self._trainer.train(resume_from_checkpoint=str(self._resumed) if self._checkpoint else None)
        self._run.model.config.use_cache = self._use_cache  # the Trainer switched it off; a saved model should use it

    def learning_rate(self) -> float:
        """Return the learning rate of the next step."""
        return float(self._trainer.optimizer.param_groups[0]["lr"])

    def capture(self, progress: Progress, state: dict[str, Any]) -> Checkpoint:
        """Return the Trainer's own checkpoint of the finished steps, as files."""
        if not self._is_training:  # an evaluation that was due on resume was cut off again
            assert self._checkpoint is not None
            return replace(self._checkpoint, state=state)
        trainer = self._trainer
        trainer._save_checkpoint(trainer.model, None)
        place = self._folder / f"checkpoint-{trainer.state.global_step}"
        paths = [path for path in sorted(place.rglob("*")) if path.is_file() and not path.name.startswith(_LEFT_OUT)]
        files = {path.relative_to(place).as_posix(): path.read_bytes() for path in paths}
        shutil.rmtree(place)
        return Checkpoint(progress.step, {}, sums_of(progress), state, files)

    def after_micro_batch(self, loss: torch.Tensor, inputs: dict[str, Any]) -> None:
        """Add the loss of a micro-batch, a share of its step's, and its tokens to the progress."""
        progress = self._run.progress
        progress.add("total", loss.detach())
        tensors = {key: value for key, value in inputs.items() if isinstance(value, torch.Tensor)}
        progress.tokens_processed += sum(t.numel() for key, t in tensors.items() if key.endswith("input_ids"))
        scored = [(t != rows.IGNORED) for key, t in tensors.items() if key.endswith("labels")]
        scored = scored or [t for key, t in tensors.items() if key.endswith("completion_mask")]
        progress.tokens_scored += sum(int(t.sum()) for t in scored)

    def epoch_begins(self, step: int) -> None:
        """Let the next pass over `loader` be that of the epoch that `step`, from 0, belongs to."""
        self._batches.epoch = step // self.epoch_steps

    def optimizer_stepped(self, step: int) -> None:
        """Call the strategy's hook, as the one loop does."""
        self._hooks.after_optimizer_step(self._run.parameters, self.learning_rate(), step)

    def step_loss(self, progress: Progress, before: float) -> float:
        """Return the loss of the last step: the sum of its micro-batches."""
        return float(progress.sums["total"]) - before

    def log(self, logs: dict[str, float]) -> None:
        """Have the Trainer log: it adds what it has measured since the last step, and tells its callbacks."""
        self._trainer.log(logs)
        del self._trainer.state.log_history[:-1]  # it is a part of each checkpoint


class _Steps(TrainerCallback):
    """Calls the course after each optimizer step, and takes over what the Trainer logs."""

    def __init__(self, training: HfTraining, progress: Progress, after_step: Callable[[Progress], None]):
        self._training, self._progress, self._after_step = training, progress, after_step
        self._logs = False
        self._before = 0.0

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Choose the rows of the epoch."""
        self._training.epoch_begins(state.global_step)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Remember the losses of the steps before."""
        sums = self._progress.sums
        self._before = float(sums["total"]) if "total" in sums else 0.0

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Call the strategy's hook."""
        self._training.optimizer_stepped(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Add the Trainer's own metrics, such as rewards/margins, to those of the run."""
        for name, value in (logs or {}).items() if self._logs else ():
            if name not in _NOT_A_METRIC and isinstance(value, int | float) and math.isfinite(value):
                self._progress.log(name, float(value))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Log, evaluate, save and stop, as the course says."""
        progress, training = self._progress, self._training
        self._logs = True
        training.log({"loss": training.step_loss(progress, self._before), "learning_rate": training.learning_rate()})
        self._logs = False
        progress.step = state.global_step
        progress.steps_summed += 1
        with keep_global_rng():  # the Trainer draws dropout from it
            self._after_step(progress)


def _watched(kind: type[Trainer], training: HfTraining) -> type[Any]:
    """Return the class with our rows, with its losses told to `training`; nothing is sent or written for people."""
    base: Any = kind

    class Watched(base):
        def get_train_dataloader(self) -> DataLoader[Any]:
            return training.loader()

        def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
            seen = dict(inputs)  # a loss may take keys out of them
            loss = super().training_step(model, inputs, *args, **kwargs)
            training.after_micro_batch(loss, seen)
            return loss

        def create_model_card(self, *args: Any, **kwargs: Any) -> None:
            pass

        def _send_telemetry(self) -> None:
            pass

    Watched.__name__ = Watched.__qualname__ = kind.__name__
    return Watched


@contextlib.contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Switch the bars of datasets off while a Trainer prepares its rows."""
    enabled = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if enabled:
            datasets.enable_progress_bars()
