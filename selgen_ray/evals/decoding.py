"""Generation that drops the rows of a batch that have ended, so that the last reply does not cost all of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch

from selgen_ray.evals.registry import Draw
from selgen_ray.models.forward import takes_trees
from selgen_ray.models.loading import Model, base_of

_WORTH_DROPPING = 0.75  # of a batch's rows: if more go on, to copy their part of the cache costs more than it saves


def _ignore(_: list[int]) -> None:
    pass


def is_plain(model: Model) -> bool:
    """Return whether `generated_ids` gives what the model's own `generate` does: it has an ordinary cache alone."""
    from transformers.generation.utils import GenerationMixin  # late: start-up, a plan generates nothing

    base: Any = base_of(model)
    ordinary: Any = GenerationMixin
    if vars(base).get("is_packed"):  # its own `generate` joins the batches of several trials
        return False
    is_ordinary = type(base).prepare_inputs_for_generation is ordinary.prepare_inputs_for_generation
    # with FSDP all ranks must run equally many passes, which transformers sees to
    return takes_trees(model) and is_ordinary and not getattr(base, "_is_fsdp_managed_module", False)


class Choice:
    """The choice of each next token: the most likely one, or one drawn at a temperature.

    A drawn token is the first at which the cumulated probability of softmax(logits / temperature) exceeds a number,
    uniform in [0, 1), that belongs to the reply's seed and the token's place. So it does not depend on what else is in
    the batch, but for rounding.

    Args:
        draws: how the reply to each prompt is drawn; None: greedy.
        limit: number of new tokens at most.

    Attributes:
        is_random: whether any reply is drawn.
    """

    def __init__(self, draws: Sequence[Draw | None], limit: int):
        self.is_random = any(draws)
        self._temperatures = torch.tensor([draw.temperature if draw else 0.0 for draw in draws])
        rows = [_uniform(draw.seed if draw else 0, limit) for draw in (draws if self.is_random else ())]
        self._uniform = torch.stack(rows) if rows else torch.zeros(1, limit)

    def __call__(self, logits: torch.Tensor, numbers: Sequence[int], step: int) -> torch.Tensor:
        """Return the next token of each row, [rows].

        Args:
            logits: of the next token, [rows, vocabulary].
            numbers: of the prompt of each row.
            step: tokens that were generated before.
        """
        best = logits.argmax(dim=-1)
        if not self.is_random:
            return best
        rows = torch.tensor(list(numbers))
        temperatures = self._temperatures[rows].to(logits.device)
        is_drawn = temperatures > 0
        scaled = logits.double() / torch.where(is_drawn, temperatures, 1.0)[:, None]
        total = scaled.softmax(dim=-1).cumsum(dim=-1)
        wanted = self._uniform[rows, step].to(logits.device)[:, None] * total[:, -1:]
        drawn = torch.searchsorted(total, wanted, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
        return torch.where(is_drawn, drawn, best)


def _uniform(seed: int, number: int) -> torch.Tensor:
    """Return numbers in [0, 1) of a stream of its own, [number], float64."""
    return torch.rand(number, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def generated_ids(
    model: Model,
    prompts: Sequence[list[int]],
    pad: int,
    stops: Collection[int],
    limit: int,
    choose: Choice,
    on_rows: Callable[[list[int]], None] = _ignore,
) -> list[list[int]]:
    """Return the continuation of each prompt, token by token, as one batch.

    Args:
        model: one that `is_plain`, in evaluation mode.
        prompts: token ids.
        pad: id of the padding token.
        stops: ids of the tokens that end a reply; the first of them is its last token.
        limit: number of new tokens at most.
        choose: chooses each next token.
        on_rows: called with the numbers of the rows that stay, whenever others are dropped.
    """
    from transformers import DynamicCache  # late: start-up, as above

    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, prompt in enumerate(prompts):  # padded on the left, so that all replies begin in the same column
        ids[i, width - len(prompt) :] = torch.tensor(prompt)
        mask[i, width - len(prompt) :] = 1
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    ids, mask, positions = (tensor.to(model.device) for tensor in (ids, mask, positions))
    config: Any = model.config
    cache: Any = DynamicCache(config=config)
    replies: list[list[int]] = [[] for _ in prompts]
    in_batch, going = list(range(len(prompts))), set(range(len(prompts)))  # numbers of prompts
    for step in range(limit):
        inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "past_key_values": cache}
        best = choose(model(**inputs, use_cache=True, logits_to_keep=1).logits[:, -1], in_batch, step)
        for number, token in zip(in_batch, best.tolist(), strict=True):
            if number in going:
                replies[number].append(token)
                going -= {number} if token in stops else set()
        if not going or step + 1 == limit:
            break
        if len(going) <= _WORTH_DROPPING * len(in_batch):
            rows = [i for i, number in enumerate(in_batch) if number in going]
            on_rows(rows)
            kept = torch.tensor(rows, device=best.device)
            in_batch = [number for number in in_batch if number in going]
            cache.batch_select_indices(kept)
            best, mask, positions = best[kept], mask[kept], positions[kept]
        ids = best[:, None]
        mask = torch.cat([mask, mask.new_ones(len(in_batch), 1)], dim=1)
        positions = positions[:, -1:] + 1
    return replies
