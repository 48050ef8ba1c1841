"""A cancel at every await of every public call, and of the tasks that hold a node together.

What each call promises about a cancel is in its docstring; here it is tried at each of its suspensions.
"""

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

import trio_raft
from tests.support.cluster import Cluster, Member, running_cluster
from tests.tasks.cancelling import Cut, every_cut
from tests.tasks.leftovers import nothing_left, tasks_now
from tests.tasks.parts import N1, about, commands, make_config, make_server, store_of
from tests.tasks.saving import Saving, SnapshotsUnderControl
from tests.tasks.test_open_node import House, Machine
from trio_raft import open_node
from trio_raft._bootstrap import settle_first_configuration
from trio_raft._config import Limits
from trio_raft._records import LogIndex, Term


async def warm(cluster: Cluster) -> Member:
    """A leader that has something committed and applied."""
    leader = await cluster.elected()
    await cluster.write(leader, b"before")
    return leader


def occurrences(cluster: Cluster, command: bytes) -> list[int]:
    """How often each running server applied it."""
    return [server.lives[-1].commands.count(command) for server in cluster.servers.values()]


# ------------------------------------------------------------------------------------------- the tool


async def test_every_cut_counts_suspensions() -> None:
    """The tool cancels at each suspension in turn, and ends with the first run that is not cut."""
    reached: list[int] = []

    async def three_steps(steps: list[int]) -> str:
        for step in range(3):
            steps.append(step)
            await trio.lowlevel.checkpoint()
        return "done"

    values = []
    for cut in every_cut():
        steps: list[int] = []
        values.append(await cut.run(three_steps(steps)))
        reached.append(len(steps))
    assert values[-1] == "done"
    assert set(values[:-1]) == {None}
    assert reached[-1] == 3
    assert reached == sorted(reached)
    assert set(reached) == {1, 2, 3}


async def test_every_cut_sees_cleanup_and_errors(autojump_clock: MockClock) -> None:
    """What a coroutine does about a cancel, and what it raises, passes through the tool."""

    async def cleaning() -> None:
        try:
            await trio.sleep(1)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
                cleaned.append(trio.current_time())

    cleaned: list[float] = []
    for cut in every_cut():
        await cut.run(cleaning())
    assert len(cleaned) >= 2
    with pytest.raises(ZeroDivisionError):
        await Cut(1000).run(failing())


async def failing() -> None:
    await trio.lowlevel.checkpoint()
    raise ZeroDivisionError


# ------------------------------------------------------------------------------------------- writes


async def test_propose_cancelled_everywhere(autojump_clock: MockClock) -> None:
    """A proposal cancelled before it was queued is guaranteed absent; after that it is applied once, or nowhere
    (X1).
    """
    for cut in every_cut():
        async with running_cluster(3, seed=cut.number) as cluster:
            leader = await warm(cluster)
            last_before = leader.statistics().last_index
            result = await cut.run(leader.propose(b"cut"))
            was_queued = leader.statistics().last_index > last_before
            assert result == (None if cut.was_made else 2)
            assert was_queued or cut.was_made
            await cluster.write(leader, b"after")
            await cluster.converged()
            assert occurrences(cluster, b"cut") == [int(was_queued)] * 3
            assert leader.statistics().pending_proposals == 0


async def test_propose_at_the_byte_bound_cancelled_everywhere(autojump_clock: MockClock) -> None:
    """A proposal cancelled while it waits for room is guaranteed absent, and those before and after it go on (X1)."""
    for cut in every_cut():
        async with running_cluster(3, seed=cut.number, limits=Limits(pending_bytes=200)) as cluster:
            leader = await warm(cluster)
            tickets = []
            with pytest.raises(trio.WouldBlock):
                while True:
                    tickets.append(leader.submit_nowait(b"f"))
            last_before = leader.statistics().last_index
            await cut.run(leader.submit(b"cut"))
            was_queued = leader.statistics().last_index > last_before
            assert was_queued is not cut.was_made
            for ticket in tickets:
                await ticket.wait()
            await cluster.converged()
            assert occurrences(cluster, b"cut") == [int(was_queued)] * 3


async def test_submit_cancelled_everywhere(autojump_clock: MockClock) -> None:
    """A cancelled ``submit`` has queued nothing, also where it only yields to let others run (X1)."""
    async with running_cluster(3, seed=1) as cluster:
        leader = await warm(cluster)
        for number in range(130):
            last_before = leader.statistics().last_index
            with trio.CancelScope() as scope:
                scope.cancel()
                await leader.submit(b"cut %d" % number)
            assert scope.cancelled_caught
            assert leader.statistics().last_index == last_before
            await leader.submit(b"s%d" % number)
        await leader.barrier()
        await cluster.converged()
        assert not any(command.startswith(b"cut") for command in cluster.servers["n1"].lives[-1].commands)


async def test_propose_without_a_leader_cancelled_everywhere(autojump_clock: MockClock) -> None:
    """A proposal cancelled while there is no leader is guaranteed absent; left alone it ends with NoLeader (X1, X3)."""
    async with running_cluster(3, seed=2) as cluster:
        await warm(cluster)
        await cluster.crash("n1", "n2")
        survivor = cluster.node("n3")
        await survivor.wait_for(lambda node: node.leader is None)
        last_before = survivor.statistics().last_index
        given_up: list[tuple[bool, float]] = []
        for cut in every_cut():
            try:
                await cut.run(survivor.propose(b"cut"))
            except trio_raft.NoLeader as error:
                given_up.append((cut.was_made, error.waited))
            if cut.number > 40:
                break  # each change of role wakes it once more
        assert survivor.statistics().last_index == last_before
        patience = 2 * trio_raft.Timeouts().election_timeout
        assert given_up in ([], [(False, about(patience))])
        await cluster.start("n1", "n2")
        await cluster.converged()
        assert occurrences(cluster, b"cut") == [0, 0, 0]


async def test_ticket_wait_cancelled_everywhere(autojump_clock: MockClock) -> None:
    """Cancelling a wait cancels no command, and waiting again is fine (X1)."""
    async with running_cluster(3, seed=3) as cluster:
        leader = await warm(cluster)
        for number, cut in enumerate(every_cut(), start=2):
            ticket = leader.submit_nowait(b"%d" % number)
            result = await cut.run(ticket.wait())
            assert result == (None if cut.was_made else number)
            assert await ticket.wait() == number


# ------------------------------------------------------------------------------------------- reads and waits

CALLS: dict[str, Callable[[Member], Awaitable[object]]] = {
    "read": lambda node: node.read(lambda machine: machine.commands),
    "read, stale": lambda node: node.read(lambda machine: machine.commands, consistency="stale"),
    "read_index": lambda node: node.read_index(),
    "barrier": lambda node: node.barrier(),
    "verify_leader": lambda node: node.verify_leader(),
    "wait_applied": lambda node: node.wait_applied(LogIndex(1)),
    "wait_leader": lambda node: node.wait_leader(),
}


@pytest.mark.parametrize("name", CALLS)
async def test_read_or_wait_cancelled_everywhere(name: str, autojump_clock: MockClock) -> None:
    """A cancelled read or wait has no effect, and the next one works (X3)."""
    async with running_cluster(3, seed=4) as cluster:
        leader = await warm(cluster)
        before = leader.statistics()
        for cut in every_cut():
            await cut.run(CALLS[name](leader))
            after = leader.statistics()
            assert (after.last_index, after.term, after.role) == (before.last_index, before.term, before.role)
            assert await leader.read(lambda machine: list(machine.commands)) == [b"before"]
        for lot in (leader._server.read_lot, leader._server.change_lot, leader._server.room_lot):
            assert not lot


async def test_snapshot_cancelled_everywhere(autojump_clock: MockClock) -> None:
    """A cancelled ``snapshot`` leaves the old one, and nothing unfinished; the next one works (X2)."""
    store = SnapshotsUnderControl()
    house = House()
    async with open_node(
        house.config,
        Saving(),
        log_store=house.store,
        snapshot_store=store,
        transport=house.network.transport(N1),
        environment=house.environment,
    ) as node:
        await node.wait_leader()
        for cut in every_cut():
            await node.propose(b"x")
            before = node.statistics().snapshots.index
            snapshot = await cut.run(node.snapshot())
            assert (snapshot is None) is cut.was_made
            await trio.sleep(1)
            assert store.unfinished == []
            assert node.statistics().snapshots.index in (before, node.last_applied)
            assert (await node.snapshot()).point.index == node.last_applied


# ------------------------------------------------------------------------------------------- opening and closing


async def test_open_node_cancelled_everywhere(autojump_clock: MockClock) -> None:
    """Wherever opening, running and closing a node is cancelled, nothing is left of it, and it opens again (X2)."""

    async def open_use_close(house: House) -> None:
        async with house.open() as node:
            await node.wait_leader()
            await node.propose(b"a")

    for cut in every_cut():
        house = House()
        with nothing_left(house.network):
            await cut.run(open_use_close(house))
        assert house.store.closed
        async with house.open() as node:
            await node.wait_leader()
            await node.barrier()
            machine = node.machine
            assert isinstance(machine, Machine)
            assert machine.count <= 1
        assert cut.was_made or machine.count == 1


async def test_aclose_cancelled_everywhere(autojump_clock: MockClock) -> None:
    """Wherever ``aclose`` is cancelled the node ends, and nothing is left of it (X2)."""
    for cut in every_cut():
        house = House()
        with nothing_left(house.network):
            async with house.open() as node:
                await node.wait_leader()
                ticket = node.submit_nowait(b"a")
                await cut.run(node.aclose())
                await node.wait_closed()
                with pytest.raises(trio_raft.LeadershipLost):
                    await ticket.wait()
                await node.aclose()


async def test_serve_node_start_cancelled_everywhere(autojump_clock: MockClock) -> None:
    """Wherever the start of a node in a nursery is cancelled, nothing is left of it (X2)."""
    for cut in every_cut():
        house = House()
        with nothing_left(house.network):
            async with trio.open_nursery() as nursery:
                node = await cut.run(nursery.start(house.serve))
                if node is not None:
                    await node.aclose()
                assert cut.was_made or node is not None


# ------------------------------------------------------------------------------------------- inner tasks


async def test_journal_run_cancelled_everywhere(autojump_clock: MockClock) -> None:
    """Wherever the journal is cancelled, what it calls durable is on disk, and what it stored is a prefix of the queue
    (S1, S2).
    """
    entries = commands(1, [1, 1, 2])
    for cut in every_cut():
        server = await make_server()
        journal, store = server.journal, store_of(server)

        async def feed(cut: Cut = cut) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write, nursery)
                await cut.run(journal.run())  # noqa: B023  # awaited before the next turn
                nursery.cancel_scope.cancel()

        async def write(_: trio.Nursery) -> None:
            for entry in entries:
                journal.append(entry)  # noqa: B023  # runs within this turn of the loop
                journal.save_vote(Term(entry.term), None)  # noqa: B023
                await trio.sleep(0.0003)
            journal.close()  # noqa: B023

        await feed()
        assert store.on_disk == entries[: len(store.on_disk)]
        assert journal.durable_index <= len(store.on_disk)
        executed = sum(len(batch) for batch in store.batches)
        assert journal.durable_position <= executed
        # At most the write that was in hand was executed and not noted.
        assert len(store.batches) - len(store.noted) <= 1
        if not cut.was_made:
            assert journal.durable_index == 3


async def test_settle_first_configuration_cancelled_everywhere(autojump_clock: MockClock) -> None:
    """Wherever the first start is cancelled it leaves no task, and the next attempt settles (O1, X2)."""
    for cut in every_cut():
        server = await make_server(config=make_config(members=(N1,)), settled=False)
        before = tasks_now()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.journal.run)
            await cut.run(settle_first_configuration(server))
            await settle_first_configuration(server)
            assert server.ready
            nursery.cancel_scope.cancel()
        assert tasks_now() == before
