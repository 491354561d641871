"""`sweep add --from TRIAL --warm-start`: the trial's weights as a start, copied so that no later run changes them.

<sweep>/starts/<sha256, 16 digits>/    an adapter (adapter_config.json, adapter_model.safetensors), or a whole model
"""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft.utils.save_and_load import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from selgen_ray.config.finetune import FinetuneConfig
from selgen_ray.config.trial import TrialConfig
from selgen_ray.driver.selection import SelectionError
from selgen_ray.driver.trust import STARTS
from selgen_ray.errors import ModelError
from selgen_ray.hashing import folder_sha256, list_files
from selgen_ray.models import adapters, checks, saving
from selgen_ray.models.loading import load_base
from selgen_ray.models.tokenizer import load_tokenizer
from selgen_ray.records.results import FILE_NAME, TrialResult
from selgen_ray.records.status import TrialStatus
from selgen_ray.storage import Folder
from selgen_ray.storage.retries import retrying
from selgen_ray.trainers.engine.checkpoints import Checkpoint, Checkpoints
from selgen_ray.trial.task import CHECKPOINTS

OPTION = "--warm-start"
_DIGITS = 16
_MODEL_CONFIG, _CARD = "config.json", "README.md"


@dataclass(frozen=True)
class Start:
    """Weights that a new trial begins with.

    Attributes:
        key: the config key that names them: finetune_config.adapter, or finetune_config.model of a whole model.
        path: their folder.
        is_new: whether no trial has begun with them before.
        text: whose they are, for people: 'naive_1a2b3c/seed_1 (0123456789abcdef), after step 30'.
    """

    key: str
    path: str
    text: str
    is_new: bool

    @property
    def is_adapter(self) -> bool:
        """Whether the weights are a LoRA adapter, for the model that its trial had."""
        return self.key == adapters.KEY


def weights_of(sweep: Folder, trial_id: str, name: str, place: Folder | None, config: TrialConfig) -> Start:
    """Copy the weights of a trial into the sweep's folder: those of its finished model, else its newest checkpoint.

    Args:
        sweep: the sweep's folder, on a file system.
        place: the folder of the trial's result; None if it has none yet.
        config: the trial's.

    Raises:
        SelectionError: there are no weights, or not here. StorageError: the storage refused.
    """
    if (root := sweep.local_path) is None:
        raise SelectionError(
            f"{OPTION} needs a sweep on a file system, which {sweep} is not: download the weights to where all workers "
            f"see them, and add a search space that names them as {adapters.KEY}"
        )
    place = place or sweep / name / "results" / trial_id
    kept, when, is_new = retrying(
        lambda: f"keep weights in {root / STARTS}", sweep, lambda: _keep(root / STARTS, place, trial_id, name, config)
    )
    key = adapters.KEY if (kept / adapters.CONFIG).exists() else "finetune_config.model"
    return Start(key, str(kept.resolve()), f"{name} ({trial_id}), {when}", is_new)


def _keep(starts: Path, place: Folder, trial_id: str, name: str, config: TrialConfig) -> tuple[Path, str, bool]:
    """Return the folder of the weights, of which step they are, in words, and whether they were not there before."""
    starts.mkdir(exist_ok=True)
    # beside its last place, for a rename
    with tempfile.TemporaryDirectory(dir=starts, prefix=".new-") as made:
        new = Path(made) / "start"
        new.mkdir()
        when = _copy_finished(place, trial_id, config, new) or _copy_checkpoint(place, config, new)
        if when is None:
            raise SelectionError(_none_left(name, place))
        kept = starts / folder_sha256(new, list_files(new))[:_DIGITS]
        is_new = not kept.exists()
        if is_new:
            new.rename(kept)
    return kept, when, is_new


def _result(place: Folder) -> TrialResult | None:
    try:
        return TrialResult.model_validate_json(place.read(FILE_NAME))
    except (FileNotFoundError, ValueError):  # it has just begun, or is damaged
        return None


def _none_left(name: str, place: Folder) -> str:
    result = _result(place)
    if result is None or not result.status.is_finished:
        return f"{name} has no weights yet: {OPTION} needs its first checkpoint (finetune_config.save_steps)"
    hub = (
        f" It was pushed to {result.model_url}: name that as {adapters.KEY}, in a search space."
        if result.model_url
        else ""
    )
    return (
        f"{name} has no weights any more: it is {result.status}, and its checkpoints were removed when it ended. Run "
        f"it with finetune_config.save_model_locally: true to keep its finished model.{hub}"
    )


def _copy_finished(place: Folder, trial_id: str, config: TrialConfig, new: Path) -> str | None:
    """Copy the finished model that a completed trial kept; return None if there is none."""
    result, cfg = _result(place), config.finetune_config
    if result is None or result.status is not TrialStatus.COMPLETED:
        return None  # what lies there may be half written, or of a try before
    folders = [place / "model"]
    if cfg.output_dir:
        folders = [Folder(cfg.output_dir) / f"{cfg.finetuned_model_id or 'model'}-{trial_id}", *folders]
    for folder in folders:
        names = folder.files(recursive=True)
        if adapters.CONFIG in names:
            names = [name for name in names if name in (adapters.CONFIG, adapters.WEIGHTS)]
        elif _MODEL_CONFIG not in names:
            continue
        for name in names:
            if name != _CARD:  # it has dates, and the weights are told apart by their content
                (new / name).parent.mkdir(parents=True, exist_ok=True)
                (new / name).write_bytes(folder.read(name))
        return "finished"
    return None


def _copy_checkpoint(place: Folder, config: TrialConfig, new: Path) -> str | None:
    """Write the weights of the newest checkpoint as a model is saved; return None if there is no checkpoint."""
    found = Checkpoints(place / CHECKPOINTS, keep=1).newest()
    if found is None:
        return None
    write = _write_adapter if config.finetune_config.is_peft else _write_model
    try:
        write(found, config.finetune_config, new)
    except ModelError as error:
        raise SelectionError(f"{OPTION}: the checkpoint of step {found.step} cannot be used: {error}") from error
    return f"after step {found.step}"


def _write_adapter(found: Checkpoint, cfg: FinetuneConfig, new: Path) -> None:
    model: Any = checks.adapted_skeleton(cfg)
    weights = _plain_names(model, found.weights)
    missing = _plain_names(model, model.state_dict()).keys() - weights.keys()
    if missing:
        raise ModelError(
            f"it has not the weights of the trial's own adapter ({len(missing)} are missing, such as "
            f"{min(missing)}): the trial was training something else first"
        )
    model.peft_config["default"].save_pretrained(str(new))
    # a set has no order, and the same weights must have the same digest
    content = json.loads((new / adapters.CONFIG).read_text(encoding="utf-8"))
    if isinstance(content.get("target_modules"), list):
        content["target_modules"] = sorted(content["target_modules"])
    content["base_model_name_or_path"] = None if cfg.model == "toy" else cfg.model
    (new / adapters.CONFIG).write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")
    (new / _CARD).unlink(missing_ok=True)
    save_file(weights, new / adapters.WEIGHTS, metadata={"format": "pt"})


def _plain_names(model: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name -> tensor of the trial's own adapter, as PEFT writes them."""
    return get_peft_model_state_dict(model, state_dict=dict(weights), save_embedding_layers=False)


def _write_model(found: Checkpoint, cfg: FinetuneConfig, new: Path) -> None:
    model: Any = copy.deepcopy(load_base(cfg, "cpu"))
    if unknown := model.load_state_dict(found.weights, strict=False).unexpected_keys:
        raise ModelError(f"it has weights that the model lacks, such as {unknown[0]}")
    saving.save_model(model, load_tokenizer(cfg), new)


def discard(start: Start) -> None:
    """Remove weights that no trial is to begin with after all."""
    shutil.rmtree(start.path, ignore_errors=True)
