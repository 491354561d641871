"""The typed keys of one trial; each is part of the trial's identity (`setting`) or not (`execution`)."""
