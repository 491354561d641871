"""FSDP: the layers of the frozen base lie in pieces on the ranks; what is trained every rank has as a whole.

So every strategy's arithmetic on gradients is as it is on one device, and memory is saved where most of it goes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from peft import PeftModel
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from selgen_ray.errors import ModelError


def shard(model: PeftModel, device: str) -> None:
    """Leave every rank its share of each layer, layer by layer, and move all to the device.

    Every rank must then run the same passes in the same order. Embeddings and head, which others use outside of the
    model's own pass, stay whole.

    Args:
        model: on the CPU, the same on every rank.

    Raises:
        ModelError: the model does not say what its layers are.
    """
    base: Any = model.get_base_model()
    names: set[str] = set(base._no_split_modules or ())
    layers = [module for module in base.modules() if type(module).__name__ in names]
    if not layers:
        raise ModelError(f"resources.strategy fsdp: {type(base).__name__} does not name its layers (_no_split_modules)")
    mesh = init_device_mesh(torch.device(device).type, (dist.get_world_size(),))
    for layer in layers:
        fully_shard(layer, mesh=mesh, ignored_params={p for p in layer.parameters() if p.requires_grad})
    fully_shard(base, mesh=mesh, ignored_params={p for p in base.parameters() if not isinstance(p, DTensor)})
    base._is_fsdp_managed_module = True  # transformers then keeps generating until every rank is done
    model.to(device)  # type: ignore[arg-type]  # its stubs know no device


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may lie in pieces, as a whole; every rank asks for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
