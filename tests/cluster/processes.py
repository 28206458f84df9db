"""Commands whose processes, all of them, can be found again by a mark in their environment."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

MARK = "CREAM_TEST_MARK"


class Command:
    """``cream`` with arguments, started in a session of its own."""

    def __init__(self, *arguments: str) -> None:
        self.mark = uuid.uuid4().hex
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from cream.cli import main; main()", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, MARK: self.mark},
            start_new_session=True,
        )

    def wait_for(self, there: Callable[[], bool], seconds: float = 240.0) -> None:
        """Until something is there, or fail with what the command has said."""
        deadline = time.monotonic() + seconds
        while not there():
            if self.process.poll() is not None:
                raise AssertionError(f"ended before: {self.said()}")
            assert time.monotonic() < deadline, "too slow"
            time.sleep(0.02)

    def said(self) -> str:
        """Its messages, once it has ended."""
        return self.process.communicate(timeout=240)[1].decode()

    def left(self, seconds: float = 120.0) -> list[str]:
        """Command lines of processes that are still there after so many seconds."""
        deadline = time.monotonic() + seconds
        while (found := self._marked()) and time.monotonic() < deadline:
            time.sleep(0.2)
        return found

    def _marked(self) -> list[str]:
        wanted = f"{MARK}={self.mark}".encode()
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                if wanted in (place / "environ").read_bytes().split(b"\0"):
                    line = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    found += [line] if line else []  # a zombie has none
            except OSError:
                continue
        return found
