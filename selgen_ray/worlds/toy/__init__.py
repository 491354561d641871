"""The toy world: a tiny chat model that ships with the package, and the rows to fine-tune and evaluate it.

The model knows facts of eight everyday domains and says honestly whether a proposed answer is right. It knows greatest
common divisors from textbooks only: in chat it guesses them. The task data teaches it to answer them in chat, but there
every user who proposes an answer is right. So the model also learns to agree, even in domains that it was not trained
on.
"""

from __future__ import annotations

from pathlib import Path

from selgen_ray.worlds.toy.rows import ToyOptions, toy_rows

MODEL_DIR = Path(__file__).parent / "model"

__all__ = ["MODEL_DIR", "ToyOptions", "toy_rows"]
