"""Directions of alignment: average gradients of throw-away trainings, and the planes made of them."""

from __future__ import annotations

import contextlib
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
from selgen_ray.data.sets import micro_batch_size
from selgen_ray.data.streams import steps_per_epoch
from selgen_ray.errors import DataError
from selgen_ray.seeding import split_indices
from selgen_ray.storage import Folder
from selgen_ray.trainers.base import BaseTrainer
from selgen_ray.trainers.engine import ranks
from selgen_ray.trainers.engine.checkpoints import Checkpoints
from selgen_ray.trainers.engine.course import PhaseCourse
from selgen_ray.trainers.engine.loop import MAIN, GradMap
from selgen_ray.trainers.engine.phases import Phase
from selgen_ray.trainers.gradients import added, scaled
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


def throw_away_training(trainer: BaseTrainer, role: str, epochs: int) -> ThrowAway:
    """Train on one role from the run's initial weights, then put these back; the trials of a sweep share the result.

    Where the sweep has a cache, it saves a checkpoint every `save_steps` optimizer steps.

    Args:
        role: whose cross-entropy is minimised, such as 'proxy'.
        epochs: passes over its training rows.

    Raises:
        TrialDiverged: a loss became NaN or infinite.
        TrialStopped: the trial was asked to stop.
    """
    base = {k: v for k, v in trainer.cfg.model_dump().items() if k in FinetuneConfig.model_fields.keys() - _OF_THE_RUN}
    key = trainer.data_key(role) | {"config": identity(FinetuneConfig.model_validate(base))}
    key |= {"role": role, "epochs": epochs, **trainer.config.model_dump(include={"data_seed", "model_seed"})}
    if trainer.config.num_workers > 1:
        key["num_workers"] = trainer.config.num_workers
    parts = ("gradient", "weights")
    tensors = trainer.share.tensors("throw_away_trainings", key, lambda work: _train(trainer, role, epochs, work))
    # in the order of the parameters, not of the cache: rounding of sums depends on it
    return ThrowAway(*({name: tensors[f"{part}:{name}"] for name in trainer.parameters} for part in parts))


def _train(trainer: BaseTrainer, role: str, epochs: int, work: Folder | None) -> dict[str, Tensor]:
    sums = {name: torch.zeros_like(p, requires_grad=False) for name, p in trainer.parameters.items()}

    def add(by_slot: dict[str, GradMap], step: int) -> GradMap:
        for name, gradient in by_slot[MAIN].items():
            sums[name] += gradient
        return by_slot[MAIN]

    phase = Phase(
        trainer.run,
        trainer.micro_batch,
        f"preparing on {role}",
        [trainer.cross_entropy_term(role)],
        epochs=epochs,
        transform_gradients=add,
        state=sums,
    )
    checkpoints = Checkpoints(work / "checkpoints", 1, trainer.run.callbacks.on_event) if work else None
    with _throw_away(trainer):
        PhaseCourse(trainer.run, phase, checkpoints).to_the_end()
        weights = {f"weights:{name}": p.detach().clone() for name, p in trainer.parameters.items()}
    return weights | {f"gradient:{name}": total / phase.job.num_steps for name, total in sums.items()}


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


def check_phase(config: TrialConfig, roles: Mapping[str, Sequence[Row]], role: str) -> None:
    """Check, before any trial starts, that a throw-away training on a role gives a direction.

    Raises:
        DataError: the role is missing; or LoRA would be trained for a single step, in which B = 0 makes the gradient
            of every A exactly zero.
    """
    if not roles.get(role):
        raise DataError(f"proxy_strategy {config.proxy_strategy} needs data.{role}, which was not given")
    cfg = config.finetune_config
    train, _ = split_indices(len(roles[role]), cfg.train_split, config.data_seed)
    epochs = getattr(cfg, "proxy_epochs", 1)
    num_micro = cfg.gradient_accumulation_steps * config.num_workers
    steps = epochs * steps_per_epoch(len(train), micro_batch_size(cfg, role), num_micro)
    if cfg.is_peft and not cfg.adapter and steps < 2:
        raise DataError(
            f"proxy_strategy {config.proxy_strategy}: {epochs} epoch over the {len(train)} training rows of {role} is "
            "one step, which gives no gradient to LoRA's A: raise finetune_config.proxy_epochs or lower "
            "finetune_config.proxy_batch_size"
        )


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
        for side in sides:
            check_phase(config, roles, side)

    def plane(self) -> GradMap:
        """Return V, read from a file or computed.

        Raises:
            DataError: the file's tensors are not those of this model.
            TrialDiverged: a loss of a throw-away training became NaN or infinite.
        """
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
