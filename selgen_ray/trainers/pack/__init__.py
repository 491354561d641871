"""Packed trials: several LoRA trials over one frozen base in one process, which run their forward passes together."""
