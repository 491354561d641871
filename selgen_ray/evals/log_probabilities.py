"""Log-probabilities of given replies under the model."""

from __future__ import annotations

from collections.abc import Sequence

from selgen_ray.data.encode import Encoded
from selgen_ray.data.forms import Row
from selgen_ray.evals.registry import EvalSet


def reply_tokens(eval_set: EvalSet, rows: Sequence[Row]) -> list[Encoded]:
    """Return the tokens of each row, of which those of its final reply are scored.

    Raises:
        DataError: a row has no token to score within `max_seq_length`; see `encode_rows`.
    """
    return eval_set.tokens.replies(rows, eval_set.tokenizer, eval_set.max_seq_length)


def reply_log_probabilities(eval_set: EvalSet, rows: Sequence[Row]) -> list[tuple[float, int]]:
    """Return for each row the log-probability of its final reply, in nats, and the number of tokens that it sums over.

    Raises:
        DataError: a row has no token to score within `max_seq_length`; see `encode_rows`.
    """
    encoded = reply_tokens(eval_set, rows)
    return [(total, sum(e.is_reply)) for total, e in zip(eval_set.log_probs(encoded), encoded, strict=True)]
