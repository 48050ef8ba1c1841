"""What came of the faults: elections, cuts of logs, redials, refusals … counted while a run goes on.

A swarm that passes proves little if nothing happened in it.  House rule: counting changes nothing.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from trio_raft._events import (
    BadInput,
    BootstrapDone,
    ContactLost,
    DirectoryReplaced,
    DiskFull,
    DiskStalled,
    LeaderGone,
    NodeStopped,
    PeerLostData,
    PeerRefused,
    ReplicationRestarted,
    RoleChanged,
    TornTailCut,
)
from trio_raft._messages import Hello, InstallSnapshot, Message
from trio_raft._records import Entry
from trio_raft._server import Server
from trio_raft._snapshot_events import (
    LogCompacted,
    SnapshotFailed,
    SnapshotIgnored,
    SnapshotInstalled,
    SnapshotTaken,
    StateRestored,
)
from trio_raft._storage.segments import Removal
from trio_raft.testing._cluster import Cluster
from trio_raft.testing._member import Life

EVENTS: Mapping[type[object], str] = {
    TornTailCut: "torn tails cut",
    DirectoryReplaced: "refusals: directory exchanged",
    PeerRefused: "refusals: handshake",
    PeerLostData: "refusals: peer lost data",
    DiskStalled: "stalls noticed",
    DiskFull: "full disks noticed",
    ContactLost: "contacts lost",
    LeaderGone: "leaders found gone",
    BadInput: "bad input",
    BootstrapDone: "first starts settled",
    ReplicationRestarted: "replications restarted",
    LogCompacted: "logs compacted",
    SnapshotTaken: "snapshots taken",
    SnapshotFailed: "snapshots failed",
    SnapshotIgnored: "snapshots ignored",
    SnapshotInstalled: "snapshots installed",
    StateRestored: "states restored",
}


class Counter(logging.Handler):
    """Of one run.  It hears every event as a log handler: some happen before a server can be watched."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}
        self._transfers: dict[str, None] = {}
        self._dialled: dict[tuple[str, str, str], None] = {}

    def add(self, what: str, times: int = 1) -> None:
        """Add to one of the counts."""
        self.counts[what] = self.counts.get(what, 0) + times

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Count the package's events, and keep them from every other log."""
        logger = logging.getLogger("trio_raft")
        level, propagate = logger.level, logger.propagate
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.addHandler(self)
        try:
            yield
        finally:
            logger.removeHandler(self)
            logger.setLevel(level)
            logger.propagate = propagate

    def watch(self, cluster: Cluster[Any, Any]) -> None:
        """Count what happens in this cluster beside its events, from now on."""
        for member in cluster.members.values():
            if member.life is not None and member.life.server is not None:
                self._observe(member.id, member.life, member.life.server)
        cluster.judge.observers.append(self._observe)
        cluster.judge.watchers.append(self._watch_message)

    def take_stock(self, cluster: Cluster[Any, Any]) -> None:
        """Add what the cluster itself has counted; at the end, once."""
        for what, times in cluster.network.injected.items():
            self.add(f"network: {what}", times)
        for member in cluster.members.values():
            self.add("lives", member.lives)
            for what, times in member.disk.injected.items():
                self.add(f"disk: {what}", times)

    def emit(self, record: logging.LogRecord) -> None:
        """For ``logging``: the arguments of each of our records are the member and the event."""
        event = record.args[-1] if isinstance(record.args, tuple) and record.args else None
        kind = EVENTS.get(type(event))
        if kind is not None:
            self.add(kind)
        elif isinstance(event, RoleChanged) and event.role != "follower":
            self.add("elections" if event.role == "leader" else "candidacies")
        elif isinstance(event, NodeStopped):
            self.add("nodes stopped by an error")

    def _observe(self, member: str, life: Life[Any, Any], server: Server) -> None:  # noqa: ARG002  # an Observer
        journal, supersede = server.journal, server.journal.supersede

        def count_truncation(entries: list[Entry]) -> None:
            if entries[0].index <= journal._last_queued_index:  # noqa: SLF001  # memory has changed already
                self.add("truncations")
            supersede(entries)

        # On the instance: a change of the class beneath it stays in effect.
        vars(journal)["supersede"] = count_truncation
        store = journal._store  # noqa: SLF001  # no event tells of a segment
        done_upkeep = store.done_upkeep

        def count_removal(upkeep: object) -> None:
            if isinstance(upkeep, Removal):
                self.add("segments deleted")
            done_upkeep(upkeep)

        vars(store)["done_upkeep"] = count_removal

    def _watch_message(self, sender: str, receiver: str, message: Message) -> None:
        if isinstance(message, InstallSnapshot) and message.data and message.transfer not in self._transfers:
            self._transfers[message.transfer] = None
            self.add("transfers resumed" if message.offset else "transfers begun")
        if isinstance(message, Hello):
            road = sender, receiver, message.purpose
            if road in self._dialled:
                self.add("redials")
            self._dialled[road] = None
