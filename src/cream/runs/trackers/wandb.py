"""Weights & Biases: each stage a run, all of one Cream run in a group."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from cream.recipe.trackers import WandbConfig


@final
class WandbTracker:
    """A `Tracker` over `wandb`. The id of a run follows from `key` and stage, so it is resumed."""

    def __init__(
        self,
        config: WandbConfig,
        run: str,
        key: str,
        recipe: Mapping[str, Any],
        folder: Path,
    ) -> None:
        """Take the options, the name and key of the run, its recipe, and a folder for its files."""
        self._config, self._run, self._key = config, run, key
        self._recipe, self._folder = recipe, folder
        self._open: tuple[str, Any] | None = None

    def log(self, metrics: Mapping[str, float], *, step: int, stage: str) -> None:
        """Log one point; x (wandb's own step) is the step of the stage."""
        self._stage_run(stage).log(dict(metrics), step=step)

    def close(self) -> None:
        """Finish the run that is open, if any: waits until its points are written or sent."""
        if self._open is not None:
            run, self._open = self._open[1], None
            run.finish()

    def _stage_run(self, stage: str) -> Any:
        if self._open is not None and self._open[0] == stage:
            return self._open[1]
        import wandb

        self.close()
        self._folder.mkdir(parents=True, exist_ok=True)
        # Silent for the whole process: without a login it would ask for one on the terminal, in
        # the middle of a run that nobody may be watching. So it fails, and that is one warning.
        wandb.setup(wandb.Settings(silent=True))
        run = wandb.init(
            project=self._config.project,
            entity=self._config.entity,
            name=f"{self._run} {stage}",
            group=f"{self._run}-{self._key}",
            job_type=stage,
            id=f"{self._key}-{stage.replace('/', '-')}",
            resume="allow",
            mode=self._config.mode,
            tags=self._config.tags,
            config=dict(self._recipe),
            dir=str(self._folder),
            settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False),
        )
        self._open = (stage, run)
        return run
