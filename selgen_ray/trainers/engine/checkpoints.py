"""Step checkpoints: everything a run needs to go on as if it had never stopped."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from selgen_ray.errors import TrialSuperseded
from selgen_ray.records.attempts import Fence
from selgen_ray.storage import Folder
from selgen_ray.storage.parallel import waiting
from selgen_ray.trainers.engine import ranks
from selgen_ray.trainers.engine.loop import Job, Progress

logger = logging.getLogger(__name__)
_LAST_WRITTEN = "manifest.json"  # the last file of a bundle, see `Folder.publish`: with it the bundle is complete
_WEIGHTS, _OPTIMIZER, _STATE = "weights.safetensors", "optimizer.pt", "state.json"
_FURTHER = "further_"  # begins the names of `Checkpoint.files` in the bundle


@dataclass(frozen=True)
class Checkpoint:
    """State of a phase after an optimizer step.

    Attributes:
        step: optimizer steps finished.
        weights: the trainable tensors by name, on the CPU.
        optimizer: state dicts of optimizer and scheduler, and the loop's running sums.
        state: everything else, plain JSON.
        files: name -> content of further files, such as those of a Trainer's own checkpoint; '/' stands in no name.
    """

    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    state: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict[str, bytes])


class Checkpoints:
    """Keeps the newest `keep` complete checkpoints of one trial in `folder`.

    Each is published as one bundle, so a crash while saving costs that checkpoint only. A thread writes them, one at
    a time, while the training goes on. A write that fails (the disk is full, say) does not end the training: `on_event`
    is called, and the next checkpoint is written as usual.

    Args:
        folder: the folder of the trial's checkpoints alone.
        keep: how many checkpoints stay.
        on_event: called, by either thread, with {'event': 'checkpoint_failed' | 'checkpoint_unusable', 'why', 'step'}.
        fence: asked before anything is written or removed; None: nobody else runs the trial.
        on_superseded: called, by either thread, with the reason when the fence refuses.
    """

    def __init__(
        self,
        folder: Folder,
        keep: int,
        on_event: Callable[[dict[str, Any]], None] = lambda _: None,
        fence: Fence | None = None,
        on_superseded: Callable[[str], None] = lambda _: None,
    ):
        self.folder = folder
        self.keep = keep
        self._on_event = on_event
        self._fence, self._on_superseded = fence, on_superseded
        self._unusable: set[str] = set()
        self._writer: threading.Thread | None = None

    def save(self, checkpoint: Checkpoint) -> None:
        """Copy a checkpoint to the CPU's memory and publish it in a thread; wait for the one before to be written.

        Only rank 0 saves.
        """
        if not ranks.is_main():
            return
        self.flush()
        copied = snapshot(checkpoint)
        self._writer = threading.Thread(target=self._write, args=(copied,), name="checkpoint", daemon=True)
        self._writer.start()

    def flush(self) -> None:
        """Wait until the last checkpoint is written, or its writing has failed."""
        if self._writer is not None:
            with waiting():
                self._writer.join()
            self._writer = None

    def _write(self, checkpoint: Checkpoint) -> None:
        place: Folder | None = None
        try:
            self._check_fence()
            place = self.folder / self._free_name(checkpoint.step)
            place.publish(files_of(checkpoint))
            self._unusable.discard(place.name)
        except TrialSuperseded as error:
            self._on_superseded(str(error))
            return
        except Exception as error:
            self._tell("checkpoint_failed", f"checkpoint of step {checkpoint.step}: {error}", checkpoint.step)
            with contextlib.suppress(Exception):  # the storage may be full, or away
                if place is not None:
                    place.delete()
            return
        try:
            self._check_fence()  # a newer attempt may be writing one, which looks unfinished
            self._drop_old_ones()
        except TrialSuperseded as error:
            self._on_superseded(str(error))
            self._remove_unless_run(place)
        except OSError as error:
            logger.warning("old checkpoints stay: %s", error)

    def _remove_unless_run(self, place: Folder) -> None:
        """Remove what was written for a trial that has ended meanwhile: nobody goes on from it."""
        with contextlib.suppress(OSError):
            if self._fence is not None and not self._fence.is_run():
                place.delete()

    def _check_fence(self) -> None:
        if self._fence is not None:
            self._fence.check()

    def _free_name(self, step: int) -> str:
        """Return a folder name that no other attempt uses, and is unused: overwriting a checkpoint could lose it."""
        attempt = self._fence.attempt if self._fence else None
        name, taken = f"step_{step:08d}" + (f"-{attempt}" if attempt else ""), self.folder.folders()
        return name if name not in taken else next(n for i in range(2, 100) if (n := f"{name}-{i:02d}") not in taken)

    def _drop_old_ones(self) -> None:
        files = self.folder.files(recursive=True)
        names = sorted({path.partition("/")[0] for path in files})
        complete = [name for name in names if name not in self._unusable and f"{name}/{_LAST_WRITTEN}" in files]
        for name in set(names) - set(complete[-self.keep :]):
            (self.folder / name).delete()

    def newest(self) -> Checkpoint | None:
        """Return the newest complete checkpoint, or None; skip those that cannot be read, and report them.

        Rank 0 reads for all ranks, which must all call it.
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
        """Remove all checkpoints, once the result is published; only rank 0 removes them."""
        self.flush()
        if ranks.is_main():
            self.folder.delete()

    def _tell(self, event: str, why: str, step: int) -> None:
        logger.warning("%s", why)
        self._on_event({"event": event, "why": why, "step": step})


def _step_of(name: str) -> int:
    digits = name.removeprefix("step_")[:8]
    return int(digits) if digits.isdecimal() else 0


def files_of(checkpoint: Checkpoint) -> dict[str, bytes]:
    """Return a checkpoint as the files of its bundle, name -> content."""
    buffer = io.BytesIO()
    torch.save(checkpoint.optimizer, buffer)
    return {
        _WEIGHTS: safetensors.torch.save(checkpoint.weights),
        _OPTIMIZER: buffer.getvalue(),
        _STATE: json.dumps({"step": checkpoint.step, **checkpoint.state}).encode(),
        **{f"{_FURTHER}{name}": content for name, content in checkpoint.files.items()},
    }


def snapshot(checkpoint: Checkpoint) -> Checkpoint:
    """Return a copy in the CPU's memory, which further training does not change."""
    weights, optimizer, state = map(_copied, (checkpoint.weights, checkpoint.optimizer, checkpoint.state))
    return replace(checkpoint, weights=weights, optimizer=optimizer, state=state)


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):  # .cpu() returns the same tensor if it is on the CPU already
        return value.detach().to("cpu", copy=True).contiguous()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else copy.deepcopy(value)


def _read(place: Folder) -> Checkpoint:
    files = place.read_published()
    state = json.loads(files[_STATE])
    return Checkpoint(
        step=state.pop("step"),
        weights=safetensors.torch.load(files[_WEIGHTS]),
        optimizer=torch.load(io.BytesIO(files[_OPTIMIZER]), map_location="cpu", weights_only=True),
        state=state,
        files={n.removeprefix(_FURTHER): content for n, content in files.items() if n.startswith(_FURTHER)},
    )


def capture(job: Job, progress: Progress, state: dict[str, Any]) -> Checkpoint:
    """Return a checkpoint of a running job: weights, optimizer, schedule, hooks' state, sums since the last reading.

    It holds no RNG state and no position in the data: both follow from the step. All ranks must call it.
    """
    training_state = {
        "optimizer": job.optimizer.state_dict(),
        "scheduler": job.scheduler.state_dict(),
        "job": dict(job.state),
        **sums_of(progress),
    }
    return Checkpoint(progress.step, {n: p.detach() for n, p in job.parameters.items()}, training_state, state)


def sums_of(progress: Progress) -> dict[str, Any]:
    """Return the loop's running sums for `Checkpoint.optimizer`. All ranks must call it."""
    return {
        "sums": dict(progress.sums),
        "steps_summed": progress.steps_summed,
        "steps_skipped": dict(progress.steps_skipped),
        "metrics": dict(progress.metrics),
        "tokens": [progress.tokens_processed, progress.tokens_scored],
        # their sums since the last reading, on the CPU
        "other_ranks": ranks.gathered({"sums": _copied(progress.sums), "metrics": _copied(progress.metrics)})[1:],
    }


def restore(checkpoint: Checkpoint, job: Job) -> Progress:
    """Load a checkpoint into a freshly built job; return its progress."""
    training_state = checkpoint.optimizer
    with torch.no_grad():
        for name, parameter in job.parameters.items():
            parameter.copy_(checkpoint.weights[name])
        for name, tensor in job.state.items():
            tensor.copy_(training_state["job"][name])
    job.optimizer.load_state_dict(training_state["optimizer"])
    job.scheduler.load_state_dict(training_state["scheduler"])
    return progress_of(checkpoint, job.accelerator.device)


def progress_of(checkpoint: Checkpoint, device: torch.device) -> Progress:
    """Return the progress that a checkpoint holds: its step, and the sums of `sums_of`, on the device."""
    training_state = checkpoint.optimizer
    rank_sums = training_state if ranks.is_main() else training_state["other_ranks"][ranks.rank() - 1]
    sums, metrics = ({n: v.to(device) for n, v in rank_sums[key].items()} for key in ("sums", "metrics"))
    processed, scored = training_state["tokens"]
    skipped = dict(training_state.get("steps_skipped", {}))  # earlier versions had no such steps
    return Progress(checkpoint.step, processed, scored, sums, training_state["steps_summed"], skipped, metrics)
