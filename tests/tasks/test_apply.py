"""Feeding the state machine: in order, in bounded turns, results to whoever waits."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.tasks.parts import (
    N1,
    about,
    command,
    lanes,
    lead_term,
    make_config,
    make_server,
    record,
    settle,
    store_of,
    until,
)
from tests.tasks.saving import Saving, SnapshotsUnderControl, opened_store, save
from trio_raft._apply import TURN_SECONDS, Applier, command_type, defines_snapshots
from trio_raft._config import Limits
from trio_raft._environment import Lane
from trio_raft._errors import (
    ConfigurationError,
    IncompatibleVersion,
    RaftInternalError,
    Rejected,
    StateMachineError,
    StorageError,
)
from trio_raft._events import LoopBlocked
from trio_raft._records import Entry, LogIndex, Term
from trio_raft._server import Server
from trio_raft._snapshot_events import StateRestored
from trio_raft._tickets import Ticket
from trio_raft._values import ValueCodec
from trio_raft.abc import Committed, StateMachine, StoredSnapshot


class Recording(StateMachine[bytes, int]):
    """Remembers what it was given; ``no`` is rejected, ``bad`` is a bug; the stopwatch runs while it applies."""

    def __init__(self) -> None:
        self.applied: list[tuple[int, int, bytes]] = []
        self.now = 0.0
        self.takes = 0.0

    def apply(self, entry: Committed[bytes]) -> int:
        self.now += self.takes
        if entry.command == b"no":
            raise Rejected("the machine says no")
        if entry.command == b"bad":
            raise ZeroDivisionError("a bug")
        self.applied.append((entry.index, entry.term, entry.command))
        return len(self.applied)


class Scene:
    """A single server that leads, and its machine."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.machine = Recording()
        self.applier = Applier(server, self.machine, ValueCodec[bytes](bytes))
        self.applier._stopwatch = lambda: self.machine.now

    async def applied(self, index: int) -> None:
        await until(lambda: self.server.state.last_applied >= index)


async def play(nursery: trio.Nursery, *, entries: int = 0, limits: Limits | None = None, applies: bool = True) -> Scene:
    """Entry 1 … ``entries`` were there before; the next one is the leader's no-op."""
    config = make_config(members=(N1,), limits=limits)
    server = await make_server(terms=[1] * entries, term=1, config=config)
    scene = Scene(server)
    nursery.start_soon(server.journal.run)
    lead_term(server, 2)
    if applies:
        nursery.start_soon(scene.applier.run)
    return scene


async def test_run_applies_in_order_and_resolves(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Every committed command is applied once, in order, and its result goes to its own ticket."""
    scene = await play(nursery, entries=3)
    tickets = [scene.server.submit_nowait(b"%d" % number) for number in range(3)]
    assert [await ticket.wait() for ticket in tickets] == [4, 5, 6]
    assert scene.machine.applied == [
        *[(index, 1, b"x") for index in (1, 2, 3)],
        *[(index, 2, b"%d" % (index - 5)) for index in (5, 6, 7)],
    ]
    assert (scene.server.state.last_applied, scene.server.pending_bytes, scene.server.tickets) == (7, 0, {})


async def test_run_applies_only_what_is_durable_here(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A committed entry is applied once it is on this server's disk, not before (S11)."""
    server = await make_server(latency=1.0)
    scene = Scene(server)
    lead_term(server, 1)
    server.submit_nowait(b"a")
    server.state.raise_commit(LogIndex(2))
    nursery.start_soon(scene.applier.run)
    await settle()
    assert scene.machine.applied == []
    nursery.start_soon(server.journal.run)
    await scene.applied(2)
    assert trio.current_time() >= 1.0
    assert len(store_of(server).on_disk) == 2


async def test_run_rejected_is_a_result(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """``Rejected`` raised by the machine is the proposer's outcome, and the machine goes on (X4)."""
    scene = await play(nursery)
    refused, accepted = scene.server.submit_nowait(b"no"), scene.server.submit_nowait(b"yes")
    with pytest.raises(Rejected, match="the machine says no"):
        await refused.wait()
    assert await accepted.wait() == 1
    assert scene.server.pending_bytes == 0


async def test_run_rejected_without_a_waiter(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """On a server where nobody waits a rejection is nothing at all (X4)."""
    scene = await play(nursery)
    scene.server.submit_nowait(b"no")
    scene.server.tickets.clear()
    assert await scene.server.submit_nowait(b"yes").wait() == 1


async def test_run_machine_fails(autojump_clock: MockClock) -> None:
    """Any other exception ends the task with index and term; nothing after the entry is applied (X4)."""
    async with trio.open_nursery() as nursery:
        scene = await play(nursery, applies=False)
        for data in (b"a", b"bad", b"b"):
            scene.server.submit_nowait(data)
        with pytest.raises(StateMachineError) as caught:
            await scene.applier.run()
        nursery.cancel_scope.cancel()
    assert (caught.value.index, caught.value.term) == (3, 2)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert "ZeroDivisionError: a bug" in str(caught.value)
    assert [data for _, _, data in scene.machine.applied] == [b"a"]


async def test_run_command_that_does_not_decode(autojump_clock: MockClock) -> None:
    """A command that the machine's type cannot hold stops the node as the machine's own failure does (X4)."""
    async with trio.open_nursery() as nursery:
        scene = await play(nursery, applies=False)
        scene.applier = Applier(scene.server, scene.machine, ValueCodec(int))
        scene.server.submit_nowait(b"\xc1")
        with pytest.raises(StateMachineError) as caught:
            await scene.applier.run()
        nursery.cancel_scope.cancel()
    assert caught.value.index == 2


async def test_run_ticket_of_another_term_is_a_bug(autojump_clock: MockClock) -> None:
    """A ticket never gets the result of another leader's entry: that would be a bug, and it raises (X1)."""
    async with trio.open_nursery() as nursery:
        scene = await play(nursery, applies=False)
        scene.server.submit_nowait(b"a")
        stale = scene.server.tickets[LogIndex(2)] = Ticket(LogIndex(2), Term(1))
        with pytest.raises(RaftInternalError, match="term 1"):
            await scene.applier.run()
        nursery.cancel_scope.cancel()
    assert not stale.settled
    assert scene.machine.applied == []


async def test_run_never_skips(autojump_clock: MockClock) -> None:
    """An entry that does not follow the last applied one is a bug, and it raises (X4)."""
    server = await make_server()
    applier = Scene(server).applier
    with pytest.raises(RaftInternalError, match="entry 2 of term 1 would be applied after 0"):
        applier._apply_batch([command(2, 1).record], Term(1))


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("bad", [command(1, 2), command(2, 2), command(3, 2), command(4, 1)])
async def test_run_refuses_what_stands_elsewhere(bad: Entry, place: int, autojump_clock: MockClock) -> None:
    """A store that reads back another entry than the log has there, in the middle too, ends the node: nothing of it is
    applied (X4).
    """
    server = await make_server(terms=[1, 1, 1], term=1)
    scene = Scene(server)
    records = [command(index, 1).record for index in (1, 2, 3)]
    records[place] = bad.record
    with pytest.raises(RaftInternalError, match=f"would be applied after {place},"):
        scene.applier._apply_batch(records, Term(1))
    assert scene.machine.applied == []


async def test_run_applies_entries_of_several_terms(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Each command is applied with the term of its own entry, though a batch is of one term."""
    server = await make_server(terms=[1, 1, 2, 4, 4], term=4, config=make_config(members=(N1,)))
    scene = Scene(server)
    nursery.start_soon(server.journal.run)
    lead_term(server, 5)
    nursery.start_soon(scene.applier.run)
    await scene.applied(6)
    assert [(index, term) for index, term, _ in scene.machine.applied] == [(1, 1), (2, 1), (3, 2), (4, 4), (5, 4)]


def count_turns(scene: Scene) -> list[int]:
    """How many commands are applied in each step from now on; between two steps the loop gets its turn."""
    turns: list[int] = []
    step = scene.applier._apply_batch

    def counting(records: list[bytes], term: Term) -> None:
        before = len(scene.machine.applied)
        step(records, term)
        turns.append(len(scene.machine.applied) - before)

    scene.applier._apply_batch = counting  # type: ignore[method-assign]
    return turns


async def test_run_long_replay_lets_others_run(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A long replay is applied in bounded batches, and after each the loop gets its turn (K1)."""
    scene = await play(nursery, entries=1000, limits=Limits(apply_batch_entries=50), applies=False)
    await scene.server.journal.wait_durable(scene.server.journal.position)
    turns = count_turns(scene)
    nursery.start_soon(scene.applier.run)
    await scene.applied(1001)
    assert turns[:20] == [50] * 20


async def test_run_slow_commands_end_a_turn_early(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Commands that each take a while make shorter batches: a turn is bounded in time too (K1)."""
    scene = await play(nursery, entries=100, applies=False)
    recorder = record(scene.server)
    await scene.server.journal.wait_durable(scene.server.journal.position)
    scene.machine.takes = 0.4 * TURN_SECONDS
    turns = count_turns(scene)
    nursery.start_soon(scene.applier.run)
    await scene.applied(101)
    assert turns[:33] == [3] * 33
    assert recorder.of(LoopBlocked) == []


async def test_run_one_slow_command_is_named(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """One call that blocks the loop is measured and reported with its entry (K1)."""
    scene = await play(nursery)
    recorder = record(scene.server)
    await scene.server.submit_nowait(b"quick").wait()
    scene.machine.takes = 0.2
    await scene.server.submit_nowait(b"slow").wait()
    assert recorder.of(LoopBlocked) == [LoopBlocked("apply of entry 3", about(0.2))]


async def test_run_reads_old_entries_back(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Entries that left memory are read back and applied all the same."""
    limits = Limits(log_memory_bytes=1, apply_batch_entries=10)
    scene = await play(nursery, entries=35, limits=limits)
    await scene.applied(36)
    assert [index for index, _, _ in scene.machine.applied] == list(range(1, 36))
    assert store_of(scene.server).reads


# ------------------------------------------------------------------------------------------- the type of commands


class Base(StateMachine[bytes, int]):
    def apply(self, entry: Committed[bytes]) -> int:
        return 0


class Derived(Base):
    pass


class Named(StateMachine):  # type: ignore[type-arg]
    command_type = str

    def apply(self, entry: Committed[str]) -> int:
        return 0


class Untyped(StateMachine):  # type: ignore[type-arg]
    def apply(self, entry: Committed[object]) -> int:
        return 0


def test_command_type() -> None:
    """The type of commands is read from the class statement, also a parent's, or stated in ``command_type``."""
    assert [command_type(machine) for machine in (Base(), Derived(), Named())] == [bytes, bytes, str]


def test_command_type_unknown() -> None:
    """A machine that says neither is refused before anything starts."""
    with pytest.raises(ConfigurationError, match="Untyped"):
        command_type(Untyped())


# ------------------------------------------------------------------------------------------- restoring


class Restoring:
    """A follower whose log begins behind a snapshot of entry 20, which it has yet to restore."""

    def __init__(self, server: Server, store: SnapshotsUnderControl) -> None:
        self.server = server
        self.store = store
        self.machine = Saving()
        self.applier = Applier(server, self.machine, ValueCodec[bytes](bytes))
        self.recorder = record(server)


async def restoring(*, state: bytes = b"a\nb\n", version: int = 1) -> Restoring:
    store = opened_store()
    server = await make_server(terms=[1] * 25, term=1, snapshots=store)
    snapshot = save(store, 20, 1, state, version=version)
    server.state.raise_commit(LogIndex(10))
    server.state.last_applied = LogIndex(10)
    server.snapshots.install(snapshot)
    server.state.raise_commit(LogIndex(25))
    return Restoring(server, store)


async def test_run_restores_before_it_applies(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """What the log no longer holds comes from the snapshot; then each entry behind it is applied once (N3, S8)."""
    scene = await restoring()
    nursery.start_soon(scene.applier.run)
    await until(lambda: scene.server.state.last_applied == 25)
    assert scene.machine.restored == [(20, 1)]
    assert scene.machine.commands == [b"a", b"b", *[b"x"] * 5]
    assert [event.index for event in scene.recorder.of(StateRestored)] == [20]
    assert scene.store.reading == []


async def test_run_nothing_touches_the_machine_during_a_restore(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """A restore runs beside the loop, and until it is done nothing is applied, however much is committed (N3, K1)."""
    scene = await restoring()
    lanes(scene.server.environment).stall(Lane.RESTORE)
    nursery.start_soon(scene.applier.run)
    await trio.sleep(1000)
    assert (scene.machine.commands, scene.server.state.last_applied) == ([], 10)
    assert scene.server.snapshots.restore_due
    lanes(scene.server.environment).resume()
    await until(lambda: scene.server.state.last_applied == 25)


async def test_run_drops_what_it_read_before_an_install(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Entries that were being read back when a snapshot was installed are not applied any more (N3)."""
    store = opened_store()
    limits = Limits(log_memory_bytes=1)
    config = make_config(limits=limits)
    server = await make_server(terms=[1] * 10, term=1, config=config, snapshots=store, latency=1.0)
    server.state.raise_commit(LogIndex(10))
    machine = Saving()
    nursery.start_soon(Applier(server, machine, ValueCodec[bytes](bytes)).run)
    await trio.sleep(0.5)
    assert store_of(server).reads == [(1, 10)]
    server.snapshots.install(save(store, 20, 1, b"a\n"))
    await until(lambda: server.state.last_applied == 20)
    assert (machine.commands, machine.restored) == ([b"a"], [(20, 1)])


async def test_run_restores_the_newer_one(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """If the snapshot was removed while its restore began, as a newer one was installed, that one is restored (N3)."""
    scene = await restoring()
    newer: list[StoredSnapshot] = []

    def replace() -> None:
        if not newer:
            newer.append(save(scene.store, 40, 1, b"c\n"))
            scene.store.retain(1)
            scene.server.snapshots.install(newer[0])

    scene.store.hooks["read"] = replace
    nursery.start_soon(scene.applier.run)
    await until(lambda: scene.server.state.last_applied == 40)
    assert (scene.machine.commands, scene.machine.restored) == ([b"c"], [(40, 1)])


async def test_run_restore_fails(autojump_clock: MockClock) -> None:
    """A machine that cannot be restored stops the node, with the snapshot's index and term (X4)."""
    scene = await restoring()
    scene.machine.restore_failure = ZeroDivisionError("a bug")
    with pytest.raises(
        StateMachineError, match="failed on restoring snapshot 20 of term 1: ZeroDivisionError"
    ) as caught:
        await scene.applier.run()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert (scene.server.state.last_applied, scene.store.reading) == (10, [])


async def test_run_restore_of_a_later_version(autojump_clock: MockClock) -> None:
    """A state that a later class wrote is refused before the machine sees any of it."""
    scene = await restoring(version=2)
    with pytest.raises(IncompatibleVersion, match="version 2, but this version of Saving knows up to 1"):
        await scene.applier.run()
    assert scene.machine.restored == []


async def test_run_restore_cannot_be_read(autojump_clock: MockClock) -> None:
    """A snapshot that cannot be read, and has no successor, stops the node."""
    scene = await restoring()
    scene.store.failures["read"] = StorageError(Path("/data/s"), "opening", "input/output error")
    with pytest.raises(StorageError, match="opening of /data/s failed"):
        await scene.applier.run()


def test_defines_snapshots_both_or_neither() -> None:
    """One half of snapshot and restore is of no use, and a mistake that is told at the start."""

    class Half(Recording):
        def snapshot(self) -> list[bytes]:
            return []

    assert (defines_snapshots(Recording()), defines_snapshots(Saving())) == (False, True)
    with pytest.raises(ConfigurationError, match="Half defines snapshot but not restore"):
        defines_snapshots(Half())
