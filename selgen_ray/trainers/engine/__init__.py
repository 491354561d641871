"""The one training loop and what it needs: phases, the course of a run, checkpoints, ranks, memory, evaluations."""
