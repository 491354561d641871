"""Whether the right one of several replies is the most likely one."""

from __future__ import annotations

from collections import defaultdict

import torch
import torch.nn.functional as F

from selgen_ray.data.encode import collate, encode_rows, pad_id, replace_reply
from selgen_ray.evals import EvalSet, by_length, metric
from selgen_ray.trainers.losses import upcast


@metric
def choice(eval_set: EvalSet) -> dict[str, float]:
    """On rows with `choices`: how often the choice of the highest total log-probability is `answer`.

    Returns:
        choice_accuracy; and where rows carry a `label`, balanced_accuracy: the mean over labels of the accuracy
        within the label, so that always giving the same verdict scores 1 / number of labels.
    """
    asked = [row for row in eval_set.rows if row.get("choices")]
    if not asked:
        return {}
    candidates = [replace_reply(row, reply) for row in asked for reply in row["choices"]]
    scores = iter(reply_log_probabilities(eval_set, candidates))
    hits: dict[str, list[bool]] = defaultdict(list)
    for row in asked:
        of_choice = {reply: next(scores) for reply in row["choices"]}
        hits[str(row.get("label"))].append(max(of_choice, key=of_choice.__getitem__) == row["answer"])
    accuracy = sum(map(sum, hits.values())) / len(asked)
    balanced = sum(sum(h) / len(h) for h in hits.values()) / len(hits)
    labelled = all(row.get("label") is not None for row in asked)
    return {"choice_accuracy": accuracy} | ({"balanced_accuracy": balanced} if labelled else {})


def reply_log_probabilities(eval_set: EvalSet, rows: list[dict]) -> list[float]:
    """Total log-probability in nats of each row's final reply."""
    encoded = encode_rows(rows, eval_set.tokenizer, eval_set.max_seq_length, "completion", "choices")
    result = [0.0] * len(rows)
    for numbers in by_length([len(e) for e in encoded], eval_set.batch_size):
        batch = collate(encoded, numbers, pad_id(eval_set.tokenizer), eval_set.model.device)
        log_p = F.log_softmax(upcast(eval_set.model(**batch.inputs).logits), dim=-1)
        of_target = log_p.gather(-1, batch.targets.unsqueeze(-1)).squeeze(-1)
        totals = torch.where(batch.scored, of_target, 0.0).sum(dim=1)
        for number, total in zip(numbers, totals.tolist(), strict=True):
            result[number] = total
    return result
