import trio_raft.testing


class Counter(trio_raft.StateMachine[int, int]):
    total = 0

    def apply(self, entry: trio_raft.Committed[int]) -> int:
        self.total += entry.command
        return self.total


async def test_counter_outlives_its_leader(raft_cluster: trio_raft.testing.StartCluster) -> None:
    """Cut the leader off: another one takes over, and no write is lost."""
    async with raft_cluster(Counter) as cluster:
        client, leader = cluster.client(), await cluster.wait_leader()
        assert await client.propose(1) == 1
        cluster.partition([leader.node_id])
        assert await cluster.wait_leader() is not leader
        assert await client.propose(1) == 2
