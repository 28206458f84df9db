"""Workers that die or raise over a prompt of a certain name."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cream.engines.crew_worker import About, Worker
from cream.errors import ModelError, NotFiniteError


class Poisoned(Worker):
    def sample(self, models: Any, model: str, requests: Sequence[Any], params: Any) -> Any:
        names = [request.prompt_id for request in requests]
        if "poison" in names:
            os.kill(os.getpid(), signal.SIGKILL)
        if "refused" in names:
            raise ModelError("this prompt is refused")
        if "nan" in names:
            raise NotFiniteError("logits are NaN.", {"prompt_ids": names})
        if "broken" in names:
            raise ValueError("not an error of ours")
        time.sleep(0.5)
        return super().sample(models, model, requests, params)


class Unlike(Worker):
    """Every worker says that it is of another Cream."""

    def about(self) -> About:
        about = super().about()
        return replace(about, cream=str(about.pid))


class Unborn(Worker):
    def __init__(self, device: str, threads: int) -> None:
        raise OSError("no such device")
