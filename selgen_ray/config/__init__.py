"""The typed config of one trial. Each key is part of the trial's identity (`setting`) or not (`execution`)."""
