"""A process that is driven over its standard input and output: one JSON object per line in, one out, in lock step.

House rule: a child may fall silent or end at any moment, so every question has a deadline, and a child is dead and
waited for when its block is left, however that comes.
"""

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

Answer = dict[str, Any]


class BenchmarkFailed(Exception):
    """A process did not start, did not answer, or lost the leadership; nothing measured is worth showing."""


class Child:
    """One child process, asked in lock step."""

    def __init__(self, name: str, process: trio.Process, log: Path) -> None:
        self.name = name
        self.process = process
        self._log = log
        self._unread = b""

    async def ask(self, *, within: float, **request: object) -> Answer:
        """Send one request and return the answer. Raises BenchmarkFailed."""
        if self.process.stdin is None or self.process.stdout is None:
            raise AssertionError("the process was opened with pipes for its input and output")
        with trio.move_on_after(within):
            try:
                await self.process.stdin.send_all(json.dumps(request).encode() + b"\n")
                while b"\n" not in self._unread:
                    received = await self.process.stdout.receive_some()
                    if not received:
                        raise BenchmarkFailed(f"{self.name} ended: {self._last_words()}")
                    self._unread += received
            except trio.BrokenResourceError:
                raise BenchmarkFailed(f"{self.name} ended: {self._last_words()}") from None
            line, self._unread = self._unread.split(b"\n", 1)
            answer: Answer = json.loads(line)
            if "error" in answer:
                raise BenchmarkFailed(f"{self.name}: {answer['error']}")
            return answer
        raise BenchmarkFailed(f"{self.name} did not answer {request['do']!r} within {within:g} s")

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it left no message"


@asynccontextmanager
async def run_child(name: str, command: Sequence[str], log: Path) -> AsyncIterator[Child]:
    """Start a process; dead and waited for at the end, however that comes. What it says on stderr goes to the log."""
    with log.open("wb") as errors:
        # A process group of its own: the terminal's Ctrl-C is for this process alone.
        process = await trio.lowlevel.open_process(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            process_group=0,
        )
    try:
        yield Child(name, process, log)
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    await pipe.aclose()


def progress(text: str) -> None:
    """One line for whoever waits."""
    print(text, file=sys.stderr, flush=True)
