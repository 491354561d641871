"""The statistics of a sweep: mean and interval over seeds here, those between strategies in `stats.comparing`."""

from selgen_ray.stats.summaries import (
    Summary,
    binomial_interval,
    is_finite_number,
    is_number,
    paired_change,
    pareto_front,
    summarise,
    t_quantile,
)

__all__ = [
    "Summary",
    "binomial_interval",
    "is_finite_number",
    "is_number",
    "paired_change",
    "pareto_front",
    "summarise",
    "t_quantile",
]
