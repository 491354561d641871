"""Evaluation sets on the tiny model, and what plain torch says of single sequences."""

from __future__ import annotations

import torch
from conftest import make_model

from selgen_ray.config.evals import EvalConfig
from selgen_ray.data.encode import encode_prompt, encode_rows, replace_reply
from selgen_ray.evals import registry as evals_registry


def sharp_model():
    """Random, and sure enough of itself that replies differ between prompts."""
    model = make_model(tied=False).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(10)
    return model


def eval_set(model, tokenizer, rows, batch_size=4, **config):
    encoded = encode_rows(rows, tokenizer, 256, "completion", "x")
    return evals_registry.EvalSet(
        model, tokenizer, rows, encoded, batch_size, 6, 256, EvalConfig.model_validate(config)
    )


def log_p_of_reply(model, tokenizer, row, reply):
    """(log-probability of each token of the reply), one row, no padding, token by token."""
    (encoded,) = encode_rows([replace_reply(row, reply)], tokenizer, 256, "completion", "x")
    with torch.no_grad():
        log_p = torch.log_softmax(model(input_ids=torch.tensor([encoded.ids])).logits[0], dim=-1)
    return [float(log_p[t - 1, encoded.ids[t]]) for t, scored in enumerate(encoded.is_reply) if scored]


def greedy_reply(model, tokenizer, row, length=6):
    """By hand, without cache or padding."""
    prompt = encode_prompt(row, tokenizer)
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(length):
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == tokenizer.eos_token_id:
                break
    return tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True)
