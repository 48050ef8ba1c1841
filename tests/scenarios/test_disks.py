"""Disks that are slow, hang, fail or are full, under whole nodes."""

from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
import trio

import trio_raft
from tests.support.cluster import Member, running_cluster
from tests.support.stores import FailingDisk, SmallDisk
from trio_raft import DiskFull, DiskHasRoom, DiskRecovered, DiskStalled, LeadershipLost, NoLeader
from trio_raft._environment import Lane
from trio_raft._messages import AppendEntriesReply, Message, RequestVote

TIMEOUTS = trio_raft.Timeouts()

FAILOVER = 2 * TIMEOUTS.heartbeat_timeout + 2 * TIMEOUTS.election_timeout
"""Seconds in which a follower's patience ends, and a first campaign that splits its votes is over."""


async def outcome_of(node: Member, command: bytes, *, within: float) -> str:
    """Propose, and name what comes back within so many seconds."""
    with trio.move_on_after(within):
        try:
            await node.propose(command)
        except trio_raft.RaftError as error:
            return type(error).__name__
        return "applied"
    return "nothing"


# ---------------------------------------------------------------------------------------------- slow


async def test_slow_disks_cause_no_election(autojump_clock: object) -> None:
    """Syncs that take long, but less than ``disk_stall_timeout``, delay writes and nothing else (K1)."""
    async with running_cluster() as cluster:
        leader = await cluster.elected()
        for name in cluster.ids:
            cluster.lanes(name).latency = 0.9 * TIMEOUTS.disk_stall_timeout
        for turn in range(5):
            await cluster.write_many(leader, [b"%d.%d" % (turn, n) for n in range(100)])
        await cluster.settle(5)
        assert cluster.leaders_by_term() == {leader.term: [leader.node_id]}
        assert [event for _, _, event in cluster.events if isinstance(event, DiskStalled)] == []
        assert [event for _, _, event in cluster.events if isinstance(event, trio_raft.ContactLost)] == []


async def test_slow_disk_of_one_follower(autojump_clock: object) -> None:
    """A follower with a slow disk slows no write down, and keeps up in the end (K1, W3)."""
    async with running_cluster() as cluster:
        leader = await cluster.elected()
        cluster.lanes(cluster.others(leader)[0]).latency = 1.5
        for turn in range(30):
            began = trio.current_time()
            await cluster.write(leader, b"%d" % turn)
            assert trio.current_time() - began < 0.01
            await cluster.settle(0.1)
        assert (await cluster.converged()) is leader


async def test_slow_disk_of_the_leader(autojump_clock: object) -> None:
    """The leader's disk works beside replication: writes in flight share its syncs (K1)."""
    async with running_cluster() as cluster:
        leader = await cluster.elected()
        cluster.lanes(leader.node_id).latency = 0.5
        batches = leader.statistics().journal.batches
        await cluster.write_many(leader, [b"%d" % n for n in range(500)])
        assert leader.statistics().journal.batches - batches <= 2
        assert leader.role == "leader"


# ---------------------------------------------------------------------------------------------- stalled


async def test_stalled_disk_of_the_leader(autojump_clock: object) -> None:
    """A leader whose disk hangs is replaced within ``disk_stall_timeout`` and an election (S9, X1)."""
    for seed in range(5):
        async with running_cluster(seed=seed) as cluster:
            old = await cluster.elected()
            await cluster.write(old, b"before")
            cluster.lanes(old.node_id).stall()
            began = trio.current_time()
            assert await outcome_of(old, b"unknown", within=10) == "LeadershipLost"
            assert trio.current_time() - began <= TIMEOUTS.disk_stall_timeout + 0.01
            new = await cluster.elected(*cluster.others(old), within=FAILOVER)
            await cluster.write(new, b"after")
            assert len(cluster.seen(old.node_id, DiskStalled)) == 1
            cluster.lanes(old.node_id).resume()
            assert await cluster.converged() is new
            assert len(cluster.seen(old.node_id, DiskRecovered)) == 1


async def test_applies_only_what_is_durable_here(autojump_clock: object) -> None:
    """A leader whose own disk lags applies nothing before it is durable there, though others committed it (S11)."""
    async with running_cluster() as cluster:
        leader = await cluster.elected()
        cluster.lanes(leader.node_id).stall(Lane.JOURNAL)
        ticket = leader.submit_nowait(b"a")
        await cluster.settle(1.0)
        assert (leader.commit_index, leader.last_applied) == (ticket.index, ticket.index - 1)
        assert [cluster.commands(name) for name in cluster.others(leader)] == [[b"a"], [b"a"]]
        assert not ticket.settled
        cluster.lanes(leader.node_id).resume()
        assert await ticket.wait() == 1


async def test_read_waits_until_its_index_is_applied(autojump_clock: object) -> None:
    """A read on a leader whose machine is behind the commit index waits for it, and then shows every write (Q5)."""
    async with running_cluster() as cluster:
        leader = await cluster.elected()
        cluster.lanes(leader.node_id).stall(Lane.JOURNAL)
        leader.submit_nowait(b"a")
        await cluster.settle(0.5)
        seen: list[list[bytes]] = []

        async def read() -> None:
            seen.append(await leader.read(lambda machine: list(machine.commands)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await cluster.settle(0.5)
            assert leader.commit_index > leader.last_applied
            assert seen == []
            cluster.lanes(leader.node_id).resume()
        assert seen == [[b"a"]]


async def test_follower_applies_only_what_is_durable_there(autojump_clock: object) -> None:
    """A follower that knows the commit index applies nothing that its own disk does not hold yet (S11)."""
    async with running_cluster() as cluster:
        leader = await cluster.elected()
        slow = cluster.others(leader)[0]
        cluster.lanes(slow).stall(Lane.JOURNAL)
        for turn in range(5):
            await cluster.write(leader, b"%d" % turn)
            await cluster.settle(0.2)
        node = cluster.node(slow)
        assert node.commit_index > node.last_applied
        assert cluster.commands(slow) == []
        cluster.lanes(slow).resume()
        await cluster.converged()


async def test_leader_counts_itself_only_when_durable(autojump_clock: object) -> None:
    """An entry that one follower holds durably, and the leader only in memory, is not committed (S1, R2)."""
    async with running_cluster() as cluster:
        leader = await cluster.elected()
        await cluster.settle(1)
        stalled, other = cluster.others(leader)
        for name in (leader.node_id, stalled):
            cluster.lanes(name).stall(Lane.JOURNAL)
        ticket = leader.submit_nowait(b"a")
        await cluster.settle(1)
        assert leader.statistics().peers[trio_raft.ServerId(other)].match_index == ticket.index
        assert leader.commit_index == ticket.index - 1
        cluster.lanes(leader.node_id).resume()
        assert await ticket.wait() == 1
        cluster.lanes(stalled).resume()


async def test_stalled_follower_acknowledges_nothing(autojump_clock: object) -> None:
    """While both followers' disks hang nothing is acknowledged, heartbeats or not (S1, W6)."""
    async with running_cluster() as cluster:
        leader = await cluster.elected()
        await cluster.settle(1)
        answers: list[Message] = []
        cluster.observers.append(
            lambda sender, receiver, message: (
                answers.append(message) if isinstance(message, AppendEntriesReply) else None
            )
        )
        for name in cluster.others(leader):
            cluster.lanes(name).stall()
        assert await outcome_of(leader, b"a", within=4) == "nothing"
        assert answers == []
        assert leader.role == "leader"
        for name in cluster.others(leader):
            cluster.lanes(name).resume()
        await cluster.converged()
        assert cluster.commands(leader.node_id) == [b"a"]


async def test_stalled_follower_does_not_campaign(autojump_clock: object) -> None:
    """While its write hangs a server neither campaigns nor votes, and without it there is no majority (E2, E10)."""
    async with running_cluster() as cluster:
        leader = await cluster.elected()
        stalled, other = cluster.others(leader)
        cluster.lanes(stalled).stall()
        await cluster.write(leader, b"a")
        await cluster.settle(TIMEOUTS.disk_stall_timeout)
        term = leader.term
        asked: list[str] = []
        cluster.observers.append(
            lambda sender, receiver, message: asked.append(sender) if isinstance(message, RequestVote) else None
        )
        await cluster.crash(leader.node_id)
        await cluster.settle(20)
        assert set(asked) == {other}
        assert cluster.leaders_by_term() == {term: [leader.node_id]}
        assert "stalled" in cluster.node(stalled).statistics().why_no_leader
        cluster.lanes(stalled).resume()
        await cluster.elected()
        await cluster.start(leader.node_id)
        await cluster.converged()


@pytest.mark.parametrize("role", ["leader", "follower"])
async def test_calls_on_a_stalled_disk(autojump_clock: object, role: str) -> None:
    """On a server whose disk hangs every call answers in bounded time, and waits for nothing that may not come (X3)."""
    async with running_cluster() as cluster:
        leader = await cluster.elected()
        node = leader if role == "leader" else cluster.node(cluster.others(leader)[0])
        cluster.lanes(node.node_id).stall()
        await leader.submit(b"a")
        await cluster.settle(0.1)
        calls: list[Callable[[], Awaitable[object]]] = [
            node.read_index,
            node.verify_leader,
            node.barrier,
            lambda: node.read(lambda machine: machine.commands),
            lambda: node.propose(b"b"),
        ]
        for call in calls:
            with trio.fail_after(20), suppress(trio_raft.NotLeader, trio_raft.NoLeader, LeadershipLost):
                await call()


# ---------------------------------------------------------------------------------------------- crashes


async def test_crash_between_queue_and_sync(autojump_clock: object) -> None:
    """A leader that crashes with writes on the way to its disk loses only what nobody was told of (S1)."""
    for seed in range(12):
        async with running_cluster(seed=seed) as cluster:
            leader = await cluster.elected()
            for name in cluster.ids:
                cluster.lanes(name).latency = cluster.random.uniform(0.0005, 0.01)
            with trio.move_on_after(cluster.random.uniform(0, 0.02)):
                async with trio.open_nursery() as nursery:
                    for n in range(40):
                        nursery.start_soon(cluster.write, leader, b"%d" % n)
                        await cluster.settle(0.0005)
            await cluster.crash(leader.node_id)
            await cluster.settle(1)
            await cluster.start(leader.node_id)
            await cluster.converged()


async def test_crash_of_all_between_queue_and_sync(autojump_clock: object) -> None:
    """A power cut at any moment loses only what nobody was told of (S1, S11)."""
    for seed in range(10):
        async with running_cluster(seed=seed) as cluster:
            for turn in range(3):
                leader = await cluster.elected()
                for name in cluster.ids:
                    cluster.lanes(name).latency = cluster.random.uniform(0.0005, 0.01)
                with trio.move_on_after(cluster.random.uniform(0, 0.03)):
                    await cluster.write_many(leader, [b"%d.%d" % (turn, n) for n in range(40)])
                await cluster.crash(*cluster.ids)
                await cluster.start(*cluster.random.sample(cluster.ids, 3))
            await cluster.converged()


async def test_entry_in_a_stalled_write_is_lost_by_a_crash(autojump_clock: object) -> None:
    """What was queued behind a hung write, and acknowledged by nobody, is gone after a crash, and says so (S1, S5)."""
    async with running_cluster() as cluster:
        leader = await cluster.elected()
        await cluster.write(leader, b"kept")
        for name in cluster.ids:
            cluster.lanes(name).stall()
        tickets = [leader.submit_nowait(b"%d" % n) for n in range(10)]
        await cluster.settle(0.1)
        assert leader.statistics().durable_index < tickets[0].index
        await cluster.crash(*cluster.ids)
        for ticket in tickets:
            with pytest.raises(LeadershipLost):
                await ticket.wait()
        await cluster.start()
        leader = await cluster.converged()
        assert cluster.commands(leader.node_id) == [b"kept"]


# ---------------------------------------------------------------------------------------------- failing


def failing_disks() -> dict[str, FailingDisk]:
    """For a cluster of three."""
    return {f"n{number}": FailingDisk() for number in (1, 2, 3)}


async def test_failed_write_of_the_leader(autojump_clock: object) -> None:
    """A leader whose write fails acknowledges nothing more, ends with StorageError, and another leads (S2, R5, R13)."""
    for seed in range(5):
        disks = failing_disks()
        async with running_cluster(seed=seed, stores=disks) as cluster:
            old = await cluster.elected()
            name, server = old.node_id, cluster.servers[old.node_id]
            await cluster.write(old, b"a")
            disks[name].writes_fail = True
            cluster.expected_failures.append(name)
            assert await outcome_of(old, b"b", within=1) == "LeadershipLost"
            await server.ended.wait()
            assert isinstance(server.failure, trio_raft.StorageError)
            assert len(cluster.seen(name, trio_raft.NodeStopped)) == 1
            new = await cluster.elected()
            await cluster.write(new, b"c")
            disks[name].writes_fail = False
            await cluster.start(name)
            await cluster.converged()


async def test_failed_write_of_a_follower(autojump_clock: object) -> None:
    """A follower whose write fails ends, having acknowledged nothing of it, and the others go on (S2)."""
    disks = failing_disks()
    async with running_cluster(stores=disks) as cluster:
        leader = await cluster.elected()
        broken = cluster.others(leader)[0]
        disks[broken].writes_fail = True
        cluster.expected_failures.append(broken)
        await cluster.write(leader, b"a")
        await cluster.servers[broken].ended.wait()
        assert isinstance(cluster.servers[broken].failure, trio_raft.StorageError)
        assert leader.role == "leader"
        await cluster.write(leader, b"b")


async def test_failed_read_of_the_leader(autojump_clock: object) -> None:
    """A leader that cannot read its own log to bring a follower up to date ends with StorageError (R9, R13)."""
    disks = failing_disks()
    limits = trio_raft.Limits(log_memory_bytes=1, event_buffer=100_000)
    async with running_cluster(limits=limits, stores=disks) as cluster:
        leader = await cluster.elected()
        name, behind = leader.node_id, cluster.others(leader)[0]
        await cluster.crash(behind)
        await cluster.write_many(leader, [b"%d" % n for n in range(50)])
        await cluster.settle(0.5)
        disks[name].reads_fail = True
        cluster.expected_failures.append(name)
        await cluster.start(behind)
        with trio.fail_after(10):
            await cluster.servers[name].ended.wait()
        assert isinstance(cluster.servers[name].failure, trio_raft.StorageError)
        disks[name].reads_fail = False
        await cluster.elected()
        await cluster.start(name)
        await cluster.converged()


async def test_failed_read_of_the_applier(autojump_clock: object) -> None:
    """A node that cannot read its own log after a restart ends with StorageError, and skips nothing (R9, X4)."""
    disks = failing_disks()
    limits = trio_raft.Limits(log_memory_bytes=1, event_buffer=100_000)
    async with running_cluster(limits=limits, stores=disks) as cluster:
        leader = await cluster.elected()
        await cluster.write_many(leader, [b"%d" % n for n in range(50)])
        await cluster.settle(0.5)
        broken = cluster.others(leader)[0]
        await cluster.crash(broken)
        disks[broken].reads_fail = True
        cluster.expected_failures.append(broken)
        await cluster.start(broken)
        with trio.fail_after(10):
            await cluster.servers[broken].ended.wait()
        assert isinstance(cluster.servers[broken].failure, trio_raft.StorageError)
        assert cluster.commands(broken) == []


# ---------------------------------------------------------------------------------------------- full


async def test_full_disk_of_the_leader(autojump_clock: object) -> None:
    """A leader whose disk is full gives up its office, and is no candidate until there is room (S2)."""
    disks = {f"n{number}": SmallDisk() for number in (1, 2, 3)}
    async with running_cluster(stores=disks) as cluster:
        old = await cluster.elected()
        await cluster.write(old, b"before")
        disks[old.node_id].full = True
        outcomes = [await outcome_of(old, b"%d" % n, within=5) for n in range(8)]
        assert set(outcomes) <= {"applied", "LeadershipLost", "NotLeader", "NoLeader", "StorageFull"}
        assert old.role != "leader"
        assert len(cluster.seen(old.node_id, DiskFull)) == 1
        new = await cluster.elected(*cluster.others(old))
        await cluster.write(new, b"after")
        # The only other one that is left must not be replaced by the full one.
        term = new.term
        await cluster.settle(10)
        assert (new.role, new.term) == ("leader", term)
        disks[old.node_id].full = False
        await cluster.until(lambda: cluster.seen(old.node_id, DiskHasRoom))
        await cluster.converged()


async def test_full_disks_of_all(autojump_clock: object) -> None:
    """With every disk full nothing is accepted, every call says why, and all goes on by itself with room (S2, X3)."""
    disks = {f"n{number}": SmallDisk() for number in (1, 2, 3)}
    async with running_cluster(stores=disks) as cluster:
        leader = await cluster.elected()
        await cluster.write(leader, b"before")
        for disk in disks.values():
            disk.full = True
        for node in cluster.running():
            for n in range(6):
                assert await outcome_of(node, b"%d" % n, within=20) != "nothing"
        await cluster.settle(5)
        assert [node.role for node in cluster.running()].count("leader") == 0
        reasons = [node.statistics().why_no_leader for node in cluster.running()]
        assert any("no room" in reason for reason in reasons)
        for disk in disks.values():
            disk.full = False
        await cluster.write(await cluster.elected(), b"after")
        await cluster.converged()


async def test_full_disk_of_a_single_node(autojump_clock: object) -> None:
    """A single node whose disk is full queues nothing more, says why, and takes commands again with room (S2, X3)."""
    disk = SmallDisk(ready=3)
    async with running_cluster(1, stores={"n1": disk}) as cluster:
        node = await cluster.elected()
        await cluster.write(node, b"before")
        disk.full = True
        # There is room for it, but that is the last.
        last = await outcome_of(node, b"last", within=1)
        assert last in ("applied", "LeadershipLost")
        with pytest.raises(NoLeader, match="no room for another 1048576 bytes of log; free some space") as caught:
            await node.propose(b"refused")
        assert ".." not in str(caught.value)
        disk.full = False
        await cluster.write(await cluster.elected(), b"after")
        assert cluster.commands("n1") == [b"before", b"last", b"after"]
