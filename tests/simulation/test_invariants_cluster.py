"""The invariants on whole clusters of real nodes: silent while nothing is wrong, and not deceived by a faulty node."""

import errno
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, cast

import pytest
import trio

from tests.simulation.stage import Words
from trio_raft import LeadershipLost, _server
from trio_raft._journal import Journal
from trio_raft._server import Server
from trio_raft._storage.files import Files
from trio_raft._storage.writing import write_batch
from trio_raft.testing import Cluster, InvariantViolation, run, running_cluster
from trio_raft.testing._trace import Trace

WRITE_BATCH = "trio_raft._storage.wal.write_batch"
"""Where the log store finds what makes a batch durable."""

Deeds = Callable[[Cluster[bytes, int]], Any]


async def write(cluster: Cluster[bytes, int], count: int) -> None:
    """So many writes, one after the other; the outcome of one under which the leader changes is unknown."""
    client = cluster.client()
    for number in range(count):
        with suppress(LeadershipLost):
            await client.propose(b"%d" % number)


async def crashes_and_cuts(cluster: Cluster[bytes, int]) -> None:
    """Leaders are cut off, crashed and killed while clients write."""
    await write(cluster, 5)
    for harm in (cluster.crash, cluster.kill):
        leader = await cluster.wait_leader()
        await harm(leader.node_id)
        await write(cluster, 5)
        await cluster.start(leader.node_id)
    leader = await cluster.wait_leader()
    cluster.partition([leader.node_id])
    leader.submit_nowait(b"lost")
    await write(cluster, 5)
    cluster.heal()
    await cluster.restart(*cluster.ids)
    await write(cluster, 5)


def simulate(deeds: Deeds, *, seed: int, size: int = 3) -> Trace:
    """Run a cluster through these deeds; returns its trace."""
    trace = Trace()

    async def main() -> None:
        async with running_cluster(Words, size=size, seed=seed, trace=trace) as cluster:
            await deeds(cluster)

    run(main, seed=seed)
    return trace


@pytest.mark.parametrize("size", [1, 3, 5])
def test_run_without_a_violation(size: int) -> None:
    """A cluster under crashes and cuts keeps every promise (E1, E2, E8, R1, R2, R3, R4, R6, S1, S5, S11, X1)."""
    trace = simulate(crashes_and_cuts if size > 1 else lambda cluster: write(cluster, 5), seed=size, size=size)
    assert trace.count > 20


def test_run_twice_has_one_digest() -> None:
    """The same seed gives the same lines, another seed other ones."""
    digests = [simulate(crashes_and_cuts, seed=seed).digest() for seed in (7, 7, 8)]
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]


# ---------------------------------------------------------------------------------------------- faulty nodes


def acknowledge_before_the_sync(patch: pytest.MonkeyPatch) -> None:
    async def wait_durable(_: Journal, position: int) -> None:
        await trio.lowlevel.checkpoint()

    patch.setattr(Journal, "wait_durable", wait_durable)


def never_sync(patch: pytest.MonkeyPatch) -> None:
    class Unsynced:
        def __init__(self, files: Files) -> None:
            self._files = files

        def __getattr__(self, name: str) -> Any:
            return (lambda descriptor: None) if name == "sync" else getattr(self._files, name)

    patch.setattr(WRITE_BATCH, lambda plan, files: write_batch(plan, cast(Files, Unsynced(files))))


def sync_again_after_a_failure(patch: pytest.MonkeyPatch) -> None:
    class Again:
        def __init__(self, files: Files) -> None:
            self._files = files

        def __getattr__(self, name: str) -> Any:
            return getattr(self._files, name)

        def sync(self, descriptor: int) -> None:
            try:
                self._files.sync(descriptor)
            except OSError:
                self._files.sync(descriptor)

    patch.setattr(WRITE_BATCH, lambda plan, files: write_batch(plan, cast(Files, Again(files))))


def apply_what_is_only_in_memory(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Server, "applicable_index", property(lambda server: server.state.commit_index))


def forget_proposals(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_server, "fail_all", lambda tickets, *_, **__: tickets.clear())


async def only_write(cluster: Cluster[bytes, int]) -> None:
    await write(cluster, 3)


async def fail_a_sync(cluster: Cluster[bytes, int]) -> None:
    leader = await cluster.wait_leader()
    cluster.disks[leader.node_id].fail("sync", errno.EIO)
    await write(cluster, 3)


async def slow_follower(cluster: Cluster[bytes, int]) -> None:
    leader = await cluster.wait_leader()
    slow = next(name for name in cluster.ids if name != leader.node_id)
    cluster.lanes[slow].stall(0.5)
    await write(cluster, 20)


async def depose_a_writer(cluster: Cluster[bytes, int]) -> None:
    leader = await cluster.wait_leader()
    cluster.partition([leader.node_id])
    leader.submit_nowait(b"lost")
    await cluster.until(lambda: leader.role != "leader", "the leader that was cut off steps down")


FAULTY: list[tuple[Callable[[pytest.MonkeyPatch], None], Deeds, str]] = [
    (acknowledge_before_the_sync, only_write, "Nothing leaves before what it implies is durable"),
    (never_sync, only_write, "Nothing leaves before what it implies is durable"),
    (sync_again_after_a_failure, fail_a_sync, "The durable index speaks of the entries in memory"),
    (apply_what_is_only_in_memory, slow_follower, "Committed and durable commands are applied"),
    (forget_proposals, depose_a_writer, "Every proposal ends"),
]


@pytest.mark.parametrize(("fault", "deeds", "rule"), FAULTY, ids=[fault.__name__ for fault, _, _ in FAULTY])
def test_run_of_a_faulty_node(
    fault: Callable[[pytest.MonkeyPatch], None], deeds: Deeds, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that breaks a rule is found out, whatever it believes of itself, and the run fails with the seed."""
    fault(monkeypatch)
    with pytest.raises(InvariantViolation, match=rule) as caught:
        simulate(deeds, seed=11)
    assert "seed 11" in str(caught.value)


def test_violation_that_the_block_swallows() -> None:
    """A run in which something was violated does not pass, even if the block catches everything."""

    async def swallow(cluster: Cluster[bytes, int]) -> None:
        def never(machines: Mapping[str, Any]) -> bool:
            return False

        cluster.invariants.add(never)
        with suppress(trio.Cancelled):
            await write(cluster, 3)

    with pytest.raises(InvariantViolation, match="The invariant never that you added"):
        simulate(swallow, seed=5)
