"""Needs of settings: the hardware and optional packages they require, as one table for plan, cluster and worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from packaging.version import Version

from selgen_ray.config.finetune import FinetuneConfig


@dataclass(frozen=True)
class Need:
    """The requirement of one value of a key of `finetune_config`.

    Attributes:
        key, value: the setting, such as dtype and 'bfloat16'.
        instead: what to write if the requirement is not met.
        cuda: the setting works on a CUDA GPU only.
        capability: minimum compute capability (major, minor) of the GPU, if there is one.
        package, version: distribution that must be installed, and its minimum version.
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
    # older GPUs only emulate bfloat16, which is slower than float16 or float32
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
    """The hardware and optional packages where a trial runs; picklable.

    Attributes:
        cuda: whether there is a CUDA GPU.
        capability: its compute capability (major, minor); None: not known.
        packages: name -> version of the optional packages that are installed; None: not known.
    """

    cuda: bool
    capability: tuple[int, int] | None = None
    packages: Mapping[str, str] | None = None


def this_device() -> Device:
    """Return the device and packages of this process."""
    import torch  # late: start-up; processes that only read configs import this module too

    packages: dict[str, str] = {}
    for name in dict.fromkeys(need.package for need in NEEDS if need.package):
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    cuda = torch.cuda.is_available()
    return Device(cuda, torch.cuda.get_device_capability() if cuda else None, packages)


def asked(config: FinetuneConfig) -> list[Need]:
    """Return the rows of `NEEDS` that apply to a config."""
    return [need for need in NEEDS if getattr(config, need.key) == need.value]


def cuda_only(config: FinetuneConfig) -> list[str]:
    """Return the keys of a config that work on a CUDA device only."""
    return [need.key for need in asked(config) if need.cuda]


def hardware_problems(config: FinetuneConfig, device: Device) -> list[str]:
    """Return why a config cannot work on a device: one message for each requirement that is not met.

    Facts about the device that are not known count as fulfilled.
    """
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
        has, minimum = (f"{major}.{minor}" for major, minor in (device.capability, need.capability))
        return f"needs a GPU of compute capability {minimum}, this one has {has}: {instead}"
    if need.package is None or device.packages is None:
        return None
    installed = device.packages.get(need.package)
    if installed is None:
        return f"needs a package that is not installed: pip install {need.package}, or {instead}"
    if Version(installed) < Version(need.version):
        return f"needs {need.package} {need.version}, found {installed}: pip install -U {need.package}, or {instead}"
    return None


def not_for_fsdp(config: FinetuneConfig) -> dict[str, str]:
    """Return key -> reason, for the settings of a config that do not work with `resources.strategy: fsdp`."""
    quantised = "a quantised base cannot be shared out: leave it out, or set strategy: ddp"
    reasons = {
        "is_peft": "it shares out the frozen base, which full fine-tuning lacks: set is_peft: true, or use ddp",
        "load_in_4bit": quantised,
        "load_in_8bit": quantised,
        "auto_batch": "workers that share the base out cannot repeat what one of them could not: leave it out",
        "save_merged": "no worker has the whole base to merge into: leave it out, which saves the adapter",
    }
    return {key: why for key, why in reasons.items() if getattr(config, key) == (key != "is_peft")}
