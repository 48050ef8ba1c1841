"""What the swarm has found: each test is one seed's story, told shortly."""

from tests.simulation.simulated import Counter, simulated
from trio_raft.testing import running_cluster


@simulated
async def test_follower_that_lost_power_behind_a_paused_leader() -> None:
    """A follower that starts again unheard learns the commit index, though there is nothing new to send (R12, W3)."""
    async with running_cluster(Counter) as cluster:
        await cluster.client().propose(1)
        leader = (await cluster.wait_leader()).node_id
        follower = next(member for member in cluster.ids if member != leader)
        await cluster.until(lambda: total_of(cluster.machines[follower]) == 1, "the follower has applied")
        # The leader's connections to it die in silence.
        cluster.pause(leader)
        await cluster.restart(follower)
        cluster.resume(leader)
        await cluster.until(lambda: total_of(cluster.machines[follower]) == 1, "it applies what is committed", within=5)


@simulated
async def test_healing_of_a_leader_that_was_about_to_give_up() -> None:
    """A leader that lost its majority just before the repair may still step down: that is no fault of the cluster."""
    async with running_cluster(Counter) as cluster:
        leader = (await cluster.wait_leader()).node_id
        await cluster.clock.sleep(2)
        server = next(server for server in cluster.servers() if server.node_id == leader)
        for member in cluster.ids:
            cluster.network.refuse(member)
            if member != leader:
                # The others do not hear that their connections are gone, and are patient.
                cluster.network.half_open(member, leader)
        # To the last moment of its patience, which no connection made later can prolong.
        contact = max(follower.progress.last_contact for follower in server.followers.values())
        patience = server.config.timeouts.leader_lease_timeout - (server.environment.clock.now() - contact)
        await cluster.clock.sleep(patience - 0.001)
        assert cluster.leader() is not None


def total_of(machine: object) -> int:
    assert isinstance(machine, Counter)
    return machine.total
