"""BaseTrainer: the public interface of every strategy, and the hooks a strategy overrides."""

from __future__ import annotations

import functools
import inspect
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, get_type_hints

import torch
from accelerate import Accelerator
from pydantic.fields import FieldInfo
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from selgen_ray import evals, models
from selgen_ray.config import TrialConfig
from selgen_ray.data.encode import Batch, Encoded, collate, pad_id
from selgen_ray.data.rows import Row, load_roles
from selgen_ray.data.sets import Sets
from selgen_ray.errors import DataError
from selgen_ray.results import TrainingRecord
from selgen_ray.seeding import keep_global_rng
from selgen_ray.trainers import optim, registry
from selgen_ray.trainers.checkpoints import Checkpoints, capture, restore
from selgen_ray.trainers.loop import MAIN, GradMap, Job, Progress, Term, check_finite, fit, weighted
from selgen_ray.trainers.losses import cross_entropy

Edit = Callable[[dict[str, nn.Parameter]], None]


class BaseTrainer:
    """A strategy: subclass, set `proxy_strategy_name`, override as few hooks as the formula needs.

    Knobs are class attributes declared with `knob`; they become keys of `finetune_config` and attributes here.

    Args:
        config: a trial config of this strategy, or the nested dict of one.
        model, tokenizer, datasets: default: loaded as the config says; `datasets` maps a role to its rows.
        checkpoints: where to save and look for step checkpoints; default: nowhere.
        on_progress: called with a dict of readable numbers every `logging_steps`.
        on_evaluation: called after each evaluation, when `record` has it.

    Raises:
        DataError: a role this strategy needs is missing, or its rows cannot be used.
        ModelError: the model cannot be loaded. pydantic.ValidationError: a wrong config.
    """

    proxy_strategy_name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    required_roles: ClassVar[tuple[str, ...]] = ("outcome",)

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if "proxy_strategy_name" in vars(cls):
            cls.knobs()  # a knob without a type is found here
            registry.register(cls)

    @classmethod
    def knobs(cls) -> dict[str, tuple[Any, FieldInfo]]:
        """Name -> (type, field) of the strategy's knobs, inherited ones first. Raises TypeError: one has no type."""
        found: dict[str, tuple[Any, FieldInfo]] = {}
        for owner in reversed(cls.__mro__):
            fields = {k: v for k, v in vars(owner).items() if isinstance(v, FieldInfo)}
            annotations = {k: v for k, v in inspect.get_annotations(owner).items() if k in fields}
            if untyped := fields.keys() - annotations.keys():
                raise TypeError(f"{owner.__name__}.{min(untyped)}: write its type, as in `x: float = knob(...)`")
            space = getattr(sys.modules.get(owner.__module__), "__dict__", {})
            hints = get_type_hints(SimpleNamespace(__annotations__=annotations), globalns=space)
            found |= {k: (hints[k], v) for k, v in fields.items()}
        return found

    def __init__(
        self,
        config: TrialConfig | dict[str, Any],
        model: models.Model | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        datasets: dict[str, list[Row]] | None = None,
        *,
        checkpoints: Checkpoints | None = None,
        on_progress: Callable[[dict[str, Any]], None] = lambda _: None,
        on_evaluation: Callable[[], None] = lambda: None,
    ):
        raw = config.model_dump() if isinstance(config, TrialConfig) else config
        self.config = registry.build_config({**raw, "proxy_strategy": self.proxy_strategy_name})
        self.cfg = self.config.finetune_config
        for name in self.knobs():
            setattr(self, name, getattr(self.cfg if hasattr(self.cfg, name) else self.config, name))
        roles = load_roles(self.config) if datasets is None else datasets
        for role in self.required_roles:
            if not roles.get(role):
                raise DataError(f"proxy_strategy {self.proxy_strategy_name} needs data.{role}, which was not given")
        self.tokenizer = models.load_tokenizer(self.cfg) if tokenizer is None else tokenizer
        self.sets = Sets(roles, self.tokenizer, self.cfg, self.config.data_seed)
        self.accelerator = accelerator()
        self._open = ExitStack()
        if model is None:
            context = models.trainable_model(self.cfg, self.config.model_seed, str(self.accelerator.device))
            model = self._open.enter_context(context)
        self.model = model
        self.parameters = models.trainable_parameters(model)
        self.record = TrainingRecord()
        self.num_resumes = 0
        self._checkpoints = checkpoints
        self._on_progress = on_progress
        self._on_evaluation = on_evaluation
        self._last_log = (time.monotonic(), 0)

    # -- hooks -----------------------------------------------------------------------------------------------------

    def _compute_loss(self, batch: Batch) -> Tensor:
        """Mean loss of an outcome micro-batch: the simplest hook. Default: cross-entropy of the scored tokens."""
        return cross_entropy(self.logits(batch), batch.targets, batch.scored) / batch.num_scored

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

    def cross_entropy_term(self, stream: str, weight: float = 1.0) -> Term:
        """Mean cross-entropy over the scored tokens of a stream, logged under the stream's name."""
        return Term(stream, weight, stream, lambda b: cross_entropy(self.logits(b), b.targets, b.scored))

    def batches(self, role: str) -> Iterator[Batch]:
        """Every training row of a role once, in batches of similar length, for preparations."""
        encoded = self.sets.union(role)
        for rows in evals.by_length([len(e) for e in encoded], self.cfg.per_device_eval_batch_size):
            yield self._collate(encoded, rows)

    def _collate(self, encoded: list[Encoded], rows: list[int]) -> Batch:
        return collate(encoded, rows, pad_id(self.tokenizer), self.accelerator.device)

    # -- public interface ------------------------------------------------------------------------------------------

    def train(self) -> TrainingRecord:
        """Train from the newest checkpoint, or from the start; evaluate before, after each epoch and at the end.

        Raises:
            TrialDiverged: a loss became NaN or infinite.
        """
        with keep_global_rng():
            start = time.monotonic()
            self.prepare()
            self._add_time("prepare_s", start)
            job, epoch_steps = self._job()
            progress = self._restore(job)
            self._last_log = (time.monotonic(), progress.tokens_processed)
            if not self.record.eval_epochs:
                self._record_evaluation(0, 0.0)
            fit(job, progress, functools.partial(self._after_step, job, epoch_steps))
            self._evaluate_edits(job.num_steps, job.num_steps / epoch_steps)
        return self.record

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Every metric on every evaluation set, set -> metric -> value, of the model as it is now."""
        results: dict[int, dict[str, float]] = {}
        for name, rows in self.sets.evals.items():
            if id(rows) not in results:  # two names may be one set
                results[id(rows)] = evals.evaluate(self._eval_set(name))
        return {name: results[id(rows)] for name, rows in self.sets.evals.items()}

    def save_model(self, folder: str | Path) -> None:
        """Write the adapter (or the whole model) and the tokenizer in the ordinary Hugging Face format."""
        models.save_model(self.model, self.tokenizer, Path(folder))

    def close(self) -> None:
        """Give a model this trainer loaded itself back to the cache; the trainer is of no more use."""
        self._open.close()

    # -- the parts of train() --------------------------------------------------------------------------------------

    def _job(self) -> tuple[Job, int]:
        terms = weighted(self.terms())  # so that strength zero is the plain sibling
        names = list(dict.fromkeys(term.stream for term in terms if term.stream))
        streams = self.sets.streams(names, "train")
        encoded = {name: self.sets.union(name) for name in names}
        epoch_steps = streams[names[0]].steps_per_epoch
        num_steps = self.cfg.max_steps or self.cfg.epochs * epoch_steps
        optimizer = optim.build_optimizer(list(self.parameters.values()), self.cfg)
        job = Job(
            phase="train",
            model=self.model,
            parameters=self.parameters,
            terms=terms,
            micro_batches=lambda s, step: [self._collate(encoded[s], rows) for rows in streams[s].step(step)],
            num_steps=num_steps,
            optimizer=optimizer,
            scheduler=optim.build_scheduler(optimizer, self.cfg, num_steps),
            accelerator=self.accelerator,
            seed=self.config.model_seed,
            transform_gradients=self.transform_gradients,
            after_optimizer_step=self.after_optimizer_step,
            max_grad_norm=self.cfg.max_grad_norm,
        )
        return job, epoch_steps

    def _after_step(self, job: Job, epoch_steps: int, progress: Progress) -> None:
        step, last = progress.step, progress.step == job.num_steps
        epoch_ends = step % epoch_steps == 0
        if step % self.cfg.logging_steps == 0 or epoch_ends or last:
            self._log(job, progress, step / epoch_steps)
        if epoch_ends or last:
            self._record_evaluation(step, step / epoch_steps)
            self._last_log = (time.monotonic(), progress.tokens_processed)  # evaluating is not training time
        if self._checkpoints and step % self.cfg.save_steps == 0 and not last:
            self._save_checkpoint(job, progress)

    def _log(self, job: Job, progress: Progress, epoch: float) -> None:
        means = progress.read()
        since, tokens = self._last_log
        seconds = time.monotonic() - since
        self._add_time("train_s", since)
        self._last_log = (time.monotonic(), progress.tokens_processed)
        self.record.tokens = {"processed": progress.tokens_processed, "scored": progress.tokens_scored}
        self.record.add_losses(progress.step, means)
        check_finite(means, progress.step)
        speed = (progress.tokens_processed - tokens) / max(seconds, 1e-9)
        self._on_progress(
            {"step": progress.step, "num_steps": job.num_steps, "epoch": epoch, "tokens_per_s": speed}
            | {"loss": means["total"], "learning_rate": job.scheduler.get_last_lr()[0]}
            | {f"loss/{name}": value for name, value in means.items() if name != "total"}
        )

    def _record_evaluation(self, step: int, epoch: float, version: str = "") -> None:
        start = time.monotonic()
        results = self.evaluate()
        self._add_time("eval_s", start)
        self.record.add_evaluation(step, epoch, version, results)
        self._on_evaluation()
        check_finite({f"{name}/{m}": v for name, by_metric in results.items() for m, v in by_metric.items()}, step)

    def _evaluate_edits(self, step: int, epoch: float) -> None:
        trained = None
        for name, edit in self.edits():
            with torch.no_grad():
                if trained is None:
                    trained = {k: p.detach().clone() for k, p in self.parameters.items()}
                for key, parameter in self.parameters.items():
                    parameter.copy_(trained[key])
                edit(self.parameters)
            self._record_evaluation(step, epoch, name)

    def _eval_set(self, name: str) -> evals.EvalSet:
        rows, cfg = self.sets.evals[name], self.cfg
        limits = (cfg.per_device_eval_batch_size, cfg.max_new_tokens, cfg.max_seq_length)
        return evals.EvalSet(self.model, self.tokenizer, rows.rows, rows.encoded, *limits)

    def _add_time(self, name: str, since: float) -> None:
        self.record.timings[name] = self.record.timings.get(name, 0.0) + time.monotonic() - since

    def _save_checkpoint(self, job: Job, progress: Progress) -> None:
        assert self._checkpoints is not None
        state = {"record": self.record.model_dump(mode="json"), "num_resumes": self.num_resumes}
        self._checkpoints.save(capture(job, progress, state))

    def _restore(self, job: Job) -> Progress:
        found = self._checkpoints.newest() if self._checkpoints else None
        if found is None:
            return Progress()
        self.record = TrainingRecord.model_validate(found.state["record"])
        self.num_resumes = found.state["num_resumes"] + 1
        return restore(found, job)


@functools.cache
def accelerator() -> Accelerator:
    """The process's Accelerator: its device, backward and reduction across workers."""
    return Accelerator(cpu=not torch.cuda.is_available())
