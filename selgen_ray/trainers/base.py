"""BaseTrainer: the public interface of every strategy, and the hooks a strategy overrides."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from peft import PeftModel
from pydantic.fields import FieldInfo
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from selgen_ray.config.trial import TrialConfig
from selgen_ray.data.encode import Batch, collate, pad_id
from selgen_ray.data.forms import Row
from selgen_ray.data.roles import Roles
from selgen_ray.data.rows import load_roles, proxy_share, rows_hash
from selgen_ray.data.sets import Sets
from selgen_ray.data.streams import by_length
from selgen_ray.data.tokens import RowEncoder, TokenRows
from selgen_ray.errors import DataError, ModelError
from selgen_ray.models import forward, loading, saving
from selgen_ray.models.log_probs import cross_entropy
from selgen_ray.models.tokenizer import load_tokenizer
from selgen_ray.records.results import TrainingRecord
from selgen_ray.seeding import keep_global_rng
from selgen_ray.storage.cache import Cache
from selgen_ray.trainers import catalogue, registry
from selgen_ray.trainers.engine import ranks
from selgen_ray.trainers.engine.checkpoints import Checkpoints
from selgen_ray.trainers.engine.course import Course
from selgen_ray.trainers.engine.evaluations import Evaluations
from selgen_ray.trainers.engine.loop import MAIN, GradMap, Progress, Term, accelerator, check_finite
from selgen_ray.trainers.engine.memory import BatchSizes
from selgen_ray.trainers.engine.phases import Phase
from selgen_ray.trainers.engine.shared_values import SharedValues
from selgen_ray.trainers.engine.stop_signal import StopSignal

T = TypeVar("T")
Edit = Callable[[dict[str, nn.Parameter]], None]


class BaseTrainer:
    """A strategy: subclass, set `proxy_strategy_name`, override as few hooks as the formula needs.

    Knobs are class attributes declared with `knob`; they become keys of `finetune_config` and attributes here.

    Args:
        config: a trial config of this strategy, or the nested dict of one.
        model, tokenizer, datasets: default: as the config says; `datasets` maps a role to its rows.
        checkpoints: where to save and look for step checkpoints; default: nowhere.
        cache: of what several trials share; default: everything is computed. Not used with a `model` of one's own.
        model_hash: fingerprint of the start model, where it is known already.
        on_progress: called with a dict of readable numbers every `logging_steps`.
        on_evaluation: called after each evaluation, when `record` has it.
        stop: set by others to end the training early.
        on_event: called with {'event', 'why', 'step'} of what a person should find in the sweep's log.
        fsdp: the ranks share the frozen base out, instead of having it each; a `model` of one's own stays as it is.

    Raises:
        DataError: a role this strategy needs is missing, or its rows cannot be used.
        ModelError: the model cannot be loaded. pydantic.ValidationError: a wrong config. ValueError: `num_workers` is
            not the number of processes that train.
    """

    proxy_strategy_name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    implied: ClassVar[dict[str, dict[str, Any]]] = {}  # alias -> top-level config keys that it says as well
    required_roles: ClassVar[tuple[str, ...]] = ("outcome",)

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if "proxy_strategy_name" in vars(cls):
            cls.knobs()  # a knob without a type is found here
            registry.register(cls)

    @classmethod
    def knobs(cls) -> dict[str, tuple[Any, FieldInfo]]:
        """Name -> (type, field) of the strategy's knobs, inherited ones first. Raises TypeError: one has no type."""
        return registry.knobs_of(cls)

    def __init__(
        self,
        config: TrialConfig | dict[str, Any],
        model: loading.Model | None = None,
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
    ):
        raw = config.model_dump() if isinstance(config, TrialConfig) else config
        self.config = catalogue.resolved(catalogue.build_config({**raw, "proxy_strategy": self.proxy_strategy_name}))
        ranks.check_number(self.config.num_workers)
        self.cfg = self.config.finetune_config
        for name in self.knobs():
            setattr(self, name, getattr(self.cfg if hasattr(self.cfg, name) else self.config, name))
        roles = load_roles(self.config) if datasets is None else datasets
        self._places = roles if isinstance(roles, Roles) else Roles(roles)
        self.check_rows(self.config, roles)
        self.accelerator = accelerator()
        self.record = TrainingRecord()
        self.num_resumes = 0
        self.num_steps = 0
        self.progress = Progress()
        self.on_progress = on_progress
        self._on_evaluation = on_evaluation
        self.fsdp = fsdp and ranks.world_size() > 1
        for key, why in self.cfg.not_for_fsdp.items() if self.fsdp else ():
            raise ModelError(f"resources.strategy fsdp with finetune_config.{key}: {why}")
        self.stop = ranks.agreeing(stop or StopSignal())
        self.on_event = on_event
        self.memory = BatchSizes(self.cfg, on_event)
        self._checkpoints = checkpoints
        self.evaluations = Evaluations(self, cache.folder if cache else None)
        if model is not None or tokenizer is not None:
            cache = None  # the content of an object that somebody brings is not known
        with ExitStack() as stack:
            self.tokenizer = load_tokenizer(self.cfg) if tokenizer is None else tokenizer
            if model is None:
                device = str(self.accelerator.device)
                context = loading.trainable_model(self.cfg, self.config.model_seed, device, fsdp=self.fsdp)
                model = stack.enter_context(context)
            self.model = model
            self.parameters = loading.trainable_parameters(model)
            self.share = SharedValues(cache, self.cfg, model, type(self), model_hash)
            share = proxy_share(self.config)
            self.sets = Sets(roles, self.cfg, self.config.data_seed, self._encode, self.config.num_workers, share)
            self._open = stack.pop_all()

    # -- what a strategy asks for; each is looked at before any trial starts ------------------------------------------

    @classmethod
    def check(cls, config: TrialConfig) -> None:
        """Raises ValueError: keys that do not go together; the message names them."""

    @classmethod
    def check_rows(cls, config: TrialConfig, roles: Mapping[str, Sequence[Row]]) -> None:
        """Raises DataError: a role is missing, or its rows do not suit. All rows, before any split."""
        for role in cls.required_roles:
            if not roles.get(role):
                raise DataError(f"proxy_strategy {cls.proxy_strategy_name} needs data.{role}, which was not given")

    @classmethod
    def check_model(cls, config: TrialConfig, model: nn.Module) -> None:
        """Raises ModelError: what is adapted of the model does not suit; it has its adapter, and no weights."""

    @classmethod
    def input_files(cls, config: TrialConfig) -> dict[str, str]:
        """Dotted knob key -> path of the files besides the data that decide the result."""
        return {}

    # -- hooks -----------------------------------------------------------------------------------------------------

    def _compute_loss(self, batch: Batch) -> Tensor:
        """Mean loss of an outcome micro-batch: the simplest hook. Default: cross-entropy of the scored tokens."""
        return cross_entropy(self.scored_logits(batch), batch.targets[batch.scored]) / batch.num_scored

    def terms(self) -> list[Term]:
        """The weighted terms of a step; the first one's stream sets the length of an epoch."""
        return [Term("loss", 1.0, "outcome", lambda batch: self._compute_loss(batch) * batch.num_scored)]

    def prepare(self) -> None:
        """Work before training, with the model in its starting state (also when the run is resumed)."""

    def transform_gradients(self, by_slot: dict[str, GradMap], step: int) -> GradMap:
        """The gradient to apply, from the accumulated gradient of each slot; before clipping."""
        return by_slot.get(MAIN, {})

    def after_optimizer_step(self, parameters: dict[str, nn.Parameter], learning_rate: float, step: int) -> None:
        """Edit the parameters in place after the optimizer."""

    def edits(self) -> Iterable[tuple[str, Edit]]:
        """Named edits of the finished weights, each applied to the trained ones and evaluated beside them."""
        return ()

    # -- what hooks build on ---------------------------------------------------------------------------------------

    def has(self, role: str) -> bool:
        """Whether there are rows of this role to train on."""
        return role in self.sets.train

    def logits(self, batch: Batch) -> Tensor:
        """The model's logits, [batch, tokens, vocab], differentiable."""
        return self.model(**batch.inputs, use_cache=False).logits

    def scored_logits(self, batch: Batch) -> Tensor:
        """The same at the scored tokens alone, [scored, vocab], which is cheaper; `batch.targets[batch.scored]` fit."""
        return forward.scored_logits(self.model, batch)

    def cross_entropy_term(self, stream: str, weight: float = 1.0, slot: str = MAIN) -> Term:
        """Mean cross-entropy over the scored tokens of a stream, logged under the stream's name."""
        return Term(
            stream, weight, stream, lambda b: cross_entropy(self.scored_logits(b), b.targets[b.scored]), slot=slot
        )

    def data_key(self, stream: str) -> dict[str, Any]:
        """What identifies the training rows of a stream and their tokens, to `share` what is computed from them."""
        rows = {role: rows_hash(list(self.sets.train[role].rows)) for role in stream.split("+")}
        return {"rows": rows, **self.cfg.model_dump(include={"max_seq_length", "loss_on"})}

    def micro_batch(self, stream: str, rows: list[int]) -> Batch:
        """The given rows of a stream, padded, on the device; override it to put more into a batch."""
        return collate(self.sets.union(stream), rows, pad_id(self.tokenizer), self.accelerator.device)

    def batches(self, stream: str) -> Iterator[Batch]:
        """Every training row of a stream once, in batches of similar length, for preparations."""
        for rows in by_length(self.sets.union(stream).lengths, self.memory.eval_batch_size):
            yield self.micro_batch(stream, rows)

    def passes(self, compute: Callable[[], T]) -> T:
        """What `compute` gives, which runs the model over many `batches` without gradients.

        It ends at the next batch when the trial is to stop, and is called again when memory runs out (`auto_batch`).
        """
        step = self.progress.step
        with self.stop.ends_passes(self.model, step):
            return self.memory.passes(compute, step)

    def log(self, name: str, total: Tensor | float, count: Tensor | float = 1) -> None:
        """Log a metric as a sum over `count` things; results.json gets the mean since the last reading."""
        self.progress.log(name, total, count)

    def _encode(self, role: str, rows: list[Row]) -> TokenRows:
        encoder = RowEncoder(self.tokenizer, self.cfg.max_seq_length, self.cfg.loss_on)
        return encoder.encode(rows, f"data.{role}", self._places.place(role), self.share.file)

    # -- public interface ------------------------------------------------------------------------------------------

    def train(self) -> TrainingRecord:
        """Train from the newest checkpoint, or from the start; evaluate before, after each epoch and at the end.

        Raises:
            TrialDiverged: a loss became NaN or infinite.
            TrialStopped: it was asked to stop; what was trained is in a checkpoint.
        """
        with keep_global_rng():
            Course(self, self._checkpoints).run()
        return self.record

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Every metric on every evaluation set, set -> metric -> value, of the model as it is now."""
        measured, _ = self.evaluations.judged(self.evaluations.now(), self.progress.step)
        return {name: dict(of["values"]) for name, of in measured.items()}

    def save_model(self, folder: str | Path) -> None:
        """Write the finished model and the tokenizer in the ordinary Hugging Face format.

        An adapter, as `save_adapter` does; or a whole model, where all of it was trained or with `save_merged`.
        """
        if self.cfg.save_merged and isinstance(self.model, PeftModel):
            saving.save_merged(self.model, self.tokenizer, Path(folder))
        else:
            self.save_adapter(folder)

    def save_adapter(self, folder: str | Path) -> None:
        """Write what was trained; override it where that is more than one adapter of the start model."""
        saving.save_model(self.model, self.tokenizer, Path(folder))

    def close(self) -> None:
        """Give a model this trainer loaded itself back to the cache; the trainer is of no more use."""
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)  # after an exception the base is not reused

    def main_phase(self) -> Phase:
        """The training itself, after `prepare`."""
        phase = Phase(
            self,
            "train",
            self.terms(),
            epochs=self.cfg.epochs,
            max_steps=self.cfg.max_steps,
            checkpoints=self._checkpoints,
            transform_gradients=self.transform_gradients,
            after_optimizer_step=self.after_optimizer_step,
        )
        self.num_steps = phase.job.num_steps
        return phase

    def record_evaluation(self, step: int, epoch: float, version: str = "") -> None:
        """Evaluate the model as it is, and publish it; `version` names weights that are not those of `step`."""
        start = time.monotonic()
        measured = self.evaluations.now() if step or version else self.evaluations.base()
        results = self.evaluations.record(measured, step, epoch, version)
        self.add_time("eval_s", start)
        self._on_evaluation()
        check_finite({f"{name}/{m}": v for name, by_metric in results.items() for m, v in by_metric.items()}, step)

    def add_time(self, name: str, since: float) -> None:
        """Add the seconds since a reading of the monotonic clock to a timing of the record."""
        self.record.timings[name] = self.record.timings.get(name, 0.0) + time.monotonic() - since
