"""The tokenizer of a trial's model."""

from __future__ import annotations

import functools
import json

from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from selgen_ray.config.finetune import FinetuneConfig
from selgen_ray.data.chat_format import set_chat_template_kwargs
from selgen_ray.errors import ModelError
from selgen_ray.models.files import cannot_load, model_location


def load_tokenizer(config: FinetuneConfig) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with `chat_template` and `chat_template_kwargs`; without a pad token its end token pads.

    Pads are masked and never scored.

    Raises:
        ModelError: it cannot be loaded, or has neither a pad nor an end token.
    """
    options = json.dumps(config.chat_template_kwargs, sort_keys=True)
    return _load_tokenizer(model_location(config.model), config.model_revision, config.chat_template, options)


@functools.lru_cache(maxsize=2)
def _load_tokenizer(
    location: str, revision: str | None, chat_template: str | None, options: str
) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(location, revision=revision or "main")
    except Exception as error:  # a broken tokenizer.json raises plain Exception
        raise ModelError(cannot_load("tokenizer", location, error)) from error
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ModelError(
                f"the tokenizer of {location} has neither a pad nor an end token: add pad_token and eos_token to its "
                "tokenizer_config.json"
            )
        tokenizer.pad_token = tokenizer.eos_token
    if chat_template:
        tokenizer.chat_template = chat_template
    set_chat_template_kwargs(tokenizer, json.loads(options))
    return tokenizer
