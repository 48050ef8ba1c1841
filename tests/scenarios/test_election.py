"""Elections and failover, played by whole nodes."""

import random

import attrs
import pytest
import trio

import trio_raft
from tests.support.cluster import Server, running_cluster
from tests.support.stores import prepared_stores
from trio_raft._environment import Environment
from trio_raft._messages import Message, RequestVote, RequestVoteReply
from trio_raft._storage.memory import MemoryPlan
from trio_raft.abc import SaveVote
from trio_raft.testing._environment import test_environment

TIMEOUTS = trio_raft.Timeouts()

FAILOVER = 2 * TIMEOUTS.heartbeat_timeout + 2 * TIMEOUTS.election_timeout
"""Seconds in which a follower's patience ends, and a first campaign that splits its votes is over."""


@pytest.mark.parametrize("size", [1, 2, 3, 5])
async def test_first_election(autojump_clock: object, size: int) -> None:
    """A fresh cluster of any size elects one leader, who commits (paper 5.2)."""
    for seed in range(3):
        async with running_cluster(size, seed=seed) as cluster:
            leader = await cluster.elected()
            assert await cluster.write(leader, b"a") == 1
            await cluster.converged()


async def test_failover(autojump_clock: object) -> None:
    """When the leader crashes another takes over, with all that was acknowledged, and the old one follows it."""
    for seed in range(6):
        async with running_cluster(seed=seed) as cluster:
            first = await cluster.elected()
            await cluster.write_many(first, [b"%d" % n for n in range(20)])
            await cluster.crash(first.node_id)
            second = await cluster.elected(within=FAILOVER)
            assert second.term > 1
            assert await cluster.write(second, b"after") == 21
            await cluster.start(first.node_id)
            assert (await cluster.converged()).node_id == second.node_id


async def test_restart_of_all(autojump_clock: object) -> None:
    """A cluster that lost power altogether goes on with all that was acknowledged, in a later term (E1)."""
    for seed in range(5):
        async with running_cluster(seed=seed) as cluster:
            leader = await cluster.elected()
            await cluster.write_many(leader, [b"%d" % n for n in range(20)])
            term = leader.term
            await cluster.crash(*cluster.ids)
            await cluster.start()
            leader = await cluster.converged()
            assert leader.term > term
            assert sorted(cluster.commands(leader.node_id)) == sorted(cluster.acknowledged)


async def test_every_leader_crashes_in_turn(autojump_clock: object) -> None:
    """Ten leaders that crash one after the other take no acknowledged write with them (S1)."""
    async with running_cluster(5) as cluster:
        for turn in range(10):
            leader = await cluster.elected()
            await cluster.write_many(leader, [b"%d.%d" % (turn, n) for n in range(10)])
            await cluster.restart(leader.node_id)
        await cluster.converged()
        assert len(cluster.acknowledged) == 100


async def test_minority_keeps_its_term(autojump_clock: object) -> None:
    """Servers without a majority of pre-votes never raise their term, however long they wait (E8)."""
    async with running_cluster(5) as cluster:
        leader = await cluster.elected()
        lost = cluster.others(leader)[:2]
        cluster.partition(lost, [name for name in cluster.ids if name not in lost])
        await cluster.settle(60)
        assert [cluster.node(name).term for name in lost] == [leader.term, leader.term]
        assert [cluster.node(name).role for name in lost] == ["candidate", "candidate"]


async def test_returning_follower_unseats_nobody(autojump_clock: object) -> None:
    """A follower that was cut off asks for pre-votes, and on its return a healthy leader stays (E5, E8)."""
    for seed in range(5):
        async with running_cluster(seed=seed) as cluster:
            leader = await cluster.elected()
            term, lost = leader.term, cluster.others(leader)[0]
            cluster.partition([lost], [name for name in cluster.ids if name != lost])
            await cluster.settle(10 + seed / 7)
            await cluster.write(leader, b"meanwhile")
            assert (await cluster.converged()).term == term
            assert [cluster.node(name).term for name in cluster.ids] == [term] * 3


async def test_restarted_follower_unseats_nobody(autojump_clock: object) -> None:
    """A follower that restarts, and cannot hear the leader, is refused by those who can (E5, E8)."""
    async with running_cluster() as cluster:
        leader = await cluster.elected()
        term, (deaf, other) = leader.term, cluster.others(leader)
        cluster.partition([deaf], [leader.node_id])
        await cluster.restart(deaf)
        await cluster.settle(30)
        assert (leader.role, leader.term) == ("leader", term)
        assert cluster.node(deaf).term == term
        assert "a leader is heard" in cluster.node(deaf).statistics().why_no_leader
        await cluster.write(leader, b"by two")
        assert await cluster.node(other).wait_leader() == leader.node_id


async def test_former_leader_is_patient(autojump_clock: object) -> None:
    """A leader that stepped down is a follower like others: it waits its time before it campaigns (E9)."""
    for seed in range(5):
        async with running_cluster(seed=seed) as cluster:
            leader = await cluster.elected()
            await cluster.settle(10)
            await cluster.crash(*cluster.others(leader))
            await cluster.until(lambda: leader.role == "follower")  # noqa: B023
            await cluster.settle(TIMEOUTS.heartbeat_timeout - 0.01)
            assert leader.role == "follower"
            await cluster.settle(TIMEOUTS.heartbeat_timeout + 0.01)
            assert leader.role == "candidate"


async def test_freshest_log_leads(autojump_clock: object) -> None:
    """Only a log at least as fresh as a majority's wins, first by last term and then by length (E3)."""
    for seed in range(6):
        # n2 and n5 hold the later term; n1's log is the longest, and everyone's term is the same.
        logs = {"n1": [1] * 9, "n2": [1, 1, 2], "n3": [1] * 4, "n4": [1] * 4, "n5": [1, 2]}
        stores = prepared_stores(logs, current_terms=dict.fromkeys(logs, 2))
        async with running_cluster(5, seed=seed, stores=stores) as cluster:
            leader = await cluster.elected()
            assert leader.node_id != "n3"
            assert leader.node_id != "n4"
            if leader.node_id == "n1":
                # By n3 and n4, who are behind it; never by those who hold the later term.
                assert "elected by n1, n3, n4" in [e.reason for e in cluster.seen("n1", trio_raft.RoleChanged)]
            await cluster.converged()


async def test_long_log_and_late_term(autojump_clock: object) -> None:
    """A long log in an early term and a short log in a late term do not block each other (E5)."""
    for seed in range(5):
        stores = prepared_stores({"n1": [1] * 50, "n2": [1], "n3": [1]}, current_terms={"n2": 40})
        async with running_cluster(seed=seed, start=False, stores=stores) as cluster:
            await cluster.start("n1", "n2")
            leader = await cluster.elected("n1", "n2")
            assert leader.node_id == "n1"
            assert leader.term > 40
            await cluster.write(leader, b"more")


async def test_split_votes_end(autojump_clock: object) -> None:
    """Servers that draw the same timeouts split their votes, and the next draws part them (paper 5.2)."""

    for seed in range(5):
        stores = prepared_stores({f"n{number}": [1] for number in range(1, 5)})
        async with running_cluster(4, seed=seed, start=False, stores=stores) as cluster:
            cluster.environment = alike_at_first  # type: ignore[method-assign]
            # All in the same moment: else the first one would ask before the others' timers ring.
            async with trio.open_nursery() as starting:
                for name in cluster.ids:
                    starting.start_soon(cluster.start, name)
            leader = await cluster.elected()
            led = cluster.leaders_by_term()
            assert [term for term in range(2, leader.term) if term not in led], "no vote was split"


async def test_votes_wait_for_the_voters_disk(autojump_clock: object) -> None:
    """No leader emerges while the voters' disks hang: a vote leaves when it is durable, not before (E2, S1)."""
    async with running_cluster(start=False) as cluster:
        cluster.favoured = "n1"
        asked: list[str] = []
        cluster.observers.append(lambda sender, receiver, message: _note_votes(asked, sender, message))
        await cluster.start()
        await cluster.until(lambda: len(cluster.seen("n1", trio_raft.BootstrapDone)) == 1)
        for voter in ("n2", "n3"):
            cluster.lanes(voter).stall()
        await cluster.until(lambda: "n1 asks" in asked)
        await cluster.settle(10)
        assert cluster.leaders_by_term() == {}
        assert [answer for answer in asked if "grants" in answer] == []
        cluster.lanes("n2").resume()
        await cluster.until(cluster.leaders_by_term)
        assert "n2 grants" in asked


async def test_candidate_waits_for_its_own_disk(autojump_clock: object) -> None:
    """A candidate asks for votes only once its own vote is durable, and the others do without it (E2)."""
    async with running_cluster(start=False) as cluster:
        cluster.favoured = "n1"
        asked: list[str] = []
        cluster.observers.append(lambda sender, receiver, message: _note_votes(asked, sender, message))
        await cluster.start()
        await cluster.until(lambda: len(cluster.seen("n1", trio_raft.BootstrapDone)) == 1)
        cluster.lanes("n1").stall()
        await cluster.until(lambda: cluster.node("n1").term == 1)
        leader = await cluster.elected("n2", "n3")
        assert "n1 asks" not in asked
        await cluster.write(leader, b"by two")
        cluster.lanes("n1").resume()
        await cluster.converged()


async def test_voter_that_crashes_votes_once(autojump_clock: object) -> None:
    """A voter that crashes at any moment of an election never gives two servers its vote in one term (E1, E2)."""
    for seed in range(16):
        async with running_cluster(seed=seed) as cluster:
            voted: dict[tuple[str, int], set[str]] = {}
            for server in cluster.servers.values():
                note_durable_votes(server, voted)
            await cluster.until(lambda: any(node.role == "candidate" for node in cluster.running()))
            for _ in range(3):
                victim = cluster.random.choice(cluster.ids)
                await cluster.settle(cluster.random.choice([0.0001, 0.0005, 0.002, 0.5]))
                await cluster.restart(victim)
            await cluster.converged()
            assert {len(candidates) for candidates in voted.values()} == {1}


class AlikeAtFirst(random.Random):
    """The first draws are the same for everybody."""

    draws = 3

    def random(self) -> float:
        self.draws -= 1
        return 0.25 if self.draws >= 0 else super().random()


def alike_at_first(name: str, seed: int) -> Environment:
    """An environment with such draws."""
    return attrs.evolve(test_environment(seed), random=AlikeAtFirst(seed))


def _note_votes(noted: list[str], sender: str, message: Message) -> None:
    if isinstance(message, RequestVote) and not message.pre_vote:
        noted.append(f"{sender} asks")
    elif isinstance(message, RequestVoteReply) and not message.pre_vote and message.granted:
        noted.append(f"{sender} grants")


def note_durable_votes(server: Server, voted: dict[tuple[str, int], set[str]]) -> None:
    """From now on, note for which candidates this server's store makes a vote durable, by server and term."""
    execute = server.store.execute

    def noting(plan: MemoryPlan) -> None:
        execute(plan)
        for item in plan.items:
            if isinstance(item, SaveVote) and item.voted_for is not None:
                voted.setdefault((server.name, item.term), set()).add(item.voted_for)

    server.store.execute = noting  # type: ignore[method-assign]
