"""The ways into a node and out of it: what leaves, and that nothing is left behind."""

import errno
import logging
import os
import re
import signal
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import MockClock

import trio_raft
from tests.tasks.leftovers import nothing_left
from tests.tasks.parts import CLUSTER, N1, N2, N3, StoreUnderControl, lanes, make_config, settle
from trio_raft import Committed, Node, open_node, serve_node
from trio_raft._environment import Environment, Lane
from trio_raft._errors import (
    ConfigurationError,
    DirectoryMismatch,
    LeadershipLost,
    LogCorrupt,
    RaftInternalError,
    StateMachineError,
    StorageError,
)
from trio_raft._events import Event, MembersDiffer, NodeStopped
from trio_raft._messages import Incarnation
from trio_raft._records import Entry
from trio_raft._rules.state import Role
from trio_raft.abc import Recovered, SaveBootstrap, SnapshotPoint, StoreIdentity
from trio_raft.testing._environment import test_environment
from trio_raft.testing._network import MemoryNetwork


def os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class Machine(trio_raft.StateMachine[bytes, int]):
    """Counts; ``bad`` is a bug in it."""

    def __init__(self) -> None:
        self.count = 0

    def apply(self, entry: Committed[bytes]) -> int:
        if entry.command == b"bad":
            raise ZeroDivisionError("a bug in the machine")
        self.count += 1
        return self.count


class House:
    """A single node's surroundings."""

    def __init__(self) -> None:
        self.network = MemoryNetwork()
        self.store = StoreUnderControl()
        self.environment: Environment = test_environment(1)
        self.config = make_config(members=(N1,))
        self.bug = trio.Event()

    def open(self) -> AbstractAsyncContextManager[Node[bytes, int]]:
        return open_node(
            self.config,
            Machine(),
            log_store=self.store,
            transport=self.network.transport(N1),
            environment=self.environment,
        )

    async def serve(self, task_status: trio.TaskStatus[Node[bytes, int]] = trio.TASK_STATUS_IGNORED) -> None:
        await serve_node(
            self.config,
            Machine(),
            log_store=self.store,
            transport=self.network.transport(N1),
            environment=self.environment,
            task_status=task_status,
        )


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> House:
    """A house in which the leader's role fails by a bug once ``bug`` is set."""
    from trio_raft import _services

    house = House()

    async def lead_until_the_bug(_: object) -> None:
        await house.bug.wait()
        raise LookupError("a bug in the package")

    monkeypatch.setitem(_services._ROLES, Role.LEADER, lead_until_the_bug)
    return house


# ------------------------------------------------------------------------------------------- the matrix

CRASHES: dict[str, type[Exception] | None] = {
    "no crash": None,
    "storage": StorageError,
    "machine": StateMachineError,
    "bug": RaftInternalError,
}

ENDS = ("normal", "user's exception", "outer cancel", "keyboard interrupt")


async def crash(house: House, node: Node[bytes, int], kind: str) -> None:
    """Make the node fail, and wait until it has ended."""
    if kind == "no crash":
        return
    if kind == "storage":
        house.store.failure = OSError(errno.EIO, "Input/output error", "/disk/log")
        node.submit_nowait(b"a")
    elif kind == "machine":
        node.submit_nowait(b"bad")
    else:
        house.bug.set()
    with trio.CancelScope(shield=True):
        await node.wait_closed()


class UsersError(Exception):
    """Raised by the body."""


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("kind", CRASHES)
async def test_open_node_every_way_out(kind: str, end: str, house: House, autojump_clock: MockClock) -> None:
    """Whatever ends the block and the node, one error leaves, bare and as itself, and nothing is left (X2)."""
    error = {"user's exception": UsersError("mine"), "keyboard interrupt": KeyboardInterrupt()}.get(end)
    outer = trio.CancelScope()
    left: BaseException | None = None
    with nothing_left(house.network):
        try:
            with outer:
                async with house.open() as node:
                    await node.wait_leader()
                    await crash(house, node, kind)
                    if end == "outer cancel":
                        outer.cancel()
                        await trio.sleep_forever()
                    if error is not None:
                        raise error
        except BaseException as caught:
            left = caught
    expected = CRASHES[kind]
    if end == "keyboard interrupt":
        assert left is error
    elif expected is not None:
        assert isinstance(left, expected)
        assert left.__context__ is error or end == "outer cancel"
    else:
        assert left is error
        assert outer.cancelled_caught is (end == "outer cancel")
    assert house.store.closed


@pytest.mark.parametrize("kind", [kind for kind in CRASHES if kind != "no crash"])
async def test_open_node_crash_cancels_the_body(kind: str, house: House, autojump_clock: MockClock) -> None:
    """When the node fails its block is cancelled, and the failure leaves it, from the group in which it was found
    (X2).
    """
    expected = CRASHES[kind]
    assert expected is not None
    with nothing_left(house.network):
        with pytest.raises(expected) as caught:
            async with house.open() as node:
                await node.wait_leader()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(crash, house, node, kind)
                    await trio.sleep_forever()
    assert isinstance(caught.value.__cause__, BaseExceptionGroup)


@pytest.mark.parametrize("kind", CRASHES)
async def test_serve_node_every_way_out(kind: str, house: House, autojump_clock: MockClock) -> None:
    """``serve_node`` raises what ``open_node`` would, and returns after ``aclose`` (X2)."""
    expected, left = CRASHES[kind], list[BaseException]()

    async def serve(task_status: trio.TaskStatus[Node[bytes, int]]) -> None:
        try:
            await house.serve(task_status)
        except BaseException as error:
            left.append(error)

    with nothing_left(house.network):
        async with trio.open_nursery() as nursery:
            node = await nursery.start(serve)
            await node.wait_leader()
            await crash(house, node, kind)
            await node.aclose()
    assert [type(error) for error in left] == ([expected] if expected else [])


async def test_serve_node_cancelled(house: House, autojump_clock: MockClock) -> None:
    """Cancelling the task of a node ends the node at once (X2)."""
    with nothing_left(house.network):
        async with trio.open_nursery() as nursery:
            await nursery.start(house.serve)
            nursery.cancel_scope.cancel()
    assert house.store.closed


async def test_open_node_crash_is_named_to_callers(house: House, autojump_clock: MockClock) -> None:
    """Open proposals end with an unknown outcome and later calls with ClosedResourceError, both from the crash (X1)."""
    errors: dict[str, BaseException] = {}

    async def note(name: str, call: Callable[[], Awaitable[object]]) -> None:
        try:
            await call()
        except Exception as error:
            errors[name] = error

    opened: list[Node[bytes, int]] = []
    with pytest.RaisesGroup(StorageError):
        async with trio.open_nursery() as callers:
            async with house.open() as node:
                await node.wait_leader()
                house.store.failure = OSError(errno.EIO, "Input/output error", "/disk/log")
                callers.start_soon(note, "propose", lambda: node.propose(b"a"))
                callers.start_soon(note, "wait", lambda: node.wait_applied(trio_raft.LogIndex(100)))
                opened.append(node)
                with node.events() as events:
                    callers.start_soon(note, "events", events.receive)
                    await trio.sleep_forever()
    await note("late", lambda: opened[0].propose(b"b"))
    assert {name: type(error) for name, error in errors.items()} == {
        "propose": LeadershipLost,
        "wait": trio.ClosedResourceError,
        "late": trio.ClosedResourceError,
    }
    assert all(isinstance(error.__cause__, StorageError) for error in errors.values())


async def test_open_node_failed_append_ends_the_leadership(house: House, autojump_clock: MockClock) -> None:
    """A leader whose own append fails stops for good, and no index is used again in its term (R5, S2)."""
    terms, on_disk, seen = list[int](), list[Entry](), list[Event]()
    with pytest.raises(StorageError):
        async with house.open() as node:
            await node.wait_leader()
            await node.propose(b"a")
            terms.append(node.term)
            on_disk += house.store.on_disk
            house.store.failure = OSError(errno.EIO, "Input/output error", "/disk/log")
            with node.events() as events:
                node.submit_nowait(b"b")
                with trio.CancelScope(shield=True):
                    await node.wait_closed()
                    seen += [event async for event in events]
    assert house.store.on_disk == on_disk
    [stopped] = [event for event in seen if isinstance(event, NodeStopped)]
    assert isinstance(stopped.error, StorageError)
    house.store.failure = None
    async with house.open() as node:
        await node.wait_leader()
        assert node.term > terms[0]


# ------------------------------------------------------------------------------------------- the way in


@pytest.mark.parametrize(
    "error",
    [
        LogCorrupt(Path("/disk/log"), offset=512, index=3, problem="damaged"),
        StorageError(Path("/disk/log"), "reading", "Input/output error"),
        DirectoryMismatch(Path("/disk"), "cluster_id", found="a", expected="b"),
    ],
)
async def test_open_node_recovery_fails(error: Exception, house: House, autojump_clock: MockClock) -> None:
    """What recovery raises leaves bare, as itself, and nothing was started (X2)."""

    def fail(identity: StoreIdentity, *, memory_bytes: int, snapshot: SnapshotPoint | None = None) -> Recovered:
        raise error

    house.store.open = fail  # type: ignore[method-assign]
    with nothing_left(house.network):
        with pytest.raises(type(error)) as caught:
            async with house.open():
                raise AssertionError("the body must not run")
    assert caught.value is error
    assert house.store.closed


async def test_open_node_other_owner(house: House, autojump_clock: MockClock) -> None:
    """A store that belongs to another node is refused, and nothing in it is changed."""
    house.store.inner.open(StoreIdentity(CLUSTER, N2, Incarnation("a disk")), memory_bytes=0)
    with pytest.raises(DirectoryMismatch):
        async with house.open():
            raise AssertionError("the body must not run")
    assert house.store.batches == []


async def test_open_node_address_in_use(tmp_path: Path) -> None:
    """A port that is taken is one clear error that names the address; directory and descriptors are given back (X2)."""
    with nothing_left():
        [taken] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with taken:
            assert isinstance(taken, trio.SocketListener)
            address = f"127.0.0.1:{taken.socket.getsockname()[1]}"
            config = trio_raft.Config(
                node_id="n1", cluster_id=CLUSTER, members={"n1": address}, data_directory=tmp_path / "n1"
            )
            with pytest.raises(ConfigurationError, match=address) as caught:
                async with open_node(config, Machine()):
                    raise AssertionError("the body must not run")
        assert caught.value.key == "listen"
        assert "Stop the program that holds the address" in str(caught.value)
        # Nothing holds the directory.
        async with open_node(config, Machine()) as node:
            await node.wait_leader()


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (os_error(errno.EADDRINUSE), "Stop the program that holds the address, or choose another one"),
        (os_error(errno.EADDRNOTAVAIL), "No interface of this machine has that address: correct members.n1, or, "),
        (os_error(errno.EADDRNOTAVAIL), "set listen to one that is, for example 0.0.0.0:7000"),
        (os_error(errno.EACCES), "This user may not bind it: choose a port above 1023"),
        (os_error(errno.EAFNOSUPPORT), "choose the other in members.n1"),
        (os_error(errno.EMFILE), "Raise the limit of open files"),
        (os_error(errno.EINVAL), "Correct members.n1"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "Correct the host in members.n1"),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure"), "The name server did not answer: try again"),
        (OSError("a transport of its own"), "a transport of its own. Correct members.n1"),
    ],
)
async def test_open_node_cannot_listen(
    error: OSError, advice: str, house: House, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """Why an address cannot be bound decides what to do about it."""

    class Unbound:
        async def listen(self, address: str) -> Sequence[trio.abc.Listener[trio.abc.Stream]]:
            raise error

    monkeypatch.setattr(house.network, "transport", lambda _: Unbound())
    with nothing_left(house.network), pytest.raises(ConfigurationError, match=re.escape(advice)) as caught:
        async with house.open():
            raise AssertionError("the body must not run")
    assert caught.value.key == "listen"
    assert caught.value.problem.startswith(f"cannot listen on n1:1: {error.strerror or error}. ")
    assert caught.value.__cause__ is error
    assert ("Stop the program" in str(caught.value)) == (error.errno == errno.EADDRINUSE)


@pytest.mark.parametrize(
    ("host", "advice"),
    [
        ("192.0.2.1", "No interface of this machine has that address: correct listen"),
        ("no..name", "Correct the host in listen"),
    ],
)
async def test_open_node_cannot_listen_there(host: str, advice: str, tmp_path: Path) -> None:
    """The same with real sockets: an address of documentation, and what is no name at all."""
    config = trio_raft.Config(
        node_id="n1", cluster_id=CLUSTER, members={"n1": "n1:1"}, listen=f"{host}:7001", data_directory=tmp_path / "n1"
    )
    with nothing_left(), pytest.raises(ConfigurationError, match=advice):
        async with open_node(config, Machine()):
            raise AssertionError("the body must not run")


async def test_open_node_other_members_than_stored(
    house: House, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Other ids than the stored ones change nothing, and the start says so, as an event and as a warning."""
    async with house.open() as node:
        await node.wait_leader()
        await node.propose(b"alone")
    house.config = make_config()
    async with house.open() as node:
        with node.events() as events:
            assert events.receive_nowait() == MembersDiffer((N1,), (N1, N2, N3))
        await node.wait_leader()
        await node.propose(b"still alone")
    [warning] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.name == "trio_raft.bootstrap"
    assert warning.getMessage() == (
        "n1: this data directory belongs to a cluster of n1, but the setting members names n1, n2, n3: the stored ones "
        "count, the setting only says where to find them. n2, n3 cannot join, since membership cannot be changed yet: "
        "take n2, n3 off the list, or begin anew, without the data, in empty directories on all members"
    )


async def test_open_node_fewer_members_than_stored(house: House, autojump_clock: MockClock) -> None:
    """Members that the list does not name any more still count, and cannot be found."""
    settled = SaveBootstrap({name: Incarnation(f"disk of {name}") for name in (N1, N2, N3)}, done=True)
    house.store.inner.open(StoreIdentity(CLUSTER, N1, Incarnation("disk of n1")), memory_bytes=0)
    plan = house.store.inner.plan([settled])
    assert plan is not None
    house.store.inner.execute(plan)
    house.store.inner.close()
    async with house.open() as node:
        with node.events() as events:
            differ = events.receive_nowait()
    assert differ == MembersDiffer((N1, N2, N3), (N1,))
    assert "put n2, n3 back on the list" in str(differ)
    assert "recover" in str(differ)
    assert "cannot join" not in str(differ)


async def test_open_node_other_addresses_are_no_other_members(house: House, autojump_clock: MockClock) -> None:
    """Ids are identity: an address may change, and nothing is said about it."""
    async with house.open() as node:
        await node.wait_leader()
    house.config = attrs.evolve(house.config, members={N1: "elsewhere:7001"})
    async with house.open() as node:
        with node.events() as events, pytest.raises(trio.WouldBlock):
            events.receive_nowait()
        await node.wait_leader()


async def test_open_node_cancelled_during_recovery(house: House, autojump_clock: MockClock) -> None:
    """A cancel during recovery leaves nothing behind (X2)."""
    lanes(house.environment).stall(Lane.JOURNAL)
    with nothing_left(house.network):
        with trio.move_on_after(1) as scope:
            async with house.open():
                raise AssertionError("the body must not run")
    assert scope.cancelled_caught
    assert house.store.closed


async def test_open_node_cancelled_before_its_services_started(house: House, autojump_clock: MockClock) -> None:
    """A body that ends at once, or is cancelled at once, still closes everything that was opened (X2)."""
    with nothing_left(house.network):
        async with house.open():
            pass
    with nothing_left(house.network):
        with trio.CancelScope() as scope:
            async with house.open():
                scope.cancel()
                await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught


# ------------------------------------------------------------------------------------------- closing


async def test_aclose_twice(house: House, autojump_clock: MockClock) -> None:
    """Closing twice, also at the same time, is fine (X2)."""
    with nothing_left(house.network):
        async with house.open() as node:
            await node.wait_leader()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(node.aclose)
                nursery.start_soon(node.aclose)
            await node.aclose()
            with pytest.raises(trio.ClosedResourceError):
                await node.propose(b"a")


async def test_aclose_finishes_the_write_in_hand(house: House, autojump_clock: MockClock) -> None:
    """What was queued when closing began is written before the node ends, if the disk takes it in time (X2)."""
    async with house.open() as node:
        await node.wait_leader()
        lanes(house.environment).latency = house.config.timeouts.close_timeout / 4
        tickets = [node.submit_nowait(b"%d" % number) for number in range(10)]
        await node.aclose()
    assert len(house.store.on_disk) == 11
    for ticket in tickets:
        with pytest.raises(LeadershipLost):
            await ticket.wait()


async def test_aclose_with_a_hung_disk_is_bounded(house: House, autojump_clock: MockClock) -> None:
    """A disk that hangs delays the end of a node by ``close_timeout``, and no more (X2)."""
    with nothing_left(house.network):
        async with house.open() as node:
            await node.wait_leader()
            lanes(house.environment).stall(Lane.JOURNAL)
            node.submit_nowait(b"a")
            began = trio.current_time()
        assert trio.current_time() - began == pytest.approx(house.config.timeouts.close_timeout, abs=0.01)


async def test_aclose_cancelled(house: House, autojump_clock: MockClock) -> None:
    """A close that is cancelled ends everything at once, a hung write notwithstanding (X2)."""
    with nothing_left(house.network):
        began = trio.current_time()
        with trio.move_on_after(0.5) as outer:
            async with house.open() as node:
                with trio.CancelScope(shield=True):
                    await node.wait_leader()
                    lanes(house.environment).stall(Lane.JOURNAL)
                    node.submit_nowait(b"a")
                    await trio.sleep(1)
                began = trio.current_time()
        assert outer.cancelled_caught
        assert trio.current_time() - began < 0.01


async def test_aclose_cancelled_by_one_caller(house: House, autojump_clock: MockClock) -> None:
    """A cancelled ``aclose`` inside the block ends the node; the block itself goes on to its end (X2)."""
    with nothing_left(house.network):
        async with house.open() as node:
            await node.wait_leader()
            lanes(house.environment).stall(Lane.JOURNAL)
            node.submit_nowait(b"a")
            with trio.move_on_after(0.1) as scope:
                await node.aclose()
            assert scope.cancelled_caught
            began = trio.current_time()
            await node.wait_closed()
            assert trio.current_time() - began < 0.01


async def test_open_node_users_error_under_a_cancelled_scope(house: House, autojump_clock: MockClock) -> None:
    """A user's exception raised under a cancelled scope is not lost to the cancel (X2)."""
    error = UsersError("mine")
    with nothing_left(house.network):
        with pytest.raises(UsersError) as caught:
            with trio.CancelScope() as scope:
                async with house.open() as node:
                    await node.wait_leader()
                    lanes(house.environment).stall(Lane.JOURNAL)
                    node.submit_nowait(b"a")
                    scope.cancel()
                    raise error
    assert caught.value is error


# ------------------------------------------------------------------------------------------- Ctrl-C while closing


@pytest.mark.parametrize("body_fails", [False, True])
def test_ctrl_c_while_closing(body_fails: bool) -> None:
    """Ctrl-C while a node waits for a hung disk ends it at once, and leaves bare, a user's exception in its context
    (X2).
    """
    took: list[float] = []
    contexts: list[type] = []

    @trio.lowlevel.enable_ki_protection
    async def press_ctrl_c() -> None:
        await trio.sleep(0.2)
        signal.raise_signal(signal.SIGINT)

    async def main() -> None:
        house = House()
        with nothing_left(house.network):
            async with trio.open_nursery() as nursery:
                try:
                    async with house.open() as node:
                        await node.wait_leader()
                        lanes(house.environment).stall(Lane.JOURNAL)
                        node.submit_nowait(b"a")
                        nursery.start_soon(press_ctrl_c)
                        took.append(trio.current_time())
                        if body_fails:
                            raise UsersError("mine")
                except KeyboardInterrupt as interrupt:
                    took.append(trio.current_time())
                    contexts.append(type(interrupt.__context__))
                await settle()

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert took[1] - took[0] == pytest.approx(0.2, abs=0.01)
    assert (contexts == [UsersError]) is body_fails


@pytest.mark.parametrize("step", ["closing the store", "ending events", "entering the close"])
def test_ctrl_c_between_two_steps_of_the_way_out(step: str) -> None:
    """Ctrl-C in the middle of a step of the way out breaks off no step: the node ends, and nobody waits for ever
    (X2).
    """
    pressed: list[str] = []

    def pressing(function: Callable[..., object]) -> Callable[..., object]:
        def press(*arguments: object) -> object:
            if not pressed:
                pressed.append(step)
                signal.raise_signal(signal.SIGINT)
            return function(*arguments)

        return press

    house, ended = House(), list[trio.Event]()

    async def main() -> None:
        async with house.open() as node:
            await node.wait_leader()
            server = node._server
            ended.append(node._services.ended)
            if step == "closing the store":
                house.store.close = pressing(house.store.close)  # type: ignore[method-assign, assignment]
            elif step == "ending events":
                server.events.close = pressing(server.events.close)  # type: ignore[method-assign, assignment]
            else:
                server.close = pressing(server.close)  # type: ignore[method-assign, assignment]
        # Delivered at the latest here, where the program waits next.
        await trio.sleep(1)
        pressed.append("was lost")

    with pytest.raises(KeyboardInterrupt):
        trio.run(main, clock=MockClock(autojump_threshold=0))
    assert pressed == [step]
    assert ended[0].is_set()
    assert house.store.closed


async def test_events_end_with_the_node(house: House, autojump_clock: MockClock) -> None:
    """A reader of events sees the end of the node, whatever it was (X2)."""
    async with house.open() as node:
        await node.wait_leader()
        with node.events() as events:
            await node.aclose()
            assert [event async for event in events]
