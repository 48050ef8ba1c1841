"""What the sections of the benchmark share: a cluster of processes that come and go, figures, and showing progress."""

import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio
from comparison.children import BenchmarkFailed, Child, run_child
from comparison.machine import free_ports

NODE_PROGRAM = Path(__file__).with_name("snapshots_node.py")
PATIENCE_SECONDS = 600.0
"""For anything that a node is asked: a slow disk is no failure."""
SLICES = 20
"""Steps in which a log is filled, for whoever watches."""
NO_TRIGGERS = {"threshold_entries": 0, "threshold_bytes": 0}
"""Snapshots are taken when the benchmark says so."""
QUICK_ELECTION = {
    "heartbeat_timeout": 0.1,
    "election_timeout": 0.1,
    "leader_lease_timeout": 0.05,
    "commit_timeout": 0.05,
}
"""For a server alone: waiting for a leader that cannot be is not what is measured."""

PATIENT = {"heartbeat_timeout": 2.0, "election_timeout": 2.0, "leader_lease_timeout": 2.0}
"""For three that share a few processors, perhaps with others: an election in the middle would spoil the figures."""
DEFAULT_HEARTBEATS = {"leader_lease_timeout": 1.0}
"""The same, where the spacing of heartbeats is measured."""


@attrs.frozen(kw_only=True)
class Figure:
    """One line of the table."""

    section: str
    name: str
    value: float
    unit: str
    goal: str = ""
    met: bool | None = None
    """None without a goal."""
    note: str = ""


@attrs.frozen(kw_only=True)
class Plan:
    """What is to be measured, and how large."""

    directory: Path
    entries: int
    """In a log."""
    command_bytes: int
    large_commands: int
    large_command_bytes: int
    state_bytes: int
    """Of the snapshot that is installed."""
    seconds: float
    """Of steady writes."""
    repeat: int


class Crew:
    """Servers of one cluster, each a process; started and killed by name."""

    def __init__(self, plan: Plan, name: str, members: int, settings: Mapping[str, object], state_bytes: int) -> None:
        self.directory = plan.directory / name
        self.directory.mkdir()
        self.nodes: dict[str, Child] = {}
        self._settings = settings
        self._state_bytes = state_bytes
        names = [f"n{number}" for number in range(1, members + 1)]
        self._members = {name: f"127.0.0.1:{port}" for name, port in zip(names, free_ports(members), strict=True)}
        self._processes: dict[str, AsyncExitStack] = {}

    async def start(self, name: str) -> Child:
        """Start one; it answers once it is open."""
        settings = {
            "node_id": name,
            "cluster_id": "snapshots",
            "members": self._members,
            "data_directory": str(self.directory / name),
            **self._settings,
        }
        command = [sys.executable, str(NODE_PROGRAM), json.dumps(settings), f"--state-bytes={self._state_bytes}"]
        self._processes[name] = process = AsyncExitStack()
        node = await process.enter_async_context(run_child(name, command, self.directory / f"{name}.log"))
        self.nodes[name] = node
        return node

    async def start_all(self) -> Child:
        """Start them all; returns the leader."""
        for name in self._members:
            await self.start(name)
        return await self.leader()

    async def leader(self) -> Child:
        """Who leads."""
        anyone = next(iter(self.nodes.values()))
        answer = await anyone.ask(do="leader", within=PATIENCE_SECONDS)
        return self.nodes[answer["leader"]]

    async def kill(self, name: str) -> None:
        """End one as a crash does."""
        del self.nodes[name]
        await self._processes.pop(name).aclose()

    async def aclose(self) -> None:
        for name in list(self.nodes):
            await self.kill(name)


@asynccontextmanager
async def crew(
    plan: Plan,
    name: str,
    *,
    members: int,
    settings: Mapping[str, object],
    state_bytes: int = 0,
) -> AsyncIterator[Crew]:
    """A cluster that is not started yet; dead at the end, and its files are gone."""
    found = Crew(plan, name, members, settings, state_bytes)
    try:
        yield found
    finally:
        await found.aclose()
        for path in sorted(found.directory.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        found.directory.rmdir()


async def ask(node: Child, **request: object) -> dict[str, Any]:
    """One request, with all the time that it needs."""
    return await node.ask(within=PATIENCE_SECONDS, **request)


async def fill(node: Child, entries: int, command_bytes: int, what: str) -> int:
    """Write so many commands through a leader; returns the last index."""
    done = last_index = 0
    for slice_number in range(1, SLICES + 1):
        until = entries * slice_number // SLICES
        if until > done:
            answer = await ask(node, do="fill", entries=until - done, command_bytes=command_bytes)
            last_index, done = answer["last_index"], until
        show(what, done, entries)
    return last_index


async def wait_until_installed(node: Child, total: int, what: str) -> None:
    """Until the follower has installed a snapshot."""
    while True:
        state = await ask(node, do="state")
        if state["installed"]:
            show(what, total, total)
            return
        show(what, state["received"] or 0, total)
        await trio.sleep(0.2)


def show(what: str, done: float, total: float) -> None:
    """How far it is, in one line that is written over; only for a person."""
    if sys.stderr.isatty():
        end = "\n" if done >= total else ""
        bar = "█" * round(20 * done / total)
        print(f"\r{what:<48} {bar:<20} {done / total:4.0%} ", end=end, file=sys.stderr, flush=True)


def busy() -> str:
    """How many programs want a processor, for the reader of a figure."""
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"


def follower_of(cluster: Crew, leader: Child) -> str:
    """The name of one that does not lead."""
    return next(name for name in reversed(cluster.nodes) if name != leader.name)


def check_term(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Raises BenchmarkFailed if the leader changed between two states."""
    if before["term"] != after["term"]:
        raise BenchmarkFailed("the leader changed meanwhile: the machine is too busy to measure this")
