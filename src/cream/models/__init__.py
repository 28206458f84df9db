"""Causal language models: find, check, load and save them, and speak their chat template."""
