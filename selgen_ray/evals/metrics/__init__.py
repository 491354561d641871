"""The shipped metrics, one per file; each registers itself by being defined."""
