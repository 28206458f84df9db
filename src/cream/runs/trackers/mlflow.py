"""MLflow: each stage a run of one experiment, through its client (no global active run)."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, final

from cream.recipe.trackers import MlflowConfig

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
