"""What a worker does between two trials."""

from __future__ import annotations

import gc
import sys

import psutil
import pytest
import torch

from selgen_ray.trial.worker import free_memory

_MIB = 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's heap")
def test_the_memory_of_a_trial_is_given_back_to_the_machine():
    del_me = [torch.ones(30 * _MIB // 4)]  # freed: the heap then takes blocks of up to this size
    del del_me[:]
    before = psutil.Process().memory_info().rss
    blocks = [torch.ones(_MIB // 4) for _ in range(400)]
    kept = blocks[::40]  # some of what follows stays, as weights do, and pins the heap's end
    blocks[:] = []
    held = psutil.Process().memory_info().rss - before
    try:
        free_memory()
    finally:
        gc.unfreeze()
    left = psutil.Process().memory_info().rss - before
    assert len(kept) == 10
    if held < 100 * _MIB:
        pytest.skip("this allocator gives memory back by itself")
    assert left < 60 * _MIB, f"{left / _MIB:.0f} MiB of {held / _MIB:.0f} stayed"
