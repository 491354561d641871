"""Loss on the scored tokens."""

from __future__ import annotations

import math

from selgen_ray.data.encode import collate, pad_id
from selgen_ray.data.streams import by_length
from selgen_ray.data.tokens import lengths_of
from selgen_ray.evals.registry import EvalSet, metric
from selgen_ray.models.forward import scored_logits
from selgen_ray.models.log_probs import cross_entropy

_LARGEST = 700.0  # exp of a larger number overflows a float


@metric(shares=("token_probability",), others=("loss", "perplexity"))
def loss(eval_set: EvalSet) -> dict[str, float]:
    """Measure the model's loss on the scored tokens of all rows.

    Returns:
        loss: mean cross-entropy of a scored token, in nats;
        perplexity: exp(loss), of a loss of at most 700;
        token_probability: exp(-loss), the geometric mean of the scored tokens' probabilities, in [0, 1]: the headline
        of sets without an answer.
    """
    pad, device = pad_id(eval_set.tokenizer), eval_set.model.device
    total, count = 0.0, 0
    for rows in by_length(lengths_of(eval_set.encoded), eval_set.batch_size):
        batch = collate(eval_set.encoded, rows, pad, device)
        total += float(cross_entropy(scored_logits(eval_set.model, batch), batch.targets[batch.scored]))
        count += batch.num_scored
    mean = total / count
    # the perplexity of a larger, finite loss would overflow
    return {"loss": mean, "perplexity": math.exp(min(mean, _LARGEST)), "token_probability": math.exp(-mean)}
