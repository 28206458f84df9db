"""Causal language models on disk and in memory: find, check, load, save, and speak their template."""
