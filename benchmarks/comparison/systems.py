"""What is compared, and how a cluster of it starts.

A cluster is its servers, each a process, and its *fronts*: the processes that the benchmark talks to. For all but etcd
these are the servers themselves, and the callers run beside the server that leads; etcd's servers are its own programs,
and its front is a client of the same kind that a program written in Go has. Every front understands::

    {"do": "leader"}                     {"leader": "n1"}, when there is one
    {"do": "propose", "callers": 64,
     "seconds": 2.0,                     {"writes": …, "seconds": …, "p50_ms": …, "p99_ms": …, "max_ms": …}
     "command_bytes": 100}
    {"do": "usage"}                      {"entries": …, "batches": …, "term": …}, as far as it knows
    {"do": "write", "seconds": 20.0}     {}, at the first write that is accepted within this time

trio_raft's nodes understand ``submit`` and ``steady`` too, for the measures of these names.
"""

import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import attrs
import trio

from .children import Answer, BenchmarkFailed, Child, run_child
from .machine import free_ports

BENCHMARKS = Path(__file__).resolve().parent.parent
PEERS = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trio_raft-benchmarks"
"""Where ``peers/install.sh`` puts what it builds."""

START_SECONDS = 30.0
"""For the processes to start and to elect a leader."""
EXTRA_SECONDS = 30.0
"""Beyond the measured time a process may take so long to answer."""


@attrs.frozen
class Cluster:
    """A cluster that runs."""

    servers: Mapping[str, Child]
    fronts: Mapping[str, Child]

    async def leader(self) -> str:
        """The name of the server that leads."""
        front = next(iter(self.fronts.values()))
        name: str = (await front.ask(do="leader", within=START_SECONDS))["leader"]
        return name

    def front_of(self, server: str) -> Child:
        """Where the callers of this server run."""
        return self.fronts.get(server) or next(iter(self.fronts.values()))

    def processes(self) -> dict[str, int]:
        """The process of each server, and of each front that is none."""
        return {child.name: child.process.pid for child in {**self.fronts, **self.servers}.values()}

    async def load(self, leader: str, *, callers: int, seconds: float, command_bytes: int) -> Answer:
        """Let so many callers write for so long, each its next command when the last was applied."""
        return await self.front_of(leader).ask(
            do="propose",
            callers=callers,
            seconds=seconds,
            command_bytes=command_bytes,
            within=seconds + EXTRA_SECONDS,
        )

    async def usage(self, leader: str) -> Answer:
        """What the leader counts: entries and batches written to its log, and its term."""
        return await self.front_of(leader).ask(do="usage", within=EXTRA_SECONDS)

    async def kill(self, server: str) -> None:
        """SIGKILL: as when the process crashes. Returns when it is dead."""
        process = self.servers[server].process
        process.kill()
        await process.wait()

    async def wait_for_write(self, *, without: str, within: float) -> None:
        """Until a front other than that of a dead server had a write accepted. Raises BenchmarkFailed."""
        problems: list[BenchmarkFailed] = []
        async with trio.open_nursery() as nursery:

            async def ask(front: Child) -> None:
                try:
                    await front.ask(do="write", seconds=within, within=within + EXTRA_SECONDS)
                except BenchmarkFailed as problem:
                    problems.append(problem)
                else:
                    nursery.cancel_scope.cancel()

            fronts = [front for name, front in self.fronts.items() if name != without]
            for front in fronts:
                nursery.start_soon(ask, front)
        if len(problems) == len(fronts):
            raise problems[0]


@attrs.frozen
class System:
    """A system whose servers are all driven: one program, started once for each."""

    name: str
    program: tuple[str, ...]
    """The command; the directory, the server's name and all members follow it."""
    remark: str = ""
    """What a reader of the figures has to know."""
    package: str = ""
    """Under which name its installation noted its version."""
    needs: Path | None = None
    """What must have been installed."""

    def missing(self) -> str | None:
        """Why this system cannot be measured here, if so."""
        if self.needs is None or self.needs.exists():
            return None
        return f"{self.name} is not installed ({self.needs} is missing): run benchmarks/peers/install.sh"

    @asynccontextmanager
    async def start(self, directory: Path, size: int) -> AsyncIterator[Cluster]:
        """Run a cluster of this size, its data in the directory; every process is dead at the end."""
        members = [f"n{number}=127.0.0.1:{port}" for number, port in enumerate(free_ports(size), start=1)]
        async with AsyncExitStack() as processes:
            servers = {}
            for member in members:
                name = member.partition("=")[0]
                command = [*self.program, f"--directory={directory / name}", name, *members]
                servers[name] = await processes.enter_async_context(run_child(name, command, directory / f"{name}.log"))
            yield Cluster(servers=servers, fronts=servers)


@attrs.frozen
class Etcd(System):
    """Servers that are programs of their own, and a client."""

    def missing(self) -> str | None:
        """Why this system cannot be measured here, if so."""
        if not Path(self.program[0]).exists():
            return f"{self.name} is not installed ({self.program[0]} is missing): run benchmarks/peers/install.sh"
        return super().missing()

    @asynccontextmanager
    async def start(self, directory: Path, size: int) -> AsyncIterator[Cluster]:
        """Run servers and a client; every process is dead at the end."""
        ports = free_ports(2 * size)
        names = [f"n{number}" for number in range(1, size + 1)]
        peers = {name: f"http://127.0.0.1:{port}" for name, port in zip(names, ports[:size], strict=True)}
        clients = {name: f"http://127.0.0.1:{port}" for name, port in zip(names, ports[size:], strict=True)}
        async with AsyncExitStack() as processes:
            servers = {}
            for name in names:
                command = [
                    *self.program,
                    *("--name", name, "--data-dir", str(directory / name)),
                    *("--listen-peer-urls", peers[name], "--initial-advertise-peer-urls", peers[name]),
                    *("--listen-client-urls", clients[name], "--advertise-client-urls", clients[name]),
                    *("--initial-cluster", ",".join(f"{peer}={url}" for peer, url in peers.items())),
                    *("--initial-cluster-state", "new", "--logger", "zap", "--log-level", "error"),
                ]
                servers[name] = await processes.enter_async_context(run_child(name, command, directory / f"{name}.log"))
            # The client outlives no controller, being driven by it, and takes the servers with it.
            pids = ",".join(str(server.process.pid) for server in servers.values())
            command = [str(self.needs), f"--servers={pids}", *(f"{name}={url}" for name, url in clients.items())]
            front = await processes.enter_async_context(run_child("client", command, directory / "client.log"))
            yield Cluster(servers=servers, fronts={front.name: front})


def _python(program: str, *, python: str = sys.executable) -> tuple[str, ...]:
    return (python, str(BENCHMARKS / program))


_PYSYNCOBJ_PYTHON = PEERS / "pysyncobj" / "bin" / "python"

SUBJECT = System("trio_raft", _python("throughput_node.py"))
"""What all others are compared with."""

SKELETON = System("skeleton", _python("skeleton.py"), remark="not Raft: the bound of pure Python")

HASHICORP = System(
    "hashicorp",
    (str(PEERS / "hashicorp"),),
    remark="its log in boltdb, MaxAppendEntries 1024",
    package="hashicorp",
    needs=PEERS / "hashicorp",
)

ETCD = Etcd(
    "etcd",
    ("/usr/bin/etcd",),
    remark="its client, over the network, included",
    package="etcd",
    needs=PEERS / "etcd-client",
)

PYSYNCOBJ = System(
    "pysyncobj",
    (*_python("peers/pysyncobj_node.py", python=str(_PYSYNCOBJ_PYTHON)), "--batch"),
    remark="its defaults; it never syncs",
    package="pysyncobj",
    needs=_PYSYNCOBJ_PYTHON,
)

PYSYNCOBJ_UNBATCHED = System(
    "pysyncobj-unbatched",
    _python("peers/pysyncobj_node.py", python=str(_PYSYNCOBJ_PYTHON)),
    remark="without its batches; it never syncs",
    package="pysyncobj",
    needs=_PYSYNCOBJ_PYTHON,
)

RAW_BYTES = System("raw-bytes", _python("raw_bytes.py"), remark="not Raft: writes, syncs and sends the same bytes")

PEER_SYSTEMS = (HASHICORP, ETCD, PYSYNCOBJ, PYSYNCOBJ_UNBATCHED)

SYSTEMS: dict[str, System] = {system.name: system for system in (SUBJECT, SKELETON, *PEER_SYSTEMS, RAW_BYTES)}


def installed_versions() -> dict[str, str]:
    """The versions of the peers, as their installation noted them."""
    try:
        lines = (PEERS / "versions").read_text().splitlines()
    except OSError:
        return {}
    return dict(line.split(" ", 1) for line in lines)
