"""The one room that imports Ray. Its face sets the environment that Ray reads when it is imported.

Tune's own settings are set around a sweep alone, in `tune_sweep`: a program's own Tuner keeps its own.
"""

import os

os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
