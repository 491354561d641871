"""A model during one evaluation, in which no weight changes: each token sequence is scored once, whoever asks."""

from __future__ import annotations

import contextlib
import hashlib
from array import array
from collections.abc import Hashable, Iterable, Iterator

import torch
import torch.nn.functional as F

from selgen_ray.data.encode import Encoded
from selgen_ray.data.streams import BatchLimits
from selgen_ray.data.trees import TreeBatch, collate_trees, grow
from selgen_ray.models.forward import takes_trees, tree_logits
from selgen_ray.models.loading import Model
from selgen_ray.models.log_probs import upcast
from selgen_ray.models.merged import MergedAdapter

_CHUNK = 2_000_000  # tokens that are looked at together, so that a large set does not lie in memory as lists


class Snapshot:
    """The model in one state of its weights, and the log-probabilities that were computed of it so far.

    Args:
        model: a model whose weights do not change for as long as this object is used.

    Attributes:
        replies: (prompt, limit of new tokens, how it is drawn) -> tokens of the reply, and the place of the token that
            ends it.
    """

    def __init__(self, model: Model):
        self.model = model
        self.replies: dict[tuple[tuple[int, ...], int, Hashable], tuple[list[int], int | None]] = {}
        self._merged = MergedAdapter(model)
        self._scores: dict[bytes, float] = {}

    @contextlib.contextmanager
    def passes(self) -> Iterator[Model]:
        """Yield the model in evaluation mode, with its adapter merged where that is exact, without gradients."""
        was_training = self.model.training
        if was_training:
            self.model.eval()
        try:
            with torch.no_grad(), self._merged.applied():
                yield self.model
        finally:
            if was_training:
                self.model.train()

    def log_probs(self, sequences: Iterable[Encoded], pad: int, limits: BatchLimits) -> list[float]:
        """Return for each sequence the log-probability of its scored tokens, their sum in nats.

        A sequence that was scored before is looked up. Sequences that begin alike are run as one row if the model can.

        Raises:
            ModelError: the model does not compute its logits token by token from its output embeddings.
        """
        return [log_p for chunk in _chunks(sequences) for log_p in self._of_chunk(chunk, pad, limits)]

    def _of_chunk(self, sequences: list[Encoded], pad: int, limits: BatchLimits) -> list[float]:
        keys = [_key(sequence) for sequence in sequences]
        missing = {key: sequence for key, sequence in zip(keys, sequences, strict=True) if key not in self._scores}
        names = list(missing)
        trees = grow(list(missing.values()), join=takes_trees(self.model))
        for numbers in limits.batches([len(tree) for tree in trees]):
            batch = collate_trees([trees[i] for i in numbers], pad, self.model.device)
            with self.passes() as model:
                log_p = _target_log_probs(tree_logits(model, batch), batch)
            found, place = batch.sequences.unique(return_inverse=True)
            sums = torch.zeros(len(found), dtype=torch.float64).index_add_(0, place, log_p)
            self._scores |= zip((names[number] for number in found.tolist()), sums.tolist(), strict=True)
        return [self._scores[key] for key in keys]


def _chunks(sequences: Iterable[Encoded]) -> Iterator[list[Encoded]]:
    chunk: list[Encoded] = []
    size = 0
    for sequence in sequences:
        chunk.append(sequence)
        size += len(sequence)
        if size > _CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _key(sequence: Encoded) -> bytes:
    content = array("q", sequence.ids).tobytes() + bytes(sequence.is_reply)
    return hashlib.blake2b(content, digest_size=16).digest()


def _target_log_probs(logits: torch.Tensor, batch: TreeBatch) -> torch.Tensor:
    """Return the log-probability of each target, in float64 on the CPU, [targets]."""
    if batch.sees is not None:  # otherwise each node predicts one target, in this order
        logits = logits[batch.at]
    log_p = -F.cross_entropy(upcast(logits), batch.targets, reduction="none")
    return log_p.double().cpu()
