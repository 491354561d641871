"""The files in the folder of a sweep: results.json, events.jsonl, control/; and conditions on metrics."""
