"""Compare fine-tuning strategies: which one teaches a skill without the bad habit that comes with the data?"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selgen_ray import train, tune
    from selgen_ray.reading import load_results
    from selgen_ray.sweep.interface import Sweep

# PEFT imports bitsandbytes, which then warns of kernels that nobody asked for
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

__version__ = "0.1.0"
__all__ = ["Sweep", "__version__", "load_results", "train", "tune"]


def __getattr__(name: str) -> Any:
    # lazy: `import selgen_ray` must not take the time that importing pyarrow and pydantic, or PyTorch, takes
    if name == "load_results":
        from selgen_ray.reading import load_results  # late: start-up

        return load_results
    if name == "Sweep":
        from selgen_ray.sweep.interface import Sweep  # late: start-up

        return Sweep
    if name in ("train", "tune"):
        return importlib.import_module(f"selgen_ray.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
