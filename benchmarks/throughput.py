"""Durable writes per second: three processes, real sockets, real disk syncs, callers beside the leader.

Each caller proposes a command, waits until it is committed, durable on a majority and applied, and proposes the next:
a closed loop. So C callers keep at most C commands in flight, and what a log write takes is shared by those that
travel together.

The columns: cpu_us_per_command is the processor time of all three processes per command, leader_cpu_us_per_command
that of the leader's process, its callers included; entries_per_sync is what one write and one sync of the leader's log
held.
"""

import argparse
import importlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

try:
    import trio

    importlib.import_module("trio_raft")  # the nodes need it: better to miss it here than in their logs
except (ImportError, AttributeError) as error:  # missing, or too old
    print(f"{sys.argv[0]}: {error}; run `make demo` once, then .venv/bin/python {sys.argv[0]} …", file=sys.stderr)
    sys.exit(2)

NODES = ("n1", "n2", "n3")
NODE_PROGRAM = Path(__file__).with_name("throughput_node.py")
WARM_UP_CALLERS, WARM_UP_SECONDS = 16, 0.5
START_SECONDS = 30.0
"""For the nodes to start and to elect a leader."""
EXTRA_SECONDS = 30.0
"""Beyond the measured time a node may take so long to answer."""
SMALLEST_COMMAND, LARGEST_COMMAND = 8, 1 << 20

COLUMNS = {
    "callers": "{:d}",
    "writes_per_second": "{:,.0f}",
    "p50_ms": "{:.2f}",
    "p99_ms": "{:.2f}",
    "cpu_us_per_command": "{:.1f}",
    "leader_cpu_us_per_command": "{:.1f}",
    "entries_per_sync": "{:.1f}",
}

Row = dict[str, int | float]


class BenchmarkFailed(Exception):
    """A node did not start, did not answer, or lost the leadership; nothing measured is worth showing."""


class Node:
    """One child process, asked in lock step."""

    def __init__(self, name: str, process: trio.Process, log: Path) -> None:
        self.name = name
        self._process = process
        self._log = log
        self._unread = b""

    async def ask(self, *, within: float, **request: object) -> dict[str, Any]:
        """Send one request and return the answer. Raises BenchmarkFailed."""
        if self._process.stdin is None or self._process.stdout is None:
            raise AssertionError("the process was opened with pipes for its input and output")
        with trio.move_on_after(within):
            try:
                await self._process.stdin.send_all(json.dumps(request).encode() + b"\n")
                while b"\n" not in self._unread:
                    received = await self._process.stdout.receive_some()
                    if not received:
                        raise BenchmarkFailed(f"{self.name} ended: {self._last_words()}")
                    self._unread += received
            except trio.BrokenResourceError:
                raise BenchmarkFailed(f"{self.name} ended: {self._last_words()}") from None
            line, self._unread = self._unread.split(b"\n", 1)
            answer: dict[str, Any] = json.loads(line)
            if "error" in answer:
                raise BenchmarkFailed(f"{self.name}: {answer['error']}")
            return answer
        raise BenchmarkFailed(f"{self.name} did not answer {request['do']!r} within {within:g} s")

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it left no message"


async def measure_all(callers: Sequence[int], seconds: float, command_bytes: int, directory: Path) -> list[Row]:
    """One row for each number of callers. Raises BenchmarkFailed."""
    async with AsyncExitStack() as processes:
        members = [f"{name}=127.0.0.1:{port}" for name, port in zip(NODES, free_ports(len(NODES)), strict=True)]
        nodes: dict[str, Node] = {}
        for name in NODES:
            command = [str(NODE_PROGRAM), name, *members, f"--directory={directory / name}"]
            nodes[name] = await processes.enter_async_context(run_node(name, command, directory))
        leader = nodes[(await nodes[NODES[0]].ask(do="leader", within=START_SECONDS))["leader"]]
        progress(f"{leader.name} leads; data in {directory} ({file_system(directory)})")
        await load(leader, WARM_UP_CALLERS, WARM_UP_SECONDS, command_bytes)
        rows = []
        for count in callers:
            row = await measure(nodes, leader, count, seconds, command_bytes)
            progress(f"{count} callers: {row['writes_per_second']:,.0f} writes/s")
            rows.append(row)
        return rows


async def measure(nodes: dict[str, Node], leader: Node, callers: int, seconds: float, command_bytes: int) -> Row:
    """One row: load the leader, and compare what every process had used before and after."""
    before = {name: await node.ask(do="usage", within=EXTRA_SECONDS) for name, node in nodes.items()}
    done = await load(leader, callers, seconds, command_bytes)
    after = {name: await node.ask(do="usage", within=EXTRA_SECONDS) for name, node in nodes.items()}
    if before[leader.name]["term"] != after[leader.name]["term"]:
        raise BenchmarkFailed(f"the leader changed while {callers} callers were measured")

    def used(name: str, what: str) -> float:
        return float(after[name][what] - before[name][what])

    batches = used(leader.name, "batches")
    return {
        "callers": callers,
        "writes_per_second": round(done["writes"] / done["seconds"], 1),
        "p50_ms": round(done["p50_ms"], 3),
        "p99_ms": round(done["p99_ms"], 3),
        "cpu_us_per_command": round(sum(used(name, "cpu_seconds") for name in nodes) * 1e6 / done["writes"], 2),
        "leader_cpu_us_per_command": round(used(leader.name, "cpu_seconds") * 1e6 / done["writes"], 2),
        "entries_per_sync": round(used(leader.name, "entries") / batches, 2) if batches else 0.0,
        "max_ms": round(done["max_ms"], 3),
        "writes": done["writes"],
        "seconds": round(done["seconds"], 3),
        "command_bytes": command_bytes,
    }


async def load(leader: Node, callers: int, seconds: float, command_bytes: int) -> dict[str, Any]:
    """Let the callers run on the leader."""
    return await leader.ask(
        do="propose",
        callers=callers,
        seconds=seconds,
        command_bytes=command_bytes,
        within=seconds + EXTRA_SECONDS,
    )


@asynccontextmanager
async def run_node(name: str, command: Sequence[str], directory: Path) -> AsyncIterator[Node]:
    """A node's process, and its messages in a file; dead and waited for at the end, however that comes."""
    log = directory / f"{name}.log"
    with log.open("wb") as errors:
        # A process group of its own: the terminal's Ctrl-C is for this process alone.
        process = await trio.lowlevel.open_process(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            process_group=0,
        )
    try:
        yield Node(name, process, log)
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()


def free_ports(count: int) -> list[int]:
    """So many ports on the loopback interface.

    Below the range from which the system takes ports for outgoing connections, so that none is taken meanwhile.
    """
    ports: list[int] = []
    for port in random.sample(range(20_000, 32_000), 1000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise BenchmarkFailed(f"fewer than {count} free ports between 20000 and 32000")


def file_system(directory: Path) -> str:
    """What kind of file system holds the directory: on tmpfs a sync costs nothing, and the figures mean nothing."""
    mounts = Path("/proc/self/mounts")
    if not mounts.exists():
        return "file system unknown"
    found = {Path(words[1]): words[2] for words in map(str.split, mounts.read_text().splitlines())}
    here = directory.resolve()
    return next((found[parent] for parent in [here, *here.parents] if parent in found), "file system unknown")


def progress(text: str) -> None:
    """One line for whoever waits."""
    print(text, file=sys.stderr, flush=True)


def print_table(rows: list[Row]) -> None:
    """The rows, one line each, aligned under their names."""
    cells = [list(COLUMNS)] + [[form.format(row[name]) for name, form in COLUMNS.items()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)), flush=True)


async def run(arguments: argparse.Namespace) -> int:
    """Measure until done or interrupted; returns the exit status."""
    rows: list[Row] = []
    status = 130
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_on_signal, signals, nursery.cancel_scope)
            with tempfile.TemporaryDirectory(prefix="throughput-", dir=arguments.directory) as directory:
                try:
                    rows = await measure_all(
                        arguments.callers, arguments.seconds, arguments.command_bytes, Path(directory)
                    )
                    status = 0
                except BenchmarkFailed as error:
                    progress(f"{Path(sys.argv[0]).name}: {error}")
                    status = 1
            nursery.cancel_scope.cancel()
    if rows and arguments.json:
        print(json.dumps(rows), flush=True)
    elif rows:
        print_table(rows)
    return status


async def cancel_on_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    """Cancel at the first Ctrl-C, SIGTERM or SIGHUP."""
    async for _ in signals:
        scope.cancel()


def read_arguments() -> argparse.Namespace:
    """What the command line says; a wrong word ends with exit status 2 and a message that names it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--callers",
        type=counts,
        default=[1, 64, 1024],
        metavar="C,C,...",
        help="how many callers, one row each (default: 1,64,1024)",
    )
    parser.add_argument("--seconds", type=positive, default=2.0, metavar="S", help="for each row (default: 2)")
    parser.add_argument(
        "--command-bytes",
        type=int,
        default=100,
        metavar="B",
        help=f"{SMALLEST_COMMAND} to {LARGEST_COMMAND} (default: 100)",
    )
    parser.add_argument(
        "--directory",
        type=Path,
        help="measure the disk that holds this directory (default: the one for temporary files)",
    )
    parser.add_argument(
        "--json", action="store_true", help="the last line is one JSON list of rows, instead of a table"
    )
    arguments = parser.parse_args()
    if not SMALLEST_COMMAND <= arguments.command_bytes <= LARGEST_COMMAND:
        parser.error(
            f"argument --command-bytes: must be from {SMALLEST_COMMAND} to {LARGEST_COMMAND}, "
            f"not {arguments.command_bytes}"
        )
    if arguments.directory is not None and not os.access(arguments.directory, os.W_OK | os.X_OK):
        parser.error(f"argument --directory: {arguments.directory} is no directory that can be written")
    return arguments


def counts(words: str) -> list[int]:
    """An argument that is a list of positive numbers."""
    numbers = [int(word) for word in words.split(",")]
    if not all(1 <= number <= 100_000 for number in numbers):
        raise argparse.ArgumentTypeError(f"must be numbers from 1 to 100000, not {words}")
    return numbers


def positive(word: str) -> float:
    """An argument that must be a positive, finite number."""
    number = float(word)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number, not {word}")
    return number


if __name__ == "__main__":
    try:
        sys.exit(trio.run(run, read_arguments()))
    except KeyboardInterrupt:
        sys.exit(130)
