"""States are compared: those on the disks with what the committed commands lead to, and captures with one another."""

import itertools
from collections.abc import Iterator

import attrs
import pytest

import trio_raft
from tests.simulation.simulated import Counter, simulated
from tests.simulation.test_snapshots_cluster import SMALL, Remembered, files_of, write
from trio_raft._records import Term, decode_entries, make_entry
from trio_raft._storage.snapshot_format import SnapshotEncoder
from trio_raft._storage.snapshot_parsing import SnapshotParser
from trio_raft.abc import SnapshotMeta
from trio_raft.testing import Cluster, InvariantViolation, running_cluster
from trio_raft.testing._member import DIRECTORY
from trio_raft.testing._scan import scan


def newest_meta(cluster: Cluster[int, int], node_id: str) -> SnapshotMeta:
    [name] = [name for name in files_of(cluster, node_id) if name.endswith(".snapshot")]
    parser = SnapshotParser()
    parser.feed(cluster.disks[node_id].contents(DIRECTORY / name))
    assert parser.meta is not None
    return parser.meta


def overwrite_snapshot(cluster: Cluster[int, int], node_id: str, meta: SnapshotMeta, state: bytes) -> None:
    """Put another whole snapshot in the place of the newest one."""
    [name] = [name for name in files_of(cluster, node_id) if name.endswith(".snapshot")]
    encoder = SnapshotEncoder(meta)
    content = b"".join([encoder.header(), *encoder.add(state), *encoder.end()])
    cluster.disks[node_id].overwrite(DIRECTORY / name, content)


@simulated
async def test_scan_restores_what_is_durable() -> None:
    """A snapshot that is whole, and holds another state than was committed, is found on the disk (S8)."""
    with pytest.raises(InvariantViolation, match=r"the snapshot on the disk of n2, up to .* does not hold the state"):
        async with running_cluster(Remembered, SMALL) as cluster:
            await write(cluster, 30)
            overwrite_snapshot(cluster, "n2", newest_meta(cluster, "n2"), b"31")


@simulated
async def test_scan_takes_no_state_for_another_that_is_written_otherwise() -> None:
    """What a snapshot means counts, not its bytes."""
    async with running_cluster(Remembered, SMALL) as cluster:
        await write(cluster, 30)
        await cluster.clock.sleep(1.0)
        meta = newest_meta(cluster, "n2")
        # The election's own entry is no command.
        overwrite_snapshot(cluster, "n2", meta, b"%d" % (meta.point.index - 1))


@simulated
async def test_scan_finds_a_snapshot_of_what_was_not_committed() -> None:
    """The term that a durable snapshot names is compared with what was committed at its index (S8)."""
    with pytest.raises(
        InvariantViolation, match="its log begins behind entry 30 of term 2, but committed there is one"
    ):
        async with running_cluster(Remembered, SMALL) as cluster:
            await write(cluster, 30)
            for node_id, disk in cluster.disks.items():
                meta = newest_meta(cluster, node_id)
                later = attrs.evolve(meta, point=attrs.evolve(meta.point, term=Term(meta.point.term + 1)))
                overwrite_snapshot(cluster, node_id, later, b"29")
                [name] = [name for name in files_of(cluster, node_id) if name.endswith(".snapshot")]
                renamed = name.replace("-0000000000000001-", "-0000000000000002-")
                disk.overwrite(DIRECTORY / renamed, disk.contents(DIRECTORY / name))
            # Before anybody else looks.
            scan(cluster, cluster.ids)


@simulated
async def test_scan_of_a_damaged_disk() -> None:
    """A bit that was flipped on purpose, and never read, excuses its disk; other damage is found there (S3)."""
    async with running_cluster(Remembered, SMALL) as cluster:
        await write(cluster, 30)
        disk = cluster.disks["n2"]
        disk.flip_bit(next(path for path in disk.paths() if path.suffix == ".segment"), position=700)
    with pytest.raises(
        InvariantViolation, match="a start on the disk of n2 would fail, and no flipped bit explains it"
    ):
        async with running_cluster(Remembered, SMALL) as cluster:
            await write(cluster, 30)
            disk = cluster.disks["n2"]
            path = next(path for path in disk.paths() if path.suffix == ".segment")
            content = bytearray(disk.contents(path))
            content[700] ^= 1
            disk.overwrite(path, bytes(content))


class Forgetful(Remembered):
    """Restores everything but the number of its commands."""

    commands = 0

    def apply(self, entry: trio_raft.Committed[int]) -> int:
        self.commands += 1
        return super().apply(entry)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Forgetful) and (self.total, self.commands) == (other.total, other.commands)

    __hash__ = None  # type: ignore[assignment]  # it changes


@simulated
async def test_scan_finds_a_restore_that_forgets() -> None:
    """A machine whose ``restore`` loses something fails at the end of the block, though nobody was restored in it."""
    with pytest.raises(InvariantViolation, match="does not hold the state that the committed commands"):
        async with running_cluster(Forgetful, SMALL) as cluster:
            await write(cluster, 30)


class Diverged(Remembered):
    """The second member has applied something twice; nothing but the attributes says when two states are the same."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def apply(self, entry: trio_raft.Committed[int]) -> int:
        super().apply(entry)
        if self.number == 1 and self.total == 3:
            self.total += 100
        return self.total


@simulated
async def test_state_that_a_member_captured_is_no_excuse() -> None:
    """A member whose state went astray wrote its own snapshot: that it did proves nothing (S8)."""
    snapshots = attrs.evolve(SMALL.snapshots, threshold_entries=0, threshold_bytes=0)
    numbers = itertools.count()
    with pytest.raises(InvariantViolation, match=r"on the disk of n\d, .* does not hold .*give the machine's class an"):
        async with running_cluster(
            lambda: Diverged(next(numbers)), attrs.evolve(SMALL, snapshots=snapshots)
        ) as cluster:
            # At different moments, so that no two captures can be compared.
            for node_id in cluster.ids:
                await write(cluster, 10)
                node = cluster.nodes[node_id]
                assert node is not None
                await node.snapshot()


@simulated
async def test_scan_compares_logs_with_what_was_committed() -> None:
    """Disks that agree with one another, but on another entry than the one that was committed, are found (S1)."""
    with pytest.raises(InvariantViolation, match="and what was committed there is another entry"):
        async with running_cluster(Counter, SMALL) as cluster:
            await write(cluster, 10)
            await cluster.clock.sleep(1.0)
            committed = cluster.invariants.past.committed
            [held] = decode_entries(committed[5].record)
            other = make_entry(index=held.index, term=held.term, kind=held.kind, data=b"2")
            committed[5] = attrs.evolve(committed[5], record=other.record)
            # Before anybody else looks.
            scan(cluster, cluster.ids)


# ------------------------------------------------------------------------------------ captures


class Uneven(Remembered):
    """Adds up its commands, and something that differs from one member to the next."""

    numbers = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.number = next(self.numbers)

    def apply(self, entry: trio_raft.Committed[int]) -> int:
        self.total += self.number
        return super().apply(entry)


@simulated
async def test_captures_of_one_moment_are_compared() -> None:
    """Two members that have applied the same commands, and differ in their state, are found by their snapshots (X4)."""
    with pytest.raises(InvariantViolation, match="The same commands lead to the same state"):
        async with running_cluster(Uneven, SMALL) as cluster:
            await write(cluster, 30)


class Unordered(Counter):
    """Writes the set of its totals in an order of its own."""

    orders = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.totals: set[int] = set()
        self.reverse = next(self.orders) % 2

    def apply(self, entry: trio_raft.Committed[int]) -> int:
        self.totals.add(super().apply(entry))
        return self.total

    def snapshot(self) -> Iterator[bytes]:
        return iter([b"%d " % number for number in sorted(self.totals, reverse=bool(self.reverse))])

    def restore(self, state: trio_raft.SavedState) -> None:
        self.totals = {int(word) for word in b"".join(state).split()}
        self.total = max(self.totals)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unordered) and self.totals == other.totals

    __hash__ = None  # type: ignore[assignment]  # it changes


@simulated
async def test_captures_that_mean_the_same() -> None:
    """Two members may write one state in different bytes."""
    async with running_cluster(Unordered, SMALL) as cluster:
        await write(cluster, 30)
        digests = cluster.invariants.past.captured.values()
        assert any(len(each) > 1 for each in digests)


class Incomparable(Unordered):
    """Its ``__eq__`` does what that of an array does."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("the truth value of an array is ambiguous")

    __hash__ = None


@simulated
async def test_captures_that_cannot_be_compared() -> None:
    """What the machine's own ``__eq__`` raises is reported as what it is, with the seed (X4)."""
    with pytest.raises(InvariantViolation, match=r"states that could not be compared: ValueError") as caught:
        async with running_cluster(Incomparable, SMALL) as cluster:
            await write(cluster, 30)
    assert "seed 0" in str(caught.value)


@simulated
async def test_machine_that_serves_is_left_alone() -> None:
    """Where the factory has but one machine to give, it is neither restored nor given anything twice."""
    machine = Remembered()
    async with running_cluster(lambda: machine, SMALL, size=1) as cluster:
        await write(cluster, 30)
    assert (machine.total, machine.restored) == (30, 0)
