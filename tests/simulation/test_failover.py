"""Failover, told by whole clusters: who is known to be gone is not waited for, and who lives is not unseated.

Each story is told for some fixed seeds, which draw every pause.
"""

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import trio_raft
from tests.simulation.simulated import Counter, simulated
from trio_raft._node import Node
from trio_raft._rules.state import Role
from trio_raft.testing import Cluster, ClusterSettings, running_cluster
from trio_raft.testing._seed import run_seed
from trio_raft.testing._swarm import Wishes

SEEDS = range(4)
TIMEOUTS = trio_raft.Timeouts()

MOMENT = TIMEOUTS.heartbeat_timeout / 4
"""Seconds; a failover that waits for nobody's patience is over by then, a split vote or two included."""

AnyCluster = Cluster[Any, Any]


@asynccontextmanager
async def led_cluster(seed: int, size: int = 3) -> AsyncIterator[tuple[AnyCluster, Node[Any, Any]]]:
    """A cluster that has committed something, and its leader, who has led for a while."""
    async with running_cluster(Counter, ClusterSettings(size=size, seed=seed)) as cluster:
        await cluster.client().propose(1)
        leader = await cluster.wait_leader()
        await cluster.clock.sleep(2 * TIMEOUTS.heartbeat_timeout)
        yield cluster, leader


def others(cluster: AnyCluster, leader: str) -> list[str]:
    return [member for member in cluster.ids if member != leader]


def led_by(cluster: AnyCluster) -> dict[str, int]:
    """Who leads now, and in which term."""
    servers = cluster.servers()
    return {server.node_id: server.state.current_term for server in servers if server.leads(server.state.current_term)}


async def seconds_until_another(cluster: AnyCluster, old: str) -> float:
    began = cluster.clock.now()
    while not led_by(cluster).keys() - {old}:
        assert cluster.clock.now() - began < 20
        await cluster.clock.sleep(0.001)
    return cluster.clock.now() - began


@pytest.mark.parametrize("size", [3, 5])
@simulated
async def test_killed_leader(size: int) -> None:
    """A leader whose process dies has a successor within a moment, not within the followers' patience (E9, E11)."""
    for seed in SEEDS:
        async with led_cluster(seed, size) as (cluster, leader):
            await cluster.kill(leader.node_id)
            assert await seconds_until_another(cluster, leader.node_id) < MOMENT


@simulated
async def test_killed_and_restarted_leader() -> None:
    """A leader that comes back at once, as another process, is no leader: the others do not wait either (E11)."""
    for seed in SEEDS:
        async with led_cluster(seed) as (cluster, leader):
            term = leader.term
            await cluster.kill(leader.node_id)
            await cluster.start(leader.node_id)
            began = cluster.clock.now()
            while not any(now > term for now in led_by(cluster).values()):
                await cluster.clock.sleep(0.001)
            assert cluster.clock.now() - began < MOMENT


@simulated
async def test_closed_leader() -> None:
    """A leader that closes in order has a successor as soon (E11, X2)."""
    for seed in SEEDS:
        async with led_cluster(seed) as (cluster, leader):
            await leader.aclose()
            assert await seconds_until_another(cluster, leader.node_id) < MOMENT


@simulated
async def test_leader_whose_disk_fails() -> None:
    """A leader that ends by an error of its disk is gone as soon as it listens no more, and has a successor within a
    moment; that it says so only a little later fails nothing (E11, S2).  Found by seed 23.
    """
    for seed in SEEDS:
        async with led_cluster(seed) as (cluster, leader):
            cluster.disks[leader.node_id].fail("sync", errno.EIO)
            leader.submit_nowait(1)
            assert await seconds_until_another(cluster, leader.node_id) < MOMENT


@simulated
async def test_leader_that_steps_down() -> None:
    """A leader that finds itself doubtful gives its place up at once, though its process lives on (E11)."""
    for seed in SEEDS:
        async with led_cluster(seed) as (cluster, leader):
            term = leader.term
            leader._server.step_down("the test says so")
            began = cluster.clock.now()
            while not any(now > term for now in led_by(cluster).values()):
                await cluster.clock.sleep(0.001)
            assert cluster.clock.now() - began < MOMENT


@pytest.mark.parametrize("how", ["crash", "pause", "partition"])
@simulated
async def test_silent_leader(how: str) -> None:
    """A machine without power, a process that stands still, a cut network: nothing says that the leader is gone, and
    he is waited for (E9, E10, E11).
    """
    for seed in SEEDS:
        async with led_cluster(seed) as (cluster, leader):
            if how == "crash":
                await cluster.crash(leader.node_id)
            elif how == "pause":
                cluster.pause(leader.node_id)
            else:
                cluster.partition([leader.node_id])
            waited = await seconds_until_another(cluster, leader.node_id)
            # The last heartbeat may be two intervals old.
            assert waited >= TIMEOUTS.heartbeat_timeout - 2 * TIMEOUTS.heartbeat_interval


@pytest.mark.parametrize("lost", [1, 2, 4])
@simulated
async def test_spurious_losses(lost: int) -> None:
    """Connections of a healthy leader may break as often as they like, with one follower or all: he leads on, no term
    rises, nobody campaigns (E8, E11).
    """
    for seed in SEEDS:
        async with led_cluster(seed, 5) as (cluster, leader):
            term = leader.term
            candidacies: list[str] = []
            for turn in range(20):
                for follower in others(cluster, leader.node_id)[:lost]:
                    cluster.network.reset(leader.node_id, follower)
                await cluster.clock.sleep((turn % 5) * 0.013)
                assert led_by(cluster) == {leader.node_id: term}
                candidacies += [each.node_id for each in cluster.servers() if each.state.role is Role.CANDIDATE]
            await cluster.clock.sleep(2 * TIMEOUTS.heartbeat_timeout)
            assert led_by(cluster) == {leader.node_id: term}
            assert {server.state.current_term for server in cluster.servers()} == {term}
            assert candidacies == []


@simulated
async def test_paused_leader_whose_connections_break() -> None:
    """A leader that stands still does not answer who dials him again: that is no proof, and he is waited for (E11)."""
    for seed in SEEDS:
        async with led_cluster(seed) as (cluster, leader):
            cluster.pause(leader.node_id)
            for follower in others(cluster, leader.node_id):
                cluster.network.reset(leader.node_id, follower)
            waited = await seconds_until_another(cluster, leader.node_id)
            assert waited >= TIMEOUTS.heartbeat_timeout - 2 * TIMEOUTS.heartbeat_interval


@pytest.mark.parametrize("deaf", [False, True])
@simulated
async def test_follower_with_broken_links(deaf: bool) -> None:
    """A follower that loses its leader, and is refused where nobody else is, unseats nobody: the others hear the leader
    and go on refusing, whatever it believes (E8, E11).
    """
    for seed in SEEDS:
        async with led_cluster(seed) as (cluster, leader):
            term, (victim, _) = leader.term, others(cluster, leader.node_id)
            cluster.network.refuse(leader.node_id, source=victim)
            if deaf:
                cluster.network.cut(leader.node_id, victim)
            for _ in range(10):
                cluster.network.reset(leader.node_id, victim)
                await cluster.clock.sleep(0.2)
                assert led_by(cluster) == {leader.node_id: term}
            assert {server.state.current_term for server in cluster.servers()} == {term}
            cluster.heal()
            await cluster.clock.sleep(2 * TIMEOUTS.heartbeat_timeout)
            assert led_by(cluster) == {leader.node_id: term}


@simulated
async def test_voter_that_lost_nothing() -> None:
    """With a quorum that still hears the leader, a follower that knows him to be gone gets no pre-vote (E8, E11)."""
    async with led_cluster(0, 5) as (cluster, leader):
        term, (claimant, *voters) = leader.term, others(cluster, leader.node_id)
        [server] = [server for server in cluster.servers() if server.node_id == claimant]
        cluster.network.refuse(leader.node_id, source=claimant)
        cluster.network.cut(leader.node_id, claimant)
        cluster.network.reset(leader.node_id, claimant)
        await cluster.until(lambda: server.state.role is Role.CANDIDATE, "it believes that the leader is gone")
        await cluster.clock.sleep(TIMEOUTS.heartbeat_timeout)
        refusals = server.campaign_report
        assert all(f"{voter} refused: a leader is heard in term {term}" in refusals for voter in voters)
        cluster.heal()


@simulated
async def test_paused_follower_of_a_killed_leader() -> None:
    """A follower that stood still while its leader died reads of it when it goes on (E10, E11)."""
    for seed in SEEDS:
        async with led_cluster(seed) as (cluster, leader):
            sleeper, _ = others(cluster, leader.node_id)
            cluster.pause(sleeper)
            await cluster.kill(leader.node_id)
            await cluster.clock.sleep(0.3)
            cluster.resume(sleeper)
            assert await seconds_until_another(cluster, leader.node_id) < MOMENT


def test_lost_connections_strike() -> None:
    """A run of the swarm that knows only this fault loses connections, finds nobody gone, and elects once (E8, E11)."""
    for seed in SEEDS:
        report = run_seed(seed, wishes=Wishes(profile="standard", faults=("lost connections",)))
        assert report.ok, report.violation
        assert report.counts["fault: lost connections"] > 0
        assert report.counts["network: reset"] > 0
        assert "leaders found gone" not in report.counts
        assert report.counts["elections"] == 1
