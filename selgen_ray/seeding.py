"""Seeds derived from names: every random number of a trial comes from one, never from a global stream.

So a resumed trial equals an uninterrupted one, and a strategy of strength zero equals plain fine-tuning.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator, Sequence

import numpy
import torch


def derive_seed(*parts: int | str) -> int:
    """Return a 63-bit seed, a pure function of `parts`; any change of a part gives an unrelated seed.

    It is made of the first 8 bytes of the sha256 of the parts and their types, so 1 and '1' are different parts.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def permutation(size: int, *parts: int | str) -> list[int]:
    """Return a random permutation of range(size), a pure function of `size` and `parts`."""
    generator = torch.Generator().manual_seed(derive_seed(*parts))
    return torch.randperm(size, generator=generator).tolist()


def split_indices(size: int, train_share: float, *parts: int | str) -> tuple[Sequence[int], Sequence[int]]:
    """Split range(size) at random into the indices to train on and those to hold out, each in ascending order.

    With two or more rows each side gets at least one. A `train_share` of 1, or fewer than two rows: both sides get all.
    """
    if train_share >= 1 or size < 2:
        return range(size), range(size)
    num_train = min(max(round(size * train_share), 1), size - 1)
    order = permutation(size, *parts)
    return sorted(order[:num_train]), sorted(order[num_train:])


def seed_global_rng(seed: int) -> None:
    """Seed torch's global random streams, as `torch.manual_seed` does."""
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:  # it would format a stack trace for each kind of device that is not there, at every step of a training
        torch.default_generator.manual_seed(seed)


@contextlib.contextmanager
def keep_global_rng() -> Iterator[None]:
    """Restore the global random streams of Python, NumPy and torch (CPU, every CUDA device) when the context ends."""
    of_python, of_numpy = random.getstate(), numpy.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(of_python)
            numpy.random.set_state(of_numpy)
