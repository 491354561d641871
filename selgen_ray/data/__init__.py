"""Rows of each role, their tokens, and the micro-batches of a step."""
