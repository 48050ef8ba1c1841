"""Processes that stand still and go on, and single calls that hold up the loop."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
import trio
import trio.testing

import trio_raft
from tests.support.cluster import Cluster, Journal, Member, running_cluster
from tests.support.pausing import PausableProcess
from trio_raft import LoopBlocked, NotLeader, RoleChanged
from trio_raft._environment import Environment
from trio_raft.abc import Transport
from trio_raft.testing._environment import test_environment

TIMEOUTS = trio_raft.Timeouts()


def pausable(cluster: Cluster) -> dict[str, PausableProcess]:
    """Let every server of this cluster be a process that can be stopped; before ``start``."""
    processes: dict[str, PausableProcess] = {}
    transport_of = cluster.transport

    def transport(name: str) -> Transport:
        return processes[name].transport

    def environment(name: str, seed: int) -> Environment:
        processes[name] = PausableProcess(test_environment(seed), transport_of(name))
        return processes[name].environment

    cluster.transport = transport  # type: ignore[method-assign]
    cluster.environment = environment  # type: ignore[method-assign]
    return processes


# ---------------------------------------------------------------------------------------------- stopped processes


async def test_paused_follower_does_not_campaign(autojump_clock: object) -> None:
    """A follower that was stopped reads the heartbeats that wait for it before its timer acts (E10, K2)."""
    for seed in range(8):
        async with running_cluster(seed=seed, start=False) as cluster:
            processes = pausable(cluster)
            await cluster.start()
            leader = await cluster.elected()
            paused = cluster.others(leader)[0]
            await cluster.settle(cluster.random.uniform(0, 0.3))
            processes[paused].pause()
            await cluster.settle(2.2 + seed / 3)
            await processes[paused].resume()
            roles_before = len(cluster.seen(paused, RoleChanged))
            await cluster.settle(5)
            assert cluster.seen(paused, RoleChanged)[roles_before:] == []
            await cluster.write(leader, b"a")
            assert (await cluster.converged()) is leader


async def test_paused_leader_reads_nothing_stale(autojump_clock: object) -> None:
    """A leader that was stopped while another one wrote shows no old value, however soon it is asked (Q1, K2)."""
    for seed in range(6):
        async with running_cluster(seed=seed, start=False) as cluster:
            processes = pausable(cluster)
            await cluster.start()
            old = await cluster.elected()
            await cluster.write(old, b"before")
            await cluster.settle(cluster.random.uniform(0, 0.3))
            outcomes: list[object] = []
            async with trio.open_nursery() as nursery:
                if seed % 2:
                    # Asked while its heartbeat may already be on the way.
                    nursery.start_soon(read_all, old, outcomes)
                    await cluster.settle(0.0007)
                processes[old.node_id].pause()
                new = await cluster.elected(*cluster.others(old))
                await cluster.write(new, b"after")
                nursery.start_soon(read_all, old, outcomes)
                await processes[old.node_id].resume()
                for _ in range(5):
                    nursery.start_soon(read_all, old, outcomes)
                    await cluster.settle(0.0003)
            assert outcomes[-6:] == ["NotLeader"] * 6
            assert await cluster.converged() is new
            with pytest.raises(NotLeader):
                await old.propose(b"too late")


async def test_paused_leader_proposals(autojump_clock: object) -> None:
    """What a stopped leader had in flight ends when it goes on: committed after all, or outcome unknown (X1, K2)."""
    for seed in range(6):
        async with running_cluster(seed=seed, start=False) as cluster:
            processes = pausable(cluster)
            await cluster.start()
            old = await cluster.elected()
            tickets = [old.submit_nowait(b"%d" % n) for n in range(10)]
            await cluster.settle(0.0002 * seed)
            processes[old.node_id].pause()
            new = await cluster.elected(*cluster.others(old))
            await cluster.write_many(new, [b"other %d" % n for n in range(20)])
            await processes[old.node_id].resume()
            committed = cluster.commands(new.node_id)
            for n, ticket in enumerate(tickets):
                with trio.fail_after(1):
                    with suppress(trio_raft.LeadershipLost):
                        assert committed[await ticket.wait() - 1] == b"%d" % n
            await cluster.converged()


async def test_paused_majority(autojump_clock: object) -> None:
    """When a majority is stopped and goes on, the leader stays or another one is elected, and nothing is lost (K2)."""
    for seed in range(6):
        async with running_cluster(seed=seed, start=False) as cluster:
            processes = pausable(cluster)
            await cluster.start()
            leader = await cluster.elected()
            await cluster.write(leader, b"before")
            others = cluster.others(leader)
            for name in others:
                processes[name].pause()
            await cluster.settle(0.3 * (seed + 1))
            for name in others:
                await processes[name].resume()
            await cluster.write(await cluster.elected(), b"after")
            await cluster.converged()


async def test_everything_stands_still(autojump_clock: trio.testing.MockClock) -> None:
    """When the whole machine was suspended nobody campaigns against the leader, whatever was on its way (E10, K2)."""
    for seed in range(10):
        async with running_cluster(seed=seed) as cluster:
            leader = await cluster.elected()
            await cluster.settle(cluster.random.uniform(0, 0.5))
            # At a random moment of a round trip, too.
            await leader.submit(b"in flight")
            await cluster.settle(cluster.random.choice([0, 0.0003, 0.0006, 0.001]))
            autojump_clock.jump(3 + seed)
            await cluster.settle(5)
            assert cluster.leaders_by_term() == {leader.term: [leader.node_id]}
            assert leader.role == "leader"
            await cluster.converged()


async def read_all(node: Member, outcomes: list[object]) -> None:
    """A linearizable read; note what it shows, or the refusal."""
    try:
        outcomes.append(await node.read(lambda machine: tuple(machine.commands)))
    except trio_raft.RaftError as error:
        outcomes.append(type(error).__name__)


# ---------------------------------------------------------------------------------------------- blocked loops


def block_loop(seconds: float) -> None:
    """What a call that computes for so long does to everything else."""
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, trio.testing.MockClock)
    clock.jump(seconds)


class Slow(Journal):
    """Some commands take long."""

    def apply(self, entry: trio_raft.Committed[bytes]) -> int:
        if entry.command == b"slow":
            block_loop(0.3)
        return super().apply(entry)


async def test_apply_that_blocks(autojump_clock: object) -> None:
    """A single apply that holds up the loop is measured and named, on every server, and is no election (K1)."""
    async with running_cluster(start=False) as cluster:
        cluster.machine = Slow
        await cluster.start()
        leader = await cluster.elected()
        await cluster.write(leader, b"quick")
        ticket = leader.submit_nowait(b"slow")
        await ticket.wait()
        await cluster.settle(1)
        for name in cluster.ids:
            (event,) = cluster.seen(name, LoopBlocked)
            assert event.call == f"apply of entry {ticket.index}"
            assert event.seconds == pytest.approx(0.3)
        assert len(cluster.leaders_by_term()) == 1


async def test_read_function_that_blocks(autojump_clock: object) -> None:
    """A read function that holds up the loop is measured and named (K1)."""

    def long_sum(machine: Journal) -> int:
        block_loop(0.2)
        return len(machine.commands)

    async with running_cluster() as cluster:
        leader = await cluster.elected()
        for consistency in ("linearizable", "stale"):
            await leader.read(long_sum, consistency=consistency)
        await cluster.settle(0.1)
        events = cluster.seen(leader.node_id, LoopBlocked)
        assert [event.seconds for event in events] == [pytest.approx(0.2)] * 2
        assert all("long_sum" in event.call for event in events)


@contextmanager
def slow_log_handler(seconds: float) -> Iterator[None]:
    """Every line that the package logs takes so long."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            block_loop(seconds)

    handler = Handler()
    logger = logging.getLogger("trio_raft")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


async def test_log_handler_that_blocks(autojump_clock: object) -> None:
    """A log handler that holds up the loop is measured and named, and the cluster serves all the same (K1)."""
    with slow_log_handler(0.1):
        async with running_cluster() as cluster:
            leader = await cluster.elected()
            await cluster.write(leader, b"a")
            events = [event for name in cluster.ids for event in cluster.seen(name, LoopBlocked)]
            assert {event.call for event in events} >= {"a log handler of trio_raft.election"}
            assert {round(event.seconds, 3) for event in events} == {0.1}


async def test_quick_calls_are_not_reported(autojump_clock: object) -> None:
    """Calls below the threshold raise no event, however many there are (K1)."""
    async with running_cluster() as cluster:
        leader = await cluster.elected()
        await cluster.write_many(leader, [b"%d" % n for n in range(500)])
        for _ in range(50):
            await leader.read(lambda machine: len(machine.commands))
        assert [event for _, _, event in cluster.events if isinstance(event, LoopBlocked)] == []
