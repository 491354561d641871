"""Files of the first generation of this work: its configs and results, read into today's."""
