"""A crew: workers on a Ray cluster that sample and score for one driver.

The driver decides everything: which worker gets which question, what happens when one dies, and
what is written; a worker answers (`cream.engines.crew_worker`). Ray restarts and retries nothing,
since silent retries could not count what a question has killed. A worker joins once it has answered
what it is, so one that finds no place on the cluster holds nobody up.

Several threads may ask at once, one per lane; between their questions one thread runs at a time
(`Crew.turn`), so what calls a crew need not be written for threads.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NoReturn

from cream.engines.crew_worker import AGREED, About, Worker
from cream.errors import CreamError, DependencyError, EngineError
from cream.recipe.cluster import RayCluster

JOIN_SECONDS = 120.0
"""How long a crew that starts waits for the others once one worker is ready."""
LANES_PER_WORKER = {"torch": 1, "vllm": 2}
"""Shards on their way per worker: vLLM's next one waits there, not here."""
POLL_SECONDS = 0.05
GRACE_SECONDS = 10.0
"""How long workers may take to end vLLM."""
FAILED_STARTS = 3
"""Workers that may fail to start before it is said why."""
NAMED_PROMPTS = 16


@dataclass(eq=False)
class _Member:
    """A worker as the driver knows it."""

    number: int
    actor: Any
    joining: Any
    """What its answer to `Worker.about` will be found under."""
    about: About | None = None
    alive: bool = True

    def __str__(self) -> str:
        where = "" if self.about is None else f" on {self.about.node}"
        return f"worker {self.number}{where}"


@dataclass(eq=False)
class Crew:
    """Workers that answer questions, started by the first one.

    Args:
        config: The recipe's ``cluster`` section.
        device: Where the models run: ``cpu`` or ``cuda``.
        engine: What samples; says how many questions wait at a worker.
        worker: The class of the actors.
    """

    config: RayCluster
    device: str
    engine: str = "torch"
    worker: type[Worker] = Worker
    _members: list[_Member] = field(default_factory=list)
    _idle: deque[_Member] = field(default_factory=deque)
    _news: deque[str] = field(default_factory=deque)
    _state: threading.RLock = field(default_factory=threading.RLock)
    _turn: threading.Lock = field(default_factory=threading.Lock)
    _lane: threading.local = field(default_factory=threading.local)
    _owns_ray: bool = False
    _started: float = 0.0
    _hopeless_since: float | None = None
    _failed_starts: int = 0
    _last_failure: str = ""
    _broken: CreamError | None = None
    _count: int = 0
    _all_in: bool = False
    _stopped: bool = False

    @property
    def gpus(self) -> int:
        """GPUs of one worker."""
        wanted = self.config.gpus_per_worker
        return int(self.device == "cuda") if wanted == "auto" else wanted

    @property
    def size(self) -> int:
        """Workers that it is to have."""
        if self.config.workers != "auto":
            return self.config.workers
        total = self.connected().cluster_resources()
        rooms = [int(total.get("CPU", 0)) // self.config.cpus_per_worker]
        if self.gpus:
            rooms.append(int(total.get("GPU", 0)) // self.gpus)
        return max(1, min(rooms))

    @property
    def lanes(self) -> int:
        """Questions that it can be asked at a time.

        Asked for by a thread that outlives the lanes: it connects to Ray, and the processes of a
        Ray of this machine's own end with the thread that has started them.
        """
        self.connected()
        return self.size * LANES_PER_WORKER[self.engine]

    @contextmanager
    def turn(self) -> Iterator[None]:
        """One thread at a time, but for those that wait for an answer."""
        with self._turn:
            self._lane.has_turn, self._lane.by = True, []
            try:
                yield
            finally:
                self._lane.has_turn = False

    def made_by(self) -> dict[str, Any]:
        """Who answered the questions of this turn, and on how many threads."""
        workers = [f"{m}, pid {m.about.pid}" for m in self._lane.by if m.about is not None]
        return {"workers": list(dict.fromkeys(workers)), "threads": self.config.threads}

    def news(self) -> list[str]:
        """What happened since the last call that a user should know."""
        return [self._news.popleft() for _ in range(len(self._news))]

    def ask(self, method: str, *arguments: Any, prompt_ids: Sequence[str] = ()) -> Any:
        """The answer of some worker; if one dies over it, of another.

        Args:
            method: Of `Worker`.
            arguments: Its arguments.
            prompt_ids: What the question is about, for the error.

        Raises:
            EngineError: It killed ``deaths_per_shard`` workers, none could be had for
                ``start_seconds``, workers differ, or one failed in a way that is no error of ours.
            CreamError: What the worker raised.
        """
        exceptions = self.connected().exceptions
        deaths = 0
        while True:
            with self._waiting():
                member = self._take()
                try:
                    call = getattr(member.actor, method).remote(*arguments)
                    answer = self.connected().get(call)
                except exceptions.RayTaskError as error:
                    self._give_back(member)
                    _raise_own(member, error)
                except exceptions.RayError as error:
                    deaths += 1
                    self._bury(member, error, deaths, prompt_ids)
                    continue
                self._give_back(member)
            getattr(self._lane, "by", []).append(member)
            return answer

    def stop(self) -> None:
        """End all workers for good; questions under way fail, and later ones."""
        self._stopped = True
        self.release()

    def release(self) -> None:
        """End all workers and give their memory back; the next question starts others."""
        with self._state:
            members, self._members = self._members, []
            self._idle.clear()
            self._hopeless_since, self._all_in, self._failed_starts = None, False, 0
            ready = [m for m in members if m.alive and m.about is not None]
            if ready and self.engine == "vllm":  # whose own process would hold its GPU a while yet
                closing = [member.actor.close.remote() for member in ready]
                self.connected().wait(closing, num_returns=len(closing), timeout=GRACE_SECONDS)
            for member in members:
                member.alive = False
                self.connected().kill(member.actor, no_restart=True)

    def close(self) -> None:
        """End all workers, and Ray with them if this crew has started it."""
        if not self._members and not self._owns_ray:
            return
        self.release()
        if self._owns_ray:
            self._owns_ray = False
            ray_module().shutdown()

    def connected(self) -> Any:
        """Ray, connected to the cluster."""
        ray = ray_module()
        with self._state:
            if not ray.is_initialized():
                address = _address(self.config)
                ray.init(
                    address=address,
                    include_dashboard=False,
                    logging_level="ERROR",
                    log_to_driver=False,  # what a worker has to say is in what it raises
                )
                self._owns_ray = True
        return ray

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Let another lane have its turn meanwhile."""
        if not getattr(self._lane, "has_turn", False):
            yield
            return
        self._turn.release()
        try:
            yield
        finally:
            self._turn.acquire()

    def _take(self) -> _Member:
        """A ready worker; waits for one.

        Raises:
            EngineError: None can be had.
        """
        while True:
            with self._state:
                if self._stopped:
                    raise EngineError("the workers were ended while a shard was under way")
                if not self._members:
                    self._start()
                self._admit()
                while self._idle and self._complete():
                    member = self._idle.popleft()
                    if member.alive:
                        return member
                self._require_hope()
            time.sleep(POLL_SECONDS)

    def _start(self) -> None:
        self._started, self._broken = time.monotonic(), None
        self._members = []
        for _ in range(self.size):
            self._spawn()

    def _spawn(self) -> None:
        ray, config = self.connected(), self.config
        options = {"num_cpus": config.cpus_per_worker, "num_gpus": self.gpus}
        actor = (ray.remote(max_restarts=0, max_task_retries=0, **options)(self.worker)).remote(
            self.device, config.threads
        )
        self._count += 1
        self._members.append(_Member(self._count, actor, actor.about.remote()))

    def _admit(self) -> None:
        """Take in those that have answered; a worker unlike the first one is refused."""
        if self._broken is not None:
            raise self._broken
        ray = self.connected()
        joining = {m.joining: m for m in self._members if m.alive and m.about is None}
        if not joining:
            return
        answered, _ = ray.wait(list(joining), num_returns=len(joining), timeout=0)
        for reference in answered:
            member = joining[reference]
            try:
                member.about = ray.get(reference)
            except ray.exceptions.RayError as error:
                member.alive = False
                self._failed_starts += 1
                self._last_failure = _last_line(error)
                if self._failed_starts < FAILED_STARTS:
                    self._spawn()
                continue
            self._refuse_misfit(member)
            self._idle.extend([member] * LANES_PER_WORKER[self.engine])
        self._tell_start()

    def _complete(self) -> bool:
        """Whether all have joined at the start, or have been waited for."""
        if not self._all_in:
            joining = any(m.alive and m.about is None for m in self._members)
            waited = time.monotonic() - self._started
            self._all_in = not joining or waited > JOIN_SECONDS
        return self._all_in

    def _tell_start(self) -> None:
        ready = [m for m in self._members if m.about is not None]
        if len(ready) == len(self._members) and not self._all_in:
            seconds = time.monotonic() - self._started
            nodes = len({m.about.node for m in ready if m.about is not None})
            self._news.append(f"{len(ready)} workers on {nodes} nodes ready after {seconds:.1f} s")

    def _refuse_misfit(self, member: _Member) -> None:
        first = next(m.about for m in self._members if m.about is not None)
        about = member.about
        assert about is not None
        for name in AGREED:
            if getattr(about, name) != getattr(first, name):
                self._broken = EngineError(
                    f"workers differ in {name}: {getattr(first, name)} on {first.node}, "
                    f"{getattr(about, name)} on {about.node}; their completions would "
                    "too. Give all nodes the same, or keep one of them out of the cluster"
                )
                raise self._broken

    def _require_hope(self) -> None:
        """Raise if nobody is alive, and has not been for too long."""
        alive = [m for m in self._members if m.alive]
        if any(m.about is not None for m in alive):
            self._hopeless_since = None
            return
        now = time.monotonic()
        since = self._hopeless_since = self._hopeless_since or now
        if alive and now - since < self.config.start_seconds:
            return
        why = self._last_failure or (
            f"none found a place; each asks for {self.gpus} GPUs and "
            f"{self.config.cpus_per_worker} CPUs, and the cluster has "
            f"{_resources(self.connected().cluster_resources())}"
        )
        raise EngineError(
            f"no worker for {now - self._started:.0f} s: {why}. Look at the cluster (`ray "
            "status`), change `cluster`, or set cluster: local; whole parts are kept"
        )

    def _give_back(self, member: _Member) -> None:
        with self._state:
            if member.alive:
                self._idle.append(member)

    def _bury(
        self, member: _Member, error: Exception, deaths: int, prompt_ids: Sequence[str]
    ) -> None:
        with self._state:
            if member in self._members and member.alive:
                member.alive = False
                self.connected().kill(member.actor, no_restart=True)
                self._news.append(
                    f"{member} died ({_first_line(error)}); its shard goes to another"
                )
                self._spawn()
        if deaths >= self.config.deaths_per_shard:
            named = ", ".join(prompt_ids[:NAMED_PROMPTS])
            more = len(prompt_ids) - NAMED_PROMPTS
            raise EngineError(
                f"{deaths} workers died over the same prompts, the last was {member} "
                f"({_first_line(error)}): {named}{f' and {more} more' if more > 0 else ''}. "
                "Look at their lengths and at the memory of the nodes; fewer prompts_per_shard "
                "tell which one it is. Whole parts are kept"
            )


def ray_module() -> Any:
    """Ray, which is in an extra of its own.

    Raises:
        DependencyError: It is not installed.
    """
    if find_spec("ray") is None:
        raise DependencyError(
            "cluster: ray needs Ray, which is not installed; install Cream's extra `ray` on every "
            "node, or set cluster: local"
        )
    return import_module("ray")


def _address(config: RayCluster) -> str | None:
    """What `ray.init` is told; None: the cluster that RAY_ADDRESS names."""
    if config.address != "auto":
        return config.address
    return None if os.environ.get("RAY_ADDRESS") else "local"


def _raise_own(member: _Member, error: Any) -> NoReturn:
    """What a worker raised, as if it had been raised here."""
    cause = error.cause
    if isinstance(cause, CreamError):
        raise cause from None
    raise EngineError(
        f"{member} failed ({type(cause).__name__}: {_first_line(cause)}); nothing was tried again"
    ) from error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _last_line(error: BaseException) -> str:
    """What a constructor raised stands at the end of a traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _resources(total: Mapping[str, float]) -> str:
    return f"{total.get('GPU', 0):g} GPUs and {total.get('CPU', 0):g} CPUs"
