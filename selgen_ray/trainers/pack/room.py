"""How many trials a pack trains at a time where the device's memory decides: from what the first takes in training."""

from __future__ import annotations

from typing import Protocol

import torch

from selgen_ray.errors import ModelError

MOST = 32
"""Trials that a pack trains at a time at most, where the memory decides."""
_SHARE = 0.8
"""Share of the device's memory that is planned with: other trials may be larger than the first, and gaps remain."""
_WATCHED = 4
"""Backward passes that are watched: batches differ in length."""
_MOMENTS = 2
"""Tensors of each parameter's size that an optimizer such as AdamW adds at its first step, which may come later."""
_GIB = 2**30


class DeviceMemory(Protocol):
    """The memory of the device that a pack trains on, in bytes."""

    def held(self) -> int:
        """Return what this process holds of it now."""
        ...

    def watch(self) -> None:
        """Let `peak` begin anew."""
        ...

    def peak(self) -> int:
        """Return the most that this process has held of it since `watch`."""
        ...

    def sizes(self) -> tuple[int, int]:
        """Return the size of all, and what this process could hold of it beside what other processes hold now."""
        ...


class CudaMemory:
    """The memory of this process's CUDA device.

    Raises:
        ModelError: there is none.
    """

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise ModelError("resources.pack auto: this process has no CUDA device whose memory could be measured")

    def held(self) -> int:
        """Return the bytes of all tensors."""
        return torch.cuda.memory_allocated()

    def watch(self) -> None:
        """Let PyTorch's peak begin anew."""
        torch.cuda.reset_peak_memory_stats()

    def peak(self) -> int:
        """Return the most bytes that tensors have taken since."""
        return torch.cuda.max_memory_allocated()

    def sizes(self) -> tuple[int, int]:
        """Return the bytes of the device, and those that are free or PyTorch's already."""
        free, total = torch.cuda.mem_get_info()
        return total, free + torch.cuda.memory_reserved()


class Room:
    """Watches the training passes of a pack's first trial, and says how many trials fit.

    Args:
        memory: of the device.
        share: of the device that the pack may use, as Ray's fraction of a GPU; in (0, 1].
    """

    def __init__(self, memory: DeviceMemory, share: float = 1.0):
        self._memory, self._share = memory, share
        self._base = memory.held()  # the frozen base alone lies there
        self._peak, self._left = 0, _WATCHED

    @property
    def is_known(self) -> bool:
        """Whether enough was seen."""
        return not self._left

    def forward(self) -> None:
        """Watch from here: a forward pass of training begins."""
        if self._left:
            self._memory.watch()

    def backward(self) -> None:
        """Note what was held until here: the gradient of a training pass is there."""
        if self._left:
            self._peak, self._left = max(self._peak, self._memory.peak()), self._left - 1

    def width(self, trainable: int) -> tuple[int, str]:
        """Return how many trials fit, and the reason in words.

        Args:
            trainable: bytes of the trial's trainable parameters.
        """
        total, within_reach = self._memory.sizes()
        budget = min(_SHARE * self._share * total, within_reach)
        each = max(1, self._peak - self._base) + _MOMENTS * trainable
        width = min(MOST, max(1, int((budget - self._base) // each)))
        why = (
            f"{width} trials at a time: a trial takes {each / _GIB:.2f} GiB beside the base's {self._base / _GIB:.2f}, "
            f"and {budget / _GIB:.1f} of the device's {total / _GIB:.1f} GiB are planned with"
        )
        return width, why
