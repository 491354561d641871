"""Names of settings, in tables and figures: short signs and words for the common knobs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

# the signs of the formulas in the README; a legend says which key each stands for
SIGNS = {
    "beta_kl": "β",
    "beta": "β",
    "lambda_dpo": "λ",
    "lambda_1": "λ",
    "lambda_proxy": "λ_proxy",
    "neg_lambda_proxy": "λ_neg",
    "steering_alpha": "α",
    "final_steering_alpha": "α_end",
    "steer_alpha": "α",
    "steer_k": "k",
    "wise_alpha": "a",
    "lambda_act": "λ",
    "lambda_asft": "λ",
    "interleave_share": "share",
    "ablate_components": "components",
    "trait_scale": "scale",
    "inoculation_prompt": "prompt",
    "alpha_scheduler_type": "α_schedule",
    "alpha_warmup_steps": "α_warmup",
    "positive_proxy": "pos",
    "negative_proxy": "neg",
    "safe_lora_threshold": "τ",
    "safe_lora_num_proj_layers": "matrices",
    "representation_layers": "layers",
    "learning_rate": "lr",
    "lora_alpha": "lora_α",
    "per_device_train_batch_size": "batch",
}
# values that are clear without their key
WORDS: dict[str, dict[Any, str]] = {
    "train_on_proxy": {False: "outcome only", True: "proxy mixed in"},
    "project_strictly_orthogonal": {False: "if opposed", True: "strict"},
    "projection_scope": {"per_tensor": "per tensor", "global": "global"},
    "project_along_positive_proxy_grad": {False: "along proxy_neg", True: "along proxy"},
    "add_proxy_gradients": {False: "V difference", True: "V sum"},
    "calc_alignment_plane_using_fully_finetuned_weights": {False: "V of gradients", True: "V of weights"},
    "direct_steering": {False: "gradients", True: "weights"},
    "penalty_normalize": {False: "cosines off", True: "cosines"},
    "dpo_average_log_prob": {False: "log π summed", True: "log π averaged"},
    "imported": {False: "of this sweep", True: "imported"},
    "safe_lora_type": {"threshold": "threshold", "number": "number"},
}


def value_text(value: Any) -> str:
    """Return a knob's value for people: '10', '1e-05', 'false', '[1,2]', '"Be honest. "', the last part of a path."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(value_text, value)) + "]"
    if isinstance(value, str) and (not value or any(map(str.isspace, value))):  # words: blanks at the ends count too
        return f'"{value}"'
    return PurePosixPath(str(value)).name or str(value)


def word_of(name: str, value: Any) -> str:
    """Return a knob's value as an axis names it: 'proxy mixed in', or what `value_text` writes."""
    return _words(name, value) or value_text(value)


def _words(name: str, value: Any) -> str:
    """Return the words that stand for a knob's value without its key; '' where there are none."""
    return WORDS.get(name, {}).get(value, "") if isinstance(value, bool | str) else ""


def signs(names: Iterable[str]) -> dict[str, str]:
    """Map each knob to how it is written, such as {"beta_kl": "β", "epochs": "epochs"}.

    Where two of the knobs would have the same sign, both keep their names.
    """
    names = list(names)
    wanted = [SIGNS.get(name, name) for name in names]
    return {name: sign if wanted.count(sign) == 1 else name for name, sign in zip(names, wanted, strict=True)}


def knob_texts(knobs: Mapping[str, Any]) -> list[str]:
    """Return one text for each knob, such as 'β=10', 'strict' or 'epochs=3'."""
    return [
        _words(name, value) or f"{sign}={value_text(value)}"
        for (name, value), sign in zip(knobs.items(), signs(knobs).values(), strict=True)
    ]


def explained(names: Iterable[str]) -> list[str]:
    """Return 'β: beta_kl' for each knob that has a sign, its name for the others."""
    return [name if sign == name else f"{sign}: {name}" for name, sign in signs(names).items()]
