"""TensorBoard, trackio, wandb and MLflow as `Tracker`: each stage a run of its own, found again.

A run is found again by what follows from the key of the Cream run and the stage: its name in
trackio, its id in wandb, its tags in MLflow, its folder in TensorBoard.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, final

from cream.recipe.trackers import MlflowConfig, TrackioConfig, WandbConfig


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


KEY_TAG = "cream.key"
STAGE_TAG = "cream.stage"
RETRIES = 2
"""Of a request that a server does not answer, unless the environment says otherwise."""
LONGEST_PARAM = 6000
"""Characters that MLflow takes as the value of a parameter."""


@final
class MlflowTracker:
    """A `Tracker` over `mlflow`. Runs are found again by tags: the key of the run, the stage."""

    def __init__(self, config: MlflowConfig, run: str, key: str, recipe: Mapping[str, Any]) -> None:
        """Take the options, the name and key of the run, and its recipe (shown as parameters)."""
        self._config, self._run, self._key, self._recipe = config, run, key, recipe
        self._client: Any = None
        self._open: tuple[str, str] | None = None

    def log(self, metrics: Mapping[str, float], *, step: int, stage: str) -> None:
        """Log one point; x (MLflow's step) is the step of the stage."""
        from mlflow.entities import Metric

        run_id, now = self._stage_run(stage), int(time.time() * 1000)
        points = [Metric(name, value, now, step) for name, value in metrics.items()]
        self._client.log_batch(run_id, metrics=points)

    def close(self) -> None:
        """Mark the run that is open, if any, as finished."""
        if self._open is not None:
            run_id, self._open = self._open[1], None
            self._client.set_terminated(run_id)

    def _stage_run(self, stage: str) -> str:
        if self._open is not None and self._open[0] == stage:
            return self._open[1]
        from mlflow import MlflowClient
        from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES

        self.close()
        if not MLFLOW_HTTP_REQUEST_MAX_RETRIES.is_set():
            # Seven by default: a server that is gone would hold the run up for over four minutes.
            MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(RETRIES)
        self._client = self._client or MlflowClient(tracking_uri=self._config.uri)
        experiment = self._experiment()
        found = self._client.search_runs(
            [experiment], f"tags.`{KEY_TAG}` = '{self._key}' and tags.`{STAGE_TAG}` = '{stage}'"
        )
        if found:
            run_id = found[0].info.run_id
            self._client.update_run(run_id, status="RUNNING")
        else:
            run_id = self._new_run(experiment, stage)
        self._open = (stage, run_id)
        return run_id

    def _experiment(self) -> str:
        found = self._client.get_experiment_by_name(self._config.experiment)
        if found is None:
            return self._client.create_experiment(self._config.experiment)
        return found.experiment_id

    def _new_run(self, experiment: str, stage: str) -> str:
        from mlflow.entities import Param

        tags = {KEY_TAG: self._key, STAGE_TAG: stage}
        run = self._client.create_run(experiment, tags=tags, run_name=f"{self._run} {stage}")
        params = [
            Param(name, json.dumps(value, ensure_ascii=False)[:LONGEST_PARAM])
            for name, value in self._recipe.items()
        ]
        self._client.log_batch(run.info.run_id, params=params)
        return run.info.run_id
