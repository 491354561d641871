"""What the trials of a sweep compute once and share: values that depend on the start model."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from selgen_ray import __version__
from selgen_ray.config.finetune import FinetuneConfig
from selgen_ray.models.fingerprint import start_fingerprint
from selgen_ray.models.loading import Model
from selgen_ray.storage import Folder
from selgen_ray.storage.cache import Cache
from selgen_ray.trainers.engine import ranks
from selgen_ray.trainers.engine.loop import GradMap


class SharedValues:
    """Looks values up in the sweep's cache, by a key that covers start model, versions and code besides what is asked.

    Rank 0 looks; what is not there yet all ranks compute together.

    Args:
        cache: None: nothing is shared, everything is computed.
        cfg: names the start model and how it is loaded.
        model: loaded from there; a hub's repository tells it which commit a branch stood for.
        strategy_code: versions of the strategy's code where it is not shipped: it decides the values too.
        model_hash: the start model's fingerprint, where it is known already: reading a large model takes minutes.
    """

    def __init__(
        self,
        cache: Cache | None,
        cfg: FinetuneConfig,
        model: Model,
        strategy_code: list[str],
        model_hash: str | None = None,
    ):
        self._cache, self._cfg, self._model, self._model_hash = cache, cfg, model, model_hash
        self._strategy_code = strategy_code

    @functools.cached_property
    def _common(self) -> dict[str, Any]:
        cfg = self._cfg
        how = cfg.model_dump(include={"dtype", "load_in_4bit", "load_in_8bit", "attn_implementation"})
        how |= {"chat_template": cfg.chat_template} if cfg.chat_template else {}
        how |= {"chat_template_kwargs": cfg.chat_template_kwargs} if cfg.chat_template_kwargs else {}
        start = cfg.model, cfg.model_revision, cfg.adapter, cfg.adapter_revision
        return how | {
            "model": self._model_hash or start_fingerprint(*start),
            "commit": getattr(self._model.config, "_commit_hash", None),
            "selgen_ray": __version__,
            "torch": torch.__version__,
            "code": self._strategy_code,
        }

    def tensors(self, kind: str, key: dict[str, Any], compute: Callable[[Folder | None], GradMap]) -> GradMap:
        """Tensors by name, on the device.

        Args:
            kind: names what it is.
            key: plain JSON, all that the tensors depend on besides the start model.
            compute: gets a folder that outlives a crash, or None where nothing is shared.
        """
        cache = self._cache
        if cache is None:
            return compute(None)
        found = ranks.with_help(lambda together: cache.tensors(kind, self._common | key, together), compute)
        return {name: tensor.to(self._model.device) for name, tensor in found.items()}

    def json(self, kind: str, key: dict[str, Any], compute: Callable[[], Any]) -> Any:
        """A value of plain JSON."""
        cache = self._cache
        if cache is None:
            return compute()
        ask = lambda together: cache.json(kind, self._common | key, lambda _: together())  # noqa: E731
        return ranks.with_help(ask, compute)

    def file(self, kind: str, key: dict[str, Any], compute: Callable[[], bytes]) -> Path | bytes:
        """A file of this machine, or its content where nothing is shared; `key` is all that it depends on.

        Args:
            compute: gives the content; needs none of the other ranks.
        """
        cache = self._cache
        if cache is None:
            return compute()
        found = ranks.from_main(lambda: cache.file(kind, key, lambda _: compute()))
        # another rank may be on another node, and finds there what rank 0 found
        return found if ranks.is_main() else cache.file(kind, key, lambda _: compute())
