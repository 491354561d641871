"""Loss on the scored tokens."""

from __future__ import annotations

import math

from selgen_ray.data.tokens import num_scored_of
from selgen_ray.evals.registry import EvalSet, metric

_LARGEST = 700.0  # exp of a larger number overflows a float


@metric(shares=("token_probability",), others=("loss", "perplexity"), scores=lambda eval_set: eval_set.encoded)
def loss(eval_set: EvalSet) -> dict[str, float]:
    """Measure the model's loss on the scored tokens of all rows.

    Returns:
        loss: mean cross-entropy of a scored token, in nats;
        perplexity: exp(loss), of a loss of at most 700;
        token_probability: exp(-loss), the geometric mean of the scored tokens' probabilities, in [0, 1]: the headline
        of sets without an answer.
    """
    total = -sum(eval_set.log_probs(eval_set.encoded))
    count = sum(num_scored_of(eval_set.encoded))
    mean = total / count
    # the perplexity of a larger, finite loss would overflow
    return {"loss": mean, "perplexity": math.exp(min(mean, _LARGEST)), "token_probability": math.exp(-mean)}
