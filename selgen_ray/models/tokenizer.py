"""The tokenizer of a trial's model."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from selgen_ray.config.finetune import FinetuneConfig
from selgen_ray.config.trial import TrialConfig
from selgen_ray.data import chats
from selgen_ray.data.chat_format import set_chat_template_kwargs
from selgen_ray.errors import DataError, ModelError
from selgen_ray.models.files import cannot_load, model_location
from selgen_ray.worlds.toy import MODEL_DIR


def load_tokenizer(config: FinetuneConfig) -> PreTrainedTokenizerBase:
    """Return the model's tokenizer, with the config's `chat_template` and `chat_template_kwargs`.

    If it has no pad token, its end token pads: pads are masked and never scored.

    Raises:
        ModelError: it cannot be loaded, or has neither a pad nor an end token.
    """
    options = json.dumps(config.chat_template_kwargs, sort_keys=True)
    return _load_tokenizer(model_location(config.model), config.model_revision, config.chat_template, options)


def _tokenizer_class(location: str) -> type:
    """Return what loads a tokenizer: the shipped model's class is known."""
    if location == str(MODEL_DIR):
        return PreTrainedTokenizerFast
    from transformers import AutoTokenizer  # late: start-up, it knows all models that there are

    return AutoTokenizer


@functools.lru_cache(maxsize=2)
def _load_tokenizer(
    location: str, revision: str | None, chat_template: str | None, options: str
) -> PreTrainedTokenizerBase:
    try:
        kind: Any = _tokenizer_class(location)
        tokenizer = kind.from_pretrained(location, revision=revision or "main")
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


def refused_rows(config: TrialConfig) -> Callable[[Mapping[str, Any]], str | None] | None:
    """Return a function that says why a row must be left out; None if bad rows are errors.

    Returns:
        A function of a row: the reason in words if the chat template refuses the row or its replies cannot be located,
        else None. It is always None if the tokenizer or the template as a whole cannot be used.
    """
    if config.data.on_bad_rows != "skip":
        return None
    cfg = config.finetune_config

    @functools.cache  # loaded at the first chat: other rows need no tokenizer
    def tokenizer() -> PreTrainedTokenizerBase | None:
        try:
            loaded = load_tokenizer(cfg)
            chats.format_of(loaded)
        except (ModelError, DataError):  # reported elsewhere: of the model, or of the first row
            return None
        return loaded

    def refused(row: Mapping[str, Any]) -> str | None:
        if row.get("messages") is None or (usable := tokenizer()) is None:
            return None
        try:
            chats.check_chat(row["messages"], usable, cfg.loss_on)
        except DataError as error:
            return str(error)
        return None

    return refused
