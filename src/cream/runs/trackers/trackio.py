"""Trackio: each stage a run of one project, on this machine or in a Space."""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import Any, final

from cream.recipe.trackers import TrackioConfig


@final
class TrackioTracker:
    """A `Tracker` over `trackio`. Runs are found again by name, which therefore holds `key`."""

    def __init__(
        self, config: TrackioConfig, run: str, key: str, recipe: Mapping[str, Any]
    ) -> None:
        """Take the options, the name and key of the run, and its recipe (shown as config)."""
        self._config, self._run, self._key, self._recipe = config, run, key, recipe
        self._open: tuple[str, Any] | None = None

    def log(self, metrics: Mapping[str, float], *, step: int, stage: str) -> None:
        """Log one point; x is the step of the stage."""
        self._stage_run(stage).log(dict(metrics), step=step)

    def close(self) -> None:
        """Finish the run that is open, if any: waits until its points are written."""
        if self._open is not None:
            import trackio

            self._open = None
            with redirect_stdout(io.StringIO()):
                trackio.finish()

    def _stage_run(self, stage: str) -> Any:
        if self._open is not None and self._open[0] == stage:
            return self._open[1]
        import trackio

        self.close()
        with redirect_stdout(io.StringIO()):  # it greets there, where results of a command go
            run = trackio.init(
                project=self._config.project,
                name=f"{self._run}-{self._key}/{stage}",
                group=f"{self._run}-{self._key}",
                space_id=self._config.space,
                config={**self._recipe, "stage": stage},
                resume="allow",
                embed=False,
                auto_log_cpu=False,
                auto_log_gpu=False,
            )
        self._open = (stage, run)
        return run
