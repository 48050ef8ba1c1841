"""Cut networks: deposed leaders, one-way cuts, half-open links, and what reads may show meanwhile."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import pytest
import trio

import trio_raft
from tests.support.cluster import Cluster, Member, running_cluster
from trio_raft import LeadershipLost, NoLeader, NotLeader, RoleChanged
from trio_raft._messages import AppendEntries, Message

TIMEOUTS = trio_raft.Timeouts()

NOTICED = TIMEOUTS.leader_lease_timeout + 2 * TIMEOUTS.heartbeat_interval
"""Seconds until a leader without a majority has stepped down, once it is past the grace of a new one."""


def isolate(cluster: Cluster, node: Member) -> list[str]:
    """Cut a node off from everybody; returns the others."""
    others = cluster.others(node)
    cluster.partition([node.node_id], others)
    return others


async def test_deposed_leaders_proposals(autojump_clock: object) -> None:
    """A leader that is cut off ends every open proposal as LeadershipLost, soon, and none of them is applied (X1)."""
    for seed in range(5):
        async with running_cluster(seed=seed) as cluster:
            old = await cluster.elected()
            await cluster.settle(TIMEOUTS.heartbeat_timeout)
            await cluster.write(old, b"before")
            others = isolate(cluster, old)
            began = trio.current_time()
            tickets = [old.submit_nowait(b"lost %d" % n) for n in range(50)]
            for ticket in tickets:
                with pytest.raises(LeadershipLost) as caught:
                    await ticket.wait()
                assert caught.value.term == ticket.term
            assert trio.current_time() - began <= NOTICED
            new = await cluster.elected(*others)
            # These stand at the very indexes of the lost ones.
            await cluster.write_many(new, [b"kept %d" % n for n in range(60)])
            assert (await cluster.converged()).node_id == new.node_id
            assert sorted(cluster.commands(old.node_id)) == sorted(cluster.acknowledged)
            assert len({tuple(cluster.stored(name)) for name in cluster.ids}) == 1


async def test_deposed_leader_learns_of_its_successor(autojump_clock: object) -> None:
    """A deposed leader comes back as a follower of the new one and names it to its callers (X3)."""
    async with running_cluster() as cluster:
        old = await cluster.elected()
        others = isolate(cluster, old)
        new = await cluster.elected(*others)
        with pytest.raises(NoLeader):
            await old.propose(b"to nobody")
        cluster.network.heal()
        assert await old.wait_leader() == new.node_id
        with pytest.raises(NotLeader) as caught:
            await old.propose(b"to the wrong one")
        assert (caught.value.leader_id, caught.value.leader_address) == (new.node_id, f"{new.node_id}:1")


async def test_reads_of_a_deposed_leader(autojump_clock: object) -> None:
    """A leader that is cut off answers no linearizable read, while another one writes (Q1, Q4)."""
    for seed in range(5):
        async with running_cluster(seed=seed) as cluster:
            old = await cluster.elected()
            await cluster.write(old, b"before")
            others = isolate(cluster, old)
            answered: list[object] = []
            async with trio.open_nursery() as nursery:
                for call in (old.read_index, old.verify_leader, old.barrier, partial(old.read, len_of)):
                    nursery.start_soon(note_answer, call, answered)
                new = await cluster.elected(*others)
                await cluster.write(new, b"after")
                cluster.network.heal()
            assert answered == []
            assert await new.read(lambda machine: machine.commands) == [b"before", b"after"]
            # The stale read says by its name what it is.
            assert await old.read(lambda machine: machine.commands[0], consistency="stale") == b"before"


async def test_reads_never_go_back(autojump_clock: object) -> None:
    """Whatever is cut, a read shows at least every write that was acknowledged before it began (Q1, Q3, Q4)."""
    reads = writes = 0
    for seed in range(3):
        async with running_cluster(seed=seed) as cluster:
            await cluster.elected()
            counts = [0]
            with trio.move_on_after(12):
                async with trio.open_nursery() as nursery:
                    for number in range(3):
                        nursery.start_soon(keep_writing, cluster, b"client %d" % number)
                    nursery.start_soon(keep_reading, cluster, counts)
                    await cut_at_random(cluster)
            await cluster.converged()
            reads += counts[0]
            writes += len(cluster.acknowledged)
    assert reads > 400
    assert writes > 200


async def test_no_read_before_the_terms_first_commit(autojump_clock: object) -> None:
    """A new leader answers no read before it committed in its own term, though its commit index may lag (Q3)."""
    async with running_cluster() as cluster:
        old = await cluster.elected()
        await cluster.settle(1)
        # The followers hold the entry, but do not learn that it is committed.
        await cluster.write(old, b"acknowledged")
        others = cluster.others(old)
        assert [cluster.node(name).commit_index for name in others] == [1, 1]
        await cluster.crash(old.node_id)

        def stall(sender: str, receiver: str, message: Message) -> None:
            if isinstance(message, AppendEntries):
                for name in others:
                    cluster.lanes(name).stall()

        cluster.observers.append(stall)
        await cluster.until(lambda: any(cluster.node(name).role == "leader" for name in others))
        (new,) = [node for node in cluster.running() if node.role == "leader"]
        assert new.commit_index == 1
        with trio.move_on_after(1.0) as scope:
            await new.read(len_of)
        assert scope.cancelled_caught
        cluster.observers.remove(stall)
        for name in others:
            cluster.lanes(name).resume()
        assert await new.read(lambda machine: machine.commands) == [b"acknowledged"]


async def test_reads_share_rounds(autojump_clock: object) -> None:
    """A thousand concurrent reads cost a few heartbeats, and no log write (Q4)."""
    async with running_cluster() as cluster:
        leader = await cluster.elected()
        await cluster.write(leader, b"a")
        beats: list[str] = []
        cluster.observers.append(
            lambda sender, receiver, message: beats.append(type(message).__name__) if receiver else None
        )
        last_index = leader.statistics().last_index
        async with trio.open_nursery() as nursery:
            for _ in range(1000):
                nursery.start_soon(leader.read, len_of)
        assert beats.count("Heartbeat") <= 6
        assert leader.statistics().last_index == last_index


async def test_leader_that_cannot_receive(autojump_clock: object) -> None:
    """A leader that can send but hears nothing steps down, and the others elect one that hears (R11, E9)."""
    for seed in range(5):
        async with running_cluster(seed=seed) as cluster:
            old = await cluster.elected()
            await cluster.settle(TIMEOUTS.heartbeat_timeout)
            others = cluster.others(old)
            for name in others:
                cluster.network.cut(name, old.node_id)
            await cluster.until(lambda: old.role != "leader", within=NOTICED)  # noqa: B023
            new = await cluster.elected(*others, within=6)
            await cluster.write(new, b"a")
            await cluster.converged()


async def test_leader_that_cannot_send(autojump_clock: object) -> None:
    """A leader that hears but cannot send is missed, replaced, and steps down by itself (E9)."""
    for seed in range(5):
        async with running_cluster(seed=seed) as cluster:
            old = await cluster.elected()
            await cluster.settle(TIMEOUTS.heartbeat_timeout)
            others = cluster.others(old)
            for name in others:
                cluster.network.cut(old.node_id, name)
            await cluster.until(lambda: old.role != "leader", within=NOTICED)  # noqa: B023
            await cluster.write(await cluster.elected(*others, within=6), b"a")
            await cluster.converged()


@pytest.mark.parametrize("towards_follower", [True, False])
async def test_one_way_cut_to_one_follower(autojump_clock: object, towards_follower: bool) -> None:
    """A link that fails in one direction only costs the leader that follower, not its office (E8, W3)."""
    for seed in range(2):
        async with running_cluster(seed=seed) as cluster:
            leader = await cluster.elected()
            term, lost = leader.term, cluster.others(leader)[seed % 2]
            if towards_follower:
                cluster.network.cut(leader.node_id, lost)
            else:
                cluster.network.cut(lost, leader.node_id)
            for turn in range(20):
                began = trio.current_time()
                await cluster.write(leader, b"%d" % turn)
                assert trio.current_time() - began < 0.01
                await cluster.settle(1)
            assert [event.peer for event in cluster.seen(leader.node_id, trio_raft.ContactLost)] == [lost]
            assert (await cluster.converged()).term == term
            assert [event.peer for event in cluster.seen(leader.node_id, trio_raft.ContactResumed)] == [lost]


async def test_two_followers_apart(autojump_clock: object) -> None:
    """A follower that cannot reach the other one, but the leader, changes nothing (E8)."""
    async with running_cluster() as cluster:
        leader = await cluster.elected()
        cluster.partition(*[[name] for name in cluster.others(leader)])
        await cluster.settle(20)
        await cluster.write(leader, b"a")
        assert len(cluster.leaders_by_term()) == 1


async def test_bridge(autojump_clock: object) -> None:
    """Two halves that only share one server settle on a leader that reaches a majority, and stay with it (E5, E9)."""
    for seed in range(3):
        async with running_cluster(5, seed=seed) as cluster:
            await cluster.elected()
            cluster.partition(["n1", "n2"], ["n4", "n5"])
            await cluster.settle(8)
            terms = {node.term for node in cluster.running()}
            (leader,) = [node for node in cluster.running() if node.role == "leader"]
            await cluster.write(leader, b"over the bridge")
            await cluster.settle(8)
            assert leader.role == "leader"
            assert leader.term == max(terms)
            await cluster.converged()


async def test_leader_with_half_open_followers(autojump_clock: object) -> None:
    """One half-open follower in five delays no write to the others, and none is lost (W3)."""
    async with running_cluster(5) as cluster:
        leader = await cluster.elected()
        lost = cluster.others(leader)[0]
        isolated = [name for name in cluster.ids if name != lost]
        cluster.partition([lost], isolated)
        slowest = 0.0
        for turn in range(100):
            began = trio.current_time()
            await cluster.write_many(leader, [b"%d.%d" % (turn, n) for n in range(3)])
            slowest = max(slowest, trio.current_time() - began)
            await cluster.settle(0.1)
        assert slowest < 0.01
        await cluster.converged()


async def test_reset_connections(autojump_clock: object) -> None:
    """Connections that break over and over cost neither the leader's office nor a write (R10, R13)."""
    for seed in range(2):
        async with running_cluster(seed=seed) as cluster:
            leader = await cluster.elected()
            term = leader.term

            async def reset(cluster: Cluster = cluster, leader: Member = leader) -> None:
                while True:
                    await cluster.settle(cluster.random.uniform(0, 0.1))
                    cluster.network.reset(leader.node_id, cluster.random.choice(cluster.others(leader)))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(reset)
                for turn in range(40):
                    await cluster.write_many(leader, [b"%d.%d" % (turn, n) for n in range(20)])
                    await cluster.settle(0.05)
                nursery.cancel_scope.cancel()
            assert (await cluster.converged()).term == term
            assert cluster.seen(leader.node_id, trio_raft.ReplicationRestarted) == []


async def test_refused_dials(autojump_clock: object) -> None:
    """A machine that is up while its server is not refuses dials, and delays nobody (W3)."""
    async with running_cluster() as cluster:
        leader = await cluster.elected()
        down = cluster.others(leader)[0]
        await cluster.crash(down)
        for turn in range(30):
            began = trio.current_time()
            await cluster.write(leader, b"%d" % turn)
            assert trio.current_time() - began < 0.01
            await cluster.settle(0.5)
        # One line when it is lost.
        assert len(cluster.seen(leader.node_id, trio_raft.ContactLost)) == 1
        assert [event.role for event in cluster.seen(leader.node_id, RoleChanged)][-1] == "leader"


# ---------------------------------------------------------------------------------------------- clients and chance


def len_of(machine: trio_raft.StateMachine[bytes, int]) -> int:
    """How many commands were applied."""
    return len(machine.commands)  # type: ignore[attr-defined]


async def note_answer(call: Callable[[], Awaitable[object]], answered: list[object]) -> None:
    """Call, and note what is answered; refusals are fine."""
    with suppress(NotLeader, NoLeader):
        answered.append(await call())


async def keep_writing(cluster: Cluster, name: bytes) -> None:
    """Write as a client does: somewhere, until it is told of a success, never the same command twice."""
    number = 0
    while True:
        number += 1
        node = cluster.random.choice(cluster.running())
        try:
            with trio.move_on_after(2):
                await cluster.write(node, b"%s: %d" % (name, number))
        except (NotLeader, NoLeader, LeadershipLost):
            await cluster.settle(0.03)
        await cluster.settle(0.02)


async def keep_reading(cluster: Cluster, counts: list[int]) -> None:
    """Read anywhere; what was acknowledged before a read must be in it."""
    while True:
        node = cluster.random.choice(cluster.running())
        known = len(cluster.acknowledged)
        try:
            with trio.move_on_after(2):
                found = await node.read(lambda machine: set(machine.commands))
                assert set(cluster.acknowledged[:known]) <= found
                counts[0] += 1
        except (NotLeader, NoLeader):
            pass
        await cluster.settle(0.01)


async def cut_at_random(cluster: Cluster) -> None:
    """Cut and mend links, in one direction or both, and break connections."""
    while True:
        await cluster.settle(cluster.random.uniform(0.1, 2))
        match cluster.random.randrange(4):
            case 0:
                cluster.network.heal()
            case 1:
                cluster.network.cut(*cluster.random.sample(cluster.ids, 2))
            case 2:
                cluster.network.reset(*cluster.random.sample(cluster.ids, 2))
            case _:
                cluster.network.heal()
                alone = cluster.random.choice(cluster.ids)
                cluster.partition([alone], [name for name in cluster.ids if name != alone])
