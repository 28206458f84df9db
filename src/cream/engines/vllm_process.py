"""The other end of `cream.engines.vllm_worker`: a child process, its pipe, its log, its end.

Knows nothing of sampling. The child leads a process group of its own, so Ctrl-C reaches Cream
alone, which decides; it dies with `close`, with any error, with the object and with Cream itself.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import tempfile
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from cream.errors import EngineError

LOG_LINES = 12
LOG_BYTES = 1 << 14
SHOWN = 200
"""Characters shown of what is no answer."""
LINE_BYTES = 1 << 28
"""The longest answer that is read: a group of 1,000 completions of 32,768 tokens fits in."""
GRACE_SECONDS = 5.0
"""How long the child may take to notice that its input has ended."""


class WorkerProcess:
    """A child that answers each JSON line with one or more.

    Args:
        command: Program and arguments.
        environment: Variables beside those of this process.
        timeout_seconds: Longest wait for the next line of an answer.

    Raises:
        EngineError: The program cannot be started.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], *, timeout_seconds: float
    ) -> None:
        self._timeout_seconds = timeout_seconds
        self._log = tempfile.TemporaryFile("a+b")  # noqa: SIM115 - open as long as the process
        self._buffer = bytearray()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the user's own Python
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env={**os.environ, **environment},
                start_new_session=True,
            )
        except OSError as error:
            self._log.close()
            raise EngineError(
                f"{command[0]} could not be started ({error.strerror}); set engine.python to the "
                "Python of an environment that has vLLM"
            ) from error
        self._end = weakref.finalize(self, _end, self._process, self._log)

    def ask(self, question: Mapping[str, Any], *, last: str) -> Iterator[dict[str, Any]]:
        """Send a question and yield its answers, up to the one with the key `last`.

        An iteration that is left early ends the process: the rest of the answers is not wanted, and
        would be taken for those of the next question.

        Raises:
            EngineError: The process failed, ended, or was silent for too long. It is ended.
        """
        whole = False
        try:
            self._send(question)
            while not whole:
                answer = self._answer(self._line())
                if "error" in answer:
                    self._fail(answer["error"])
                whole = last in answer
                yield answer
        finally:
            if not whole:
                self.close(grace_seconds=0.0)

    def refuse(self, said: object) -> NoReturn:
        """End the process, which said something that is no answer.

        Raises:
            EngineError: Always.
        """
        tail = self._tail()
        self.close(grace_seconds=0.0)
        raise EngineError(
            f"vLLM's process said {repr(said)[:SHOWN]}, which is no answer to what it was asked; "
            "something in its environment prints there, or it is of another version. Mend "
            f"engine.python, or set engine: torch.{tail}"
        )

    def close(self, *, grace_seconds: float = GRACE_SECONDS) -> None:
        """End the process and everything it started; its memory is free when this returns."""
        if self._end.detach():
            _end(self._process, self._log, grace_seconds)

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._end.alive

    def _send(self, question: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._explain_end()

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            self.refuse(line[:SHOWN])
        return answer if isinstance(answer, dict) else self.refuse(answer)

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        searched, until = 0, time.monotonic() + self._timeout_seconds
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > LINE_BYTES:
                self.refuse(bytes(self._buffer[:SHOWN]))
            left = until - time.monotonic()
            if left <= 0 or not _readable(self._process.stdout, left):
                raise EngineError(
                    f"vLLM gave no sign of life for {self._timeout_seconds:g} s and was ended. "
                    "Raise engine.timeout_seconds if it only needs longer, or set engine: torch."
                    + self._tail()
                )
            chunk = os.read(self._process.stdout.fileno(), 1 << 16)
            if not chunk:
                self._explain_end()
            self._buffer += chunk
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def _fail(self, error: Any) -> NoReturn:
        if not isinstance(error, dict) or "message" not in error:
            self.refuse({"error": error})
        remedy = (
            "Lower engine.memory_share or engine.max_rows, or set engine: torch."
            if error.get("out_of_memory")
            else "Mend what it names, or set engine: torch."
        )
        raise EngineError(f"vLLM failed: {error['message']}. {remedy}{self._tail()}")

    def _explain_end(self) -> NoReturn:
        code = self._process.wait()
        if code == -signal.SIGKILL:
            how = "was killed, as a system does that runs out of memory. Lower engine.memory_share"
        else:
            how = f"ended with exit code {code}. Mend what its log names"
        raise EngineError(f"vLLM's process {how}, or set engine: torch.{self._tail()}")

    def _tail(self) -> str:
        """The last lines of the log, on lines of their own."""
        size = os.fstat(self._log.fileno()).st_size
        start = max(0, size - LOG_BYTES)
        text = os.pread(self._log.fileno(), LOG_BYTES, start).decode("utf-8", errors="replace")
        lines = [line for line in text.splitlines() if line.strip()][-LOG_LINES:]
        return "\nIts log ends:\n  " + "\n  ".join(lines) if lines else " Its log is empty."


def _readable(stream: Any, seconds: float) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        return bool(selector.select(seconds))


def _end(process: subprocess.Popen[bytes], log: Any, grace_seconds: float = GRACE_SECONDS) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(BrokenPipeError):  # what it has not read it will not miss
        process.stdin.close()
    try:
        process.wait(grace_seconds)
    except subprocess.TimeoutExpired:
        pass
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        log.close()
