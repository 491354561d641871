"""What settings ask of hardware and optional packages: one table for the planning, the cluster and the worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from packaging.version import Version

from selgen_ray.config.finetune import FinetuneConfig


@dataclass(frozen=True)
class Need:
    """What one value of a key of `finetune_config` needs.

    Attributes:
        key, value: of the config.
        instead: what to write where the need is not met.
        cuda: it works on a CUDA GPU only.
        capability: the least compute capability of the GPU, where there is one.
        package, version: the distribution that must be installed, and its least version.
    """

    key: str
    value: Any
    instead: str
    cuda: bool = False
    capability: tuple[int, int] = (0, 0)
    package: str | None = None
    version: str = "0"


_BNB: dict[str, Any] = {"package": "bitsandbytes", "version": "0.48"}
_FLASH: dict[str, Any] = {"key": "attn_implementation", "cuda": True, "capability": (8, 0), "instead": "sdpa"}

NEEDS = (
    # older GPUs only emulate it, slower than either of the others
    Need("dtype", "bfloat16", capability=(8, 0), instead="float16 or float32"),
    Need("load_in_8bit", True, capability=(7, 5), instead="load_in_4bit: true", **_BNB),
    Need("load_in_4bit", True, instead="false", **_BNB),
    Need("optim", "adamw_8bit", instead="adamw_torch", **_BNB),
    Need("optim", "paged_adamw_8bit", cuda=True, instead="adamw_8bit or adamw_torch", **_BNB),
    Need(value="flash_attention_2", package="flash-attn", **_FLASH),
    Need(value="flash_attention_3", package="flash-attn-3", **_FLASH),
)


@dataclass(frozen=True)
class Device:
    """What a trial finds where it runs; it can cross a process boundary.

    Attributes:
        cuda: a CUDA GPU.
        capability: its compute capability, (major, minor); None: not known.
        packages: version of each optional package that is installed; None: not known.
    """

    cuda: bool
    capability: tuple[int, int] | None = None
    packages: Mapping[str, str] | None = None


def this_device() -> Device:
    """What this process has."""
    import torch  # late: the config reads the table above, and is read where no model will be

    packages: dict[str, str] = {}
    for name in dict.fromkeys(need.package for need in NEEDS if need.package):
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    cuda = torch.cuda.is_available()
    return Device(cuda, torch.cuda.get_device_capability() if cuda else None, packages)


def asked(config: FinetuneConfig) -> list[Need]:
    """The rows of the table that apply to a config."""
    return [need for need in NEEDS if getattr(config, need.key) == need.value]


def cuda_only(config: FinetuneConfig) -> list[str]:
    """Return the keys of a config that work on a CUDA device only."""
    return [need.key for need in asked(config) if need.cuda]


def problems(config: FinetuneConfig, device: Device) -> list[str]:
    """What in a config cannot work on a device, in words, each with its key. What is not known is no problem."""
    return [
        f"finetune_config.{need.key} {str(need.value).lower()}: {why}"
        for need in asked(config)
        if (why := _missing(need, device))
    ]


def _missing(need: Need, device: Device) -> str | None:
    instead = f"use {need.instead}"
    if need.cuda and not device.cuda:
        return f"works on a CUDA GPU only, and there is none: {instead}"
    if device.capability is not None and device.capability < need.capability:
        has, least = (f"{major}.{minor}" for major, minor in (device.capability, need.capability))
        return f"needs a GPU of compute capability {least}, this one has {has}: {instead}"
    if need.package is None or device.packages is None:
        return None
    found = device.packages.get(need.package)
    if found is None:
        return f"needs a package that is not installed: pip install {need.package}, or {instead}"
    if Version(found) < Version(need.version):
        return f"needs {need.package} {need.version}, found {found}: pip install -U {need.package}, or {instead}"
    return None


def not_for_fsdp(config: FinetuneConfig) -> dict[str, str]:
    """The keys of a config that do not go with `resources.strategy: fsdp`, and why."""
    quantised = "a quantised base cannot be shared out: leave it out, or set strategy: ddp"
    reasons = {
        "is_peft": "it shares out the frozen base, which full fine-tuning lacks: set is_peft: true, or use ddp",
        "load_in_4bit": quantised,
        "load_in_8bit": quantised,
        "auto_batch": "workers that share the base out cannot repeat what one of them could not: leave it out",
        "save_merged": "no worker has the whole base to merge into: leave it out, which saves the adapter",
    }
    return {key: why for key, why in reasons.items() if getattr(config, key) == (key != "is_peft")}
