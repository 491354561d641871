"""Step checkpoints: everything a run needs to go on as if it had never stopped."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from selgen_ray.storage import Folder
from selgen_ray.trainers.engine import ranks
from selgen_ray.trainers.engine.loop import Job, Progress

logger = logging.getLogger(__name__)
_LAST_WRITTEN = "manifest.json"  # of a bundle; see `Folder.publish`


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
    """The checkpoints of one trial in `folder`, the newest `keep` whole ones of them.

    Each is published as one bundle, so a crash while saving costs that checkpoint only. A thread writes them, one at
    a time, while the training goes on. What it cannot write, a full disk say, is no error of the training: `on_event`
    is told, and the next checkpoint tries again.

    Args:
        folder: of the trial's checkpoints.
        keep: how many.
        on_event: called, by either thread, with {'event': 'checkpoint_failed' | 'checkpoint_unusable', 'why', 'step'}.
    """

    def __init__(self, folder: Folder, keep: int, on_event: Callable[[dict[str, Any]], None] = lambda _: None):
        self.folder = folder
        self.keep = keep
        self._on_event = on_event
        self._unusable: set[str] = set()
        self._writer: threading.Thread | None = None

    def save(self, checkpoint: Checkpoint) -> None:
        """Copy a checkpoint to the CPU's memory and let the thread publish it; waits while it writes the one before.

        Rank 0 alone does.
        """
        if not ranks.is_main():
            return
        self.flush()
        taken = snapshot(checkpoint)
        self._writer = threading.Thread(target=self._write, args=(taken,), name="checkpoint", daemon=True)
        self._writer.start()

    def flush(self) -> None:
        """Wait until the last checkpoint is written, or could not be."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None

    def _write(self, checkpoint: Checkpoint) -> None:
        place: Folder | None = None
        try:
            place = self.folder / self._free_name(checkpoint.step)
            place.publish(_files(checkpoint))
            self._unusable.discard(place.name)
        except Exception as error:
            self._tell("checkpoint_failed", f"checkpoint of step {checkpoint.step}: {error}", checkpoint.step)
            with contextlib.suppress(Exception):  # the storage may be full, or away
                if place is not None:
                    place.delete()
            return
        try:
            self._drop_old_ones()
        except OSError as error:
            logger.warning("old checkpoints stay: %s", error)

    def _free_name(self, step: int) -> str:
        """A whole checkpoint is never overwritten: a crash on the way would cost it."""
        name, taken = f"step_{step:08d}", self.folder.folders()
        return name if name not in taken else next(n for i in range(2, 100) if (n := f"{name}-{i:02d}") not in taken)

    def _drop_old_ones(self) -> None:
        files = self.folder.files(recursive=True)
        names = sorted({path.partition("/")[0] for path in files})
        whole = [name for name in names if name not in self._unusable and f"{name}/{_LAST_WRITTEN}" in files]
        for name in set(names) - set(whole[-self.keep :]):
            (self.folder / name).delete()

    def newest(self) -> Checkpoint | None:
        """The newest whole checkpoint, or None; those that cannot be used are passed over and told of.

        Rank 0 reads it for all.
        """
        return ranks.from_main(self._newest)

    def _newest(self) -> Checkpoint | None:
        names = self.folder.folders()
        for name in reversed(names):
            try:
                return _read(self.folder / name)
            except Exception as error:  # whatever is wrong with it, the one before may be good
                why = "it was not written to its end" if isinstance(error, FileNotFoundError) else str(error)
                self._unusable.add(name)
                self._tell("checkpoint_unusable", f"{name} is passed over: {why}", _step_of(name))
        if names:
            self._tell("checkpoint_unusable", "none of the checkpoints can be used: starting from the first step", 0)
        return None

    def delete(self) -> None:
        """Remove all checkpoints, once the result is published; rank 0 alone does."""
        self.flush()
        if ranks.is_main():
            self.folder.delete()

    def _tell(self, event: str, why: str, step: int) -> None:
        logger.warning("%s", why)
        self._on_event({"event": event, "why": why, "step": step})


def _step_of(name: str) -> int:
    digits = name.removeprefix("step_")[:8]
    return int(digits) if digits.isdecimal() else 0


def _files(checkpoint: Checkpoint) -> dict[str, bytes]:
    buffer = io.BytesIO()
    torch.save(checkpoint.optimizer, buffer)
    return {
        "weights.safetensors": safetensors.torch.save(checkpoint.weights),
        "optimizer.pt": buffer.getvalue(),
        "state.json": json.dumps({"step": checkpoint.step, **checkpoint.state}).encode(),
    }


def snapshot(checkpoint: Checkpoint) -> Checkpoint:
    """A copy in the CPU's memory, of which nothing changes when the training goes on."""
    return Checkpoint(checkpoint.step, *map(_copied, (checkpoint.weights, checkpoint.optimizer, checkpoint.state)))


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):  # .cpu() would give the very tensor where it lies on the CPU already
        return value.detach().to("cpu", copy=True).contiguous()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else copy.deepcopy(value)


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
        # what they have summed up, on the CPU
        "other_ranks": ranks.gathered({"sums": _copied(progress.sums), "metrics": _copied(progress.metrics)})[1:],
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
    summed_up = moving if ranks.is_main() else moving["other_ranks"][ranks.rank() - 1]
    sums, metrics = ({n: v.to(device) for n, v in summed_up[key].items()} for key in ("sums", "metrics"))
    processed, scored = moving["tokens"]
    return Progress(checkpoint.step, processed, scored, sums, moving["steps_summed"], metrics)
