"""Simulated clusters whose members keep snapshots: with a machine that can, and with one that cannot."""

import errno
import random
from collections.abc import Iterator

import attrs
import pytest

import trio_raft
from tests.simulation.simulated import Counter, simulated, total
from trio_raft._environment import Lane
from trio_raft.testing import SIMULATION_LIMITS, Cluster, ClusterSettings, InvariantViolation, running_cluster
from trio_raft.testing._member import DIRECTORY

SMALL = ClusterSettings(
    snapshots=trio_raft.Snapshots(threshold_entries=5, trailing_entries=2, keep=1, chunk_bytes=64),
)


SHORT_SEGMENTS = attrs.evolve(
    SIMULATION_LIMITS,
    max_command_bytes=1024,
    max_batch_bytes=1024,
    max_frame_body=8192,
    journal_batch_bytes=1024,
    segment_bytes=80 << 10,
)


class Remembered(Counter):
    """A counter whose state can be captured; it remembers how often that was restored."""

    restored = 0

    def snapshot(self) -> Iterator[bytes]:
        return iter([str(self.total).encode(), b" " * 200])

    def restore(self, state: trio_raft.SavedState) -> None:
        self.total = int(b"".join(state))
        self.restored += 1


async def write(cluster: Cluster[int, int], times: int) -> None:
    client = cluster.client()
    for _ in range(times):
        await client.propose(1)


def files_of(cluster: Cluster[int, int], node_id: str) -> list[str]:
    return cluster.disks[node_id].list_directory(DIRECTORY)


def damage_newest_snapshot(cluster: Cluster[int, int], node_id: str) -> None:
    [name] = [name for name in files_of(cluster, node_id) if name.endswith(".snapshot")]
    cluster.disks[node_id].flip_bit(DIRECTORY / name, position=100)


def installed(cluster: Cluster[int, int], node_id: str) -> int:
    life = cluster.members[node_id].life
    assert life is not None
    assert life.server is not None
    return life.server.snapshots.installed


async def follower_of(cluster: Cluster[int, int]) -> str:
    leader = await cluster.wait_leader()
    return next(node_id for node_id in cluster.ids if node_id != leader.node_id)


@simulated
async def test_member_that_was_left_behind_installs_a_snapshot() -> None:
    """Who was down past the trailing log is brought up by a snapshot, and by the log from there (N7, N8)."""
    async with running_cluster(Remembered, SMALL) as cluster:
        await write(cluster, 3)
        follower = await follower_of(cluster)
        await cluster.crash(follower)
        await write(cluster, 30)
        await cluster.start(follower)
        machine = cluster.machines[follower]
        assert isinstance(machine, Remembered)
        await cluster.until(lambda: machine.total == 33, "the member has caught up")
        assert installed(cluster, follower) == 1
        await write(cluster, 10)
        await cluster.until(lambda: machine.total == 43, "the member goes on")
        assert machine.restored == 1
        assert installed(cluster, follower) == 1


@pytest.mark.parametrize(("missed", "installs"), [(2, 0), (8, 1), (9, 1), (30, 1)])
@simulated
async def test_how_much_a_member_has_to_miss(missed: int, installs: int) -> None:
    """With more than a threshold and the trailing entries missing a snapshot is needed, with the latter alone never."""
    async with running_cluster(Remembered, SMALL) as cluster:
        await write(cluster, 4)
        follower = await follower_of(cluster)
        await cluster.clock.sleep(1.0)
        await cluster.crash(follower)
        await write(cluster, missed)
        await cluster.clock.sleep(1.0)
        await cluster.start(follower)
        machine = cluster.machines[follower]
        assert isinstance(machine, Remembered)
        await cluster.until(lambda: machine.total == 4 + missed, "the member has caught up")
        assert installed(cluster, follower) == installs


@pytest.mark.parametrize("seed", range(5))
@simulated
async def test_dozen_commands_behind_a_cut(seed: int) -> None:
    """As many as README says bring a member up by a snapshot that was cut off, whatever was under way at the cut."""
    async with running_cluster(Remembered, SMALL, seed=seed) as cluster:
        await write(cluster, 1)
        follower = await follower_of(cluster)
        cluster.partition([follower])
        await write(cluster, 12)
        cluster.heal()
        machine = cluster.machines[follower]
        assert isinstance(machine, Remembered)
        await cluster.until(lambda: machine.total == 13, "the member has caught up")
        assert installed(cluster, follower) == 1


class Drawn(Remembered):
    """Its state depends on more than the commands."""

    def apply(self, entry: trio_raft.Committed[int]) -> int:
        self.total += random.randrange(1 << 30)
        return self.total


class Unsorted(Remembered):
    """Its state depends on the order of a set, which is one for the whole process."""

    def apply(self, entry: trio_raft.Committed[int]) -> int:
        self.total += int("".join({str(number) for number in range(9)}))
        return self.total


@simulated
async def test_replicas_that_drift_apart_are_found_by_their_snapshots() -> None:
    """Random numbers in a state are found where snapshots are compared, and nowhere else, as README says."""
    with pytest.raises(InvariantViolation, match="The same commands lead to the same state"):
        async with running_cluster(Drawn, SMALL) as cluster:
            await write(cluster, 12)
    async with running_cluster(Drawn) as cluster:
        await write(cluster, 12)
    async with running_cluster(Unsorted, SMALL) as cluster:
        await write(cluster, 12)


@simulated
async def test_restart_begins_with_the_newest_snapshot() -> None:
    """All members lose their power, and find snapshot and log (S7, S8)."""
    async with running_cluster(Remembered, SMALL) as cluster:
        await write(cluster, 20)
        await cluster.restart(*cluster.ids)
        machines = list(cluster.machines.values())
        assert await cluster.client().read(total) == 20
        assert [machine.restored for machine in machines if isinstance(machine, Remembered)] == [1, 1, 1]


@simulated
async def test_machine_without_snapshots_keeps_its_log() -> None:
    """A machine that defines no snapshot works as ever; nothing of its log is cut."""
    async with running_cluster(Counter, SMALL) as cluster:
        await write(cluster, 20)
        await cluster.restart(*cluster.ids)
        assert await cluster.client().read(total) == 20
        assert [server.state.log.base_index for server in cluster.servers()] == [0, 0, 0]


@simulated
async def test_snapshot_that_cannot_be_written_stops_nobody() -> None:
    """A disk that takes no snapshots costs nothing but those (S7)."""
    async with running_cluster(Remembered, SMALL) as cluster:
        leader = await cluster.wait_leader()
        cluster.disks[leader.node_id].fail("write", errno.EIO, times=None, prefix="snapshot")
        await write(cluster, 20)
        assert await cluster.client().read(total) == 20
        names = cluster.disks[leader.node_id].list_directory(DIRECTORY)
        assert [name for name in names if name.startswith("snapshot")] == []


@simulated
async def test_damaged_snapshot_is_passed_over_where_the_log_reaches() -> None:
    """A member whose newest snapshot is damaged starts from what the log still holds (S7, N4)."""
    async with running_cluster(Remembered, SMALL) as cluster:
        await write(cluster, 30)
        follower = await follower_of(cluster)
        await cluster.crash(follower)
        damage_newest_snapshot(cluster, follower)
        await cluster.start(follower)
        machine = cluster.machines[follower]
        assert isinstance(machine, Remembered)
        await cluster.until(lambda: machine.total == 30, "it has read its whole log")
        assert machine.restored == 0


@simulated
async def test_damaged_snapshot_is_refused_where_the_log_was_cut() -> None:
    """A snapshot that is damaged, and that nothing can take the place of, keeps its member from starting (N4)."""
    async with running_cluster(Remembered, attrs.evolve(SMALL, limits=SHORT_SEGMENTS, heals=False)) as cluster:
        client, follower = cluster.client(), await follower_of(cluster)
        # One write of a sector or more for each, until a segment is full.
        while "log-0000000000000001.segment" in files_of(cluster, follower):
            await client.propose(1)
        # Until the removal is durable.
        await cluster.clock.sleep(0.1)
        await cluster.crash(follower)
        damage_newest_snapshot(cluster, follower)
        await cluster.start(follower)
        assert isinstance(cluster.failures[follower], trio_raft.SnapshotCorrupt)


@simulated
async def test_slow_restore_delays_no_heartbeat() -> None:
    """A member that restores for long is not taken for dead, and nobody is elected meanwhile (K1)."""
    async with running_cluster(Remembered, SMALL) as cluster:
        await write(cluster, 3)
        follower = await follower_of(cluster)
        await cluster.crash(follower)
        await write(cluster, 30)
        leader = await cluster.wait_leader()
        await cluster.start(follower)
        cluster.lanes[follower].stall(20.0, Lane.RESTORE)
        await cluster.until(lambda: installed(cluster, follower) == 1, "the snapshot is installed")
        await cluster.clock.sleep(15.0)
        assert cluster.machines[follower].total == 0  # type: ignore[attr-defined]
        assert (await cluster.wait_leader()).term == leader.term
