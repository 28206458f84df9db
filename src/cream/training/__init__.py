"""Optimisation of a causal language model on examples and on preference pairs."""
