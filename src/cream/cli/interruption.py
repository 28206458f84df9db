"""Ctrl-C: what is nearly done is finished, the rest is given up, and the user is told how to go on.

The first Ctrl-C in a stage that is kept part by part lets the part under way end, if that takes no
longer than `PATIENCE_SECONDS`; a second one, or one anywhere else, stops at once.
"""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

PATIENCE_SECONDS = 10.0
"""How long the part under way may take after Ctrl-C."""


class Interrupted(BaseException):
    """Ctrl-C. Not KeyboardInterrupt, which typer turns into an exit code that varies by version."""


@contextmanager
def stopping_gently(stop_when_kept: Callable[[float], bool]) -> Iterator[None]:
    """Handle Ctrl-C as described above inside the block.

    Args:
        stop_when_kept: Told how many seconds there are; will raise `Interrupted` when the part
            under way is kept, or says False if there is nothing to wait for.

    Raises:
        Interrupted: With a message that says how to go on.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGALRM or not stop_when_kept(PATIENCE_SECONDS):
            raise Interrupted
        signal.setitimer(signal.ITIMER_REAL, PATIENCE_SECONDS)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGALRM)}
    try:
        yield
    except Interrupted as stop:
        command = shlex.join(["cream", *sys.argv[1:]])
        raise Interrupted(f"give the same command again to go on from here: {command}") from stop
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
