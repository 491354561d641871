"""Names of the evaluation sets, which stand in results, and the role of the data whose rows each shows."""

from __future__ import annotations

EVAL_NAMES = {
    "task_train": "outcome",
    "task_test": "collateral",
    "align_train": "proxy",
    "align_train_minus": "proxy_neg",
    "trait_train": "trait",
    "align_test": "truth",
}
"""Evaluation set, by the names that the field uses -> the role of which it shows all rows."""
UNSEEN = "align_test_minus_align_train"
"""The evaluation set of the truth's rows whose prompts the proxy does not have."""
ROLE_OF_SET = {**EVAL_NAMES, UNSEEN: "truth"}
"""Evaluation set -> the role whose rows it shows."""
