"""Metrics of an evaluation set, generation, the judge, and which metric is a trial's headline."""

from selgen_ray.evals.registry import Answers, EvalSet, Metric, all_metrics, metric
from selgen_ray.evals.run import evaluate

__all__ = ["Answers", "EvalSet", "Metric", "all_metrics", "evaluate", "metric"]
