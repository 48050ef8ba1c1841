"""The public calls of a node in every situation: each answers, in bounded time, with its own outcome."""

from collections.abc import Awaitable, Callable
from contextlib import suppress

import attrs
import pytest
import trio

import trio_raft
from tests.support.cluster import Cluster, Journal, Member, running_cluster
from trio_raft import LeadershipLost, NoLeader, NotLeader, Rejected, StateMachineError

TIMEOUTS = trio_raft.Timeouts()

PATIENCE = 2 * TIMEOUTS.election_timeout
"""Seconds after which a call without a leader gives up."""

CALLS: dict[str, Callable[[Member], Awaitable[object]]] = {
    "propose": lambda node: node.propose(b"a"),
    "submit": lambda node: node.submit(b"a"),
    "read": lambda node: node.read(lambda machine: len(machine.commands)),
    "read_index": lambda node: node.read_index(),
    "verify_leader": lambda node: node.verify_leader(),
    "barrier": lambda node: node.barrier(),
}


async def outcome_of(call: Callable[[Member], Awaitable[object]], node: Member) -> tuple[str, float]:
    """The name of what the call gave or raised, and how many virtual seconds it took."""
    began = trio.current_time()
    with trio.fail_after(60):
        try:
            await call(node)
        except (trio_raft.RaftError, trio.ClosedResourceError) as error:
            return type(error).__name__, round(trio.current_time() - began, 6)
    return "answered", round(trio.current_time() - began, 6)


# ---------------------------------------------------------------------------------------------- every call, every role


@pytest.mark.parametrize("name", CALLS)
async def test_call_in_every_role(autojump_clock: object, name: str) -> None:
    """Leader, follower, lonely candidate, closed node: every call answers in bounded time and says what is (X3)."""
    call = CALLS[name]
    async with running_cluster() as cluster:
        # Before the first election: it may lead, or learn who does, in time.
        outcome, seconds = await outcome_of(call, cluster.node("n1"))
        assert outcome in ("answered", "NotLeader", "NoLeader")
        assert seconds <= PATIENCE + 0.1
        leader = await cluster.elected()
        follower = cluster.node(cluster.others(leader)[0])
        outcome, seconds = await outcome_of(call, leader)
        assert outcome == "answered"
        assert seconds < 0.1
        assert await outcome_of(call, follower) == ("NotLeader", 0.0)
        cluster.partition(*[[name] for name in cluster.ids])
        await cluster.until(lambda: follower.role == "candidate")
        assert await outcome_of(call, follower) == ("NoLeader", PATIENCE)
        await cluster.until(lambda: leader.role == "candidate")
        assert await outcome_of(call, leader) == ("NoLeader", PATIENCE)
        await follower.aclose()
        assert await outcome_of(call, follower) == ("ClosedResourceError", 0.0)


async def test_no_leader_says_why(autojump_clock: object) -> None:
    """NoLeader names votes needed and got, who was not reached, and the time that was waited (X3)."""
    async with running_cluster() as cluster:
        leader = await cluster.elected()
        await cluster.crash(*cluster.others(leader))
        await cluster.settle(5)
        with pytest.raises(NoLeader) as caught:
            await leader.propose(b"a")
        assert "1 of 2 pre-votes needed for term 2" in caught.value.why
        for name in cluster.others(leader):
            assert f"{name} not reached" in caught.value.why
        assert leader.statistics().why_no_leader == caught.value.why


async def test_waits_end_with_the_node(autojump_clock: object) -> None:
    """Only calls named wait go on waiting, and closing the node ends them too (X2, X3)."""
    async with running_cluster(2, start=False) as cluster:
        await cluster.start("n1")
        node = cluster.node("n1")
        ended: list[str] = []

        async def wait(call: Callable[[Member], Awaitable[object]]) -> None:
            try:
                await call(node)
            except trio.ClosedResourceError:
                ended.append("closed")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, lambda node: node.wait_leader())
            nursery.start_soon(wait, lambda node: node.wait_applied(1))
            nursery.start_soon(wait, lambda node: node.wait_for(lambda _: False))
            await cluster.settle(100)
            assert ended == []
            await node.aclose()
        assert ended == ["closed"] * 3


async def test_call_during_an_election_waits_for_it(autojump_clock: object) -> None:
    """A call on a server that becomes the leader within two election timeouts is served (X3)."""
    async with running_cluster(1, start=False) as cluster:
        await cluster.start()
        assert await cluster.node("n1").propose(b"a") == 1


# ---------------------------------------------------------------------------------------------- proposals end


async def test_step_down_with_waiting_clients(autojump_clock: object) -> None:
    """When a leader steps down each waiting client gets its own result or LeadershipLost, never another's (X1)."""
    rounds = lost = 0
    for seed in range(10):
        async with running_cluster(seed=seed) as cluster:
            for turn in range(30):
                leader = await cluster.elected()
                outcomes: list[str] = []
                async with trio.open_nursery() as nursery:
                    for n in range(8):
                        nursery.start_soon(propose_own, cluster, leader, b"%d.%d" % (turn, n), outcomes)
                    await cluster.settle(cluster.random.choice([0, 0.0002, 0.0007, 0.0011, 0.0012]))
                    if turn % 2:
                        leader._server.step_down("told to by the test")
                    else:
                        # The next leader's entries come to stand at the indexes of these.
                        cluster.partition([leader.node_id], cluster.others(leader))
                        for n in range(8):
                            nursery.start_soon(propose_own, cluster, leader, b"late %d.%d" % (turn, n), outcomes)
                        await cluster.elected(*cluster.others(leader))
                        cluster.network.heal()
                assert set(outcomes) <= {"own result", "LeadershipLost", "NotLeader", "NoLeader"}
                assert len(outcomes) == (8 if turn % 2 else 16)
                rounds += 1
                lost += outcomes.count("LeadershipLost")
            await cluster.converged()
    assert rounds == 300
    assert lost > 1000


async def propose_own(cluster: Cluster, node: Member, command: bytes, outcomes: list[str]) -> None:
    """The result says the place in the machine: the very command must stand there."""
    try:
        result = await cluster.write(node, command)
    except (LeadershipLost, NotLeader, NoLeader) as error:
        outcomes.append(type(error).__name__)
    else:
        found = cluster.commands(node.node_id)[result - 1]
        outcomes.append("own result" if found == command else f"the result of {found!r}")


async def test_every_proposal_ends(autojump_clock: object) -> None:
    """Whatever crashes, hangs or is cut, every proposal ends in bounded time (X1)."""
    for seed in range(3):
        async with running_cluster(seed=seed) as cluster:
            await cluster.elected()
            ended: list[float] = []
            async with trio.open_nursery() as proposals:
                with trio.move_on_after(15):
                    while True:
                        await cluster.settle(cluster.random.uniform(0, 0.1))
                        for node in cluster.running():
                            if node.role == "leader":
                                proposals.start_soon(end_in_time, node, ended)
                        await make_trouble(cluster)
                mend(cluster)
            assert len(ended) > 20
            await cluster.converged()


async def make_trouble(cluster: Cluster) -> None:
    """Sometimes one of several things."""
    match cluster.random.randrange(40):
        case 0:
            await cluster.restart(cluster.random.choice(cluster.ids))
        case 1:
            cluster.lanes(cluster.random.choice(cluster.ids)).stall()
        case 2:
            cluster.network.cut(*cluster.random.sample(cluster.ids, 2))
        case 3 | 4 | 5:
            mend(cluster)
        case _:
            pass


def mend(cluster: Cluster) -> None:
    """Links and disks work again."""
    cluster.network.heal()
    for name in cluster.ids:
        cluster.lanes(name).resume()


async def end_in_time(node: Member, ended: list[float]) -> None:
    """Any outcome will do, within the stall timeout of replication."""
    began = trio.current_time()
    with trio.fail_after(1.3 * TIMEOUTS.replication_stall_timeout):
        with suppress(LeadershipLost, NotLeader, NoLeader, trio.ClosedResourceError):
            await node.propose(b"any")
    ended.append(trio.current_time() - began)


async def test_close_with_waiting_clients(autojump_clock: object) -> None:
    """Closing a leader ends its open proposals as LeadershipLost at once (X1, X2)."""
    async with running_cluster() as cluster:
        leader = await cluster.elected()
        for name in cluster.others(leader):
            cluster.lanes(name).stall()
        tickets = [leader.submit_nowait(b"%d" % n) for n in range(20)]
        began = trio.current_time()
        await leader.aclose()
        assert trio.current_time() - began <= TIMEOUTS.close_timeout
        for ticket in tickets:
            with pytest.raises(LeadershipLost, match="closing"):
                await ticket.wait()


@pytest.mark.parametrize("role", ["leader", "follower", "candidate", "first start"])
async def test_close_in_every_situation(autojump_clock: object, role: str) -> None:
    """Closing is bounded in every role, on a hung disk and in the middle of a dial too, and twice is fine (X2)."""
    for hung in (False, True):
        async with running_cluster(start=False) as cluster:
            if role == "first start":
                await cluster.start("n1")
                node = cluster.node("n1")
            else:
                await cluster.start()
                leader = await cluster.elected()
                node = leader if role == "leader" else cluster.node(cluster.others(leader)[0])
                if hung:
                    cluster.lanes(node.node_id).stall()
                    await leader.submit(b"in its hand")
                if role == "candidate":
                    # Every dial hangs.
                    cluster.partition(*[[name] for name in cluster.ids])
                    await cluster.settle(1.9)
            await cluster.settle(0.05)
            began = trio.current_time()
            await node.aclose()
            assert trio.current_time() - began <= TIMEOUTS.close_timeout + 0.001
            await node.aclose()
            await cluster.servers[node.node_id].ended.wait()


async def test_cancelled_proposals(autojump_clock: object) -> None:
    """Cancelled before it is queued a command is absent; cancelled later it may commit, and disturbs nobody (X1)."""
    for seed in range(5):
        async with running_cluster(seed=seed) as cluster:
            leader = await cluster.elected()
            with trio.CancelScope() as scope:
                scope.cancel()
                await leader.propose(b"absent")
            async with trio.open_nursery() as nursery:
                for n in range(100):
                    nursery.start_soon(cluster.write, leader, b"stays %d" % n)
                    nursery.start_soon(cancelled_after, cluster, leader, b"cancelled %d" % n)
            await cluster.converged()
            commands = cluster.commands(leader.node_id)
            assert b"absent" not in commands
            assert len(set(commands)) == len(commands) >= 100


async def cancelled_after(cluster: Cluster, node: Member, command: bytes) -> None:
    with trio.move_on_after(cluster.random.uniform(0, 0.002)):
        await node.propose(command)


async def test_ticket_waits_again(autojump_clock: object) -> None:
    """A ticket tells its outcome as often as it is asked, to any number of tasks, and after a cancel too (X1)."""
    async with running_cluster() as cluster:
        leader = await cluster.elected()
        ticket = leader.submit_nowait(b"a")
        with trio.move_on_after(0.0001):
            await ticket.wait()
        results: list[int] = []

        async def wait() -> None:
            results.append(await ticket.wait())

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(wait)
        assert [*results, await ticket.wait()] == [1, 1, 1, 1]


async def test_room_for_proposals(autojump_clock: object) -> None:
    """At the byte bound ``submit_nowait`` would block; ``submit`` waits for room, until a step-down ends it (X1)."""
    limits = trio_raft.Limits(pending_bytes=1000, event_buffer=100_000)
    async with running_cluster(limits=limits) as cluster:
        leader = await cluster.elected()
        tickets = [await leader.submit(b"%d" % n + bytes(100)) for n in range(50)]
        assert [await ticket.wait() for ticket in tickets] == list(range(1, 51))
        for name in cluster.others(leader):
            cluster.lanes(name).stall()
        with pytest.raises(trio.WouldBlock):
            for _ in range(50):
                leader.submit_nowait(bytes(100))
        assert leader.statistics().pending_bytes <= 1000 + 200
        outcome, seconds = await outcome_of(CALLS["submit"], leader)
        assert outcome == "ProposalDropped"
        assert seconds <= 1.2 * TIMEOUTS.replication_stall_timeout + PATIENCE
        assert leader.statistics().pending_bytes == 0


# ---------------------------------------------------------------------------------------------- state machines


class Fussy(Journal):
    """Refuses some commands, and fails on others."""

    def apply(self, entry: trio_raft.Committed[bytes]) -> int:
        if entry.command.startswith(b"refuse"):
            raise Rejected("no such thing")
        if entry.command.startswith(b"fail"):
            raise ZeroDivisionError("one over zero")
        return super().apply(entry)


async def test_rejected_is_a_result(autojump_clock: object) -> None:
    """What the state machine refuses is refused to its proposer, and everything goes on (X4)."""
    async with running_cluster(start=False) as cluster:
        cluster.machine = Fussy
        await cluster.start()
        leader = await cluster.elected()
        ticket = leader.submit_nowait(b"refuse this")
        for _ in range(2):
            with pytest.raises(Rejected, match="no such thing"):
                await ticket.wait()
        assert await cluster.write(leader, b"a") == 1
        assert leader.statistics().pending_bytes == 0
        await cluster.converged()


async def test_failing_machine(autojump_clock: object) -> None:
    """A machine that fails stops its node with index and term, on every server, and no entry is skipped (X1, X4)."""
    async with running_cluster(start=False) as cluster:
        cluster.machine = Fussy
        await cluster.start()
        cluster.expected_failures += cluster.ids
        leader = await cluster.elected()
        await cluster.write(leader, b"a")
        ticket, later = leader.submit_nowait(b"fail"), leader.submit_nowait(b"b")
        # Whoever proposed the command that fails is told so: proposed again, it would stop the next leader.
        with pytest.raises(StateMachineError) as refused:
            await ticket.wait()
        assert (refused.value.index, refused.value.term) == (ticket.index, ticket.term)
        assert isinstance(refused.value.__cause__, ZeroDivisionError)
        with pytest.raises(LeadershipLost, match="one over zero") as caught:
            await later.wait()
        assert isinstance(caught.value.__cause__, StateMachineError)
        # The next leader meets the same entry; the third is left without a majority to learn of it.
        await cluster.settle(20)
        failed = [server for server in cluster.servers.values() if server.failure is not None]
        assert len(failed) == 2
        for server in failed:
            failure = server.failure
            assert isinstance(failure, StateMachineError)
            assert (failure.index, failure.term) == (ticket.index, ticket.term)
            assert [event.error.index for event in cluster.seen(server.name, trio_raft.NodeStopped)] == [ticket.index]  # type: ignore[attr-defined]
            assert server.lives[-1].commands == [b"a"]
        # A mended machine goes on where the other one stopped.
        cluster.machine = Journal
        await cluster.restart(*cluster.ids)
        leader = await cluster.converged()
        assert cluster.commands(leader.node_id) == [b"a", b"fail", b"b"]


class Asleep(Journal):
    """Its author took ``apply`` for a coroutine."""

    async def apply(self, entry: trio_raft.Committed[bytes]) -> int:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        return 0


async def test_async_functions_are_refused(autojump_clock: object) -> None:
    """An ``async`` apply is refused at the start, and an ``async`` read function when it is called (X3)."""
    async with running_cluster(start=False) as cluster:
        with pytest.raises(trio_raft.ConfigurationError, match="not async"):
            async with trio_raft.open_node(
                cluster.config("n1"),
                Asleep(),
                log_store=trio_raft.MemoryLogStore(),
                transport=cluster.network.transport("n1"),
            ):
                pass
    async with running_cluster(1) as cluster:
        node = await cluster.elected()

        async def read(machine: object) -> None:
            """Never run."""

        with pytest.raises(TypeError, match="plain function"):
            await node.read(read)  # type: ignore[unused-coroutine]


async def test_read_function_that_raises(autojump_clock: object) -> None:
    """What a read function raises is its caller's, and nothing else notices (X4)."""
    async with running_cluster() as cluster:
        leader = await cluster.elected()
        with pytest.raises(ZeroDivisionError):
            await leader.read(lambda machine: 1 / 0)
        await cluster.write(leader, b"a")


@attrs.frozen
class Shape:
    """Not what these machines take."""


async def test_wrong_commands_are_refused_unqueued(autojump_clock: object) -> None:
    """A command of another type, or too large, is refused before anything is queued (X1)."""
    async with running_cluster(limits=trio_raft.Limits(max_command_bytes=100, event_buffer=100_000)) as cluster:
        leader = await cluster.elected()
        last_index = leader.statistics().last_index
        for wrong in ("text", 7, None, Shape(), bytearray(b"a")):
            with pytest.raises((TypeError, ValueError)):
                await leader.propose(wrong)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="max_command_bytes"):
            leader.submit_nowait(bytes(101))
        assert leader.statistics().last_index == last_index
        await cluster.write(leader, bytes(100))
