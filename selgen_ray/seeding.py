"""Every random number of a trial comes from a seed derived by name, never from a global stream.

That is what makes a resumed trial equal the uninterrupted one, and a strategy of strength zero its plain sibling.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence

import torch


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed, a pure function of `parts`; any change of a part gives an unrelated seed."""
    text = "\x1f".join(f"{type(p).__name__}:{p}" for p in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def permutation(size: int, *parts: int | str) -> list[int]:
    """A permutation of range(size) keyed by `parts`."""
    generator = torch.Generator().manual_seed(derive_seed(*parts))
    return torch.randperm(size, generator=generator).tolist()


def split_indices(size: int, train_share: float, *parts: int | str) -> tuple[Sequence[int], Sequence[int]]:
    """Indices to train on and to hold out, each in ascending order; a share of 1 gives all rows to both.

    At least one row lands on either side when there are two or more.
    """
    if train_share >= 1 or size < 2:
        return range(size), range(size)
    num_train = min(max(round(size * train_share), 1), size - 1)
    order = permutation(size, *parts)
    return sorted(order[:num_train]), sorted(order[num_train:])


@contextlib.contextmanager
def keep_global_rng() -> Iterator[None]:
    """Leave the caller's global torch RNG (CPU and every CUDA device) as it was."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        yield
