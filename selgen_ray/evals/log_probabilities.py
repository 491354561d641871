"""Log-probabilities of given replies under the model."""

from __future__ import annotations

from collections.abc import Sequence

from selgen_ray.data.encode import collate, encode_rows, pad_id
from selgen_ray.data.forms import Row
from selgen_ray.data.streams import by_length
from selgen_ray.evals.registry import EvalSet
from selgen_ray.models.forward import scored_logits
from selgen_ray.models.log_probs import reply_log_probs


def reply_log_probabilities(eval_set: EvalSet, rows: Sequence[Row]) -> list[tuple[float, int]]:
    """Return for each row the log-probability of its final reply, in nats, and the number of tokens that it sums over.

    Raises:
        DataError: a row has no token to score within `max_seq_length`; see `encode_rows`.
    """
    encoded = encode_rows(rows, eval_set.tokenizer, eval_set.max_seq_length, "completion", "a candidate reply")
    result = [(0.0, 0)] * len(rows)
    for numbers in by_length([len(e) for e in encoded], eval_set.batch_size):
        batch = collate(encoded, numbers, pad_id(eval_set.tokenizer), eval_set.model.device)
        totals = reply_log_probs(scored_logits(eval_set.model, batch), batch.targets, batch.scored)
        counts = batch.scored.sum(dim=1)
        for number, total, count in zip(numbers, totals.tolist(), counts.tolist(), strict=True):
            result[number] = total, count
    return result
