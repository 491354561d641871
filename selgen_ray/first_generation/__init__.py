"""Files of the first generation of this project: its configs and results in today's keys."""
