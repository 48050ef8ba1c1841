"""What a server knows of its snapshots: how far the log may be cut, and which one is the newest, whatever is late."""

import pytest

from tests.tasks.parts import N1, N2, N3, commands, lead_term, make_config, make_server, record, store_of
from tests.tasks.saving import SnapshotsUnderControl, opened_store, save
from trio_raft._config import Snapshots
from trio_raft._records import LogIndex, Term
from trio_raft._server import Server
from trio_raft._snapshot_events import LogCompacted, SnapshotInstalled
from trio_raft._snapshots import Transfer
from trio_raft.abc import Compact, SaveSnapshot

SETTINGS = Snapshots(trailing_entries=3, pinned_entries=20)


async def following(
    *, applied: int, committed: int, last: int = 30, settings: Snapshots = SETTINGS
) -> tuple[Server, SnapshotsUnderControl]:
    """A follower with so many entries of term 1."""
    store = opened_store()
    config = make_config(N1, snapshots=settings)
    server = await make_server(terms=[1] * last, term=1, config=config, snapshots=store)
    server.state.raise_commit(LogIndex(committed))
    server.state.last_applied = LogIndex(applied)
    return server, store


def queued(server: Server) -> list[object]:
    """What the journal is to write, the terms and votes left out."""
    return [item for item in server.journal._queue if isinstance(item, Compact | SaveSnapshot)]


async def test_note_taken_cuts_behind_it() -> None:
    """Memory is cut first, then the same cut is queued for the disk; the trailing entries stay (S7, N7)."""
    server, store = await following(applied=20, committed=20)
    recorder = record(server)
    server.snapshots.note_taken(save(store, 20, 1), 0.5)
    assert server.state.log.base_index == 17
    assert queued(server) == [Compact(LogIndex(17))]
    assert recorder.of(LogCompacted) == [LogCompacted(LogIndex(18))]


@pytest.mark.parametrize(
    ("pins", "base"),
    [({}, 17), ({N2: 12}, 12), ({N2: 12, N3: 15}, 12), ({N2: 40}, 17), ({N2: 2}, 10)],
    ids=["none", "one", "two", "ahead", "too far behind"],
)
async def test_compact_keeps_what_is_pinned(pins: dict[object, int], base: int) -> None:
    """Entries behind a snapshot in transfer stay, but no more than ``pinned_entries`` in all (N7)."""
    server, store = await following(applied=20, committed=20)
    for follower, index in pins.items():
        server.snapshots.pin(follower, LogIndex(index))  # type: ignore[arg-type]
    server.snapshots.note_taken(save(store, 20, 1), 0.5)
    assert server.state.log.base_index == base


async def test_unpin_cuts_what_was_kept() -> None:
    """When the last pin goes the log is cut at once; unpinning again does nothing (N7)."""
    server, store = await following(applied=20, committed=20)
    server.snapshots.pin(N2, LogIndex(12))
    server.snapshots.note_taken(save(store, 20, 1), 0.5)
    server.snapshots.unpin(N2)
    server.snapshots.unpin(N2)
    assert server.state.log.base_index == 17
    assert queued(server) == [Compact(LogIndex(12)), Compact(LogIndex(17))]


async def test_install_queues_the_marker() -> None:
    """In one step memory changes, and the marker is queued; the state is to be restored from now on (N1, N8)."""
    for term, kept, last in ((1, True, 30), (2, False, 25)):
        server, store = await following(applied=10, committed=10)
        server.state.current_term = Term(2)
        recorder = record(server)
        snapshot = save(store, 25, term)
        server.snapshots.install(snapshot)
        assert queued(server) == [SaveSnapshot(snapshot.point, keep=kept)]
        assert server.snapshots.marker_position == server.journal.position
        log = server.state.log
        assert (log.base_index, log.last_index, server.state.commit_index) == (25, last, 25)
        assert (server.snapshots.restore_due, server.snapshots.newest) == (True, snapshot)
        assert recorder.of(SnapshotInstalled) == [
            SnapshotInstalled(LogIndex(25), Term(term), snapshot.size, kept_log=kept)
        ]


async def test_install_what_is_committed_meanwhile() -> None:
    """One at or below the commit index leaves the log as it is; but it is the newest in the store, and so here (N2)."""
    server, store = await following(applied=25, committed=25)
    old = save(store, 5, 1)
    server.snapshots.note_taken(old, 0.1)
    late = save(store, 20, 1)
    server.snapshots.install(late)
    assert server.snapshots.newest is late
    assert (server.snapshots.installed, server.snapshots.restore_due) == (0, False)
    assert SaveSnapshot not in [type(item) for item in queued(server)]
    store.retain(1)
    store.read(late).close()


async def test_install_late_cuts_nothing_that_is_not_applied() -> None:
    """What is committed, but not applied yet, stays in the log, whatever a snapshot covers (N2, S8)."""
    server, store = await following(applied=10, committed=25)
    server.snapshots.install(save(store, 20, 1))
    assert server.state.log.base_index == 7
    server.state.last_applied = LogIndex(25)
    server.snapshots.compact()
    assert server.state.log.base_index == 17


async def test_newest_is_what_the_store_has_of_its_point() -> None:
    """A file that took the place of another of the same point takes its place here too: the old one cannot be read."""
    server, store = await following(applied=20, committed=20)
    own = save(store, 20, 1, b"own")
    server.snapshots.note_taken(own, 0.1)
    leaders = save(store, 20, 1, b"the", b"leader's")
    assert own.digest != leaders.digest
    server.snapshots.install(leaders)
    assert server.snapshots.newest is leaders
    store.read(leaders).close()


async def test_newest_never_goes_back() -> None:
    """An own snapshot that was finished after a newer one was installed is no step back (N3)."""
    server, store = await following(applied=10, committed=10)
    newer, older = save(store, 25, 1), save(store, 10, 1)
    server.snapshots.install(newer)
    server.snapshots.note_taken(older, 0.1)
    assert server.snapshots.newest is newer
    assert server.snapshots.restore_index == 25


async def test_kept_while_one_is_made_visible() -> None:
    """While the store has one that is not noted here yet, the newest here must not make room for it."""
    server, store = await following(applied=10, committed=10, settings=Snapshots(keep=1, trailing_entries=0))
    server.snapshots.note_taken(save(store, 10, 1), 0.1)
    server.snapshots.is_finishing = True
    save(store, 25, 1)
    await server.snapshots.retain()
    assert store.points == [(10, 1), (25, 1)]
    server.snapshots.is_finishing = False
    await server.snapshots.retain()
    assert store.points == [(25, 1)]


async def test_install_never_as_leader() -> None:
    """The log of a leader does not change under it; of what it has committed it needs no change."""
    server, store = await following(applied=20, committed=20)
    lead_term(server, 2)
    with pytest.raises(AssertionError, match="must not install"):
        server.snapshots.install(save(store, 31, 2))
    server.snapshots.install(save(store, 20, 1))
    assert server.state.log.last_index == 31


async def test_install_queues_behind_what_was_written() -> None:
    """What the snapshot covers is durable at once, and nothing queued before counts for what comes after (S5)."""
    server, store = await following(applied=10, committed=10)
    server.state.current_term = Term(2)
    server.journal.supersede(commands(31, [1] * 5))
    server.state.log.extend(commands(31, [1] * 5))
    server.snapshots.install(save(store, 50, 2))
    assert server.journal.durable_index == 50
    server.journal.supersede(commands(51, [2]))
    batch = server.journal._take()
    plan = store_of(server).plan(batch)
    assert plan is not None
    server.journal._note_durable(batch[:2])
    assert server.journal.durable_index == 50
    server.journal._note_durable(batch[2:])
    assert server.journal.durable_index == 51


def test_transfer_rate_and_rest() -> None:
    """The rate is of what this transfer brought, without what was there before it; unknown at its beginning."""
    transfer = Transfer(LogIndex(7), total=1000, done=400, began=10.0)
    assert (transfer.bytes_per_second(10.0), transfer.seconds_left(10.0)) == (0.0, None)
    transfer.done = 600
    assert (transfer.bytes_per_second(12.0), transfer.seconds_left(12.0)) == (100.0, 4.0)


def test_transfer_reports_every_second() -> None:
    """An event about once a second, however many pieces arrive."""
    transfer = Transfer(LogIndex(7), total=1000, done=0, began=10.0)
    assert [now for now in (10.1, 10.9, 11.0, 11.5, 12.2, 12.3) if transfer.report_due(now)] == [11.0, 12.2]
