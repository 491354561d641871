"""FSDP: the layers of the frozen base are sharded over the ranks; every rank has the trainable parameters whole.

So strategies compute with whole gradients as on one device, while the base, which takes most memory, is shared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from selgen_ray.errors import ModelError

if TYPE_CHECKING:
    from peft import PeftModel


def shard(model: PeftModel, device: str) -> None:
    """Shard the frozen parameters of each layer over the ranks, and move the model to the device.

    Every rank must then run the same passes in the same order. Embeddings and head stay whole, because other code uses
    them outside of the model's forward pass.

    Args:
        model: on the CPU, the same on every rank.
        device: of this rank, such as 'cuda:0'.

    Raises:
        ModelError: the model does not name its layers.
    """
    # late: start-up, a second that trials on one device need not wait
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    base: Any = model.get_base_model()
    names: set[str] = set(base._no_split_modules or ())
    layers = [module for module in base.modules() if type(module).__name__ in names]
    if not layers:
        raise ModelError(f"resources.strategy fsdp: {type(base).__name__} does not name its layers (_no_split_modules)")
    mesh = init_device_mesh(torch.device(device).type, (dist.get_world_size(),))
    for layer in layers:
        fully_shard(layer, mesh=mesh, ignored_params={p for p in layer.parameters() if p.requires_grad})
    fully_shard(base, mesh=mesh, ignored_params={p for p in base.parameters() if not isinstance(p, DTensor)})
    base._is_fsdp_managed_module = True  # makes transformers generate on every rank until all are done
    model.to(device)  # type: ignore[arg-type]  # its stubs know no device


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor whole: a sharded one is gathered, for which every rank must call this."""
    if not dist.is_available() or not dist.is_initialized():
        return tensor
    from torch.distributed.tensor import DTensor  # late: start-up, as above

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
