"""Replication as a whole: quiet when there is nothing to do, fast when there is, and never silently dead."""

import itertools
from collections.abc import Callable
from random import Random

import pytest
import trio

import trio_raft
from tests.support.cluster import Journal, Member, running_cluster
from tests.support.stores import copy_of
from trio_raft import LeadershipLost, PeerLostData, ReplicationRestarted, _codec, _replication
from trio_raft._codec import EncodedMessage
from trio_raft._messages import AppendEntries, Heartbeat, Message

TIMEOUTS = trio_raft.Timeouts()
MANY_EVENTS = 100_000


def raise_on(
    kind: type[Message], error: Callable[[], BaseException], *, sender: str, receivers: list[str], times: float = 1
) -> Callable[[str, str, Message], None]:
    """An observer that lets sending such messages fail, so many times."""
    left = [times]

    def observe(source: str, target: str, message: Message) -> None:
        if isinstance(message, kind) and source == sender and target in receivers and left[0] > 0:
            left[0] -= 1
            raise error()

    return observe


# ---------------------------------------------------------------------------------------------- quiet and fast


async def test_nothing_is_sent_to_idle_followers(autojump_clock: object) -> None:
    """A follower that has everything and knows the commit index is sent nothing but heartbeats (R12)."""
    async with running_cluster(5) as cluster:
        leader = await cluster.elected()
        sent: list[Message] = []
        cluster.observers.append(lambda sender, receiver, message: sent.append(message))
        for turn in range(10):
            await cluster.write_many(leader, [b"%d.%d" % (turn, n) for n in range(turn)])
            await cluster.settle(3 * TIMEOUTS.commit_timeout)
            sent.clear()
            await cluster.settle(5)
            assert [message for message in sent if isinstance(message, AppendEntries)] == []
            assert any(isinstance(message, Heartbeat) for message in sent)


@pytest.mark.parametrize("seed", range(3))
async def test_leader_far_from_most_followers_keeps_leading(seed: int, autojump_clock: object) -> None:
    """Round trips of 0.2 s to all followers but one fit into the default lease: the near one's heartbeats, which share
    the pulse, do not put off those to the others (E9).
    """
    async with running_cluster(5, seed=seed) as cluster:
        leader = await cluster.elected()
        for name in cluster.others(leader)[1:]:
            cluster.network.set_delay(leader.node_id, name, 0.1)
            cluster.network.set_delay(name, leader.node_id, 0.1)
        term = leader.term
        await cluster.settle(120)
        assert (leader.role, leader.term) == ("leader", term)


@pytest.mark.parametrize("seed", range(12))
async def test_leader_leads_on_where_each_link_has_a_length_of_its_own(seed: int, autojump_clock: object) -> None:
    """Whatever the round trips up to 0.2 s, and whatever is written: with the default timeouts the leader that was
    elected among them stays, and writes go on (E9).
    """
    random = Random(seed)
    async with running_cluster(random.choice((3, 4, 5, 7)), seed=seed) as cluster:
        for source, target in itertools.permutations(cluster.ids, 2):
            cluster.network.set_delay(source, target, random.uniform(0.0, 0.1))
        leader = await cluster.elected()
        await cluster.settle(5)
        term, written = leader.term, 0
        with trio.move_on_after(60):
            while True:
                await cluster.write_many(leader, [b"%d" % (written + number) for number in range(random.randrange(9))])
                written += 1
                await trio.sleep(random.choice((0.0, 0.01, 0.5, 3.0)))
        assert (leader.role, leader.term) == ("leader", term)
        assert written > 20


async def test_nothing_new_is_told_twice(autojump_clock: object) -> None:
    """While an entry waits for the followers' disks it is sent once, and nothing is repeated meanwhile (R12)."""
    async with running_cluster() as cluster:
        leader = await cluster.elected()
        await cluster.write(leader, b"a")
        await cluster.settle(1)
        for name in cluster.others(leader):
            cluster.lanes(name).stall()
        sent: list[Message] = []
        cluster.observers.append(
            lambda sender, receiver, message: sent.append(message) if isinstance(message, AppendEntries) else None
        )
        ticket = leader.submit_nowait(b"b")
        await cluster.settle(3)
        assert len(sent) == 2
        for name in cluster.others(leader):
            cluster.lanes(name).resume()
        await ticket.wait()


async def test_followers_that_are_equally_far_share_an_encoding(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request is encoded once for all followers that need the same; who is behind gets what it needs."""
    encoded: list[AppendEntries] = []

    def encode_message(message: AppendEntries) -> EncodedMessage:
        encoded.append(message)
        return _codec.encode_message(message)

    monkeypatch.setattr(_replication, "encode_message", encode_message)
    async with running_cluster(5) as cluster:
        leader = await cluster.elected()
        await cluster.write(leader, b"first")
        await cluster.settle(1)
        sent: list[AppendEntries] = []
        cluster.observers.append(
            lambda sender, receiver, message: sent.append(message) if isinstance(message, AppendEntries) else None
        )
        encoded.clear()
        await cluster.write(leader, b"second")
        assert len(encoded) == 1
        await cluster.settle(1)
        assert [message.entries[0].data for message in sent if message.entries] == [b"second"] * 4
        cluster.network.cut(leader.node_id, cluster.others(leader)[0])
        await cluster.write(leader, b"third")
        await cluster.settle(1)
        cluster.network.heal()
        await cluster.write(leader, b"fourth")
        await cluster.settle(5)
        journals = [tuple(server.lives[-1].commands) for server in cluster.servers.values()]
        assert journals == [(b"first", b"second", b"third", b"fourth")] * 5


async def test_commit_index_follows_when_writes_stop(autojump_clock: object) -> None:
    """When writes stop, every follower knows and applies what is committed within two commit timeouts (R12)."""
    for seed in range(4):
        async with running_cluster(5, seed=seed) as cluster:
            leader = await cluster.elected()
            for turn in range(5):
                await cluster.write_many(leader, [b"%d.%d" % (turn, n) for n in range(turn + 1)])
                # One way over the network and some turns of the loop beyond it.
                await cluster.settle(2 * TIMEOUTS.commit_timeout + 0.002)
                assert {node.last_applied for node in cluster.running()} == {leader.commit_index}


async def test_backlog_drains_at_window_speed(autojump_clock: object) -> None:
    """A backlog flows as fast as round trips and window allow, not one batch for each wake-up (R12)."""
    limits = trio_raft.Limits(max_batch_entries=100, event_buffer=MANY_EVENTS)
    async with running_cluster(limits=limits) as cluster:
        leader = await cluster.elected()
        behind = cluster.others(leader)[0]
        await cluster.crash(behind)
        tickets = [await leader.submit(b"%d" % n) for n in range(10_000)]
        await tickets[-1].wait()
        await cluster.start(behind)
        peer = leader.statistics().peers[trio_raft.ServerId(behind)]
        assert peer.match_index < 10
        await cluster.until(lambda: peer_of(leader, behind).mode == "pipeline")
        began = trio.current_time()
        await cluster.until(lambda: peer_of(leader, behind).match_index == leader.statistics().last_index)
        # 100 batches, four in flight, round trips of a millisecond.
        assert trio.current_time() - began < 0.1
        await cluster.converged()


async def test_window_is_bounded(autojump_clock: object) -> None:
    """Requests and bytes in flight stay within the window, however many writes wait (R10)."""
    limits = trio_raft.Limits(max_batch_entries=10, pipeline_requests=3, pipeline_bytes=2000, event_buffer=MANY_EVENTS)
    async with running_cluster(limits=limits) as cluster:
        leader = await cluster.elected()
        await cluster.write(leader, b"first")
        for name in cluster.others(leader):
            cluster.network.set_delay(leader.node_id, name, 0.05)
        tickets = [leader.submit_nowait(b"%d" % n * 20) for n in range(500)]
        highest = (0, 0)
        while not tickets[-1].settled:
            for peer in leader.statistics().peers.values():
                highest = max(highest[0], peer.in_flight), max(highest[1], peer.in_flight_bytes)
            await cluster.settle(0.01)
        assert highest[0] == 3
        assert highest[1] <= 2000 + 10 * 200


async def test_backlog_is_read_back_from_the_store(autojump_clock: object) -> None:
    """Entries that left memory are read back for a follower that is far behind (R9)."""
    limits = trio_raft.Limits(log_memory_bytes=1000, max_batch_entries=50, event_buffer=MANY_EVENTS)
    async with running_cluster(limits=limits) as cluster:
        leader = await cluster.elected()
        behind = cluster.others(leader)[0]
        await cluster.crash(behind)
        for turn in range(20):
            await cluster.write_many(leader, [b"%d.%d" % (turn, n) for n in range(50)])
        await cluster.start(behind)
        await cluster.converged()
        await cluster.restart(*cluster.ids)
        leader = await cluster.converged()
        assert sorted(cluster.commands(leader.node_id)) == sorted(cluster.acknowledged)


async def test_many_applies_are_spread_over_turns(autojump_clock: object) -> None:
    """A long replay gives the loop its turn after each bounded batch, and causes no election (K1)."""
    limits = trio_raft.Limits(apply_batch_entries=64, event_buffer=MANY_EVENTS)
    applied_in_turn = [0]

    class Counting(Journal):
        def apply(self, entry: trio_raft.Committed[bytes]) -> int:
            if applied_in_turn == [0]:
                nursery.start_soon(count_turns)
            applied_in_turn[-1] += 1
            return super().apply(entry)

    async def count_turns() -> None:
        while sum(applied_in_turn) < 5000:
            await trio.lowlevel.checkpoint()
            applied_in_turn.append(0)

    async with running_cluster(limits=limits) as cluster, trio.open_nursery() as nursery:
        leader = await cluster.elected()
        tickets = [await leader.submit(b"%d" % n) for n in range(5000)]
        await tickets[-1].wait()
        await cluster.settle(0.5)
        cluster.machine = Counting
        await cluster.restart(cluster.others(leader)[0])
        await cluster.until(lambda: sum(applied_in_turn) == 5000)
        # The counter starts some turns late, and its turn may come just before one batch and just after the next.
        assert max(applied_in_turn[1:]) <= 2 * 64
        assert len(cluster.leaders_by_term()) == 1


async def test_large_commands_delay_no_heartbeat(autojump_clock: object) -> None:
    """Batches of the largest commands hold up neither heartbeats nor small reads (K1)."""
    async with running_cluster() as cluster:
        leader = await cluster.elected()
        large = bytes(trio_raft.Limits().max_command_bytes)
        async with trio.open_nursery() as nursery:
            for n in range(4):
                nursery.start_soon(leader.propose, b"%d" % n + large[1:])
            for _ in range(20):
                began = trio.current_time()
                await leader.verify_leader()
                assert trio.current_time() - began < 0.05
        with pytest.raises(ValueError, match="max_command_bytes"):
            await leader.propose(large + b"one more")
        assert len(cluster.leaders_by_term()) == 1


# ---------------------------------------------------------------------------------------------- not silently dead


@pytest.mark.parametrize(("kind", "task"), [(AppendEntries, "replicate"), (Heartbeat, "heartbeat")])
async def test_unexpected_error_restarts_one_task(autojump_clock: object, kind: type[Message], task: str) -> None:
    """A bug in one follower's task restarts that task with an event; nothing else ends or stops (R13)."""
    async with running_cluster() as cluster:
        leader = await cluster.elected()
        victim, other = cluster.others(leader)
        observer = raise_on(kind, lambda: RuntimeError("injected"), sender=leader.node_id, receivers=[victim], times=3)
        cluster.observers.append(observer)
        for turn in range(20):
            await cluster.write(leader, b"%d" % turn)
            await cluster.settle(0.3)
        restarts = cluster.seen(leader.node_id, ReplicationRestarted)
        assert [(event.peer, event.task) for event in restarts] == [(victim, task)] * 3
        assert all("injected" in event.problem for event in restarts)
        assert leader.role == "leader"
        assert peer_of(leader, victim).match_index == peer_of(leader, other).match_index
        await cluster.converged()


async def test_restarts_of_replication_back_off(autojump_clock: object) -> None:
    """A task that fails for ever is started again with growing pauses, and the heartbeat beside it lives (R13)."""
    async with running_cluster() as cluster:
        leader = await cluster.elected()
        victim = cluster.others(leader)[0]
        observer = raise_on(
            AppendEntries, lambda: RuntimeError("injected"), sender=leader.node_id, receivers=[victim], times=10**6
        )
        cluster.observers.append(observer)
        await cluster.write(leader, b"a")
        await cluster.settle(60)
        restarts = cluster.seen(leader.node_id, ReplicationRestarted)
        assert 30 < len(restarts) < 90
        assert peer_of(leader, victim).last_contact_age < 1
        assert cluster.seen(leader.node_id, trio_raft.ContactLost) == []
        await cluster.write(leader, b"b")


async def test_broken_invariant_ends_the_node(autojump_clock: object) -> None:
    """A safety check that fails ends the node with RaftInternalError, and the others go on without it (R13)."""
    async with running_cluster() as cluster:
        leader = await cluster.elected()
        cluster.expected_failures.append(leader.node_id)
        cluster.observers.append(
            raise_on(AppendEntries, lambda: AssertionError("injected"), sender=leader.node_id, receivers=cluster.ids)
        )
        with pytest.raises(LeadershipLost) as caught:
            await leader.propose(b"a")
        await cluster.servers[leader.node_id].ended.wait()
        failure = cluster.servers[leader.node_id].failure
        assert isinstance(failure, trio_raft.RaftInternalError)
        assert "injected" in str(failure)
        assert str(caught.value.__cause__) == str(failure)
        await cluster.write(await cluster.elected(), b"b")


async def test_dead_log_under_living_heartbeats(autojump_clock: object) -> None:
    """A leader whose entries get nowhere steps down after the stall timeout, heartbeats or not (R14, X1)."""
    async with running_cluster() as cluster:
        leader = await cluster.elected()
        cluster.observers.append(
            raise_on(
                AppendEntries,
                lambda: OSError("no route"),
                sender=leader.node_id,
                receivers=cluster.others(leader),
                times=10**6,
            )
        )
        await cluster.settle(30)
        assert leader.role == "leader", "with nothing uncommitted there is nothing to step down for"
        began = trio.current_time()
        with pytest.raises(LeadershipLost):
            await leader.propose(b"a")
        patience = TIMEOUTS.replication_stall_timeout
        assert patience <= trio.current_time() - began <= 1.2 * patience
        assert cluster.seen(leader.node_id, trio_raft.ContactLost) == []
        await cluster.settle(0.1)
        cluster.observers.clear()
        await cluster.converged()


async def test_stalled_disks_of_all_followers(autojump_clock: object) -> None:
    """With the disks of all followers stalled a proposal ends within the stall timeout (R14, X1)."""
    async with running_cluster() as cluster:
        leader = await cluster.elected()
        for name in cluster.others(leader):
            cluster.lanes(name).stall()
        began = trio.current_time()
        with pytest.raises(LeadershipLost):
            await leader.propose(b"a")
        assert trio.current_time() - began <= 1.2 * TIMEOUTS.replication_stall_timeout
        for name in cluster.others(leader):
            cluster.lanes(name).resume()
        await cluster.converged()


# ---------------------------------------------------------------------------------------------- lost data


async def test_follower_with_an_older_disk(autojump_clock: object) -> None:
    """A follower that comes back with an older copy of its disk is found out and does not count (R6)."""
    async with running_cluster() as cluster:
        leader = await cluster.elected()
        victim, other = cluster.others(leader)
        await cluster.write(leader, b"copied")
        await cluster.settle(1)
        old_disk = copy_of(cluster.servers[victim].store)
        await cluster.write_many(leader, [b"%d" % n for n in range(10)])
        await cluster.settle(1)
        await cluster.crash(victim)
        cluster.servers[victim].store = old_disk
        await cluster.start(victim)
        await cluster.settle(2)
        assert [event.peer for event in cluster.seen(leader.node_id, PeerLostData)] == [victim]
        assert peer_of(leader, victim).lost_data
        # It must not make a majority with the leader alone.
        await cluster.write(leader, b"with the other one")
        await cluster.crash(other)
        with trio.move_on_after(5) as scope:
            await leader.propose(b"alone")
        assert scope.cancelled_caught
        assert leader.commit_index < leader.statistics().last_index
        await cluster.start(other)
        await cluster.write(leader, b"both again")


async def test_lost_data_hides_no_dead_log(autojump_clock: object) -> None:
    """Answers of a follower that does not count do not keep a leader in office whose entries get nowhere (R14, X1)."""
    async with running_cluster() as cluster:
        leader = await cluster.elected()
        victim, other = cluster.others(leader)
        old_disk = copy_of(cluster.servers[victim].store)
        await cluster.write_many(leader, [b"%d" % n for n in range(10)])
        await cluster.settle(1)
        await cluster.crash(victim)
        cluster.servers[victim].store = old_disk
        await cluster.start(victim)
        await cluster.settle(2)
        assert peer_of(leader, victim).lost_data
        await cluster.crash(other)
        with trio.fail_after(2 * TIMEOUTS.replication_stall_timeout):
            with pytest.raises(LeadershipLost):
                await leader.propose(b"alone")


async def test_restarted_follower_lost_nothing(autojump_clock: object) -> None:
    """A follower that merely restarts, at any moment, is never suspected (R6)."""
    for seed in range(5):
        async with running_cluster(seed=seed) as cluster:
            leader = await cluster.elected()
            for turn in range(5):
                async with trio.open_nursery() as nursery:
                    for n in range(20):
                        nursery.start_soon(cluster.write, leader, b"%d.%d" % (turn, n))
                    await cluster.settle(cluster.random.uniform(0, 0.003))
                    await cluster.restart(cluster.random.choice(cluster.others(leader)))
            await cluster.converged()
            assert [event for _, _, event in cluster.events if isinstance(event, PeerLostData)] == []


def peer_of(leader: Member, name: str) -> trio_raft.PeerStatistics:
    """How the leader sees that follower now."""
    return leader.statistics().peers[trio_raft.ServerId(name)]
