"""Directions of a habit in the residual stream: means of activations, and the directions made of them.

Those of gradients are in `directions.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from selgen_ray.data.encode import Batch
from selgen_ray.errors import DataError
from selgen_ray.models import blocks, forward
from selgen_ray.models.log_probs import upcast
from selgen_ray.seeding import derive_seed
from selgen_ray.trainers.base import BaseTrainer
from selgen_ray.trainers.directions import throw_away_training, with_weights
from selgen_ray.trainers.engine.reference import ask_model, ask_start_model
from selgen_ray.trainers.registry import knob

_ROWS_AT_ONCE = 64
Control = Literal["random"] | None
DIRECTION_CONTROL = knob(None, "random: a random direction of the same norm in place of each")


def layers_knob(use: str) -> Any:
    """Declare a knob that lists layers; `use` says what for."""
    return knob(None, f"the layers {use}, from 1; default: the middle one, ceil(L/2)", min_length=1)


def chosen_layers(trainer: BaseTrainer, key: str) -> list[int]:
    """Return the layers that a knob names, or the middle one of 1..L, ceil(L/2).

    Raises:
        ModelError: the model has no such layer, or one is given twice.
    """
    count = blocks.num_layers(trainer.model)
    layers: list[int] = getattr(trainer, key) or [-(-count // 2)]
    blocks.check_layers(key, layers, count)
    return layers


def outputs_of(trainer: BaseTrainer, layers: Sequence[int], batch: Batch) -> dict[int, Tensor]:
    """Return the model's output of each of the layers for a batch, [batch, tokens, features]."""
    with blocks.reading(trainer.model, layers) as outputs:
        forward.hidden_states(trainer.model, batch)
    return outputs


def row_means(trainer: BaseTrainer, role: str, layers: Sequence[int]) -> dict[int, Tensor]:
    """Return the start model's mean activation over each row's scored tokens; layer -> [rows, features].

    Each token's is that where it is the input. Each training row counts once, in the order of their numbers, also where
    `upsample_proxy_to` repeats it. The trials of a sweep share them.
    """

    different = trainer.sets.different(role)

    def of_batch(batch: Batch) -> list[Tensor]:
        mask = blocks.own_positions(batch.scored)
        outputs = outputs_of(trainer, layers, batch)
        return list(torch.stack([blocks.means_of_rows(outputs[layer], mask) for layer in layers], dim=1))

    def every_row(_: Any) -> dict[str, Tensor]:
        rows = ask_start_model(trainer.run, trainer, role, of_batch, different)
        return {str(layer): torch.stack(rows)[:, i].contiguous() for i, layer in enumerate(layers)}

    # the rows of a file that repeats a row may be those of one whose row is upsampled
    key = trainer.data_key(role) | {"layers": list(layers), "places": different}
    means = trainer.share.tensors("row_means", key, every_row)
    return {layer: means[str(layer)] for layer in layers}


def habit_directions(trainer: BaseTrainer, layers: Sequence[int], control: Control) -> dict[int, Tensor]:
    """Return the direction of each layer, [features]: the mean over rows of proxy_neg minus that over rows of proxy.

    It points towards the habit. With `control: random` each is replaced by a random one of its norm.

    Source: Chen et al. 2025, persona vectors (arXiv 2507.21509), section 2.

    Raises:
        DataError: a direction is zero.
    """
    habit, aligned = (row_means(trainer, role, layers) for role in ("proxy_neg", "proxy"))
    directions = {layer: habit[layer].mean(0) - aligned[layer].mean(0) for layer in layers}
    for layer, direction in directions.items():
        if not bool(direction.any()):
            raise DataError(
                f"the direction of layer {layer} is zero: the model's activations on data.proxy_neg and data.proxy are "
                "the same there"
            )
    return directions if control is None else {n: _random(trainer, n, v) for n, v in directions.items()}


def pair_differences(trainer: BaseTrainer, layers: Sequence[int]) -> dict[int, Tensor]:
    """Return the rows' mean activations on proxy_neg minus those on proxy, row by row; layer -> [rows, features]."""
    habit, aligned = (row_means(trainer, role, layers) for role in ("proxy_neg", "proxy"))
    return {layer: habit[layer] - aligned[layer] for layer in layers}


def tuned_differences(trainer: BaseTrainer, layers: Sequence[int], epochs: int) -> dict[int, Tensor]:
    """Return, for each scored token of the proxy, what tuning on the outcome changes of its activation.

    Returns:
        Layer -> [features, features], the triangular factor R of the tokens' matrix D = Q R: it has D's rank, singular
        values and right singular vectors.
    """

    def of_batch(batch: Batch) -> list[Tensor]:
        mask = blocks.own_positions(batch.scored)
        outputs = outputs_of(trainer, layers, batch)
        rows = torch.stack([upcast(outputs[layer][mask]) for layer in layers], dim=1)
        return [row.cpu() for row in rows.split(batch.scored.sum(1).tolist())]

    rows = trainer.sets.different("proxy")
    weights = throw_away_training(trainer, "outcome", epochs).weights
    start = ask_start_model(trainer.run, trainer, "proxy", of_batch, rows)
    with with_weights(trainer, weights):
        tuned = ask_model(trainer.run, trainer, "proxy", of_batch, rows)
    differences = [after - before for after, before in zip(tuned, start, strict=True)]
    factors: dict[int, Tensor] = {}
    for i, layer in enumerate(layers):
        for at in range(0, len(differences), _ROWS_AT_ONCE):  # all tokens at once may not fit into memory
            parts = [difference[:, i] for difference in differences[at : at + _ROWS_AT_ONCE]]
            stacked = torch.cat([factors[layer], *parts] if layer in factors else parts)
            factors[layer] = torch.linalg.qr(stacked, mode="r").R
    return factors


def principal_directions(layer: int, matrix: Tensor, count: int) -> Tensor:
    """Return the first `count` right singular vectors of an uncentred matrix, as columns; [features, count].

    Raises:
        DataError: the matrix has a lower rank.
    """
    _, sizes, vectors = torch.linalg.svd(matrix, full_matrices=False)
    smallest = max(matrix.shape) * torch.finfo(sizes.dtype).eps * (float(sizes[0]) if len(sizes) else 0.0)
    rank = int((sizes > smallest).sum())
    if count > rank:
        raise DataError(
            f"finetune_config.ablate_components: found {count}; the differences at layer {layer} have rank {rank}, and "
            "no more directions"
        )
    return vectors[:count].T.contiguous()


def random_basis(trainer: BaseTrainer, layer: int, like: Tensor) -> Tensor:
    """Return random orthonormal columns of the shape of `like`, [features, k]."""
    return torch.linalg.qr(gaussian(trainer, layer, *like.shape)).Q.to(like)


def _random(trainer: BaseTrainer, layer: int, like: Tensor) -> Tensor:
    drawn = gaussian(trainer, layer, len(like), 1)[:, 0].to(like)
    return drawn * (like.norm() / drawn.norm())


def gaussian(trainer: BaseTrainer, layer: int, *shape: int) -> Tensor:
    """Return independent standard normal numbers, float64, keyed by data_seed and layer: one draw for the whole run."""
    generator = torch.Generator().manual_seed(derive_seed(trainer.config.data_seed, "random direction", layer))
    return torch.randn(shape, generator=generator, dtype=torch.float64)
