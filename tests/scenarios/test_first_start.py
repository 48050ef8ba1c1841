"""The first start of a cluster: who belongs to it, by which directory, before anybody votes."""

from itertools import permutations

import pytest
import trio

import trio_raft
from tests.support.cluster import running_cluster
from tests.tasks.parts import about
from trio_raft import BootstrapDone, BootstrapWaiting, MembersDiffer, MemoryLogStore, PeerRefused, RoleChanged
from trio_raft._messages import AppendEntriesReply, Message, RequestVote


@pytest.mark.parametrize("order", list(permutations(["n1", "n2", "n3"])))
async def test_any_order(autojump_clock: object, order: tuple[str, ...]) -> None:
    """Members may be started in any order, with pauses between (O1)."""
    async with running_cluster(start=False) as cluster:
        for name in order:
            await cluster.start(name)
            await cluster.settle(1.7)
        leader = await cluster.elected()
        await cluster.write(leader, b"a")
        await cluster.converged()
        assert [cluster.seen(name, BootstrapDone) for name in cluster.ids] == [[BootstrapDone(("n1", "n2", "n3"))]] * 3  # type: ignore[arg-type]


async def test_late_member(autojump_clock: object) -> None:
    """Until the last member came nobody votes or leads, and all say whom they wait for (O1)."""
    async with running_cluster(start=False) as cluster:
        votes: list[Message] = []
        cluster.observers.append(
            lambda sender, receiver, message: votes.append(message) if isinstance(message, RequestVote) else None
        )
        await cluster.start("n1", "n2")
        await cluster.settle(30)
        assert votes == []
        for name in ("n1", "n2"):
            assert cluster.seen(name, RoleChanged) == []
            assert [event.missing for event in cluster.seen(name, BootstrapWaiting)][-1] == ("n3",)
            assert cluster.node(name).statistics().bootstrap_missing == ("n3",)
            with pytest.raises(trio_raft.NoLeader, match="first start waits for n3") as caught:
                await cluster.node(name).propose(b"too early")
            assert caught.value.waited == about(2.0)
        await cluster.start("n3")
        await cluster.write(await cluster.elected(), b"a")
        await cluster.converged()


async def test_started_before_settled(autojump_clock: object) -> None:
    """A node counts as started before its peers exist, and its calls answer meanwhile (O1, X3)."""
    async with running_cluster(start=False) as cluster:
        began = trio.current_time()
        await cluster.start("n1")
        assert trio.current_time() - began < 0.1
        assert cluster.node("n1").role == "follower"
        assert await cluster.node("n1").read(lambda machine: machine.commands, consistency="stale") == []


async def test_unequal_lists(autojump_clock: object) -> None:
    """Different member lists are refused, the events name both, and the corrected one is taken later (O1, W2)."""
    async with running_cluster(4, start=False) as cluster:
        await cluster.start("n1", "n2", members=["n1", "n2", "n3"])
        await cluster.start("n3", members=["n1", "n2", "n3", "n4"])
        await cluster.settle(20)
        assert cluster.leaders_by_term() == {}
        refusals = [event for name in ("n1", "n2", "n3") for event in cluster.seen(name, PeerRefused)]
        assert {event.code for event in refusals} == {"members"}
        dialled = [event.reason for event in refusals if "was configured with n1" in event.reason]
        assert any("n1, n2, n3; n3 was configured with n1, n2, n3, n4" in reason for reason in dialled)
        # One event for each peer and direction, not one for each attempt.
        assert len(refusals) <= 8
        await cluster.crash("n3")
        await cluster.start("n3", members=["n1", "n2", "n3"])
        cluster.ids.remove("n4")
        await cluster.write(await cluster.elected(), b"a")


async def test_directory_emptied_meanwhile(autojump_clock: object) -> None:
    """A directory that is emptied during the first start does not lock the cluster out (O1)."""
    for seed in range(5):
        async with running_cluster(seed=seed, start=False) as cluster:
            await cluster.start("n1", "n2")
            await cluster.settle(0.001 * seed)
            await cluster.crash("n2")
            cluster.servers["n2"].store = MemoryLogStore()
            await cluster.start("n2")
            await cluster.settle(0.5)
            await cluster.start("n3")
            await cluster.write(await cluster.elected(), b"a")
            await cluster.converged()


async def test_restarts_while_settling(autojump_clock: object) -> None:
    """Members that crash and come back at any moment of the first start, directories kept, settle in the end (O1)."""
    for seed in range(12):
        async with running_cluster(seed=seed) as cluster:
            for _ in range(4):
                await cluster.settle(cluster.random.choice([0.0001, 0.0007, 0.002, 0.05]))
                await cluster.restart(cluster.random.choice(cluster.ids))
            await cluster.write(await cluster.elected(), b"a")
            await cluster.converged()


async def test_member_wiped_as_it_settles(autojump_clock: object) -> None:
    """A directory emptied at any moment of settling either joins anew or is known and refused, and all agree (O1)."""
    for seed in range(12):
        async with running_cluster(seed=seed) as cluster:
            await cluster.settle(0.0004 * seed)
            settled_before = [name for name in cluster.ids if cluster.seen(name, BootstrapDone)]
            await cluster.crash("n2")
            cluster.servers["n2"].store = MemoryLogStore()
            await cluster.start("n2")
            await cluster.until(lambda: len(cluster.leaders_by_term()) > 0)
            await cluster.settle(5)
            refused = bool(cluster.seen("n2", trio_raft.DirectoryReplaced))
            maps = {
                name: dict(server.store._bootstrap.incarnations)
                for name, server in cluster.servers.items()
                if server.store._bootstrap is not None and server.store._bootstrap.done
            }
            assert len({tuple(sorted(settled.items())) for settled in maps.values()}) == 1
            assert refused == ("n2" not in maps)
            if settled_before:
                assert refused


async def test_emptied_directory_afterwards(autojump_clock: object) -> None:
    """An emptied directory neither votes nor acknowledges, says so in every call, and the rest goes on (O1)."""
    async with running_cluster() as cluster:
        leader = await cluster.elected()
        await cluster.write(leader, b"a")
        term, (victim, other) = leader.term, cluster.others(leader)
        await cluster.crash(victim)
        cluster.servers[victim].store = MemoryLogStore()
        answers: list[tuple[str, Message]] = []
        cluster.observers.append(lambda sender, receiver, message: answers.append((sender, message)))
        await cluster.start(victim)
        await cluster.settle(10)
        await cluster.write(leader, b"by two")
        node = cluster.node(victim)
        (replaced,) = cluster.seen(victim, trio_raft.DirectoryReplaced)
        assert replaced.found == cluster.servers[victim].store._incarnation
        for call in (node.propose(b"x"), node.read(len), node.read_index(), node.verify_leader(), node.wait_leader()):
            with pytest.raises(trio_raft.IncarnationRefused):
                await call
        assert "another data directory" in node.statistics().why_no_leader
        # With the second one gone as well there is no majority: the emptied one must not stand in.
        await cluster.crash(other)
        await cluster.settle(10)
        assert leader.role != "leader"
        assert (leader.term, len(cluster.leaders_by_term())) == (term, 1)
        assert [m for name, m in answers if name == victim and isinstance(m, AppendEntriesReply) and m.success] == []
        assert cluster.commands(victim) == []
        await cluster.start(other)
        await cluster.elected(leader.node_id, other)


async def test_emptied_directory_of_the_leader(autojump_clock: object) -> None:
    """A leader that comes back with an empty directory is refused by those who know another one (O1, W2)."""
    for seed in range(3):
        async with running_cluster(seed=seed) as cluster:
            leader = await cluster.elected()
            old, others = leader.node_id, cluster.others(leader)
            await cluster.write(leader, b"a")
            await cluster.crash(old)
            cluster.servers[old].store = MemoryLogStore()
            await cluster.start(old)
            second = await cluster.elected(*others)
            await cluster.write(second, b"by two")
            assert cluster.seen(old, trio_raft.DirectoryReplaced)
            assert {event.code for name in others for event in cluster.seen(name, PeerRefused)} == {"incarnation"}


async def test_restart_needs_nobody(autojump_clock: object) -> None:
    """After the first start a majority is enough: a member may stay away at every later one (O1)."""
    async with running_cluster() as cluster:
        await cluster.write(await cluster.elected(), b"a")
        await cluster.crash(*cluster.ids)
        await cluster.start("n1", "n3")
        await cluster.write(await cluster.elected(), b"b")


async def test_single_node(autojump_clock: object) -> None:
    """A cluster of one settles, leads, writes and reads by itself, and acknowledges only what is durable (O1, S1)."""
    async with running_cluster(1) as cluster:
        node = await cluster.elected()
        assert await cluster.write(node, b"a") == 1
        assert await node.read(lambda machine: machine.commands) == [b"a"]
        cluster.lanes("n1").stall()
        with trio.move_on_after(1.0) as scope:
            await node.propose(b"not durable")
        assert scope.cancelled_caught
        assert cluster.commands("n1") == [b"a"]
        cluster.lanes("n1").resume()
        await cluster.restart("n1")
        await cluster.converged()


async def test_members_added_to_a_list_of_one(autojump_clock: object) -> None:
    """Whoever began alone stays alone, whatever its list says later; it is told, and so are those who want to join."""
    async with running_cluster(2, start=False) as cluster:
        await cluster.start("n1", members=["n1"])
        await cluster.settle(5)
        await cluster.crash("n1")
        await cluster.start("n1", "n2", members=["n1", "n2"])
        await cluster.settle(5)
        assert cluster.node("n1").role == "leader"
        (differ,) = cluster.seen("n1", MembersDiffer)
        assert (differ.stored, differ.configured) == (("n1",), ("n1", "n2"))
        (refused,) = cluster.seen("n2", trio_raft.DirectoryReplaced)
        assert "settled its members without this id" in str(refused)
        node = cluster.node("n2")
        assert node.statistics().why_no_leader == "the cluster settled its members without this server"
        with pytest.raises(trio_raft.IncarnationRefused, match="n2 is no member of the cluster") as caught:
            await node.propose(b"x")
        assert "original directory" not in f"{refused} {caught.value}"
