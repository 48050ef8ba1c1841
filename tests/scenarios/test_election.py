"""Elections and failover, played by whole nodes."""

import pytest
import trio_raft

from tests.support.cluster import running_cluster


@pytest.mark.parametrize("size", [1, 2, 3, 5])
async def test_first_election(autojump_clock: object, size: int) -> None:
    """A fresh cluster of any size elects one leader, who commits (R2)."""
    for seed in range(5):
        async with running_cluster(size, seed=seed) as cluster:
            leader = await cluster.elected()
            assert await cluster.write(leader, b"a") == 1
            await cluster.converged()
