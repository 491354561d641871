"""The process that runs a sweep, without Ray: plan, queue, feedback, search, early stopping, display."""
