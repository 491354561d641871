"""The model's own greedy replies: in batches padded on the left, with the KV cache, each row once an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from selgen_ray.data.encode import encode_prompt, pad_id
from selgen_ray.data.streams import by_length
from selgen_ray.evals.registry import EvalSet


def replies(eval_set: EvalSet, numbers: Sequence[int]) -> list[str]:
    """The reply to each of the rows `numbers`; one that an earlier metric wanted is not generated again."""
    known = eval_set.answers.replies
    asked = [number for number in numbers if number not in known]
    prompts = [encode_prompt(eval_set.rows[number], eval_set.tokenizer) for number in asked]
    for batch in by_length([len(p) for p in prompts], eval_set.batch_size):
        for i, reply in zip(batch, generate(eval_set, [prompts[i] for i in batch]), strict=True):
            known[asked[i]] = reply
    return [known[number] for number in numbers]


def generate(eval_set: EvalSet, prompts: list[list[int]]) -> list[str]:
    """Greedy replies to tokenised prompts."""
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
