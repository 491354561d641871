"""BaseTrainer: the public interface of every strategy, and the hooks a strategy overrides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any, Self, TypeVar, cast

from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from selgen_ray.config.trial import TrialConfig
from selgen_ray.data.encode import Batch
from selgen_ray.data.forms import Row
from selgen_ray.data.rows import load_roles
from selgen_ray.data.sets import Sets
from selgen_ray.data.training_prompts import with_prompts
from selgen_ray.models import forward, saving
from selgen_ray.models.loading import Model, Source, has_adapter
from selgen_ray.models.log_probs import cross_entropy
from selgen_ray.models.tokenizer import refused_rows
from selgen_ray.records.results import TrainingRecord
from selgen_ray.seeding import keep_global_rng
from selgen_ray.storage.cache import Cache
from selgen_ray.trainers import catalogue, plugins
from selgen_ray.trainers.engine import course, ranks
from selgen_ray.trainers.engine.checkpoints import Checkpoint, Checkpoints
from selgen_ray.trainers.engine.context import Callbacks, Edit, RunContext, Training, open_run
from selgen_ray.trainers.engine.evaluations import Evaluations, open_judge
from selgen_ray.trainers.engine.loop import MAIN, GradMap, Term
from selgen_ray.trainers.engine.shared_values import SharedValues
from selgen_ray.trainers.engine.stop_signal import StopSignal
from selgen_ray.trainers.registry import Strategy

T = TypeVar("T")


class BaseTrainer(Strategy):
    """Base class of the strategies: set `proxy_strategy_name`, override as few hooks as the formula needs.

    Knobs are class attributes declared with `knob`; they become keys of `finetune_config` and attributes here.

    Args:
        config: a trial config of this strategy, or one as a nested dict.
        model, tokenizer, datasets: default: as the config says; `datasets` maps a role to its rows.
        checkpoints: where to save and look for step checkpoints; default: nowhere.
        cache: of values that several trials share; default: everything is computed. Ignored if `model` or `tokenizer`
            is given, but for the judge's verdicts.
        model_hash: fingerprint of the start model, if it is known already.
        on_progress: called with a dict of readable numbers every `logging_steps`.
        on_evaluation: called after each evaluation, when `record` holds it.
        stop: a request to end the training early, which another thread may set.
        on_event: called with {'event', 'why', 'step'} for the sweep's log, when a person should know what happened.
        fsdp: shard the frozen base over the ranks, instead of a copy on each; a `model` that is given is not sharded.
        source: supplies the model, and runs its backward passes; default: the process's base, for this trial alone.

    Attributes:
        config: the trial config; `cfg` is its section `finetune_config`.
        run: the run's model, data, settings and record.
        evaluations: measures the model and keeps the record.

    Raises:
        DataError: a role this strategy needs is missing, or its rows cannot be used.
        ModelError: the model cannot be loaded.
        pydantic.ValidationError: the config is wrong.
        ValueError: `num_workers` is not the number of processes that train.
    """

    run: RunContext
    evaluations: Evaluations

    def __init__(
        self,
        config: TrialConfig | dict[str, Any],
        model: Model | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        datasets: dict[str, list[Row]] | None = None,
        *,
        checkpoints: Checkpoints | None = None,
        cache: Cache | None = None,
        model_hash: str | None = None,
        on_progress: Callable[[dict[str, Any]], None] = lambda _: None,
        on_evaluation: Callable[[], None] = lambda: None,
        stop: StopSignal | None = None,
        on_event: Callable[[dict[str, Any]], None] = lambda _: None,
        fsdp: bool = False,
        source: Source | None = None,
        on_step: Callable[[Callable[[], Checkpoint]], None] = lambda _: None,
    ):
        raw = config.model_dump() if isinstance(config, TrialConfig) else config
        self.config = catalogue.resolved(catalogue.build_config({**raw, "proxy_strategy": self.proxy_strategy_name}))
        ranks.check_number(self.config.num_workers)
        self.cfg = self.config.finetune_config
        for name in self.knobs():
            setattr(self, name, getattr(self.cfg if hasattr(self.cfg, name) else self.config, name))
        prompts = self.training_prompts(self.config)
        if datasets is None:
            datasets = load_roles(self.config, self.needed_roles(self.config), refused_rows(self.config), prompts)
        else:
            datasets = with_prompts(datasets, prompts, self.config.data_seed)
        self.check_rows(self.config, datasets)
        judge = open_judge(self.config.evals, cache.folder if cache else None)
        with ExitStack() as stack:
            context = open_run(
                self.config,
                datasets,
                model=model,
                tokenizer=tokenizer,
                checkpoints=checkpoints,
                cache=cache,
                model_hash=model_hash,
                stop=stop,
                source=source,
                callbacks=Callbacks(on_progress, on_event, on_evaluation, on_step),
                fsdp=fsdp,
                strategy_code=plugins.code_of(type(self), self.config),
                metric_code=plugins.code_of_metrics(self.config.evals),
            )
            self.run = stack.enter_context(context)
            self._open = stack.pop_all()
        self.evaluations = Evaluations(self.run, judge)

    def __init_subclass__(cls, **kwargs: Any):
        # before the strategy is registered: a knob by one of these names would be overwritten, or overwrite the method
        own_names = {*dir(BaseTrainer), *BaseTrainer.__annotations__, "config", "cfg", "_open"}
        if taken := sorted(own_names & cls.knobs().keys()):
            raise TypeError(f"{cls.__name__}.{taken[0]}: {taken[0]!r} is a name of BaseTrainer's own: rename the knob")
        super().__init_subclass__(**kwargs)

    # -- hooks -----------------------------------------------------------------------------------------------------

    def _compute_loss(self, batch: Batch) -> Tensor:
        """Return the mean loss of an outcome micro-batch, by default the cross-entropy of its scored tokens."""
        return cross_entropy(self.scored_logits(batch), batch.targets[batch.scored]) / batch.num_scored

    def terms(self) -> list[Term]:
        """Return the weighted terms of a step; the first one's stream sets the length of an epoch."""
        return [Term("loss", 1.0, "outcome", lambda batch: self._compute_loss(batch) * batch.num_scored)]

    def prepare(self) -> None:
        """Do work before training, with the model in its starting state (also when the run is resumed)."""

    def checkpoint_state(self) -> dict[str, Tensor]:
        """Return tensors that a hook changes in place from step to step, by name: they are part of each checkpoint.

        It is called once, after `prepare`; a resumed run copies the values of its checkpoint into them.
        """
        return {}

    def training_scope(self) -> AbstractContextManager[None]:
        """Return a context manager for what is on while the model learns and off when it is measured or deployed.

        It is open around every forward and backward pass of the main phase, gradient checkpointing's recomputation
        included; closed in `prepare`, throw-away trainings, evaluations, edits and saving. It is entered anew in each
        step, and again where a step is repeated for lack of memory.
        """
        return nullcontext()

    def transform_gradients(self, by_slot: dict[str, GradMap], step: int) -> GradMap:
        """Return the gradient to apply, from the accumulated gradient of each slot; it is clipped afterwards."""
        return by_slot.get(MAIN, {})

    def after_optimizer_step(self, parameters: dict[str, nn.Parameter], learning_rate: float, step: int) -> None:
        """Edit the parameters in place after the optimizer."""

    def edits(self) -> Iterable[tuple[str, Edit]]:
        """Return named edits of the finished weights; each is applied to these and evaluated, the last one stays."""
        return ()

    def main_phase(self) -> Training:
        """Return the training itself, made after `prepare`: by default the one loop, with the hooks above.

        `hf_trainer` puts the loop of a Trainer in its place, and sets `self.run.num_steps`; logging, evaluations,
        checkpoints and stops stay.
        """
        return course.main_phase(self.run, self)

    # -- for use in hooks -------------------------------------------------------------------------------------------

    @property
    def model(self) -> Model:
        """The model in training."""
        return self.run.model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""
        return self.run.tokenizer

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Name -> tensor of everything that is trained."""
        return self.run.parameters

    @property
    def sets(self) -> Sets:
        """The rows to train on and to evaluate."""
        return self.run.sets

    @property
    def record(self) -> TrainingRecord:
        """The measurements that results.json will hold."""
        return self.run.record

    @property
    def share(self) -> SharedValues:
        """Values that the trials of a sweep compute once."""
        return self.run.shared

    def has(self, role: str) -> bool:
        """Return whether there are rows of this role to train on."""
        return role in self.sets.train

    def logits(self, batch: Batch) -> Tensor:
        """Return the model's logits, [batch, tokens, vocab], differentiable."""
        return self.model(**batch.inputs, use_cache=False).logits

    def scored_logits(self, batch: Batch) -> Tensor:
        """Return the logits at the scored tokens alone, [scored, vocab]; targets: `batch.targets[batch.scored]`."""
        return forward.scored_logits(self.model, batch)

    def cross_entropy_term(self, stream: str, weight: float = 1.0, slot: str = MAIN) -> Term:
        """Return the mean cross-entropy over the scored tokens of a stream, logged under the stream's name."""
        return Term(
            stream, weight, stream, lambda b: cross_entropy(self.scored_logits(b), b.targets[b.scored]), slot=slot
        )

    def micro_batch(self, stream: str, rows: list[int]) -> Batch:
        """Return the given rows of a stream, padded, on the device; override it to put more into a batch."""
        return self.run.micro_batch(stream, rows)

    def batches(self, stream: str, rows: Sequence[int] | None = None) -> Iterator[Batch]:
        """Yield training rows of a stream, by default each once, in batches of similar length, for preparations."""
        return self.run.batches(stream, self, rows)

    def data_key(self, stream: str) -> dict[str, Any]:
        """Return a key for `share` that identifies the training rows of a stream and their tokens."""
        return self.run.data_key(stream)

    def passes(self, compute: Callable[[], T]) -> T:
        """Call `compute`, which runs the model over many `batches` without gradients, and return its value.

        It is called again, with smaller batches, when memory runs out (`auto_batch`).

        Raises:
            TrialStopped: the trial was asked to stop; raised at the next batch.
        """
        return self.run.passes(compute)

    def log(self, name: str, total: Tensor | float, count: Tensor | float = 1) -> None:
        """Add a sum over `count` things to a metric; results.json gets the mean since the last reading."""
        self.run.log(name, total, count)

    # -- public interface ------------------------------------------------------------------------------------------

    def train(self) -> TrainingRecord:
        """Train from the newest checkpoint, or from the start; evaluate before, as `evals.during` says, and at the end.

        Raises:
            TrialDiverged: a loss or a value of an evaluation is NaN or infinite.
            TrialStopped: the trial was asked to stop; every finished step is in a checkpoint.
        """
        with keep_global_rng():
            course.train(self.run, self, self.evaluations)
        return self.record

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Return set -> metric -> value of the current weights, for every evaluation set and metric."""
        measured, _ = self.evaluations.judged(self.evaluations.now(), self.run.progress.step)
        return {name: dict(measurement["values"]) for name, measurement in measured.items()}

    def save_model(self, folder: str | Path) -> None:
        """Write the finished model and the tokenizer in the ordinary Hugging Face format.

        That is an adapter, written by `save_adapter`, or the whole model with `save_merged` or after full fine-tuning.
        """
        if self.cfg.save_merged and has_adapter(self.model):
            saving.save_merged(self.model, self.tokenizer, Path(folder))
        else:
            self.save_adapter(folder)

    def save_adapter(self, folder: str | Path) -> None:
        """Write the trained adapter or model; override it if the result is not one adapter of the start model."""
        saving.save_model(self.model, self.tokenizer, Path(folder))

    def close(self) -> None:
        """Return a model that this trainer loaded to the process's cache; the trainer cannot be used afterwards."""
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)  # after an exception the base is not reused


def trainer_class(name: str) -> type[BaseTrainer]:
    """Return the trainer class of a strategy name or alias; `catalogue.get_trainer` knows it as a `Strategy` only.

    Raises:
        ValueError: no such strategy; the message lists what is allowed.
    """
    return cast("type[BaseTrainer]", catalogue.get_trainer(name))
