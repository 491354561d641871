"""Greedy replies of the model: in batches padded on the left, with the KV cache, once for each row of an evaluation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedTokenizerBase

from selgen_ray.data.encode import encode_prompt, pad_id
from selgen_ray.data.stop_tokens import stop_ids
from selgen_ray.data.streams import by_length
from selgen_ray.evals.registry import EvalSet
from selgen_ray.models.loading import Model


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
    prompts = [encode_prompt(eval_set.rows[number], eval_set.tokenizer) for number in missing]
    for batch in by_length([len(p) for p in prompts], eval_set.batch_size):
        for i, reply in zip(batch, generate(eval_set, [prompts[i] for i in batch]), strict=True):
            replies_by_number[missing[i]] = reply.text
            if reply.is_cut:
                cut.add(missing[i])
    return [replies_by_number[number] for number in numbers]


def generate(eval_set: EvalSet, prompts: list[list[int]]) -> list[Reply]:
    """Generate greedy replies to tokenised prompts, as one batch, whatever the model's own settings say."""
    tokenizer, device = eval_set.tokenizer, eval_set.model.device
    width = max(len(p) for p in prompts)
    ids = torch.full((len(prompts), width), pad_id(tokenizer), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, prompt in enumerate(prompts):
        ids[i, width - len(prompt) :] = torch.tensor(prompt)
        mask[i, width - len(prompt) :] = 1
    model: Any = eval_set.model  # its stubs have no generate()
    with plain_greedy(eval_set.model, tokenizer) as config:
        config.max_new_tokens = eval_set.max_new_tokens
        out = model.generate(input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=config)
    stops: Any = config.eos_token_id or ()
    return [_read(row, tokenizer, stops, eval_set.max_new_tokens) for row in out[:, width:].tolist()]


def _read(ids: list[int], tokenizer: PreTrainedTokenizerBase, stops: Sequence[int], limit: int) -> Reply:
    end = next((i for i, token in enumerate(ids) if token in stops), None)
    text: Any = tokenizer.decode(ids[:end], skip_special_tokens=True)
    return Reply(text, end is None and len(ids) >= limit)


@contextlib.contextmanager
def plain_greedy(model: Model, tokenizer: PreTrainedTokenizerBase) -> Iterator[GenerationConfig]:
    """Make the model generate by plain greedy search until the context ends; yield the generation_config for it.

    The model's own generation_config is replaced, because `generate` takes from it what the config in its argument
    leaves out, such as a repetition penalty. Generation ends at `stop_ids`, which include those of the model's own
    config.
    """
    base_model: Any = model.get_base_model() if isinstance(model, PeftModel) else model
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
