"""A disk that writes but does not read: found in review, a leader kept its callers waiting for ever."""

import pytest
import trio

import trio_raft
from tests.support.cluster import running_cluster
from trio_raft import Limits
from trio_raft._environment import Lane
from trio_raft._events import DiskRecovered, DiskStalled


async def test_hung_reads_end_the_leadership(autojump_clock: object) -> None:
    """A leader that cannot read back what it has to apply steps down like one that cannot write (X1, S9)."""
    async with running_cluster(1, limits=Limits(event_buffer=10_000, log_memory_bytes=300)) as cluster:
        node = await cluster.elected()
        for number in range(50):
            await cluster.write(node, b"%d" % number)
        await cluster.restart("n1")
        cluster.lanes("n1").stall(Lane.READ)
        await cluster.until(lambda: cluster.node("n1").role == "leader")
        with trio.fail_after(20), pytest.raises(trio_raft.RaftError) as caught:
            await cluster.node("n1").propose(b"x")
        assert type(caught.value) in (trio_raft.LeadershipLost, trio_raft.NoLeader)
        cluster.lanes("n1").resume()
        await cluster.until(lambda: cluster.node("n1").role == "leader" and cluster.node("n1").last_applied > 50)
        kinds = [type(event) for _, _, event in cluster.events]
        assert kinds.index(DiskStalled) < kinds.index(DiskRecovered)
