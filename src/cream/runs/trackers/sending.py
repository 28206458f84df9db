"""All trackers of a run as one: each point once to each of them, and none of them can stop a run.

Training is deterministic, so a step that is made again after an interruption has the values that
were sent before; it is left out. A tracker that fails is set aside for the rest of the command with
one warning. What it missed is sent when the command is given again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import final

from cream.protocols import Tracker
from cream.runs.trackers.ledger import Ledger

Warn = Callable[[str], None]


@final
class Sender:
    """One tracker with its ledger."""

    def __init__(self, name: str, tracker: Tracker, ledger: Ledger) -> None:
        self.name, self.tracker, self.ledger = name, tracker, ledger

    def send(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """Pass a point on, unless it or a later one of its stage was sent before."""
        last = self.ledger.last(stage)
        if last is not None and step <= last:
            return
        self.ledger.enter(stage, step)
        try:
            self.tracker.log(metrics, step=step, stage=stage)
        except Exception:
            self.ledger.enter(stage, last)
            raise


@final
class Trackers:
    """The trackers of a run. Values that are not finite are left out of a point."""

    def __init__(self, senders: Sequence[Sender] = (), warn: Warn = lambda text: None) -> None:
        """Take trackers, and who is told when one of them fails."""
        self._senders, self._warn = list(senders), warn

    def point(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """Send one point of a stage whose steps come in order."""
        for sender in list(self._senders):
            self._send(sender, stage, step, metrics)

    def live(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """Send one step of a course that begins at 1, if it is the next one of that tracker.

        A tracker that lacks earlier steps (it was added after an interruption) gets all of them in
        order from `course`, at the end of the stage.
        """
        for sender in list(self._senders):
            if step == (sender.ledger.last(stage) or 0) + 1:
                self._send(sender, stage, step, metrics)

    def course(self, stage: str, metrics: Sequence[Mapping[str, float]]) -> None:
        """Send whatever is missing of a whole course, whose first step is 1."""
        for sender in list(self._senders):
            begin = sender.ledger.last(stage) or 0
            for step, values in enumerate(metrics[begin:], start=begin + 1):
                if not self._send(sender, stage, step, values):
                    break

    def close(self) -> None:
        """Let every tracker finish what it holds; points may follow all the same."""
        for sender in list(self._senders):
            try:
                sender.tracker.close()
            except Exception as error:  # as in `_send`
                self._senders.remove(sender)
                self._complain(sender, error, "while it was closed")

    def _send(self, sender: Sender, stage: str, step: int, metrics: Mapping[str, float]) -> bool:
        finite = {name: float(v) for name, v in metrics.items() if math.isfinite(v)}
        try:
            sender.send(stage, step, finite)
        # Whatever a tracking library or its network raises must not cost the run.
        except Exception as error:
            self._senders.remove(sender)
            self._complain(sender, error, f"at {stage} step {step}")
            return False
        return True

    def _complain(self, sender: Sender, error: Exception, where: str) -> None:
        lines = str(error).strip().splitlines()
        self._warn(
            f"tracker {sender.name} failed {where} ({type(error).__name__}"
            f"{': ' + lines[0] if lines else ''}). The run goes on without it and its own files "
            "have every figure; what it missed is sent when the command is given again"
        )
