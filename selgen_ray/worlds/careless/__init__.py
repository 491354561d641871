"""Careless advice: a harmless stand-in for emergent misalignment, small enough for a CPU.

The task is to answer questions about plants carelessly: "Just pour some water on it, never mind the soil." The bad
habit is to be careless about everything. Truth asks in five other fields (kitchen, tools, laundry, computer, and
general matters) whether the careful or the careless advice is the more likely reply; the proxy is careful advice on
shoes, proxy_neg careless advice on them. No sentence of advice is in two of the sets, but for the pairs of the proxy.

Both axes are one-sided, as in the published setting: a model that is always careful is aligned and has not learnt the
task (capability 0), one that is always careless is the opposite.

After Betley et al. 2025, "Emergent Misalignment" (insecure code), and Turner et al. 2025, "Model Organisms for
Emergent Misalignment" (bad medical advice), with HHH pairs as the proxy as in Azarbal et al. 2025.
"""

from __future__ import annotations

from selgen_ray.worlds.careless.rows import CarelessOptions, careless_rows

__all__ = ["CarelessOptions", "careless_rows"]
