# A sweep from a notebook, from the search space to the picture: open this file as one (VS Code, Jupytext), or run it.
#
#     python search_spaces/notebook.py
#
# It compares three strategies on the toy world: 8 trials, some minutes on two CPU cores. SELGEN_SMALL=1 makes it short.

# %% [markdown]
# A search space is a dict with the keys of the YAML, or a YAML file: `selgen_ray.Sweep.from_yaml("space.yaml")`.
# What is wrong with it is said at once, with the path of the key and the nearest match.

# %%
import os

import selgen_ray

small = bool(os.environ.get("SELGEN_SMALL"))
sizes = {"num_outcome": 48, "num_truth": 14, "num_collateral": 10} if small else {"num_outcome": 400}
sweep = selgen_ray.Sweep.from_dict(
    {
        "name": "notebook",
        "storage_path": os.environ.get("SELGEN_SWEEPS", "sweeps"),
        "base": {
            "data": {"world": "toy", "toy": sizes},
            "finetune_config": {"model": "toy", "epochs": 1 if small else 6, "learning_rate": 1e-2},
        },
        "seeds": [1, 2],
        "strategies": {
            "naive": {"grid": {"train_on_proxy": [False, True]}},
            "kl_divergence": {"grid": {"finetune_config.beta_kl": [10.0] if small else [1.0, 10.0]}},
        },
    }
)

# %% [markdown]
# The plan is a table: one row a trial, with what the sweep's folder already holds. Run this cell again after the sweep.

# %%
sweep.plan()

# %% [markdown]
# A dry run reads all rows and says what will be measured, and how well so few items can tell.

# %%
print("\n".join(sweep.check()))

# %% [markdown]
# Run it. The output is redrawn while trials train. After the interrupt button, run the cell again: it goes on from
# the checkpoints.
# To use a Ray cluster, connect before: `ray.init("auto")`.

# %%
trials = sweep.run()
trials["status"].value_counts()

# %% [markdown]
# The results are a table too. Means of two seeds; the report says how far to believe them.

# %%
results = sweep.results()
results.groupby("label")[["capability", "alignment"]].agg(["mean", "std"]).round(3)

# %%
sweep.plot("pareto")

# %%
sweep.plot("paths")

# %%
print(sweep.status())
print("the page:", sweep.report())
