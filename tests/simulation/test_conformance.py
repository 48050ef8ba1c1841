"""The conformance suites: this package's own parts pass them, and parts with a fault do not."""

import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from trio_raft import FileLogStore, MemoryLogStore, TCPTransport
from trio_raft._records import LogIndex
from trio_raft._storage.memory import MemoryPlan
from trio_raft._storage.reconcile import Reconciled
from trio_raft.abc import (
    Append,
    JournalItem,
    LogStore,
    Recovered,
    SaveSnapshot,
    SaveVote,
    SnapshotPoint,
    StoreIdentity,
    Transport,
)
from trio_raft.testing import LogStoreConformance, NotConforming, TransportConformance
from trio_raft.testing._disk import SimDisk
from trio_raft.testing._network import MemoryNetwork

MakeStore = Callable[[], LogStore[Any, Any, Any]]


class TestFileLogStore(LogStoreConformance):
    """The store that nodes use, on real files, with segments so small that every test needs several."""

    @pytest.fixture
    def make_store(self, tmp_path: Path) -> MakeStore:
        return lambda: FileLogStore(tmp_path / "log", segment_bytes=256 << 10)


class TestFileLogStoreOnSimDisk(LogStoreConformance):
    """The same, on the simulated disk."""

    @pytest.fixture
    def make_store(self) -> MakeStore:
        disk = SimDisk()
        return lambda: FileLogStore("/log", segment_bytes=256 << 10, files=disk)


class TestMemoryLogStore(LogStoreConformance):
    """The store for tests."""

    exclusive = False

    @pytest.fixture
    def make_store(self) -> MakeStore:
        store = MemoryLogStore()
        return lambda: store


class TestTCPTransport(TransportConformance):
    """Real sockets."""

    @pytest.fixture
    def transport(self) -> Transport:
        return TCPTransport()

    @pytest.fixture
    def address(self) -> str:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return f"127.0.0.1:{probe.getsockname()[1]}"


class TestMemoryNetwork(TransportConformance):
    """The simulated network."""

    @pytest.fixture
    def transport(self) -> Transport:
        return MemoryNetwork().transport("n1")

    @pytest.fixture
    def address(self) -> str:
        return "n1:1"


# ------------------------------------------------------------------------------------ the suites can fail


class ForgetsVotes(MemoryLogStore):
    """Forgets the vote at each start."""

    def open(self, identity: StoreIdentity, *, memory_bytes: int, snapshot: SnapshotPoint | None = None) -> Recovered:
        self._vote = SaveVote(self._vote.term, None)
        return super().open(identity, memory_bytes=memory_bytes, snapshot=snapshot)


class StoresWhatIsPlanned(MemoryLogStore):
    """Takes a plan for a promise."""

    def plan(self, batch: Sequence[JournalItem]) -> MemoryPlan | None:
        plan = super().plan(batch)
        if plan is not None:
            super().execute(plan)
        return plan

    def execute(self, plan: MemoryPlan) -> None:
        pass


class KeepsSuperseded(MemoryLogStore):
    """Overwrites entries, and forgets to cut off those behind."""

    def _append(self, entries: Sequence[Any]) -> None:
        rest = self._entries[entries[-1].index :]
        super()._append(entries)
        self._entries += rest


class GivesUpTooMuch(MemoryLogStore):
    """Gives up one entry more than it may."""

    def _drop_through(self, index: LogIndex) -> None:
        super()._drop_through(LogIndex(index + 1))


class NeverDiscards(MemoryLogStore):
    """Keeps its log, whatever a snapshot says that it replaces."""

    def _take_in(self, marker: SaveSnapshot) -> None:
        if self._term_at(marker.point.index) is None:
            super()._take_in(marker)


class NeverSuperseded(MemoryLogStore):
    """Believes its log, and does not look at the snapshot."""

    def _reconcile(self, snapshot: SnapshotPoint | None) -> Reconciled:
        return Reconciled(self._base, superseded=False)


class NeverHasRoom(MemoryLogStore):
    """Has no room, and does nothing about it."""

    def plan(self, batch: Sequence[JournalItem]) -> MemoryPlan | None:
        return None if any(isinstance(item, Append) for item in batch) else super().plan(batch)


class ForgetsItsUpkeep(MemoryLogStore):
    """Makes up another slice each time that it is asked."""

    asked = 0
    due = True

    def plan(self, batch: Sequence[JournalItem]) -> MemoryPlan | None:
        return None if self.due else super().plan(batch)

    def plan_upkeep(self) -> int | None:  # type: ignore[override]
        self.asked += 1
        return self.asked if self.due else None

    def execute_upkeep(self, upkeep: object) -> None:
        pass

    def done_upkeep(self, upkeep: object) -> None:
        self.due = False


def complaints(store: MemoryLogStore) -> list[str]:
    """The tests of the suite that such a store fails."""
    suite = type("Suite", (LogStoreConformance,), {"exclusive": False})()
    failed: list[str] = []
    for name in [name for name in dir(suite) if name.startswith("test_")]:
        fresh = type(store)()
        try:
            getattr(suite, name)(lambda fresh=fresh: fresh)
        except AssertionError:  # NotConforming is one; a broken store may also trip over itself
            failed.append(name)
    return failed


@pytest.mark.parametrize(
    ("store", "test"),
    [
        (ForgetsVotes(), "test_executed_items_are_found"),
        (StoresWhatIsPlanned(), "test_planned_is_not_stored"),
        (KeepsSuperseded(), "test_append_removes_what_follows"),
        (NeverHasRoom(), "test_executed_items_are_found"),
        (ForgetsItsUpkeep(), "test_executed_items_are_found"),
        (GivesUpTooMuch(), "test_compact_keeps_what_is_above"),
        (NeverDiscards(), "test_snapshot_discards"),
        (NeverSuperseded(), "test_snapshot_supersedes"),
        (NeverSuperseded(), "test_missing_entries_are_refused"),
        (NeverSuperseded(), "test_snapshot_without_a_log_is_refused"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_log_store_suite_complains(store: MemoryLogStore, test: str) -> None:
    """A log store that breaks its contract fails the test of that sentence."""
    assert test in complaints(store)


def test_log_store_suite_lets_pass() -> None:
    """The same way of asking finds nothing to say about a store that is right."""
    assert complaints(MemoryLogStore()) == []


class Echo(Transport):
    """Dialling always succeeds, and one hears oneself."""

    async def dial(self, address: str) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        return trio.testing.memory_stream_pair()[0]

    async def listen(self, address: str) -> Sequence[trio.abc.Listener[trio.abc.Stream]]:
        await trio.lowlevel.checkpoint()
        return []


async def test_transport_suite_complains(autojump_clock: MockClock) -> None:
    """A transport on which dialling succeeds where nobody listens fails that test."""
    with pytest.raises(NotConforming, match="where nobody listens, succeeded"):
        await TransportConformance().test_dial_to_nobody(Echo(), "n1:1")
    with pytest.raises(NotConforming, match="OSError is expected"):
        await TransportConformance().test_listen_where_somebody_does(Deaf(), "n1:1")


class Deaf(Echo):
    """Any number of listeners at one address, which nobody ever reaches."""

    async def listen(self, address: str) -> Sequence[trio.abc.Listener[trio.abc.Stream]]:
        await trio.lowlevel.checkpoint()
        return [MemoryNetwork().listen("n1", address)]


async def test_transport_suite_bounds_waiting(autojump_clock: MockClock) -> None:
    """A transport on which nothing ever arrives fails, rather than hanging the suite."""
    with pytest.raises(NotConforming, match="no connection came about"):
        await TransportConformance().test_bytes_arrive_both_ways(Deaf(), "n1:1")
