"""YAML and JSON with file and line; which keys there are; which values are paths."""
