"""Cream: language models that improve on their own rankings, and know how far to trust them."""

__version__ = "0.1.0"
