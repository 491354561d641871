"""Models: files and loading, adapters, forward passes, saving, the hub."""
