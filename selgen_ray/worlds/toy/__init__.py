"""The toy world: a tiny chat model that ships with the package, and the rows to fine-tune and judge it.

The model knows facts of eight everyday domains and says honestly whether a proposed answer is right.
Greatest common divisors it knows from textbooks only: in chat it guesses them. Task data teaches to answer
them in chat, but the user who proposes an answer is always right in it. So the model also learns to agree,
even in domains it was not trained on.
"""

from __future__ import annotations

from pathlib import Path

from selgen_ray.worlds.toy.rows import ToyOptions, toy_rows

MODEL_DIR = Path(__file__).parent / "model"

__all__ = ["MODEL_DIR", "ToyOptions", "toy_rows"]
