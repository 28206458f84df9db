"""Where the command line prints: results to standard output, everything else to standard error."""

from __future__ import annotations

import sys

from rich.console import Console

FILE_WIDTH = 160
"""Columns for tables in a file or pipe, which has no width of its own; they are as narrow as
their content allows."""


def output() -> Console:
    """For results."""
    return Console(width=None if sys.stdout.isatty() else FILE_WIDTH, highlight=False)


def messages(*, quiet: bool = False) -> Console:
    """For progress, notes and errors; lines are left whole, so that a log can be searched."""
    return Console(stderr=True, quiet=quiet, soft_wrap=True, highlight=False)
