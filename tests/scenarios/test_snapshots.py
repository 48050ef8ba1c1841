"""Compaction and the installation of snapshots, sentence by sentence: paper section 7, dissertation chapter 5."""

from itertools import pairwise
from pathlib import Path

import attrs
import trio

import trio_raft
from tests.support.cluster import Cluster, Member, SavedJournal, running_cluster
from trio_raft import LogCompacted, SnapshotInstalled, SnapshotReceiving, Snapshots, SnapshotTaken
from trio_raft._environment import Lane
from trio_raft._messages import Heartbeat, InstallSnapshot, Message
from trio_raft.abc import SnapshotReceiver

SMALL = Snapshots(threshold_entries=20, threshold_bytes=0, trailing_entries=5, chunk_bytes=200, bytes_per_second=0)
"""A snapshot every twenty entries, in pieces of a few entries."""

TIMEOUTS = trio_raft.Timeouts()


async def write(cluster: Cluster, leader: Member, first: int, last: int) -> None:
    """Commands of these numbers, one after the other."""
    for number in range(first, last + 1):
        await cluster.write(leader, b"%d" % number)


def restored(cluster: Cluster, name: str) -> list[int]:
    """The indexes from which this server's present life was restored."""
    machine = cluster.servers[name].lives[-1]
    assert isinstance(machine, SavedJournal)
    return machine.restored


async def test_each_server_compacts_by_itself(autojump_clock: object) -> None:
    """Each server takes snapshots of its own, of what is committed, and cuts its log behind them (paper 7) (S7)."""
    async with running_cluster(snapshots=SMALL) as cluster:
        leader = await cluster.elected()
        await write(cluster, leader, 1, 100)
        await cluster.converged()
        for name in cluster.ids:
            taken = cluster.seen(name, SnapshotTaken)
            assert len(taken) >= 4
            statistics = cluster.node(name).statistics()
            assert statistics.first_index == statistics.snapshots.index - SMALL.trailing_entries + 1 > 50
            assert cluster.seen(name, LogCompacted)[-1].first_index == statistics.first_index
            assert [earlier.index < later.index for earlier, later in pairwise(taken)].count(False) == 0


async def test_lagging_follower_is_brought_up(autojump_clock: object) -> None:
    """A leader sends its snapshot to a follower whose next entry it has discarded (paper 7); afterwards the follower is
    served from the log, without a second install (N7).
    """
    async with running_cluster(snapshots=SMALL) as cluster:
        leader = await cluster.elected()
        await write(cluster, leader, 1, 10)
        lagging = cluster.others(leader)[0]
        await cluster.crash(lagging)
        await write(cluster, leader, 11, 90)
        await cluster.start(lagging)
        await write(cluster, leader, 91, 100)
        await cluster.converged()
        assert len(cluster.seen(lagging, SnapshotInstalled)) == 1
        assert cluster.commands(lagging) == [b"%d" % number for number in range(1, 101)]
        await write(cluster, leader, 101, 190)
        await cluster.converged()
        assert len(cluster.seen(lagging, SnapshotInstalled)) == 1


async def test_slightly_lagging_follower_needs_none(autojump_clock: object) -> None:
    """A follower that lags behind by less than the trailing entries is served from the log (N7)."""
    async with running_cluster(snapshots=attrs.evolve(SMALL, trailing_entries=40)) as cluster:
        leader = await cluster.elected()
        lagging = cluster.others(leader)[0]
        await write(cluster, leader, 1, 10)
        await cluster.crash(lagging)
        await write(cluster, leader, 11, 40)
        await cluster.start(lagging)
        await cluster.converged()
        assert cluster.seen(lagging, SnapshotInstalled) == []


async def test_new_follower_with_nothing(autojump_clock: object) -> None:
    """A server that has nothing at all is brought up in the same way (paper 7)."""
    async with running_cluster(snapshots=SMALL) as cluster:
        leader = await cluster.elected()
        late = cluster.others(leader)[0]
        cluster.partition([late], cluster.others(cluster.node(late)))
        await write(cluster, leader, 1, 90)
        await cluster.converged()
        assert len(cluster.seen(late, SnapshotInstalled)) == 1
        assert cluster.commands(late) == [b"%d" % number for number in range(1, 91)]


async def test_conflicting_suffix_is_discarded(autojump_clock: object) -> None:
    """A follower whose log conflicts with a snapshot, or ends before it, discards all of it (paper 7) (N1)."""
    async with running_cluster(5, snapshots=SMALL) as cluster:
        old = await cluster.elected()
        await write(cluster, old, 1, 10)
        companion = cluster.others(old)[0]
        rest = [name for name in cluster.ids if name not in (old.node_id, companion)]
        cluster.partition([old.node_id, companion], rest)
        for number in range(100):
            old.submit_nowait(b"lost %d" % number)
        await cluster.settle(0.2)
        leader = await cluster.elected(*rest)
        await write(cluster, leader, 11, 60)
        await cluster.converged()
        for name in (str(old.node_id), companion):
            installed = cluster.seen(name, SnapshotInstalled)
            assert [event.kept_log for event in installed] == [False]
            assert cluster.commands(name) == [b"%d" % number for number in range(1, 61)]


async def test_heartbeats_and_others_are_not_delayed(autojump_clock: object) -> None:
    """While a snapshot travels slowly heartbeats go out in time, and the others replicate as ever (dissertation 5.3)
    (W4, K1).
    """
    slow = attrs.evolve(SMALL, bytes_per_second=200)
    async with running_cluster(snapshots=slow) as cluster:
        leader = await cluster.elected()
        lagging, other = cluster.others(leader)
        await write(cluster, leader, 1, 10)
        await cluster.crash(lagging)
        await write(cluster, leader, 11, 200)
        beats: dict[str, list[float]] = {lagging: [], other: []}

        def note(sender: str, receiver: str, message: Message) -> None:
            if isinstance(message, Heartbeat):
                beats[receiver].append(trio.current_time())

        await cluster.start(lagging)
        await cluster.until(lambda: cluster.seen(lagging, SnapshotReceiving))
        cluster.observers.append(note)
        began, term = trio.current_time(), leader.term
        await write(cluster, leader, 201, 230)
        assert trio.current_time() - began < 1.0
        await cluster.until(lambda: cluster.seen(lagging, SnapshotInstalled), within=120)
        assert trio.current_time() - began > 5
        for times in beats.values():
            assert max(later - earlier for earlier, later in pairwise(times)) <= 2 * TIMEOUTS.heartbeat_interval + 0.05
        assert (leader.role, leader.term) == ("leader", term)


async def test_slow_restore_delays_nothing(autojump_clock: object) -> None:
    """A machine whose restore takes a minute acknowledges, follows and keeps its leader all the while (K1, R14)."""
    async with running_cluster(snapshots=SMALL) as cluster:
        leader = await cluster.elected()
        lagging, other = cluster.others(leader)
        await write(cluster, leader, 1, 10)
        await cluster.crash(lagging)
        await write(cluster, leader, 11, 90)
        await cluster.start(lagging)
        cluster.lanes(lagging).stall(Lane.RESTORE)
        await cluster.until(lambda: cluster.seen(lagging, SnapshotInstalled))
        # The one that restores is needed for a majority now.
        await cluster.crash(other)
        for number in range(91, 96):
            await (await leader.submit(b"%d" % number)).wait()
            await cluster.settle(12)
        assert cluster.node(lagging).statistics().snapshots.restoring
        assert leader.role == "leader"
        cluster.lanes(lagging).resume()
        await cluster.start(other)
        await cluster.converged()
        assert cluster.commands(lagging) == [b"%d" % number for number in range(1, 96)]


async def test_transfer_goes_on_under_another_leader(autojump_clock: object) -> None:
    """A leader that fails in the middle of a transfer costs what was under way, not what has arrived, if the next one
    offers the same bytes (N3).
    """
    slow = attrs.evolve(SMALL, bytes_per_second=200, threshold_entries=0)
    async with running_cluster(5, snapshots=slow) as cluster:
        leader = await cluster.elected()
        lagging = cluster.others(leader)[0]
        await write(cluster, leader, 1, 10)
        await cluster.crash(lagging)
        await write(cluster, leader, 11, 200)
        await cluster.until(lambda: len({node.last_applied for node in cluster.running()}) == 1)
        for node in cluster.running():
            await node.snapshot()
        await cluster.start(lagging)
        await cluster.until(lambda: any(e.received > 500 for e in cluster.seen(lagging, SnapshotReceiving)))
        received = cluster.node(lagging).statistics().snapshots.receiving
        assert received is not None
        asked: list[int] = []

        def note(sender: str, receiver: str, message: Message) -> None:
            if isinstance(message, InstallSnapshot) and receiver == lagging and message.data:
                asked.append(message.offset)

        cluster.observers.append(note)
        await cluster.crash(str(leader.node_id))
        await cluster.until(lambda: cluster.seen(lagging, SnapshotInstalled), within=120)
        assert asked[0] >= received.done
        await cluster.start(str(leader.node_id))
        await cluster.converged()


async def test_restart_from_snapshot_and_log(autojump_clock: object) -> None:
    """A server that restarts restores its snapshot and applies what follows: each entry once (dissertation 5) (S8)."""
    async with running_cluster(snapshots=SMALL) as cluster:
        leader = await cluster.elected()
        await write(cluster, leader, 1, 50)
        for life in range(3):
            await cluster.restart(*cluster.ids)
            leader = await cluster.elected()
            await cluster.write(leader, b"again %d" % life)
            await cluster.converged()
            for name in cluster.ids:
                assert len(restored(cluster, name)) == 1
                assert cluster.commands(name)[:50] == [b"%d" % number for number in range(1, 51)]


async def test_crash_at_each_moment_of_an_install(autojump_clock: object) -> None:
    """Wherever a server crashes while it is brought up, it comes back and is brought up (N8)."""
    for moment in range(0, 60, 3):
        async with running_cluster(seed=moment, snapshots=SMALL) as cluster:
            leader = await cluster.elected()
            lagging = cluster.others(leader)[0]
            await write(cluster, leader, 1, 10)
            await cluster.crash(lagging)
            await write(cluster, leader, 11, 60)
            await cluster.start(lagging)
            while not cluster.seen(lagging, SnapshotReceiving):
                await cluster.settle(0.0005)
            await cluster.settle(moment / 10_000)
            await cluster.restart(lagging)
            await cluster.converged()
            assert cluster.commands(lagging) == [b"%d" % number for number in range(1, 61)]


async def test_unacknowledged_transfers_do_not_hide_a_dead_log(autojump_clock: object) -> None:
    """A follower that is needed for a majority, and can never finish a snapshot, does not keep a leader in office whose
    log stands still: its callers learn that the outcome is unknown, in bounded time (R14, X1).
    """
    async with running_cluster(snapshots=SMALL) as cluster:
        leader = await cluster.elected()
        lagging, other = cluster.others(leader)
        await write(cluster, leader, 1, 10)
        await cluster.crash(lagging)
        await write(cluster, leader, 11, 60)
        cluster.servers[lagging].snapshots = FullStore()
        await cluster.start(lagging)
        await cluster.until(lambda: cluster.seen(lagging, trio_raft.SnapshotFailed))
        await cluster.crash(other)
        ticket = await leader.submit(b"never")
        began = trio.current_time()
        try:
            await ticket.wait()
        except trio_raft.LeadershipLost:
            pass
        else:
            raise AssertionError("a majority cannot have it")
        patience = TIMEOUTS.replication_stall_timeout
        assert patience <= trio.current_time() - began < 2.5 * patience
        cluster.servers[lagging].snapshots.full = False  # type: ignore[attr-defined]
        await cluster.start(other)
        await cluster.converged()


class FullStore(trio_raft.MemorySnapshotStore):
    """Takes everything, and has no room for the end."""

    full = True

    def receive(self, *, size: int, digest: str) -> SnapshotReceiver:
        return _NeverFinished(self, super().receive(size=size, digest=digest))


class _NeverFinished(SnapshotReceiver):
    def __init__(self, store: FullStore, inner: SnapshotReceiver) -> None:
        self._store, self._inner = store, inner

    @property
    def received(self) -> int:
        return self._inner.received

    def write(self, data: bytes) -> None:
        self._inner.write(data)

    def finish(self) -> trio_raft.StoredSnapshot:
        if self._store.full:
            raise trio_raft.StorageFull(Path("/full"), 7)
        return self._inner.finish()

    def abort(self) -> None:
        self._inner.abort()
