"""Scoring on ranks: a model too large for one GPU, divided among those of this machine.

The driver's side: it starts the ranks (`cream.engines.score_rank`), puts windows of requests into a
folder and takes the answers out. A rank that dies takes the others with it; all start again, as in
a training (`cream.training.launch`), and are asked again.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch

from cream.engines.batching import Say, windows
from cream.engines.plain import told_once
from cream.engines.score_rank import ANSWER, LOOK_SECONDS, QUESTION, SCORES, groups_of, question
from cream.engines.scorer import WINDOW_ROWS, check_request
from cream.errors import EngineError
from cream.runs.files import read_table, write_json, write_table
from cream.runs.tables import read_metadata
from cream.training.launch import (
    RESTARTS,
    Ranks,
    death,
    environments,
    free_port,
    tail,
    wait_for_word,
)
from cream.training.rank import JOB
from cream.types import ScoredGroup, ScoringRequest

HERE = "127.0.0.1"


class RankScorer:
    """A `LogpScorer` on ranks of this machine, which hold a model until `close`.

    Args:
        model: Folder of the model.
        ranks: How many; on GPUs each has one of its own.
        device: ``cpu`` or ``cuda``.
        dtype: Type of the weights, and arithmetic.
        token_budget: Tokens per forward of a rank.
        context_length: Tokens that the model can take; None: it states no limit.
        trust_remote_code: Allow a model that comes as Python code.
        say: Told when ranks start again, and once when sequences take the slow path.

    Raises:
        ModelError: The model cannot be loaded or divided.
        EngineError: Ranks died more than `RESTARTS` times.
    """

    def __init__(
        self,
        model: Path,
        ranks: int,
        *,
        device: str,
        dtype: torch.dtype,
        token_budget: int,
        context_length: int | None,
        trust_remote_code: bool = False,
        say: Say | None = None,
    ) -> None:
        self._ranks, self._context, self._say = ranks, context_length, say
        self._job = {
            "model": str(model.resolve()),
            "device": device,
            "dtype": str(dtype).removeprefix("torch."),
            "token_budget": token_budget,
            "trust_remote_code": trust_remote_code,
            "threads": max(1, torch.get_num_threads() // ranks),
        }
        self._running: Ranks | None = None
        self._folder, self._asked, self._plain_told = Path(), 0, False
        try:
            self._ask(())  # once they answer, the model is there
        except BaseException:
            self.close()
            raise

    def score(self, requests: Iterable[ScoringRequest]) -> Iterator[ScoredGroup]:
        """Yield the token log-probabilities of each request, window by window.

        Raises:
            ValueError: A prompt or completion without tokens.
            ModelError: A sequence that the model has no positions for, or memory does not hold.
            NotFiniteError: Logits are NaN or infinite.
            EngineError: Ranks died more than `RESTARTS` times.
        """
        for window in windows(requests, WINDOW_ROWS):
            for request in window:
                check_request(request, self._context)
            yield from self._ask(window)

    def close(self) -> None:
        """End the ranks and give their memory back."""
        if self._running is not None:
            self._running.end()
            self._running = None
            shutil.rmtree(self._folder)

    def _ask(self, window: Sequence[ScoringRequest]) -> list[ScoredGroup]:
        """Groups of a window; where a rank dies over it, all start again."""
        died, log = "", ""
        for left in reversed(range(RESTARTS + 1)):
            running = self._running or self._start()
            answer = self._folder / ANSWER.format(self._asked)
            write_table(self._folder / QUESTION.format(self._asked), question(window))
            while not answer.exists() and not any(code is not None for code in running.ended()):
                time.sleep(LOOK_SECONDS)
            if answer.exists():
                self._asked += 1
                return self._taken(answer)
            died, log = self._death(running)
            if left and self._say is not None:
                self._say(f"{died} while scoring; all {self._ranks} ranks start again")
        raise EngineError(
            f"{died} while scoring, {RESTARTS + 1} times. Whole parts are kept: mend what the log "
            f"names, or set another scoring.ranks.{log}"
        )

    def _start(self) -> Ranks:
        self._folder, self._asked = Path(tempfile.mkdtemp(prefix="cream-ranks-")), 0
        write_json(self._folder / JOB, self._job)
        places = environments(self._ranks, 1, HERE, free_port(HERE))[0]
        self._running = Ranks(self._folder, places, SCORES)
        return self._running

    def _taken(self, answer: Path) -> list[ScoredGroup]:
        table = read_table(answer)
        answer.unlink()
        reason = read_metadata(table)["plain_reason"]
        if reason and not self._plain_told:
            self._plain_told = True
            told_once(self._say, "scored", reason)()
        return groups_of(table)

    def _death(self, running: Ranks) -> tuple[str, str]:
        """Which rank died, and the end of its log, once all are ended.

        Raises:
            CreamError: What a rank has left word of.
        """
        ended = running.ended()
        wait_for_word(self._folder)
        try:
            return death(ended, self._folder), tail(self._folder)
        finally:
            self.close()
