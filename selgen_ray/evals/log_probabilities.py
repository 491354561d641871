"""How likely replies are that somebody else wrote."""

from __future__ import annotations

from collections.abc import Sequence

from selgen_ray.data.encode import collate, encode_rows, pad_id
from selgen_ray.data.forms import Row
from selgen_ray.data.streams import by_length
from selgen_ray.evals.registry import EvalSet
from selgen_ray.models.forward import scored_logits
from selgen_ray.models.log_probs import reply_log_probs


def reply_log_probabilities(eval_set: EvalSet, rows: Sequence[Row]) -> list[tuple[float, int]]:
    """Log-probability in nats of each row's final reply, and of how many tokens it is the sum."""
    encoded = encode_rows(rows, eval_set.tokenizer, eval_set.max_seq_length, "completion", "a candidate reply")
    result = [(0.0, 0)] * len(rows)
    for numbers in by_length([len(e) for e in encoded], eval_set.batch_size):
        batch = collate(encoded, numbers, pad_id(eval_set.tokenizer), eval_set.model.device)
        totals = reply_log_probs(scored_logits(eval_set.model, batch), batch.targets, batch.scored)
        counts = batch.scored.sum(dim=1)
        for number, total, count in zip(numbers, totals.tolist(), counts.tolist(), strict=True):
            result[number] = total, count
    return result
