"""What excuses a member: a flipped bit does where it was flipped, and nowhere else."""

import random

import pytest

from tests.simulation.simulated import simulated
from tests.simulation.test_snapshots_cluster import SMALL, Remembered, files_of, write
from trio_raft import LogCorrupt, SnapshotCorrupt
from trio_raft._messages import Incarnation, ServerId
from trio_raft.abc import StoreIdentity
from trio_raft.testing import InvariantViolation, NodeFailed, SimDisk, run, running_cluster
from trio_raft.testing._judge import flip_explains
from trio_raft.testing._member import CLUSTER_ID, DIRECTORY, Member

FLIPS = 400

SUFFIXES = (".segment", ".snapshot")


def simulated_disk() -> SimDisk:
    """Of a member that has written a log, and keeps a snapshot."""
    disks: list[SimDisk] = []

    async def main() -> None:
        async with running_cluster(Remembered, SMALL) as cluster:
            await write(cluster, 30)
            disks.append(cluster.disks["n1"].snapshot())

    run(main, seed=0)
    return disks[0]


def start(member: Member[int, int]) -> None:
    """Read what is on its disk as a start does."""
    identity = StoreIdentity(CLUSTER_ID, ServerId(member.id), Incarnation("0"))
    found = member.snapshot_store().open(identity)
    if found.damaged:
        raise found.damaged[0]
    member.store().open(identity, memory_bytes=1 << 30, snapshot=found.newest.point if found.newest else None)


def test_flip_explains_whatever_it_leads_to() -> None:
    """Wherever a bit flips, what a start then complains of is explained by it, and without the flip by nothing (S3)."""
    intact = simulated_disk()
    draws, kinds = random.Random(1), set[type[Exception]]()
    for _ in range(FLIPS):
        member = Member[int, int]("n1", SMALL, disk=intact.snapshot())
        found = member.disk.flip_any_bit(draws)
        assert found is not None
        with pytest.raises((LogCorrupt, SnapshotCorrupt)) as caught:
            start(member)
        error = caught.value
        assert isinstance(error, LogCorrupt | SnapshotCorrupt)
        assert flip_explains(member, error), (found, error)
        kinds.add(type(error))
        blameless = Member[int, int]("n1", SMALL, disk=intact.snapshot())
        assert not flip_explains(blameless, error)
    assert kinds == {LogCorrupt, SnapshotCorrupt}


def test_flip_excuses_no_other_file_and_no_other_place() -> None:
    """A member that lost a bit of one file answers for the others, and for what stands far behind it."""
    member = Member[int, int]("n1", SMALL, disk=simulated_disk())
    log, snapshot = (next(path for path in member.disk.paths() if path.suffix == kind) for kind in SUFFIXES)
    member.disk.flip_bit(log, position=700)
    assert flip_explains(member, LogCorrupt(log, offset=512, index=1, problem=""))
    assert not flip_explains(member, LogCorrupt(log, offset=1024, index=1, problem=""))
    assert not flip_explains(member, SnapshotCorrupt(snapshot, offset=0, problem=""))


@simulated
async def test_past_flip_does_not_excuse_a_snapshot_that_is_damaged_otherwise() -> None:
    """A bit that flipped in the log explains no damaged snapshot: such a run fails (S7)."""
    with pytest.raises(NodeFailed, match="n1 failed, and no injected fault explains it: snapshot /data/snapshot-"):
        async with running_cluster(Remembered, SMALL) as cluster:
            await write(cluster, 30)
            await cluster.crash("n1")
            disk = cluster.disks["n1"]
            disk.flip_bit(next(path for path in disk.paths() if path.suffix == ".segment"), position=700)
            [name] = [name for name in files_of(cluster, "n1") if name.endswith(".snapshot")]
            disk.overwrite(DIRECTORY / name, b"no snapshot")
            await cluster.start("n1")


@simulated
async def test_snapshot_that_nobody_damaged_on_purpose() -> None:
    """A snapshot that is passed over for a flip elsewhere is a violation, though its member goes on without it (S7)."""
    with pytest.raises(InvariantViolation, match="What stands under a finished name is whole"):
        async with running_cluster(Remembered, SMALL) as cluster:
            await write(cluster, 30)
            await cluster.crash("n1")
            disk = cluster.disks["n1"]
            disk.overwrite(DIRECTORY / "notes", b"of somebody else")
            disk.flip_bit(DIRECTORY / "notes", position=0)
            [name] = [name for name in files_of(cluster, "n1") if name.endswith(".snapshot")]
            disk.overwrite(DIRECTORY / name, disk.contents(DIRECTORY / name)[:-1])
            await cluster.start("n1")
