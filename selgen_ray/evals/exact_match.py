"""Whether the model's own greedy answer is right."""

from __future__ import annotations

import re
from typing import Any

import torch

from selgen_ray.data.encode import encode_prompt, pad_id
from selgen_ray.evals import EvalSet, by_length, metric

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


@metric
def exact_match(eval_set: EvalSet) -> dict[str, float]:
    """Share of rows with a short `answer` (and no `choices`) that the greedy reply gets right; see `is_right`."""
    asked = [row for row in eval_set.rows if row.get("answer") is not None and not row.get("choices")]
    if not asked:
        return {}
    prompts = [encode_prompt(row, eval_set.tokenizer) for row in asked]
    right = 0
    for rows in by_length([len(p) for p in prompts], eval_set.batch_size):
        for row, reply in zip(rows, generate(eval_set, [prompts[i] for i in rows]), strict=True):
            right += is_right(reply, str(asked[row]["answer"]))
    return {"exact_match": right / len(asked)}


def is_right(reply: str, answer: str) -> bool:
    """Whether a reply gives the answer: a number must be its last number, a text its last line.

    Case, surrounding punctuation and thousands separators do not count: '1,024.' is 1024.
    """
    wanted = _number(answer)
    if wanted is not None:
        numbers = _NUMBER.findall(reply)
        return bool(numbers) and _number(numbers[-1]) == wanted
    lines = [line for line in reply.splitlines() if line.strip()]
    return bool(lines) and _normal(lines[-1]) == _normal(answer)


def _number(text: str) -> float | None:
    text = text.strip()
    return float(text.replace(",", "")) if _NUMBER.fullmatch(text) else None


def _normal(text: str) -> str:
    return re.sub(r"\s+", " ", text.casefold()).strip(" .!?\"'*")


def generate(eval_set: EvalSet, prompts: list[list[int]]) -> list[str]:
    """Greedy replies to tokenised prompts, padded on the left, with the KV cache."""
    tokenizer, device = eval_set.tokenizer, eval_set.model.device
    width = max(len(p) for p in prompts)
    ids = torch.full((len(prompts), width), pad_id(tokenizer), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, prompt in enumerate(prompts):
        ids[i, width - len(prompt) :] = torch.tensor(prompt)
        mask[i, width - len(prompt) :] = 1
    model: Any = eval_set.model  # its stubs know no generate()
    out = model.generate(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        max_new_tokens=eval_set.max_new_tokens,
        do_sample=False,
        use_cache=True,
        pad_token_id=pad_id(tokenizer),
        # a chat model's own sampling settings would only draw warnings in greedy decoding
        temperature=None,
        top_p=None,
        top_k=None,
    )
    return tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)
