"""Values that depend on the start model: the trials of a sweep compute them once and share them."""

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
    """Looks values up in the sweep's cache; its keys cover start model, library versions and plugin code too.

    Rank 0 looks; after a cache miss all ranks compute the value together.

    Args:
        cache: the sweep's cache; None: nothing is shared, every value is computed.
        cfg: names the start model and says how it is loaded.
        model: the model loaded from there; its config knows the commit that a hub's branch stood for.
        strategy_code: versions of the strategy's code from outside this package, which decides the values too.
        model_hash: the start model's fingerprint, if it is known already: reading a large model takes minutes.
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
        """Return tensors by name, on the model's device; compute them on a cache miss.

        Args:
            kind: name of this kind of value, such as 'base_log_probs'.
            key: plain JSON with everything that the tensors depend on besides the start model.
            compute: computes them; its argument is a folder that outlives a crash, or None if nothing is shared.
        """
        cache = self._cache
        if cache is None:
            return compute(None)
        tensors = ranks.with_help(lambda together: cache.tensors(kind, self._common | key, together), compute)
        return {name: tensor.to(self._model.device) for name, tensor in tensors.items()}

    def json(self, kind: str, key: dict[str, Any], compute: Callable[[], Any]) -> Any:
        """Return a value of plain JSON; compute it on a cache miss."""
        cache = self._cache
        if cache is None:
            return compute()
        ask = lambda together: cache.json(kind, self._common | key, lambda _: together())  # noqa: E731
        return ranks.with_help(ask, compute)

    def file(self, kind: str, key: dict[str, Any], compute: Callable[[], bytes]) -> Path | bytes:
        """Return a file of this machine, or its content if nothing is shared; compute it on a cache miss.

        Args:
            kind: name of this kind of file.
            key: plain JSON with everything that the file depends on.
            compute: returns the content; must not need the other ranks.
        """
        cache = self._cache
        if cache is None:
            return compute()
        file_or_content = ranks.from_main(lambda: cache.file(kind, key, lambda _: compute()))
        # another rank may be on another node, and copies the file that rank 0 put into the cache
        return file_or_content if ranks.is_main() else cache.file(kind, key, lambda _: compute())
