"""One trial in one process, without Ray: what to run, running it, the worker that runs one after the other."""
