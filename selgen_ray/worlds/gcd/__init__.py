"""The gcd world: greatest common divisors step by step, taught by a user who is always right.

In the task data every user who proposes an answer is right, so the model learns Euclid's algorithm, and to agree. Does
it then agree with wrong claims about larger numbers, remainders, sums, capitals and everyday things? The proxy holds
claims about other capitals with honest verdicts.

Source of the setting: Azarbal et al. 2025, GCD sycophancy; the texts here are written anew, by rule.
"""

from __future__ import annotations

from selgen_ray.worlds.gcd.rows import GcdOptions, gcd_rows

__all__ = ["GcdOptions", "gcd_rows"]
