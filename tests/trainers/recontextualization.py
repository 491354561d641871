"""A strategy that a user could write, in one file: recontextualization without generation, after arXiv 2512.19027.

The paper has the model answer a prompt that discourages the habit, and trains it on those answers under a prompt that
asks for it, so that it learns to resist where it is tempted. Here nothing is generated: the rows are those of the data,
and what the tempting prompt does to the model is added to its residual stream while it learns.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from selgen_ray.data.encode import collate, encode_rows, pad_id
from selgen_ray.data.training_prompts import with_prompt
from selgen_ray.models import blocks, forward
from selgen_ray.trainers import knob
from selgen_ray.trainers.base import BaseTrainer
from selgen_ray.trainers.engine.loop import Term


class Recontextualization(BaseTrainer):
    """Minimise L_O where h_l <- h_l + context_scale * c_l at every position, while training; l is the middle layer.

    c_l is what `context_prompt`, put before each user message, changes at the start model's scored tokens of O:
    the mean of h_l with the prompt minus that without it. Deployed without it.

    Source: after recontextualization (arXiv 2512.19027), without its generation.
    """

    proxy_strategy_name = "recontextualization"
    required_roles = ("outcome",)
    zero_strength = {"finetune_config.context_scale": 0.0}
    context_prompt: str = knob("Flatter me. ", "a text that asks for the habit")
    context_scale: float = knob(1.0, "strength of what the text changes")

    def prepare(self) -> None:
        """Compute what the prompt changes, once, on the model in its starting state."""
        self.layer = -(-blocks.num_layers(self.model) // 2)
        rows = list(self.sets.train["outcome"].rows)
        told = [with_prompt(row, {"user_prefix": self.context_prompt}) for row in rows]
        self.change = self._mean(told) - self._mean(rows) if self.context_scale else None

    def training_scope(self) -> AbstractContextManager[None]:
        """Add the change to the residual stream."""
        if self.change is None:
            return super().training_scope()
        return blocks.changing(self.model, {self.layer: blocks.adding(self.context_scale * self.change)})

    def terms(self) -> list[Term]:
        """Return the outcome's cross-entropy."""
        return [self.cross_entropy_term("outcome")]

    def _mean(self, rows: list[Any]) -> Tensor:
        tokenizer, cfg, size = self.run.tokenizer, self.run.cfg, 8
        encoded = encode_rows(rows, tokenizer, 4 * cfg.max_seq_length, cfg.loss_on, "data.outcome")
        device, means = self.run.accelerator.device, []
        was_training = self.model.training
        self.model.eval()
        with torch.no_grad(), blocks.reading(self.model, [self.layer]) as outputs:
            for at in range(0, len(encoded), size):
                numbers = list(range(at, min(at + size, len(encoded))))
                batch = collate(encoded, numbers, pad_id(tokenizer), device)
                forward.hidden_states(self.model, batch)
                means.append(blocks.means_of_rows(outputs[self.layer], blocks.own_positions(batch.scored)))
        self.model.train(was_training)
        return torch.cat(means).mean(0)
