"""A first look at results: `python -m selgen_ray.report <sweep folder>` prints a table and draws the Pareto figure.

Only completed trials are averaged and drawn; the others are counted and listed, with their cause. All input lies in the
sweep's folder: each trial's results.json, and for the page also the search space, the events and control/live.json.
"""

from selgen_ray.report.cli import main
from selgen_ray.report.model import Report
from selgen_ray.report.text import report_text
from selgen_ray.report.writing import write_report

__all__ = ["Report", "main", "report_text", "write_report"]
