"""Where else the metrics of a run go, beside the JSON lines that it always writes.

One section per tracker, with the options of that tracker only. Pure data: `cream.runs.trackers`
speaks to the libraries. Trackers never decide a result, so they may change while a run is under
way; credentials are the library's own business and have no place in a recipe.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator

from cream.recipe.base import Section


class TensorBoardConfig(Section):
    """Event files for TensorBoard: one folder per stage, so that stages lie over each other."""

    name: Literal["tensorboard"] = "tensorboard"
    folder: str | None = Field(default=None, min_length=1)
    """Where the event files go, relative to where the command is given. Default: ``tensorboard``
    in the run directory."""


class TrackioConfig(Section):
    """Trackio: a local database, or a Space of the Hugging Face hub."""

    name: Literal["trackio"] = "trackio"
    project: str = Field(default="cream", min_length=1)
    """Project that the stages of this run are shown in."""
    space: str | None = Field(default=None, pattern=r"^[^/\s]+(/[^/\s]+)?$")
    """Space (``owner/name``) to log to. Default: this machine."""


class WandbConfig(Section):
    """Weights & Biases: one of its runs per stage, in one group."""

    name: Literal["wandb"] = "wandb"
    project: str = Field(default="cream", min_length=1)
    """Project that the stages of this run are shown in."""
    entity: str | None = Field(default=None, min_length=1)
    """User or team that owns the project. Default: that of the login."""
    mode: Literal["online", "offline"] = "online"
    """``offline`` writes into the run directory, for ``wandb sync`` later."""
    tags: list[str] = Field(default_factory=list)
    """Tags of every run."""


class MlflowConfig(Section):
    """MLflow: one of its runs per stage, in one experiment."""

    name: Literal["mlflow"] = "mlflow"
    experiment: str = Field(default="cream", min_length=1)
    """Experiment that the stages of this run are shown in; made if it does not exist."""
    uri: str | None = Field(default=None, min_length=1)
    """Tracking server or store (``https://...``, ``sqlite:///mlflow.db``), without a password.
    Default: MLflow's own (``MLFLOW_TRACKING_URI``, else a local store)."""

    @field_validator("uri")
    @classmethod
    def _no_password(cls, uri: str | None) -> str | None:
        if uri is not None and re.search(r"://[^/]*@", uri):
            raise ValueError(
                "a recipe is recorded and may be published, so it holds no user or password; give "
                "them by the environment (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD, or "
                "MLFLOW_TRACKING_URI)"
            )
        return uri


def _from_name(value: Any) -> Any:
    """``tensorboard`` is short for ``{name: tensorboard}``."""
    return {"name": value} if isinstance(value, str) else value


TrackerConfig = Annotated[
    Annotated[
        TensorBoardConfig | TrackioConfig | WandbConfig | MlflowConfig,
        Field(discriminator="name"),
    ],
    BeforeValidator(_from_name),
]


def _each_once(trackers: list[TrackerConfig]) -> list[TrackerConfig]:
    names = [tracker.name for tracker in trackers]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)} stands here twice; name each tracker once")
    return trackers


Trackers = Annotated[list[TrackerConfig], AfterValidator(_each_once)]
"""Trackers of a recipe, each at most once."""
