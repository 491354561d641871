"""Replies of the model: in batches padded on the left, with the KV cache, once for each row of an evaluation.

They are greedy, or drawn at a temperature where an open question asks for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from selgen_ray.data.encode import pad_id
from selgen_ray.data.stop_tokens import stop_ids
from selgen_ray.evals.decoding import Choice, generated_ids, is_plain
from selgen_ray.evals.registry import Draw, EvalSet
from selgen_ray.evals.reply_decoding import decoded
from selgen_ray.models.loading import Model, base_of


@dataclass(frozen=True)
class Reply:
    """A generated reply.

    Attributes:
        text: the text up to the first token that ends a reply; see `decoded`.
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
    draws = [eval_set.draw(number) for number in missing]
    answered = generate(eval_set, prompts, draws) if any(draws) else generate(eval_set, prompts)
    for number, reply in zip(missing, answered, strict=True):
        replies_by_number[number] = reply.text
        if reply.is_cut:
            cut.add(number)
    return [replies_by_number[number] for number in numbers]


def generate(eval_set: EvalSet, prompts: list[list[int]], draws: Sequence[Draw | None] | None = None) -> list[Reply]:
    """Generate replies to tokenised prompts, whatever the model's own settings say; equal ones once.

    Args:
        draws: how the reply to each prompt is drawn; None, or None for a prompt: it is greedy.
    """
    limit, pad, known = eval_set.max_new_tokens, pad_id(eval_set.tokenizer), eval_set.snapshot.replies
    keys = [(tuple(p), limit, draw) for p, draw in zip(prompts, draws or [None] * len(prompts), strict=True)]
    missing = [key for key in dict.fromkeys(keys) if key not in known]
    for batch in eval_set.limits.batches([len(prompt) + limit for prompt, _, _ in missing], cached=True):
        chosen = [missing[i] for i in batch]
        asked, choose = [list(prompt) for prompt, _, _ in chosen], Choice([draw for _, _, draw in chosen], limit)
        with eval_set.snapshot.passes() as model, plain_greedy(model, eval_set.tokenizer) as config:
            stops: Any = config.eos_token_id or ()
            if is_plain(model):
                continued = generated_ids(model, asked, pad, stops, limit, choose)
            else:
                continued = _generated(model, asked, pad, config, limit, choose)
        for key, ids in zip(chosen, continued, strict=True):
            known[key] = ids, next((i for i, token in enumerate(ids) if token in stops), None)
    found = [known[key] for key in keys]
    texts = decoded([(key[0], ids[:end]) for key, (ids, end) in zip(keys, found, strict=True)], eval_set.tokenizer)
    return [Reply(text, end is None and len(ids) >= limit) for text, (ids, end) in zip(texts, found, strict=True)]


def _generated(
    model: Any, prompts: list[list[int]], pad: int, config: GenerationConfig, limit: int, choose: Choice
) -> list[list[int]]:
    """Return the continuations by the model's own `generate`, for models with more than an ordinary cache."""
    width = max(len(p) for p in prompts)
    ids = torch.full((len(prompts), width), pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, prompt in enumerate(prompts):
        ids[i, width - len(prompt) :] = torch.tensor(prompt)
        mask[i, width - len(prompt) :] = 1
    config.max_new_tokens = limit
    ids, mask = ids.to(model.device), mask.to(model.device)

    def only_the_chosen(so_far: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        best = choose(logits, range(len(prompts)), so_far.shape[1] - width)
        return torch.full_like(logits, -torch.inf).scatter(1, best[:, None], 0.0)

    more: Any = {"logits_processor": [only_the_chosen]} if choose.is_random else {}
    return model.generate(input_ids=ids, attention_mask=mask, generation_config=config, **more)[:, width:].tolist()


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
