"""The tokens at which a generated reply ends: those of the model, of its tokenizer, and of its chat template."""

from __future__ import annotations

from typing import Any

from transformers import GenerationConfig, PreTrainedTokenizerBase

from selgen_ray.data.encode import encode_row
from selgen_ray.errors import DataError

_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "top_h")


def stop_ids(tokenizer: PreTrainedTokenizerBase, generation_config: GenerationConfig) -> list[int]:
    """Ids of the tokens that end a reply, in ascending order; [] where there are none.

    They are the union of what the model's generation_config names, the tokenizer's end token, which training puts
    after a `completion` or a `text`, and the token that the chat template puts after a reply.
    """
    named: Any = generation_config.eos_token_id
    ids = {int(one) for one in (named if isinstance(named, list | tuple) else [named]) if one is not None}
    eos: Any = tokenizer.eos_token_id
    ends = [eos, reply_end(tokenizer)]
    return sorted(ids | {int(end) for end in ends if end is not None})


def reply_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Id of the special token that the chat template puts after a reply, such as `<|im_end|>`; None: there is none.

    Two chats that differ in their reply alone are rendered: the first special token of what both have after it.
    """
    if not tokenizer.chat_template:
        return None
    try:
        one, other = (_rendered(tokenizer, reply) for reply in ("a", "b"))
    except DataError:  # a template that refuses this chat may take the rows, and is checked with them
        return None
    special: Any = tokenizer.added_tokens_decoder
    end = None
    for token, same in zip(reversed(one), reversed(other), strict=False):
        if token != same:
            return end
        end = token if token in special else end
    return None  # the reply is not in what was rendered


def _rendered(tokenizer: PreTrainedTokenizerBase, reply: str) -> list[int]:
    turns = [{"role": "user", "content": "1"}, {"role": "assistant", "content": reply}]
    return encode_row({"messages": turns}, tokenizer, "all").ids


def saved_generation_config(tokenizer: PreTrainedTokenizerBase, own: GenerationConfig) -> GenerationConfig:
    """The model's generation_config, to be saved with it, with every token that ends a reply.

    Sampling settings without `do_sample`, which transformers refuses to save, are saved with it.
    """
    content = own.to_diff_dict()
    ids = stop_ids(tokenizer, own)
    content["eos_token_id"] = ids if len(ids) > 1 else ids[0] if ids else None
    if any(content.get(name) is not None for name in _SAMPLING):
        content["do_sample"] = True
    return GenerationConfig.from_dict(content)
