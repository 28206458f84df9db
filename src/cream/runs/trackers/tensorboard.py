"""TensorBoard event files, written with TensorBoard's own writer (no TensorFlow, no torch)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final


@final
class TensorBoardTracker:
    """A `Tracker` that writes one folder of event files per stage; x is the step of the stage.

    One file per stage and process: TensorBoard reads the files of a folder in the order of their
    names, which tell seconds only, so two files of one second would come in any order.
    """

    def __init__(self, folder: Path) -> None:
        """Take the folder that TensorBoard will be pointed at."""
        self._folder = folder
        self._writers: dict[str, Any] = {}

    def log(self, metrics: Mapping[str, float], *, step: int, stage: str) -> None:
        """Write one event with a scalar per metric, and flush it."""
        from tensorboard.compat.proto import event_pb2, summary_pb2

        Event: Any = vars(event_pb2)["Event"]  # made when imported, unknown to type checkers
        Summary: Any = vars(summary_pb2)["Summary"]
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in metrics.items()]
        writer = self._writer(stage)
        writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
        writer.flush()

    def close(self) -> None:
        """Nothing is held: every event is in its file."""

    def _writer(self, stage: str) -> Any:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        if stage not in self._writers:
            self._writers[stage] = EventFileWriter(str(self._folder / stage))
        return self._writers[stage]
