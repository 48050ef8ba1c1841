"""Starting and watching the children of ``member.py``.

House rule: every wait is for a line of output, and has a deadline that only a hanging program reaches.
"""

import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import trio

import trio_raft
from tests.processes.member import Machine, make_config

MEMBER = Path(__file__).with_name("member.py")

PATIENCE = 60.0
"""Seconds for any single thing that a test waits for."""


class Crew:
    """The children of one test, and all that they said."""

    def __init__(self, nursery: trio.Nursery, directory: Path, size: int) -> None:
        self.directory = directory
        self.ports = free_ports(size)
        self.ids = [f"n{number + 1}" for number in range(size)]
        self.processes: dict[str, trio.Process] = {}
        self.lines: list[tuple[str, list[str]]] = []
        """(child, the words of a line), oldest first."""
        self.errors: dict[str, bytes] = {}
        """What each child wrote to its standard error."""
        self._nursery = nursery
        self._changed = trio.lowlevel.ParkingLot()

    # ------------------------------------------------------------------------------------ children

    async def start(self, child: str, *options: str, wrapper: Sequence[str] = ()) -> trio.Process:
        """Start a child, named by the nodes that it runs (``n1`` or ``n1,n2,n3``), and wait until it listens."""
        command = [*wrapper, sys.executable, str(MEMBER), child]
        command += [",".join(map(str, self.ports)), str(self.directory), *options]
        before = len(self.lines)
        process = await trio.lowlevel.open_process(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(MEMBER.parents[2])},
        )
        self.processes[child] = process
        self._nursery.start_soon(self._read_lines, child, process)
        self._nursery.start_soon(self._read_errors, child, process)
        await self.until(lambda: self.said(child, "ready", since=before))
        return process

    async def kill(self, child: str) -> None:
        """SIGKILL, and wait until it is gone."""
        process = self.processes.pop(child)
        process.kill()
        await process.wait()

    async def end(self, child: str, signal_number: int) -> int:
        """Send a signal and return the exit status."""
        process = self.processes.pop(child)
        process.send_signal(signal_number)
        with trio.fail_after(PATIENCE):
            return await process.wait()

    async def _read_lines(self, child: str, process: trio.Process) -> None:
        assert process.stdout is not None
        rest = b""
        async for chunk in process.stdout:
            *lines, rest = (rest + bytes(chunk)).split(b"\n")
            self.lines += [(child, line.decode().split()) for line in lines]
            self._changed.unpark_all()

    async def _read_errors(self, child: str, process: trio.Process) -> None:
        assert process.stderr is not None
        self.errors.setdefault(child, b"")
        async for chunk in process.stderr:
            self.errors[child] += bytes(chunk)

    # ------------------------------------------------------------------------------------ looking and waiting

    def said(self, child: str, *words: str, since: int = 0) -> list[list[str]]:
        """The lines of one child that begin with these words."""
        return [line for who, line in self.lines[since:] if who == child and line[: len(words)] == list(words)]

    def acknowledged(self) -> list[str]:
        """The commands of all acknowledged writes."""
        return [line[1] for _, line in self.lines if line[0] == "ack"]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for output until the condition holds."""
        with trio.move_on_after(PATIENCE):
            while not condition():
                await self._changed.park()
            return
        raise AssertionError(f"waited {PATIENCE} s; the last lines: {self.lines[-20:]}; errors: {self.errors}")

    async def more_writes(self, count: int) -> None:
        """Wait until this many more writes are acknowledged."""
        wanted = len(self.acknowledged()) + count
        await self.until(lambda: len(self.acknowledged()) >= wanted)

    def leader(self) -> str:
        """Who became leader last, of the children that run."""
        leaders = [(int(line[3]), who) for who, line in self.lines if line[0] == "role" and line[2] == "leader"]
        return max((term, who) for term, who in leaders if who in self.processes)[1]

    # ------------------------------------------------------------------------------------ judging

    async def judge(self) -> list[bytes]:
        """Open all directories in this process: every node must hold the same, and every acknowledged write once."""
        machines = {node_id: Machine() for node_id in self.ids}
        with trio.fail_after(PATIENCE):
            async with AsyncExitStack() as stack:
                nodes: list[trio_raft.Node[bytes, int]] = []
                for node_id, machine in machines.items():
                    config = make_config(node_id, self.ports, self.directory)
                    nodes.append(await stack.enter_async_context(trio_raft.open_node(config, machine)))
                index = await read_index_of(nodes)
                for node in nodes:
                    await node.wait_applied(index)
        histories = [machine.commands for machine in machines.values()]
        assert histories[1:] == histories[:-1]
        commands = histories[0]
        assert len(set(commands)) == len(commands), "a command was applied twice"
        lost = set(self.acknowledged()) - {command.decode() for command in commands}
        assert lost == set()
        return commands


async def read_index_of(nodes: list[trio_raft.Node[bytes, int]]) -> trio_raft.LogIndex:
    """The read index of whoever leads."""
    while True:
        leader = await nodes[0].wait_leader()
        [node] = [node for node in nodes if node.node_id == leader]
        try:
            return await node.read_index()
        except (trio_raft.NotLeader, trio_raft.NoLeader):
            continue


@asynccontextmanager
async def crew(directory: Path, size: int = 3) -> AsyncIterator[Crew]:
    """Children for the length of a block; dead at its end."""
    async with trio.open_nursery() as nursery:
        found = Crew(nursery, directory, size)
        try:
            yield found
        finally:
            with trio.CancelScope(shield=True):
                for process in found.processes.values():
                    process.kill()
                    await process.wait()
        nursery.cancel_scope.cancel()


def free_ports(count: int) -> list[int]:
    """Ports that nobody has, below those that the system gives to outgoing connections."""
    found: list[socket.socket] = []
    start = 12_000 + os.getpid() % 2000 * 4
    try:
        for port in range(start, 32_000):
            probe = socket.socket()
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                probe.close()
                continue
            found.append(probe)
            if len(found) == count:
                return [probe.getsockname()[1] for probe in found]
    finally:
        for probe in found:
            probe.close()
    raise AssertionError("no free ports")
