"""Compiled kernels for processors with matrix tiles (AMX); elsewhere PyTorch does the same work."""
