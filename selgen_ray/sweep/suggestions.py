"""The strategies that a first search space names, with strengths at which an effect was seen.

The ranges are those of README.md, from the papers and from the shipped worlds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from selgen_ray.data.forms import Row

PAIRS = ("proxy", "proxy_neg")


@dataclass(frozen=True)
class Suggestion:
    """A strategy in a search space.

    Attributes:
        strategy: its name.
        setting: its entry in `strategies`, as YAML on one line.
        needs: the roles without which it cannot be run.
        why: what a person reads beside it.
    """

    strategy: str
    setting: str
    needs: tuple[str, ...]
    why: str

    def line(self, given: Mapping[str, Sequence[Row]]) -> str:
        """Return its line in the search space, for these rows."""
        if self.strategy == "naive" and not given.get("proxy"):
            return "naive: {}  # the task alone, to compare with"
        return f"{self.strategy}: {self.setting}  # {self.why}"


FIRST = ("naive", "kl_divergence", "dpo", "representation_constraint")
MOST_ACTIVE = 3
"""A first sweep has so many of the strategies of `FIRST`, those that the rows allow."""
SUGGESTIONS = (
    Suggestion(
        "naive",
        "{grid: {train_on_proxy: [false, true]}}",
        (),
        "the task alone, and the proxy mixed in: to compare with",
    ),
    Suggestion(
        "kl_divergence",
        "{grid: {finetune_config.beta_kl: [1.0, 5.0]}}",
        ("proxy",),
        "near the start model on the proxy; sensible: 0.1 to 10",
    ),
    Suggestion(
        "dpo",
        "{grid: {finetune_config.lambda_dpo: [1.0, 4.0]}}",
        PAIRS,
        "prefer the proxy's replies to the misaligned ones; 0.03 to 12",
    ),
    Suggestion(
        "representation_constraint",
        "{grid: {finetune_config.beta_kl: [0.1, 1.0]}}",
        ("proxy",),
        "hidden states near the start model's on the proxy; 0.01 to 1",
    ),
    Suggestion(
        "inoculation_prompting",
        '{fixed: {finetune_config.inoculation_prompt: "Agree with the user."}}',
        (),
        "write the text that asks for your habit",
    ),
    Suggestion(
        "positive_negative_proxy",
        "{fixed: {finetune_config.neg_lambda_proxy: 0.0}, grid: {finetune_config.lambda_proxy: [1.0, 8.0]}}",
        ("proxy",),
        "weigh the proxy up; 0.1 to 8",
    ),
    Suggestion(
        "inoculation_adapter",
        "{grid: {finetune_config.trait_scale: [0.5, 1.0]}}",
        ("trait",),
        "learn the task beside an adapter that has the habit; 0.5 to 1",
    ),
    Suggestion(
        "preventative_steering",
        "{grid: {finetune_config.steer_alpha: [5.0]}}",
        PAIRS,
        "add the habit's direction while learning; published: 5 at one layer",
    ),
    Suggestion(
        "interleaving",
        "{grid: {finetune_config.interleave_share: [0.05]}}",
        ("proxy",),
        "mix in the rows of the proxy that the task harms most",
    ),
    Suggestion(
        "safe_lora",
        "{fixed: {finetune_config.safe_lora_threshold: 0.4}}",
        ("proxy",),
        "project the finished adapter; 0.2 to 0.6",
    ),
    Suggestion(
        "grad_project",
        "{}",
        ("proxy",),
        "remove the part of the gradient along the proxy's; nothing to tune",
    ),
    Suggestion(
        "weight_steering",
        "{grid: {finetune_config.steer_k: [1.0]}}",
        PAIRS,
        "add to the weights what the proxy teaches, less what proxy_neg does",
    ),
    Suggestion(
        "orth_penalty",
        "{grid: {finetune_config.lambda_1: [0.0001, 0.01]}}",
        ("proxy",),
        "keep the update orthogonal to an alignment direction",
    ),
    Suggestion(
        "wise_ft",
        "{grid: {finetune_config.wise_alpha: [0.5]}}",
        (),
        "go half the way that training went: the cheapest baseline",
    ),
)
