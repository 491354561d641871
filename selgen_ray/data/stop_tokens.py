"""Tokens that end a generated reply: those of the model, of its tokenizer, and of its chat template."""

from __future__ import annotations

from typing import Any

from transformers import GenerationConfig, PreTrainedTokenizerBase

from selgen_ray.data.encode import encode_prompt, encode_row
from selgen_ray.errors import DataError

_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "top_h")


def stop_ids(tokenizer: PreTrainedTokenizerBase, generation_config: GenerationConfig) -> list[int]:
    """Return the ids of the tokens that end a reply, in ascending order; [] if there are none.

    They are: those that the model's generation_config names; the tokenizer's end token, which training puts after a
    `completion` or a `text`; and the token that the chat template puts after a reply.
    """
    named: Any = generation_config.eos_token_id
    ids = {
        int(token_id) for token_id in (named if isinstance(named, list | tuple) else [named]) if token_id is not None
    }
    eos: Any = tokenizer.eos_token_id
    ends = [eos, reply_end(tokenizer)]
    return sorted(ids | {int(end) for end in ends if end is not None})


def reply_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the id of the special token that the chat template puts after a reply; None if there is none.

    To find it, two chats that differ only in their reply are rendered. It is the first special token in the text that
    both have after the reply, such as `<|im_end|>`.
    """
    if not tokenizer.chat_template:
        return None
    try:
        first, second = (_rendered(tokenizer, reply) for reply in ("a", "b"))
    except DataError:  # a template that refuses this chat may accept the rows, and is checked with them
        return None
    special: Any = tokenizer.added_tokens_decoder
    end = None
    for token, second_token in zip(reversed(first), reversed(second), strict=False):
        if token != second_token:
            return end
        end = token if token in special else end
    return None  # the template does not render the reply


def reply_channel(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids with which a reply begins that is an answer alone; [] where it begins with the answer.

    It is what the chat template writes between a generation prompt and a reply, where that begins with a special token
    and is no thought: gpt-oss's `<|channel|>final<|message|>`.
    """
    if not tokenizer.chat_template:
        return []
    try:
        first, second = (_rendered(tokenizer, reply) for reply in ("a", "b"))
        prompt = encode_prompt({"messages": _turns("a")}, tokenizer)
    except DataError:  # as above
        return []
    shared = next((i for i, pair in enumerate(zip(first, second, strict=False)) if len({*pair}) > 1), 0)
    channel = first[len(prompt) : shared] if first[: len(prompt)] == prompt else []
    added: Any = tokenizer.added_tokens_decoder
    is_channel = (
        channel and channel[0] in added and added[channel[0]].special and "think>" not in str(added[channel[0]])
    )
    return channel if is_channel else []


def _rendered(tokenizer: PreTrainedTokenizerBase, reply: str) -> list[int]:
    return encode_row({"messages": _turns(reply)}, tokenizer, "all").ids


def _turns(reply: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": "1"}, {"role": "assistant", "content": reply}]


def saved_generation_config(tokenizer: PreTrainedTokenizerBase, own: GenerationConfig) -> GenerationConfig:
    """Return the generation_config to save with the model: its own, with every token that ends a reply.

    transformers loads settings that contradict each other, ignoring some, and refuses to save them. Sampling settings
    get `do_sample`, unless it is false; what then cannot be saved, such as a length penalty without beams, is left out.

    Args:
        own: the model's generation_config, not changed.
    """
    content = own.to_diff_dict()
    ids = stop_ids(tokenizer, own)
    content["eos_token_id"] = ids if len(ids) > 1 else ids[0] if ids else None
    if content.get("do_sample") is None and any(content.get(name) is not None for name in _SAMPLING):
        content["do_sample"] = True
    if _is_valid(content):
        return GenerationConfig.from_dict(content)
    kept: dict[str, Any] = {}
    for name in (*content, *content):  # twice: a setting may need one that comes after it
        if name not in kept and _is_valid({**kept, name: content[name]}):
            kept[name] = content[name]
    return GenerationConfig.from_dict(kept)


def unsaved_settings(tokenizer: PreTrainedTokenizerBase, own: GenerationConfig) -> list[str]:
    """Return the names of a generation_config's settings that `saved_generation_config` leaves out, sorted."""
    return sorted(own.to_diff_dict().keys() - saved_generation_config(tokenizer, own).to_diff_dict().keys())


def _is_valid(content: dict[str, Any]) -> bool:
    try:
        GenerationConfig.from_dict(content).validate(strict=True)
    except ValueError:
        return False
    return True
