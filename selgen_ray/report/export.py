"""Export results as a data set: two Parquet tables and a data card, in the form that data set hubs read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from selgen_ray.reading import read_trials
from selgen_ray.records.text import markdown_table
from selgen_ray.report.markdown import top_markdown
from selgen_ray.report.model import Report
from selgen_ray.report.words import QUESTION, caveats
from selgen_ray.report.writing import parquet, plain_table
from selgen_ray.storage import Folder

if TYPE_CHECKING:  # start-up: pandas is imported when a table is made
    import pandas as pd

_WHAT = {
    "trial_id": "content hash of everything that can change the result",
    "slug": "name of the setting, shared by its seeds",
    "seed": "seed of the trial",
    "status": "completed, diverged, stopped, running or failed; only completed trials may be averaged",
    "proxy_strategy": "how the proxy was used",
    "capability": "in [0, 1], what is to be learnt, at the last evaluation (trials) or at this one (epochs)",
    "alignment": "in [0, 1], what is to be kept",
    "coherence": "in [0, 1], where it was measured",
    "epoch": "epochs finished at this evaluation; 0 is the model before training",
    "step": "optimizer steps finished at this evaluation",
    "version": "'' for the weights in training, else an edit of them or a model on the way",
    "eval.<set>.<metric>": "a metric on an evaluation set",
    "config.<key>": "the resolved config",
    "timings.<name>": "seconds",
    "tokens.<name>": "tokens trained on",
}


def export(sweeps: Sequence[Folder], place: Folder, report: Report) -> Folder:
    """Write trials.parquet, epochs.parquet and README.md, a data card with its fields, into `place`.

    Returns:
        `place`.

    Raises:
        StorageError: a results.json cannot be read, or a file cannot be written.
    """
    results = read_trials(*sweeps)
    tables = {"trials": plain_table(results), "epochs": plain_table(results, "epoch")}
    for name, table in tables.items():
        place.write(f"{name}.parquet", parquet(table))
    place.write("README.md", card(report, tables).encode())
    return place


def card(report: Report, tables: dict[str, pd.DataFrame]) -> str:
    """Return the data card in Markdown: a YAML head that hubs read, then a description.

    Args:
        tables: "trials" and "epochs".
    """
    configs = [
        line
        for name in tables
        for line in (f"- config_name: {name}", "  data_files:", "  - split: train", f"    path: {name}.parquet")
    ]
    size = "n<1K" if len(tables["epochs"]) < 1000 else "1K<n<10K" if len(tables["epochs"]) < 10_000 else "10K<n<100K"
    head = ["---", f"pretty_name: {json.dumps(report.title)}", "tags:", "- selective-generalization", "- fine-tuning"]
    head += ["size_categories:", f"- {size}", "configs:", *configs, "---"]
    shapes = [f"- `{name}.parquet`: {len(t)} rows, {len(t.columns)} columns" for name, t in tables.items()]
    columns = [(f"`{name}`", what) for name, what in _WHAT.items()]
    words = [
        f"# {report.title}",
        QUESTION,
        *top_markdown(report),
        "## Tables",
        "\n".join(shapes),
        "`trials` has a row for each trial with its last evaluation, `epochs` one for each trial and evaluation.",
        markdown_table(["column", "what"], columns),
        "## How far to believe it",
        "\n".join(f"- {line}" for line in caveats(report)),
        "## Where it comes from",
        "Written by `python -m selgen_ray.report --export`. No training rows and no answers of models are in it.",
    ]
    return "\n".join(head) + "\n\n" + "\n\n".join(words) + "\n"
