"""The one room that imports Ray. Its face sets the environment that Ray reads when it is imported."""

import os

# before ray is imported: no spam on the terminal, no per-trial log files nobody reads
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # Tune's would drop running trials without a checkpoint
os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = "1000"  # the queue decides how many trials wait for a place
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")  # Tune's own state is not the sweep's truth
