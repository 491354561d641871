"""The context of one training run, shared by phases, course and evaluations: all of a run but its strategy."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from selgen_ray.config.finetune import FinetuneConfig
from selgen_ray.config.hardware import not_for_fsdp
from selgen_ray.config.trial import TrialConfig
from selgen_ray.data.asking import asks_as_in_rows
from selgen_ray.data.encode import Batch, collate, pad_id
from selgen_ray.data.forms import Row
from selgen_ray.data.questions import question_rows
from selgen_ray.data.roles import Roles
from selgen_ray.data.rows import proxy_share, rows_hash
from selgen_ray.data.sets import Sets
from selgen_ray.data.streams import by_length
from selgen_ray.data.tokens import RULES, RowEncoder, TokenRows
from selgen_ray.data.training_prompts import check_contexts, check_system_texts
from selgen_ray.errors import ModelError
from selgen_ray.models.loading import Model, Source, trainable_parameters
from selgen_ray.models.tokenizer import load_tokenizer
from selgen_ray.records.results import TrainingRecord
from selgen_ray.storage.cache import Cache
from selgen_ray.storage.parallel import clock
from selgen_ray.trainers.engine import ranks
from selgen_ray.trainers.engine.checkpoints import Checkpoint, Checkpoints
from selgen_ray.trainers.engine.loop import GradMap, Job, Progress, Term, accelerator, fit
from selgen_ray.trainers.engine.memory import BatchSizes
from selgen_ray.trainers.engine.shared_values import SharedValues
from selgen_ray.trainers.engine.stop_signal import StopSignal

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")
Edit = Callable[[dict[str, nn.Parameter]], None]
"""Changes the trained weights in place."""


def _ignore(_: Any) -> None:
    pass


@dataclass(frozen=True)
class Callbacks:
    """Functions that a run calls to report its progress.

    Attributes:
        on_progress: called every `logging_steps` with a dict of readable numbers, such as {'phase': 'train', 'step': 8,
            'num_steps': 40, 'loss': 1.2}.
        on_event: called with {'event', 'why', 'step'} for the sweep's log, when something happened that a person
            should know.
        on_evaluation: called after each evaluation, when the record holds it.
        on_step: called by every rank after each step of the main phase but the last, evaluations included, with a
            function that captures a checkpoint of that step; all ranks must call that function, or none.
    """

    on_progress: Callable[[dict[str, Any]], None] = _ignore
    on_event: Callable[[dict[str, Any]], None] = _ignore
    on_evaluation: Callable[[], None] = lambda: None
    on_step: Callable[[Callable[[], Checkpoint]], None] = _ignore


class Training(Protocol):
    """One training of the run's model, which a course runs and watches: a `Phase`, or another loop in its place.

    Attributes:
        name: stands in the progress line.
    """

    name: str

    @property
    def epoch_steps(self) -> int:
        """Optimizer steps of an epoch."""
        ...

    @property
    def num_steps(self) -> int:
        """Optimizer steps in total."""
        ...

    def start(self, checkpoint: Checkpoint | None) -> Progress:
        """Return the progress at the beginning, or restore a checkpoint and return its progress."""
        ...

    def fit(self, progress: Progress, after_step: Callable[[Progress], None]) -> None:
        """Train the steps that are left, calling `after_step` after each."""
        ...

    def capture(self, progress: Progress, state: dict[str, Any]) -> Checkpoint:
        """Return a checkpoint of the finished steps; `state` is the plain JSON that it holds besides."""
        ...

    def learning_rate(self) -> float:
        """Return the learning rate of the next step."""
        ...


class Hooks(Protocol):
    """The methods with which a strategy changes the training; `BaseTrainer` documents each."""

    def terms(self) -> list[Term]:
        """Return the weighted terms of a step."""
        ...

    def prepare(self) -> None:
        """Do the strategy's work before training."""
        ...

    def checkpoint_state(self) -> dict[str, Tensor]:
        """Return tensors that the hooks change from step to step, to be saved with the weights."""
        ...

    def training_scope(self) -> contextlib.AbstractContextManager[None]:
        """Return a context manager that is open around the forward and backward passes of the main phase."""
        ...

    def transform_gradients(self, by_slot: dict[str, GradMap], step: int) -> GradMap:
        """Return the gradient to apply."""
        ...

    def after_optimizer_step(self, parameters: dict[str, nn.Parameter], learning_rate: float, step: int) -> None:
        """Edit the parameters in place after the optimizer."""
        ...

    def edits(self) -> Iterable[tuple[str, Edit]]:
        """Return named edits of the finished weights."""
        ...

    def micro_batch(self, stream: str, rows: list[int]) -> Batch:
        """Return the given rows of a stream as a batch on the device."""
        ...

    def main_phase(self) -> Training:
        """Return the training of the run, and set `run.num_steps`; called after `prepare`."""
        ...


@dataclass
class RunContext:
    """One run: its model, data and settings, and the record so far; `open_run` makes one.

    Attributes:
        config: the trial config, with the settings of the adapter that training continues from.
        model, tokenizer: the model in training, and its tokenizer.
        source: supplied the model, and runs its backward passes.
        parameters: name -> tensor of everything that is trained.
        sets: the rows to train on and to evaluate.
        memory: the batch sizes, which may shrink when memory runs out.
        stop: the request to stop; checked after each step and inside evaluations and preparations.
        shared: values that the trials of a sweep compute once.
        checkpoints: where to save and look for step checkpoints; None: nowhere.
        callbacks: functions that get the progress.
        fsdp: the frozen base is sharded over the ranks.
        metric_code: versions of the code of metrics from outside this package.
        as_in_rows: replies are generated after the header of a given reply; see `asks_as_in_rows`.
        record: the measurements that results.json will hold.
        progress: the progress of the phase that is being trained.
        num_steps: optimizer steps of the whole training; 0 until `main_phase` has built it.
        num_resumes: how often the run was resumed from a checkpoint.
        flags: sentences on what makes every evaluation of the run doubtful.
        fit: trains every phase; an estimate of the cost puts a loop of a few steps in its place.
    """

    config: TrialConfig
    model: Model
    tokenizer: PreTrainedTokenizerBase
    parameters: dict[str, nn.Parameter]
    sets: Sets
    memory: BatchSizes
    source: Source
    stop: StopSignal
    shared: SharedValues
    checkpoints: Checkpoints | None
    callbacks: Callbacks
    fsdp: bool
    metric_code: list[str]
    as_in_rows: bool = False
    record: TrainingRecord = field(default_factory=TrainingRecord)
    progress: Progress = field(default_factory=Progress)
    num_steps: int = 0
    num_resumes: int = 0
    flags: list[str] = field(default_factory=list[str])
    fit: Callable[[Job, Progress, Callable[[Progress], None]], None] = fit

    @property
    def accelerator(self) -> Accelerator:
        """The process's Accelerator, in working order even if other code reset Accelerate's state meanwhile."""
        return accelerator()

    @property
    def cfg(self) -> FinetuneConfig:
        """The section `finetune_config` of the trial config."""
        return self.config.finetune_config

    def micro_batch(self, stream: str, rows: list[int]) -> Batch:
        """Return the given rows of a stream, padded, on the device."""
        return collate(self.sets.union(stream), rows, pad_id(self.tokenizer), self.accelerator.device)

    def batches(self, stream: str, hooks: Hooks, rows: Sequence[int] | None = None) -> Iterator[Batch]:
        """Yield training rows of a stream, by default each once, in batches of similar length, for preparations."""
        lengths = self.sets.union(stream).lengths
        numbers = range(len(lengths)) if rows is None else rows
        for places in by_length([lengths[number] for number in numbers], self.memory.eval_batch_size):
            yield hooks.micro_batch(stream, [numbers[place] for place in places])

    def passes(self, compute: Callable[[], T]) -> T:
        """Call `compute`, which runs the model over many batches without gradients, and return its value.

        It is called again, with smaller batches, when memory runs out (`auto_batch`).

        Raises:
            TrialStopped: the trial was asked to stop; raised at the next batch.
        """
        step = self.progress.step
        with self.stop.ends_passes(self.model, step):
            return self.memory.passes(compute, step)

    def data_key(self, stream: str) -> dict[str, Any]:
        """Return a key for `shared` that identifies the training rows of a stream and their tokens."""
        rows = {role: rows_hash(list(self.sets.train[role].rows)) for role in stream.split("+")}
        return {"rows": rows, "rules": RULES, **self.cfg.model_dump(include={"max_seq_length", "loss_on"})}

    def log(self, name: str, total: Tensor | float, count: Tensor | float = 1) -> None:
        """Add a sum over `count` things to a metric; results.json gets the mean since the last reading."""
        self.progress.log(name, total, count)

    def flag(self, event: str, why: str) -> None:
        """Flag this evaluation and all that follow, and tell the sweep's log; a flag that stands is not repeated."""
        self.flags = list(dict.fromkeys([*self.flags, why]))
        if why not in self.record.flags:
            self.record.flags = [*self.record.flags, why]
            self.callbacks.on_event({"event": event, "why": why, "step": self.progress.step})

    def add_time(self, name: str, since: float) -> None:
        """Add the seconds since `since`, a value of `parallel.clock()`, to a timing of the record."""
        self.record.timings[name] = self.record.timings.get(name, 0.0) + clock() - since


@contextlib.contextmanager
def open_run(
    config: TrialConfig,
    roles: dict[str, list[Row]],
    *,
    model: Model | None,
    tokenizer: PreTrainedTokenizerBase | None,
    checkpoints: Checkpoints | None,
    cache: Cache | None,
    model_hash: str | None,
    stop: StopSignal | None,
    source: Source | None,
    callbacks: Callbacks,
    fsdp: bool,
    strategy_code: list[str],
    metric_code: list[str],
) -> Iterator[RunContext]:
    """Load model, tokenizer and rows of a run; on leaving, a model loaded here returns to the process's cache.

    Args:
        config: the strategy's trial config, resolved by `catalogue.resolved`.
        roles: role -> its rows.
        model, tokenizer: default: as the config says. If one is given, nothing is shared with other trials, since no
            fingerprint tells what an object holds.
        source: supplies the model, unless it is given; default: the process's base.
        strategy_code, metric_code: versions of code from outside this package; part of the keys of shared values.

    Raises:
        ModelError: the model cannot be loaded, or a key does not go with `fsdp`.
        DataError: rows cannot be used.
    """
    cfg, source = config.finetune_config, source or Source()
    fsdp = fsdp and ranks.world_size() > 1
    for key, why in not_for_fsdp(cfg).items() if fsdp else ():
        raise ModelError(f"resources.strategy fsdp with finetune_config.{key}: {why}")
    if model is not None or tokenizer is not None:
        cache = None
    places = roles if isinstance(roles, Roles) else Roles(roles)
    with contextlib.ExitStack() as stack:
        tokenizer = load_tokenizer(cfg) if tokenizer is None else tokenizer
        if model is None:
            context = source.model(cfg, config.model_seed, str(accelerator().device), fsdp=fsdp)
            model = stack.enter_context(context)
        shared = SharedValues(cache, cfg, model, strategy_code, model_hash)
        check_system_texts(roles, tokenizer)
        check_contexts(config.evals, tokenizer)
        encoder = RowEncoder(tokenizer, cfg.max_seq_length, cfg.loss_on)

        def encode(role: str, rows: list[Row]) -> TokenRows:
            return encoder.encode(rows, f"data.{role}", places.place(role), shared.file)

        yield RunContext(
            config=config,
            model=model,
            tokenizer=tokenizer,
            parameters=trainable_parameters(model),
            sets=Sets(
                roles,
                cfg,
                config.data_seed,
                encode,
                config.num_workers,
                proxy_share(config),
                question_rows(config.evals, config.data_seed, bool(tokenizer.chat_template)),
                config.evals.contexts,
                places.place,
            ),
            memory=BatchSizes(cfg, callbacks.on_event, model),
            source=source,
            stop=ranks.agreeing(stop or StopSignal()),
            shared=shared,
            checkpoints=checkpoints,
            callbacks=callbacks,
            fsdp=fsdp,
            metric_code=metric_code,
            as_in_rows=asks_as_in_rows(roles, tokenizer),
        )
