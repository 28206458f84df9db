"""What one tracker has been sent so far, kept with the run so that resuming repeats nothing.

Only a number per stage: the last step. A point is entered *before* it is handed over, because a
point that a kill loses stands in the stage's own metrics file, and a point that stands twice in a
tracker cannot be taken back.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import final

from cream.errors import RunError
from cream.runs.files import read_json, write_json


@final
class Ledger:
    """The last step of each stage that a tracker was sent, in a JSON file."""

    def __init__(self, path: Path) -> None:
        """Read the file, or begin one with a new `key`.

        Raises:
            RunError: The file is damaged.
        """
        self.path = path
        held = read_json(path) if path.exists() else {"key": secrets.token_hex(4), "sent": {}}
        key, sent = held.get("key"), held.get("sent")
        if not isinstance(key, str) or not isinstance(sent, dict):
            raise RunError(
                f"{path} lacks `key` or `sent`; it was changed by hand: delete it to send the "
                "metrics of this run again"
            )
        self.key: str = key
        """Tells the runs of this run directory from those of any other in the same tracker."""
        self._sent: dict[str, int] = sent

    def last(self, stage: str) -> int | None:
        """The last step of a stage that was sent, or None."""
        return self._sent.get(stage)

    def enter(self, stage: str, step: int | None) -> None:
        """Record the last step of a stage; None takes its entry back."""
        if step is None:
            self._sent.pop(stage, None)
        else:
            self._sent[stage] = step
        write_json(self.path, {"key": self.key, "sent": self._sent})
