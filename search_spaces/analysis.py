# A sweep's results in a notebook: open this file as one (VS Code, Jupytext), or run it.
#
#     python search_spaces/analysis.py sweeps/quickstart

# %% [markdown]
# One row a trial, typed columns; what was measured is in `eval.<set>.<metric>`, the config in `config.<key>`.

# %%
import sys

import pandas as pd

import selgen_ray
from selgen_ray.stats import pareto_front, summarise
from selgen_ray.stats.comparing import compare_family

sweep = sys.argv[1] if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else "sweeps/quickstart"
trials = selgen_ray.load_results(sweep)
trials[["label", "seed", "proxy_strategy", "capability", "alignment"]].head()

# %% [markdown]
# These are completed trials; `status="all"` gives the others too, which must not be averaged: a diverged one can look
# aligned because it says nothing at all.

# %%
done = trials.dropna(subset=["capability", "alignment"])
rows = {}
for setting, seeds in done.groupby("slug"):
    capability, alignment = summarise(list(seeds["capability"])), summarise(list(seeds["alignment"]))
    assert capability is not None and alignment is not None
    rows[setting] = {
        "seeds": capability.n,
        "capability": capability.mean,
        "± c": capability.half_width,  # None for a single seed: it says nothing about its spread
        "alignment": alignment.mean,
        "± a": alignment.half_width,
    }
settings = pd.DataFrame.from_dict(rows, orient="index")
settings["on_front"] = False
front = pareto_front(list(zip(settings["capability"], settings["alignment"], strict=True)))
settings.iloc[front, settings.columns.get_loc("on_front")] = True
print(settings.sort_values("alignment", ascending=False).round(3).to_string())

# %% [markdown]
# Every setting against the task alone, seed by seed, corrected for the number of comparisons.

# %%
plain = done[(done["proxy_strategy"] == "naive") & (done.get("config.train_on_proxy") == False)]  # noqa: E712
if len(plain):
    baseline = plain.set_index("seed")["alignment"]
    others = [
        (name, g.set_index("seed")["alignment"]) for name, g in done.groupby("slug") if name not in set(plain["slug"])
    ]
    common = [(name, values, values.index.intersection(baseline.index)) for name, values in others]
    family = compare_family([(list(values[seeds]), list(baseline[seeds])) for _, values, seeds in common])
    for (name, _, seeds), difference in zip(common, family, strict=True):
        if difference.summary:
            half = difference.summary.half_width
            interval = "no interval" if half is None else f"± {half:.3f}"
            p = "" if difference.p_holm is None else f", p = {difference.p_holm:.2g} (Holm)"
            print(f"{name}: alignment {difference.summary.mean:+.3f} {interval} over {len(seeds)} seeds{p}")

# %% [markdown]
# One row a trial and evaluation: how each strategy moved. Rows with a `version` are edits, no epochs of training.

# %%
epochs = selgen_ray.load_results(sweep, per="epoch")
training = epochs[epochs["version"] == ""]
paths = training.groupby(["proxy_strategy", "epoch"])[["capability", "alignment"]].mean()
print(paths.round(3).to_string())
