"""Greedy replies of the model: in batches padded on the left, with the KV cache, once for each row of an evaluation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from selgen_ray.data.encode import pad_id
from selgen_ray.data.stop_tokens import stop_ids
from selgen_ray.evals.greedy import greedy_ids, is_plain
from selgen_ray.evals.registry import EvalSet
from selgen_ray.models.loading import Model, base_of


@dataclass(frozen=True)
class Reply:
    """A generated reply.

    Attributes:
        text: the text up to the first token that ends a reply.
        is_cut: whether the reply reached `max_new_tokens` without such a token.
    """

    text: str
    is_cut: bool


def replies(eval_set: EvalSet, numbers: Sequence[int]) -> list[str]:
    """Return the reply to each of the rows `numbers`; a reply that an earlier metric asked for is not generated again.

    The replies, and which of them were cut, are kept in `eval_set.answers`.
    """
    replies_by_number, cut = eval_set.answers.replies, eval_set.answers.cut
    missing = [number for number in numbers if number not in replies_by_number]
    prompts = [eval_set.prompt(number) for number in missing]
    for number, reply in zip(missing, generate(eval_set, prompts), strict=True):
        replies_by_number[number] = reply.text
        if reply.is_cut:
            cut.add(number)
    return [replies_by_number[number] for number in numbers]


def generate(eval_set: EvalSet, prompts: list[list[int]]) -> list[Reply]:
    """Generate greedy replies to tokenised prompts, whatever the model's own settings say; equal prompts once."""
    limit, pad, known = eval_set.max_new_tokens, pad_id(eval_set.tokenizer), eval_set.snapshot.replies
    missing = [list(key) for key in {tuple(prompt): None for prompt in prompts} if (key, limit) not in known]
    for batch in eval_set.limits.batches([len(prompt) + limit for prompt in missing], cached=True):
        chosen = [missing[i] for i in batch]
        with eval_set.snapshot.passes() as model, plain_greedy(model, eval_set.tokenizer) as config:
            stops: Any = config.eos_token_id or ()
            if is_plain(model):
                continued = greedy_ids(model, chosen, pad, stops, limit)
            else:
                continued = _generated(model, chosen, pad, config, limit)
        for prompt, ids in zip(chosen, continued, strict=True):
            known[tuple(prompt), limit] = ids, next((i for i, token in enumerate(ids) if token in stops), None)
    found = [known[tuple(prompt), limit] for prompt in prompts]
    return [_read(ids, end, eval_set.tokenizer, limit) for ids, end in found]


def _generated(model: Any, prompts: list[list[int]], pad: int, config: GenerationConfig, limit: int) -> list[list[int]]:
    """Return the continuations by the model's own `generate`, for models with more than an ordinary cache."""
    width = max(len(p) for p in prompts)
    ids = torch.full((len(prompts), width), pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, prompt in enumerate(prompts):
        ids[i, width - len(prompt) :] = torch.tensor(prompt)
        mask[i, width - len(prompt) :] = 1
    config.max_new_tokens = limit
    ids, mask = ids.to(model.device), mask.to(model.device)
    return model.generate(input_ids=ids, attention_mask=mask, generation_config=config)[:, width:].tolist()


def _read(ids: list[int], end: int | None, tokenizer: PreTrainedTokenizerBase, limit: int) -> Reply:
    text: Any = tokenizer.decode(ids[:end], skip_special_tokens=True)
    return Reply(text, end is None and len(ids) >= limit)


@contextlib.contextmanager
def plain_greedy(model: Model, tokenizer: PreTrainedTokenizerBase) -> Iterator[GenerationConfig]:
    """Make the model generate by plain greedy search until the context ends; yield the generation_config for it.

    The model's own generation_config is replaced, because `generate` takes from it what the config in its argument
    leaves out, such as a repetition penalty. Generation ends at `stop_ids`, which include those of the model's own
    config.
    """
    base_model: Any = base_of(model)
    own_config = base_model.generation_config
    base_model.generation_config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        use_cache=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=stop_ids(tokenizer, own_config) or None,
        pad_token_id=pad_id(tokenizer),
    )
    try:
        yield base_model.generation_config
    finally:
        base_model.generation_config = own_config
