"""Runs the example programs and the benchmarks as a user does, and watches what they leave behind.

House rule: every wait is for a condition and has a deadline, generous because the machine may be slow; what fails a
test is the condition, never the time that something took.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "examples" / "cluster.py"
COUNTER = ROOT / "examples" / "counter.py"
THROUGHPUT = ROOT / "benchmarks" / "throughput.py"
COMPARE = ROOT / "benchmarks" / "compare.py"

PATIENCE_SECONDS = 60.0
"""For any single thing that a test waits for."""

LOOK_AGAIN_SECONDS = 0.05


@attrs.frozen
class Ended:
    """How a program ended."""

    status: int
    output: str
    errors: str

    @property
    def last_json(self) -> Any:
        """The last line of the output, decoded."""
        return json.loads(self.output.splitlines()[-1])


async def run_program(program: Path, *arguments: str, temporary: Path | None = None) -> Ended:
    """Run to the end; ``temporary`` is where it makes temporary directories."""
    with trio.fail_after(PATIENCE_SECONDS):
        done = await trio.run_process(
            [sys.executable, str(program), *arguments],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=environment() | ({"TMPDIR": str(temporary)} if temporary else {}),
        )
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


class RunningProgram:
    """A program whose output is read line by line."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.output = ""

    async def wait_for_output(self, wanted: str) -> None:
        """Until these words have been printed."""
        await self.wait_until(lambda output: wanted in output)

    async def wait_until(self, satisfied: Callable[[str], bool]) -> None:
        """Until what has been printed so far satisfies."""
        assert self.process.stdout is not None
        with trio.fail_after(PATIENCE_SECONDS):
            while not satisfied(self.output):
                received = await self.process.stdout.receive_some()
                assert received, f"ended without printing what was waited for: {self.output}"
                self.output += received.decode()

    async def end_by(self, number: signal.Signals) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(number)
        with trio.fail_after(PATIENCE_SECONDS):
            return await self.process.wait()


@asynccontextmanager
async def start_program(program: Path, *arguments: str, errors_too: bool = False) -> AsyncIterator[RunningProgram]:
    """Start a program in a session of its own, as a terminal would; dead at the end."""
    process = await trio.lowlevel.open_process(
        [sys.executable, str(program), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if errors_too else None,
        env=environment(),
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        yield RunningProgram(process)
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
            await process.stdout.aclose()


async def wait_until_nobody_names(words: Path) -> None:
    """Until no process has these words on its command line; whoever does not end in time is killed and named."""
    with trio.move_on_after(PATIENCE_SECONDS):
        while processes_naming(words):  # noqa: ASYNC110  # the system tells nobody but their parent
            await trio.sleep(LOOK_AGAIN_SECONDS)
    left = processes_naming(words)
    for process in left:
        os.kill(process, signal.SIGKILL)
    assert left == []


def processes_naming(words: Path) -> list[int]:
    """The processes, other than this one, that have these words on their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                command_line = (entry / "cmdline").read_bytes()
            except OSError:
                continue  # it has ended meanwhile
            if str(words).encode() in command_line:
                found.append(int(entry.name))
    return found


def environment() -> dict[str, str]:
    """This process's environment, with the checkout's own package first."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}


def three_ports_in_a_row() -> int:
    """The first of three free ports, below those that the system takes for outgoing connections."""
    for first in range(20_000 + os.getpid() % 3000 * 4, 32_000, 3):
        probes = [socket.socket() for _ in range(3)]
        try:
            for offset, probe in enumerate(probes):
                probe.bind(("127.0.0.1", first + offset))
            return first
        except OSError:
            continue
        finally:
            for probe in probes:
                probe.close()
    raise AssertionError("no three free ports in a row")
