"""A client of a simulated cluster: it finds the leader, never sends twice what may have happened, and records all."""

from typing import Any

import attrs
import pytest
import trio

import trio_raft
from tests.simulation.simulated import Counter, simulated, total
from trio_raft.testing import Client, Cluster, ClusterSettings, Unanswered, running_cluster
from trio_raft.testing._history import UNKNOWN
from trio_raft.testing._linearizability import check_linearizable
from trio_raft.testing._models import Append, AppendList, Read

UNHEALED = ClusterSettings(heals=False)

AnyCluster = Cluster[int, int]


def actions(cluster: Cluster[Any, Any]) -> list[tuple[object, object]]:
    """(action, result) of everything in the history."""
    return [(operation.action, operation.result) for operation in cluster.history]


async def settle_on_leader(cluster: AnyCluster) -> tuple[Client[int, int], str]:
    """A client that knows the leader, and the leader."""
    client = cluster.client()
    assert await client.propose(1) == 1
    return client, (await cluster.wait_leader()).node_id


@simulated
async def test_propose_finds_the_leader() -> None:
    """Whichever node leads, a client finds it, and stays with it."""
    for seed in range(3):
        async with running_cluster(Counter, UNHEALED, seed=seed) as cluster:
            client, _ = await settle_on_leader(cluster)
            before = cluster.clock.now()
            assert await client.propose(1) == 2
            assert cluster.clock.now() - before < 0.01


@simulated
async def test_propose_records() -> None:
    """A call is recorded with its action, its key and what the client was told; the command stands for the action."""
    async with running_cluster(Counter) as cluster:
        client = cluster.client("ada")
        await client.propose(5)
        await client.propose(6, key="x", action="six more")
        await client.read(total, key="x", action="look")
        await client.read(total)
        assert actions(cluster) == [(5, 5), ("six more", 11), ("look", 11)]
        assert [(operation.client, operation.key) for operation in cluster.history] == [
            ("ada", None),
            ("ada", "x"),
            ("ada", "x"),
        ]
        assert all(operation.invoked_at < (operation.returned_at or 0) for operation in cluster.history)


@simulated
async def test_propose_when_the_leader_is_cut_off() -> None:
    """A command that the leader took before it was deposed has an unknown outcome: it is not sent again (X1)."""
    async with running_cluster(Counter) as cluster:
        client, leader = await settle_on_leader(cluster)
        cluster.partition([leader])
        with pytest.raises(trio_raft.LeadershipLost):
            await client.propose(10)
        assert actions(cluster) == [(1, 1), (10, UNKNOWN)]
        assert await client.propose(100) == 101


@simulated
async def test_propose_when_the_leader_crashes() -> None:
    """So has one that was in flight when the leader lost its power."""
    async with running_cluster(Counter) as cluster:
        client, leader = await settle_on_leader(cluster)
        cluster.lanes[leader].stall(10.0)
        cluster.partition([leader])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_lost, client)
            await cluster.clock.sleep(0.1)
            await cluster.crash(leader)
        assert actions(cluster) == [(1, 1), (10, UNKNOWN)]


async def expect_lost(client: Client[int, int]) -> None:
    with pytest.raises(trio_raft.LeadershipLost):
        await client.propose(10)


@simulated
async def test_propose_to_a_paused_leader() -> None:
    """A paused node answers nobody: what it had taken is answered when it goes on, or never."""
    async with running_cluster(Counter) as cluster:
        client, leader = await settle_on_leader(cluster)
        cluster.partition([leader])
        answers: list[str] = []

        async def propose() -> None:
            try:
                await client.propose(10, within=60.0)
            except trio_raft.LeadershipLost:
                answers.append("lost")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(propose)
            await cluster.clock.sleep(0.1)
            cluster.pause(leader)
            await cluster.clock.sleep(20.0)
            assert answers == []
            cluster.resume(leader)
        assert answers == ["lost"]


@simulated
async def test_read_never_from_a_paused_leader() -> None:
    """A read asked of a leader that is paused is answered by the next one (Q1)."""
    async with running_cluster(Counter) as cluster:
        client, leader = await settle_on_leader(cluster)
        cluster.pause(leader)
        assert await client.read(total) == 1
        assert (await cluster.wait_leader()).node_id != leader


@simulated
async def test_propose_without_a_leader() -> None:
    """When no node takes a command the client gives up in time, and it is known that nothing happened (X3)."""
    async with running_cluster(Counter) as cluster:
        client, _ = await settle_on_leader(cluster)
        await cluster.crash("n1", "n2")
        await cluster.clock.sleep(5.0)
        with pytest.raises(
            Unanswered, match=r"within 5 s: no node took it, so nothing happened\. Last answer: n"
        ) as caught:
            await client.propose(10, within=5.0)
        assert not caught.value.sent
        with pytest.raises(Unanswered, match="client 1: no answer to a read within 5 s"):
            await client.read(total, within=5.0, action="look")
        assert actions(cluster) == [(1, 1)]


@simulated
async def test_propose_without_an_answer() -> None:
    """When a node took it and does not answer in time, the outcome is unknown."""
    async with running_cluster(Counter) as cluster:
        client, leader = await settle_on_leader(cluster)
        cluster.partition([leader])
        with pytest.raises(
            Unanswered, match=r"client 1: no answer to 10 within 0\.2 s: the outcome is unknown"
        ) as caught:
            await client.propose(10, within=0.2)
        assert caught.value.sent
        assert actions(cluster) == [(1, 1), (10, UNKNOWN)]


@simulated
async def test_propose_rejected() -> None:
    """A command that the state machine refuses is a result, for the caller and for the history (X4)."""
    async with running_cluster(Counter) as cluster:
        with pytest.raises(trio_raft.Rejected, match="zero changes nothing"):
            await cluster.client().propose(0)
        [(action, result)] = actions(cluster)
        assert action == 0
        assert isinstance(result, trio_raft.Rejected)


@simulated
async def test_propose_what_does_not_encode() -> None:
    """A command of the wrong type raises at once, and is not recorded."""
    async with running_cluster(Counter) as cluster:
        await cluster.wait_leader()
        command: Any = "one"
        with pytest.raises(TypeError, match="expected int"):
            await cluster.client().propose(command)
        assert actions(cluster) == []


@simulated
async def test_read_function_that_raises() -> None:
    """What the function raises leaves the read; nothing is recorded."""
    async with running_cluster(Counter) as cluster:
        with pytest.raises(ZeroDivisionError):
            await cluster.client().read(lambda counter: counter.total / 0, action="divide")
        assert actions(cluster) == []


@attrs.define
class Put:
    """A command that cannot be hashed."""

    values: list[int]


class Shelf(trio_raft.StateMachine[Put, int]):
    """Holds lists."""

    def apply(self, entry: trio_raft.Committed[Put]) -> int:
        return len(entry.command.values)


@simulated
async def test_propose_what_cannot_be_hashed() -> None:
    """Such a command works; it is recorded only under an action that can be hashed."""
    async with running_cluster(Shelf) as cluster:
        client = cluster.client()
        assert await client.propose(Put([1, 2])) == 2
        assert await client.propose(Put([1]), action="put one") == 1
        assert actions(cluster) == [("put one", 1)]


class Log(trio_raft.StateMachine[int, int]):
    """The list of its commands."""

    def __init__(self) -> None:
        self.items: list[int] = []

    def apply(self, entry: trio_raft.Committed[int]) -> int:
        self.items.append(entry.command)
        return len(self.items)


@pytest.mark.parametrize("seed", range(4))
@simulated
async def test_history_is_linearizable(seed: int) -> None:
    """What several clients saw through crashes and partitions has one order that explains it all (Q1, S1)."""
    settings = ClusterSettings(seed=seed)
    async with running_cluster(Log, settings) as cluster:

        async def work(number: int) -> None:
            client = cluster.client(f"c{number}")
            for turn in range(12):
                try:
                    if turn % 3 == 2:
                        await client.read(lambda log: tuple(log.items), key="log", action=Read())
                    else:
                        item = 100 * number + turn
                        await client.propose(item, key="log", action=Append(item))
                except (trio_raft.LeadershipLost, Unanswered):
                    pass
                await cluster.clock.sleep(0.3)

        async with trio.open_nursery() as nursery:
            for number in range(1, 4):
                nursery.start_soon(work, number)
            leader = (await cluster.wait_leader()).node_id
            cluster.partition([leader])
            await cluster.clock.sleep(2.0)
            cluster.heal()
            leader = (await cluster.wait_leader()).node_id
            await cluster.crash(leader)
            await cluster.clock.sleep(1.0)
            await cluster.start(leader)
        verdict = check_linearizable(cluster.history, AppendList())
        assert verdict, verdict.explanation
        assert len(cluster.history) > 20
