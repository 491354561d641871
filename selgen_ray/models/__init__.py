"""Models: their files, loading, adapters, forward passes, saving, and the hub."""
