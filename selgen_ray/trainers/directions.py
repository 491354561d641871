"""Directions of alignment: average gradients of throw-away trainings, and the planes made of them."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from torch import Tensor

from selgen_ray.config.finetune import FinetuneConfig
from selgen_ray.config.trial import TrialConfig, identity
from selgen_ray.data.forms import Row
from selgen_ray.data.rows import proxy_share
from selgen_ray.data.sets import micro_batch_size, trained_rows
from selgen_ray.data.streams import steps_per_epoch
from selgen_ray.errors import DataError
from selgen_ray.storage import Folder
from selgen_ray.trainers.base import BaseTrainer
from selgen_ray.trainers.engine import ranks
from selgen_ray.trainers.engine.checkpoints import Checkpoints
from selgen_ray.trainers.engine.course import PhaseCourse
from selgen_ray.trainers.engine.loop import MAIN, GradMap
from selgen_ray.trainers.engine.optim import schedule
from selgen_ray.trainers.engine.phases import Phase
from selgen_ray.trainers.gradients import added, norm, scaled
from selgen_ray.trainers.registry import knob

PROXY_EPOCHS = knob(1, "passes of the throw-away training on the proxy", ge=1)

# keys left out of the cache key: they change nothing in a throw-away training, or are covered by the hashes of rows
# and start model. All others, also those of later versions, are part of it
_OF_THE_RUN = {"epochs", "max_steps", "max_to_eval", "max_new_tokens", "train_split"} | {
    *("model", "model_revision", "adapter", "adapter_revision"),  # of the start model
}


@dataclass(frozen=True)
class ThrowAway:
    """Result of a throw-away training; both map the name of a trainable tensor to a tensor of its shape.

    Attributes:
        gradient: the average of the gradients of all steps, before clipping.
        weights: the weights at its end.
    """

    gradient: GradMap
    weights: dict[str, Tensor]


def throw_away_training(
    trainer: BaseTrainer, role: str, epochs: int, learning_rate: float | None = None, key: str = "proxy_epochs"
) -> ThrowAway:
    """Train on one role from the run's initial weights, then put these back; the trials of a sweep share the result.

    Its schedule is the run's over its own steps; one that ends before its peak is flagged. Where the sweep has a cache,
    it saves a checkpoint every `save_steps` optimizer steps.

    Args:
        role: whose cross-entropy is minimised, such as 'proxy'.
        epochs: passes over its training rows.
        learning_rate: its peak; default: the run's.
        key: the key of `finetune_config` with its epochs.

    Raises:
        TrialDiverged: a loss became NaN or infinite.
        TrialStopped: the trial was asked to stop.
    """
    steps = epochs * trainer.sets.streams([role], _phase_name(role))[role].steps_per_epoch
    if why := _peak_note(trainer.cfg, role, steps, key):
        trainer.run.flag("peak_not_reached", why)
    cache_key = throw_away_key(trainer, role, epochs, learning_rate)
    compute = functools.partial(_train, trainer, role, epochs, learning_rate)
    tensors = trainer.share.tensors("throw_away_trainings", cache_key, compute)
    # in the order of the parameters, not of the cache: rounding of sums depends on it
    parts = ("gradient", "weights")
    return ThrowAway(*({name: tensors[f"{part}:{name}"] for name in trainer.parameters} for part in parts))


def throw_away_key(trainer: BaseTrainer, role: str, epochs: int, learning_rate: float | None = None) -> dict[str, Any]:
    """Return a key for `share` that covers everything that a throw-away training depends on."""
    base = {k: v for k, v in trainer.cfg.model_dump().items() if k in FinetuneConfig.model_fields.keys() - _OF_THE_RUN}
    base |= {} if learning_rate is None else {"learning_rate": learning_rate}
    key = trainer.data_key(role) | {"config": identity(FinetuneConfig.model_validate(base))}
    key |= {"role": role, "epochs": epochs, **trainer.config.model_dump(include={"data_seed", "model_seed"})}
    if trainer.config.num_workers > 1:
        key["num_workers"] = trainer.config.num_workers
    return key


def _phase_name(role: str) -> str:
    return f"preparing on {role}"


def _train(
    trainer: BaseTrainer, role: str, epochs: int, learning_rate: float | None, work: Folder | None
) -> dict[str, Tensor]:
    sums = {name: torch.zeros_like(p, requires_grad=False) for name, p in trainer.parameters.items()}

    def add(by_slot: dict[str, GradMap], step: int) -> GradMap:
        for name, gradient in by_slot[MAIN].items():
            sums[name] += gradient
        return by_slot[MAIN]

    phase = Phase(
        trainer.run,
        trainer.micro_batch,
        _phase_name(role),
        [trainer.cross_entropy_term(role)],
        epochs=epochs,
        learning_rate=learning_rate,
        transform_gradients=add,
        state=sums,
    )
    checkpoints = Checkpoints(work / "checkpoints", 1, trainer.run.callbacks.on_event) if work else None
    with _throw_away(trainer):
        PhaseCourse(trainer.run, phase, checkpoints).to_the_end()
        weights = {f"weights:{name}": p.detach().clone() for name, p in trainer.parameters.items()}
    return weights | {f"gradient:{name}": total / phase.job.num_steps for name, total in sums.items()}


@contextlib.contextmanager
def with_weights(trainer: BaseTrainer, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Give the trainable tensors other values inside the context, such as those after a throw-away training."""
    with _throw_away(trainer):
        with torch.no_grad():
            for name, parameter in trainer.parameters.items():
                parameter.copy_(weights[name])
        yield


@contextlib.contextmanager
def _throw_away(trainer: BaseTrainer) -> Iterator[None]:
    """Restore the trainable tensors on leaving the context."""
    before = {name: p.detach().clone() for name, p in trainer.parameters.items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, parameter in trainer.parameters.items():
                parameter.copy_(before[name])


Wanted = Literal["gradient", "weights", "product"]
"""Which part of a throw-away training is used: its gradient; the move of each tensor; that of LoRA's product B A."""


def check_phase(
    config: TrialConfig,
    roles: Mapping[str, Sequence[Row]],
    role: str,
    wanted: Wanted = "gradient",
    key: str = "proxy_epochs",
) -> None:
    """Refuse a throw-away training that gives no direction, by the steps that have a learning rate.

    A new LoRA has B = 0, which makes the gradient of every A exactly zero until an update of B.

    Args:
        key: the key of `finetune_config` with its epochs.

    Raises:
        DataError: the role is missing; or the steps of the training, on the rows that all limits leave, update too
            little.
    """
    if not roles.get(role):
        raise DataError(f"proxy_strategy {config.proxy_strategy} needs data.{role}, which was not given")
    cfg = config.finetune_config
    rows, steps = _steps(config, roles, role, key)
    rates = schedule(cfg, steps)
    new_lora = cfg.is_peft and not cfg.adapter
    # the gradient of a step is that of the weights before its update
    updates = sum(rate > 0 for rate in (rates[:-1] if wanted == "gradient" else rates))
    needed = {"gradient": int(new_lora), "weights": 1 + new_lora, "product": 1}[wanted]
    if updates >= needed:
        return
    num_epochs = _count(getattr(cfg, key, 1), "epoch")
    number = "one step" if steps == 1 else f"{steps} steps"
    is_limited = role.startswith("proxy") and config.limit_proxy_data_to is not None
    limit = f" (limit_proxy_data_to: {config.limit_proxy_data_to})" if is_limited else ""
    warmup = _warmup(cfg) if not all(rates) else ""
    which = f", of which {warmup} leaves {sum(rate > 0 for rate in rates)} with a learning rate" if warmup else ""
    batch = "per_device_train_batch_size" if role == "outcome" else "proxy_batch_size"
    what = "which gives no gradient to LoRA's A" if new_lora and wanted != "product" else "which changes no weight"
    lower = f", finetune_config.{warmup.partition(':')[0]}" if warmup else ""
    raise DataError(
        f"proxy_strategy {config.proxy_strategy}: {num_epochs} over the {rows} training rows of {role}{limit} is "
        f"{number}{which}, {what}: raise finetune_config.{key}, or lower finetune_config.{batch}{lower}"
    )


def peak_notes(
    config: TrialConfig, roles: Mapping[str, Sequence[Row]], names: Sequence[str], key: str = "proxy_epochs"
) -> list[str]:
    """Return a sentence for each of the named roles on which a throw-away training never reaches its peak rate."""
    epochs_of = {role: _steps(config, roles, role, key)[1] for role in names if roles.get(role)}
    notes = (_peak_note(config.finetune_config, role, steps, key) for role, steps in epochs_of.items())
    return [note for note in notes if note]


def _steps(config: TrialConfig, roles: Mapping[str, Sequence[Row]], role: str, key: str) -> tuple[int, int]:
    """(rows that a throw-away training sees in an epoch, its optimizer steps)."""
    cfg = config.finetune_config
    sizes = {name: len(rows) for name, rows in roles.items()}
    rows = len(trained_rows(role, sizes, cfg.train_split, config.data_seed, proxy_share(config)))
    num_micro = cfg.gradient_accumulation_steps * config.num_workers
    return rows, getattr(cfg, key, 1) * steps_per_epoch(rows, micro_batch_size(cfg, role), num_micro)


def _peak_note(cfg: FinetuneConfig, role: str, steps: int, key: str) -> str | None:
    highest = max(schedule(cfg, steps))
    if highest > 1 - 1e-6:
        return None
    return (
        f"the throw-away training on {role} has {_count(steps, 'step')} and ends in its warm-up ({_warmup(cfg)}), at "
        f"{highest:.2g} of the learning rate at most: its direction is that of a model that hardly moved. Raise "
        f"finetune_config.{key}, or lower finetune_config.{_warmup(cfg).partition(':')[0]}"
    )


def _warmup(cfg: FinetuneConfig) -> str:
    return f"warmup_steps: {cfg.warmup_steps}" if cfg.warmup_steps else f"warmup_ratio: {cfg.warmup_ratio:g}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def zero_share(direction: GradMap, what: str) -> float:
    """Return the share of a direction's tensors that are zero in every element.

    Args:
        direction: the tensors that the strategy uses.
        what: names it in the message.

    Raises:
        DataError: all of them are, so that the strategy would do nothing; or an element is NaN or infinite.
    """
    broken = [name for name, tensor in direction.items() if not bool(tensor.isfinite().all())]
    if broken:
        raise DataError(f"{what}: {len(broken)} of {len(direction)} tensors hold NaN or infinity, first {broken[0]}")
    zero = [name for name, tensor in direction.items() if not bool(tensor.any())]
    if len(zero) == len(direction):
        raise DataError(
            f"{what}: each of its {len(direction)} tensors that are used is zero, so that the strategy would do nothing"
        )
    return len(zero) / len(direction)


class PlaneTrainer(BaseTrainer):
    """Base class of the strategies that use the alignment plane V, one tensor for each trainable tensor.

    V = g(positive_proxy) - g(negative_proxy), where g is the average gradient of a throw-away training of
    `proxy_epochs`. V points up the proxy's loss. A side without data is left out.
    """

    proxy_epochs: int = PROXY_EPOCHS
    positive_proxy: Literal["proxy", "proxy_neg", "outcome"] | None = knob("proxy", "the side V subtracts from")
    negative_proxy: Literal["proxy", "proxy_neg", "outcome"] | None = knob("proxy_neg", "the side V subtracts")
    add_proxy_gradients: bool = knob(False, "V is the sum of the two sides")
    calc_alignment_plane_using_fully_finetuned_weights: bool = knob(
        False, "V = weights after negative_proxy - weights after positive_proxy, with the norms of the gradients' V"
    )
    load_steering_vector: bool = knob(False, "read V from steering_vector_path instead of computing it")
    save_steering_vector: bool = knob(
        False, "also write V beside steering_vector_path, its hash appended", identity=False
    )
    steering_vector_path: str | None = knob(
        None, "safetensors or .pt file: name of the trainable tensor -> V", file=True, identity=False
    )

    @classmethod
    def check(cls, config: TrialConfig) -> None:
        """Raise ValueError if the keys of the plane do not go together."""
        cfg: Any = config.finetune_config
        side, sums = cfg.positive_proxy, cfg.add_proxy_gradients
        if not cfg.load_steering_vector and side == cfg.negative_proxy and not (side and sums):
            raise ValueError(f"positive_proxy and negative_proxy are both {side!r}: V would be zero")
        if cfg.load_steering_vector and cfg.save_steering_vector:
            raise ValueError(
                "load_steering_vector and save_steering_vector are both true: keep one. What a sweep computes, its "
                "trials share by content anyway"
            )
        if (cfg.load_steering_vector or cfg.save_steering_vector) and not cfg.steering_vector_path:
            which = "load" if cfg.load_steering_vector else "save"
            raise ValueError(f"{which}_steering_vector: true needs steering_vector_path")

    @classmethod
    def input_files(cls, config: TrialConfig) -> dict[str, str]:
        """Return the file of V, where the user gives one."""
        cfg: Any = config.finetune_config
        return {"finetune_config.steering_vector_path": cfg.steering_vector_path} if cfg.load_steering_vector else {}

    @classmethod
    def check_rows(cls, config: TrialConfig, roles: Mapping[str, Sequence[Row]]) -> None:
        """Raises DataError: a role is missing, or too small for a direction."""
        super().check_rows(config, roles)
        cfg: Any = config.finetune_config
        if cfg.load_steering_vector:
            return
        sides = [side for side in (cfg.positive_proxy, cfg.negative_proxy) if side and roles.get(side)]
        if not sides:
            named = " or ".join(f"data.{side}" for side in (cfg.positive_proxy, cfg.negative_proxy) if side)
            raise DataError(f"proxy_strategy {cls.proxy_strategy_name} needs {named}, which was not given")
        wanted = "weights" if cfg.calc_alignment_plane_using_fully_finetuned_weights else "gradient"
        for side in sides:
            check_phase(config, roles, side, wanted)

    @classmethod
    def row_notes(cls, config: TrialConfig, roles: Mapping[str, Sequence[Row]]) -> list[str]:
        """Name the sides on which a throw-away training never reaches its peak rate."""
        cfg: Any = config.finetune_config
        sides = [] if cfg.load_steering_vector else dict.fromkeys((cfg.positive_proxy, cfg.negative_proxy))
        return super().row_notes(config, roles) + peak_notes(config, roles, [side for side in sides if side])

    def plane(self) -> GradMap:
        """Return V, read from a file or computed.

        Raises:
            DataError: the file's tensors are not those of this model; or V is zero in every tensor that is used.
            TrialDiverged: the throw-away training did.
        """
        plane = self._plane()
        path = f" of steering_vector_path {self.steering_vector_path}" if self.load_steering_vector else ""
        used = {name: tensor for name, tensor in plane.items() if self.uses(name)}
        self.plane_zero_share = zero_share(used, f"the alignment plane V{path}")
        return plane

    def uses(self, name: str) -> bool:
        """Return whether V's part at a trainable tensor is used."""
        return True

    def plane_metrics(self, plane: GradMap) -> dict[str, Tensor | float]:
        """Return the norm of what is used of V, and the share of its tensors that are zero where some are."""
        share = self.plane_zero_share
        return {"plane_norm": norm(plane)} | ({"plane_zero_share": share} if share else {})

    def _plane(self) -> GradMap:
        if self.load_steering_vector:
            return read_plane(str(self.steering_vector_path), self.parameters)
        plane = self._computed_plane()
        if self.save_steering_vector and ranks.is_main():
            write_plane(str(self.steering_vector_path), plane)
        return plane

    def _computed_plane(self) -> GradMap:
        signs = {self.positive_proxy: 1.0, self.negative_proxy: 1.0 if self.add_proxy_gradients else -1.0}
        if self.positive_proxy == self.negative_proxy:
            signs = {self.positive_proxy: 2.0}
        plane: GradMap = {}
        moved: GradMap = {}
        for role, sign in signs.items():
            if role and self.has(role):
                training = throw_away_training(self, role, self.proxy_epochs)
                plane = added(plane, scaled(training.gradient, sign))
                # training walks down the gradient, so start - end points up, as V does
                moved = added(moved, {n: sign * (p.detach() - training.weights[n]) for n, p in self.parameters.items()})
        if not self.calc_alignment_plane_using_fully_finetuned_weights:
            return plane
        sizes = {name: tensor.norm() for name, tensor in moved.items()}
        return {n: torch.where(sizes[n] > 0, t * (plane[n].norm() / sizes[n]), 0.0) for n, t in moved.items()}


def read_plane(path: str, parameters: Mapping[str, Tensor]) -> GradMap:
    """Read name -> tensor from a file, each on the device and in the type of the parameter of that name.

    Raises:
        DataError: the file cannot be read, or a name or shape is not that of a trainable tensor.
    """
    try:
        tensors = safetensors.torch.load_file(path) if path.endswith(".safetensors") else _load_pt(path)
    except Exception as error:
        raise DataError(f"steering_vector_path {path}: cannot be read: {error}") from error
    shapes = {name: tuple(p.shape) for name, p in parameters.items()}
    given_shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = [name for name in sorted(given_shapes.keys() | shapes.keys()) if given_shapes.get(name) != shapes.get(name)]
    if wrong:
        raise DataError(
            f"steering_vector_path {path}: {len(wrong)} tensors do not fit the trainable ones, first {wrong[0]}: the "
            f"file has {given_shapes.get(wrong[0], 'nothing')}, the model {shapes.get(wrong[0], 'nothing')}"
        )
    return {name: tensors[name].to(p) for name, p in parameters.items()}


def _load_pt(path: str) -> dict[str, Tensor]:
    return torch.load(path, map_location="cpu", weights_only=True)


def write_plane(path: str, plane: GradMap) -> None:
    """Write V as safetensors beside `path`, '-<hash of its content>' appended to the name: seeds have different planes.

    Raises:
        StorageError: the file cannot be written.
    """
    content = safetensors.torch.save({name: t.detach().contiguous().cpu() for name, t in plane.items()})
    target = Path(path)
    name = f"{target.stem}-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
    Folder(str(target.parent)).write(name, content)


@torch.no_grad()
def add_in_place(parameters: dict[str, torch.nn.Parameter], direction: GradMap, factor: float) -> None:
    """Set theta <- theta + factor * direction."""
    for name, tensor in direction.items():
        parameters[name].add_(tensor, alpha=factor)
