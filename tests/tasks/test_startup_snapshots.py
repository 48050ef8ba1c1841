"""Starting on a snapshot and what is left of the log: where the state comes from, and what is refused, untouched."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.tasks.parts import CLUSTER, N1, StoreUnderControl, commands, incarnation, make_config
from tests.tasks.saving import Saving, SnapshotsUnderControl, opened_store, save
from trio_raft import MemoryLogStore, Snapshots, open_node
from trio_raft._errors import ConfigurationError, LogCorrupt, SnapshotCorrupt
from trio_raft._records import LogIndex, Term
from trio_raft._server import Server
from trio_raft._snapshot_events import SnapshotIgnored
from trio_raft._startup import MachineAbilities, Stores, recover
from trio_raft.abc import (
    Append,
    Compact,
    JournalItem,
    SaveBootstrap,
    SaveSnapshot,
    SaveVote,
    SnapshotPoint,
    SnapshotsFound,
    StoreIdentity,
)
from trio_raft.testing._environment import test_environment
from trio_raft.testing._network import MemoryNetwork


def point(index: int, term: int) -> SnapshotPoint:
    return SnapshotPoint(LogIndex(index), Term(term))


def prepared(*items: JournalItem) -> StoreUnderControl:
    """The log of a server that is past its first start, with these items in it."""
    store = StoreUnderControl()
    store.inner.open(StoreIdentity(CLUSTER, N1, incarnation(N1)), memory_bytes=0)
    plan = store.inner.plan([SaveBootstrap({N1: incarnation(N1)}, done=True), SaveVote(Term(2), None), *items])
    assert plan is not None
    store.inner.execute(plan)
    store.inner.close()
    return store


def appended(first: int, last: int, term: int = 1) -> Append:
    entries = commands(first, [term] * (last - first + 1))
    return Append(entries, LogIndex(last), 0)


CUT_AT_20 = (appended(1, 30), Compact(LogIndex(20)))


def in_memory(index: int | None = None) -> MachineAbilities:
    return MachineAbilities(snapshots=True, applied_index=None if index is None else LogIndex(index))


CONFIG = make_config(members=(N1,))


async def start(store: StoreUnderControl, snapshots: SnapshotsUnderControl, machine: MachineAbilities) -> Server:
    environment = test_environment(1, latency=0.0)
    return await recover(CONFIG, Stores(store, snapshots), machine, MemoryNetwork().transport(N1), environment)


# ------------------------------------------------------------------------------------------- where the state is from


@pytest.mark.parametrize(
    ("machine", "snapshot", "restore_index", "last_applied", "commit_index"),
    [
        (None, 25, 25, 0, 25),  # in memory: from the snapshot
        (15, 25, 25, 0, 25),  # older than the log reaches back to: from the snapshot
        (20, 25, 0, 20, 25),  # the log begins right behind it
        (22, 25, 0, 22, 25),  # below the snapshot, but the log brings it forward
        (25, 25, 0, 25, 25),  # equal
        (28, 25, 0, 28, 28),  # ahead of it: what was applied was committed
        (30, 25, 0, 30, 30),  # all that there is
    ],
)
async def test_state_comes_from_the_snapshot_or_the_log(
    machine: int | None, snapshot: int, restore_index: int, last_applied: int, commit_index: int
) -> None:
    """A machine with a disk of its own is restored only if the log does not reach back to it; nothing that it has
    applied is applied again (S8).
    """
    snapshots = opened_store()
    save(snapshots, snapshot, 1)
    store = prepared(*CUT_AT_20)
    server = await start(store, snapshots, in_memory(machine))
    state = server.state
    assert server.snapshots.restore_index == restore_index
    assert (state.last_applied, state.commit_index, state.log.base_index) == (last_applied, commit_index, 20)


async def test_state_beyond_the_log_is_refused() -> None:
    """A machine that has applied more than the log holds belongs to another server, or is a newer copy (S8)."""
    snapshots = opened_store()
    save(snapshots, 25, 1)
    with pytest.raises(ConfigurationError, match="has applied entry 31, but the log in /nowhere ends at 30"):
        await start(prepared(*CUT_AT_20), snapshots, in_memory(31))


async def test_snapshot_takes_the_place_of_a_log_that_ends_before_it() -> None:
    """The marker that a crash prevented is the first item that the journal gets (N1, N8)."""
    snapshots = opened_store()
    save(snapshots, 40, 2)
    server = await start(prepared(appended(1, 30)), snapshots, in_memory())
    assert list(server.journal._queue) == [SaveSnapshot(point(40, 2), keep=False)]
    state = server.state
    assert (state.log.base_index, state.log.last_index, state.log.last_term, state.commit_index) == (40, 40, 2, 40)
    assert (server.journal.durable_index, server.snapshots.restore_index) == (40, 40)


async def test_snapshots_configuration_is_in_force() -> None:
    """The configuration is the newest snapshot's, until the log has a newer one (N6)."""
    snapshots = opened_store()
    save(snapshots, 25, 1)
    server = await start(prepared(*CUT_AT_20), snapshots, in_memory())
    assert server.state.configuration.voters == ("n1", "n2", "n3")


async def test_events_tell_what_was_passed_over() -> None:
    """Damaged and unfinished files are told, each with its reason, to the first reader that there can be (S7)."""

    class Damaged(SnapshotsUnderControl):
        def open(self, identity: StoreIdentity) -> SnapshotsFound:
            found = super().open(identity)
            damage = SnapshotCorrupt(Path("/data/s9"), offset=7, problem="a wrong checksum")
            return SnapshotsFound(found.newest, (damage,), ("/data/s8.partial",))

    server = await start(prepared(), Damaged(), in_memory())
    with server.events.subscribe(10) as events:
        assert [events.receive_nowait() for _ in range(2)] == [
            SnapshotIgnored("/data/s9", "a wrong checksum"),
            SnapshotIgnored("/data/s8.partial", "it was never finished"),
        ]
    with server.events.subscribe(10) as events, pytest.raises(trio.WouldBlock):
        events.receive_nowait()


# ------------------------------------------------------------------------------------------- refusals


async def test_snapshot_without_a_restore_is_refused_before_anything() -> None:
    """A machine that defines no restore cannot start on a snapshot; nothing was opened, cut or removed by then."""
    snapshots, store = opened_store(), prepared(*CUT_AT_20)
    save(snapshots, 25, 1)
    steps: list[str] = []
    snapshots.tidy = lambda: steps.append("tidied")  # type: ignore[method-assign]
    store.inner.open = lambda *_, **__: steps.append("opened the log")  # type: ignore[assignment, method-assign]
    machine = MachineAbilities(snapshots=False, applied_index=None)
    with pytest.raises(ConfigurationError, match="machine defines no restore"):
        await start(store, snapshots, machine)
    assert steps == []


async def test_state_beyond_the_log_leaves_the_unfinished_files() -> None:
    """A refusal changes nothing: what was never finished is removed by a start that succeeds."""
    snapshots, store = opened_store(), prepared(*CUT_AT_20)
    save(snapshots, 25, 1)
    steps: list[str] = []
    snapshots.tidy = lambda: steps.append("tidied")  # type: ignore[method-assign]
    with pytest.raises(ConfigurationError):
        await start(store, snapshots, in_memory(31))
    assert steps == []
    await start(store, snapshots, in_memory(30))
    assert steps == ["tidied"]


async def test_log_that_needs_a_damaged_snapshot_names_the_snapshot() -> None:
    """If the log lacks what only a damaged snapshot held, that is what is to be mended (N4)."""

    class Damaged(SnapshotsUnderControl):
        def open(self, identity: StoreIdentity) -> SnapshotsFound:
            super().open(identity)
            return SnapshotsFound(None, (SnapshotCorrupt(Path("/data/s9"), offset=7, problem="a wrong checksum"),))

    with pytest.raises(SnapshotCorrupt, match="/data/s9 is damaged at byte 7") as caught:
        await start(prepared(*CUT_AT_20), Damaged(), in_memory())
    assert isinstance(caught.value.__cause__, LogCorrupt)


# ------------------------------------------------------------------------------------------- whole nodes


async def test_open_restores_before_anything_is_applied(autojump_clock: MockClock) -> None:
    """A node that starts on a snapshot restores it, and then applies what follows in the log: each entry once (S8)."""
    store, snapshots = MemoryLogStore(), SnapshotsUnderControl()
    network = MemoryNetwork()
    config = make_config(members=(N1,), snapshots=Snapshots(trailing_entries=0))
    histories: list[list[bytes]] = []
    for life in range(3):
        machine = Saving()
        async with open_node(
            config,
            machine,
            log_store=store,
            snapshot_store=snapshots,
            transport=network.transport(N1),
            environment=test_environment(life),
        ) as node:
            await node.wait_leader()
            await node.propose(b"before %d" % life)
            assert len(machine.restored) == (1 if life else 0)
            await node.snapshot()
            await node.propose(b"after %d" % life)
            histories.append(list(machine.commands))
    expected = [b"%s %d" % (word, life) for life in range(3) for word in (b"before", b"after")]
    assert histories == [expected[:2], expected[:4], expected]
