"""Step checkpoints: everything a run needs to go on as if it had never stopped."""

from __future__ import annotations

import io
import json
import logging
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from selgen_ray.storage import Folder
from selgen_ray.trainers.loop import Job, Progress

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A restored checkpoint.

    Attributes:
        step: optimizer steps finished.
        weights: the trainable tensors by name, on the CPU.
        optimizer: state dicts of optimizer and scheduler, and the loop's running sums.
        state: what else was saved, plain JSON.
    """

    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    state: dict[str, Any]


class Checkpoints:
    """The checkpoints of one trial in `folder`, the newest `keep` of them.

    Each is published as one bundle, so a crash while saving costs that checkpoint only.
    """

    def __init__(self, folder: Folder, keep: int):
        self.folder = folder
        self.keep = keep

    def save(self, checkpoint: Checkpoint) -> None:
        """Publish a checkpoint, then drop the oldest ones."""
        place = self.folder / f"step_{checkpoint.step:08d}"
        buffer = io.BytesIO()
        torch.save(checkpoint.optimizer, buffer)
        weights = {name: tensor.detach().contiguous().cpu() for name, tensor in checkpoint.weights.items()}
        files = {
            "weights.safetensors": safetensors.torch.save(weights),
            "optimizer.pt": buffer.getvalue(),
            "state.json": json.dumps({"step": checkpoint.step, **checkpoint.state}).encode(),
        }
        place.publish(files)
        for old in self.folder.folders()[: -self.keep]:
            (self.folder / old).delete()

    def newest(self) -> Checkpoint | None:
        """The newest whole checkpoint, or None; broken ones are passed over with a warning."""
        for name in reversed(self.folder.folders()):
            try:
                return _read(self.folder / name)
            except (OSError, ValueError) as error:
                logger.warning("checkpoint %s cannot be used, trying the one before: %s", name, error)
        return None

    def delete(self) -> None:
        """Remove all checkpoints, once the result is published."""
        self.folder.delete()


def _read(place: Folder) -> Checkpoint:
    files = place.read_published()
    state = json.loads(files["state.json"])
    return Checkpoint(
        step=state.pop("step"),
        weights=safetensors.torch.load(files["weights.safetensors"]),
        optimizer=torch.load(io.BytesIO(files["optimizer.pt"]), map_location="cpu", weights_only=True),
        state=state,
    )


def capture(job: Job, progress: Progress, state: dict[str, Any]) -> Checkpoint:
    """A checkpoint of a running job: weights, optimizer, schedule, hooks' state, sums since the last reading.

    No RNG state: every random number is derived from the step. No data position: streams are functions of it.
    """
    moving = {
        "optimizer": job.optimizer.state_dict(),
        "scheduler": job.scheduler.state_dict(),
        "sums": dict(progress.sums),
        "steps_summed": progress.steps_summed,
        "metrics": dict(progress.metrics),
        "job": dict(job.state),
        "tokens": [progress.tokens_processed, progress.tokens_scored],
    }
    return Checkpoint(progress.step, {n: p.detach() for n, p in job.parameters.items()}, moving, state)


def restore(checkpoint: Checkpoint, job: Job) -> Progress:
    """Put a checkpoint back into a freshly built job; returns where it stands."""
    moving = checkpoint.optimizer
    with torch.no_grad():
        for name, parameter in job.parameters.items():
            parameter.copy_(checkpoint.weights[name])
        for name, tensor in job.state.items():
            tensor.copy_(moving["job"][name])
    job.optimizer.load_state_dict(moving["optimizer"])
    job.scheduler.load_state_dict(moving["scheduler"])
    device = job.accelerator.device
    sums, metrics = ({n: v.to(device) for n, v in moving[key].items()} for key in ("sums", "metrics"))
    processed, scored = moving["tokens"]
    return Progress(checkpoint.step, processed, scored, sums, moving["steps_summed"], metrics)
