"""Loss on the scored tokens."""

from __future__ import annotations

import math

from selgen_ray.data.encode import collate, pad_id
from selgen_ray.data.streams import by_length
from selgen_ray.data.tokens import lengths_of
from selgen_ray.evals.registry import EvalSet, metric
from selgen_ray.models.forward import scored_logits
from selgen_ray.models.log_probs import cross_entropy

_LARGEST = 700.0


@metric(shares=("token_probability",), others=("loss", "perplexity"))
def loss(eval_set: EvalSet) -> dict[str, float]:
    """Token-weighted mean cross-entropy in nats, `perplexity` = exp(loss) and `token_probability` = exp(-loss).

    The last is the geometric mean probability of a scored token: the headline of sets without an answer.
    """
    pad, device = pad_id(eval_set.tokenizer), eval_set.model.device
    total, count = 0.0, 0
    for rows in by_length(lengths_of(eval_set.encoded), eval_set.batch_size):
        batch = collate(eval_set.encoded, rows, pad, device)
        total += float(cross_entropy(scored_logits(eval_set.model, batch), batch.targets[batch.scored]))
        count += batch.num_scored
    mean = total / count
    # a loss above it is finite, and its perplexity no float
    return {"loss": mean, "perplexity": math.exp(min(mean, _LARGEST)), "token_probability": math.exp(-mean)}
