"""Taking snapshots: when, of which moment, shared by whom, and what a failure or a cancel leaves behind."""

import errno
import itertools
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.tasks.cancelling import every_cut
from tests.tasks.parts import N1, Recorder, lanes, lead_term, make_config, make_server, record, settle, until
from tests.tasks.saving import Saving, SnapshotsUnderControl, make_snapshot
from trio_raft._apply import Applier
from trio_raft._config import Snapshots
from trio_raft._environment import Lane
from trio_raft._errors import RaftInternalError, SnapshotUnavailable, StorageError, StorageFull
from trio_raft._events import LoopBlocked
from trio_raft._records import LogIndex
from trio_raft._rules.state import Role
from trio_raft._server import Server
from trio_raft._snapshot_events import LogCompacted, SnapshotFailed, SnapshotTaken
from trio_raft._startup import MachineAbilities
from trio_raft._taking import STEP_BYTES, Snapshotter
from trio_raft._values import ValueCodec
from trio_raft.abc import StoredSnapshot

NEVER = Snapshots(threshold_entries=0, threshold_bytes=0, trailing_entries=0)
"""Only who asks gets one."""


class Scene:
    """A single server that leads, applies and takes snapshots."""

    def __init__(self, server: Server, store: SnapshotsUnderControl) -> None:
        self.server = server
        self.store = store
        self.machine = Saving()
        self.applier = Applier(server, self.machine, ValueCodec[bytes](bytes))
        self.snapshotter = Snapshotter(server, self.machine)
        self.recorder: Recorder = record(server)

    async def write(self, *commands: bytes) -> None:
        tickets = [self.server.submit_nowait(command) for command in commands]
        for ticket in tickets:
            await ticket.wait()

    @property
    def failures(self) -> list[str]:
        return [event.reason for event in self.recorder.of(SnapshotFailed)]

    @property
    def newest(self) -> int:
        newest = self.server.snapshots.newest
        return newest.point.index if newest else 0


async def play(nursery: trio.Nursery, settings: Snapshots = NEVER, *, supported: bool = True) -> Scene:
    """Its no-op is entry 1."""
    store = SnapshotsUnderControl()
    config = make_config(members=(N1,), snapshots=settings)
    abilities = MachineAbilities(snapshots=supported, applied_index=None)
    scene = Scene(await make_server(config=config, snapshots=store, machine=abilities), store)
    nursery.start_soon(scene.server.journal.run)
    lead_term(scene.server, 1)
    nursery.start_soon(scene.applier.run)
    nursery.start_soon(scene.snapshotter.run)
    return scene


# ------------------------------------------------------------------------------------------- when


async def test_run_at_the_threshold_of_entries(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """One is taken when so many entries were applied since the last one, and not before."""
    scene = await play(nursery, Snapshots(threshold_entries=5, threshold_bytes=0, trailing_entries=0))
    await scene.write(b"a", b"b", b"c")
    await settle()
    assert scene.recorder.of(SnapshotTaken) == []
    await scene.write(b"d")
    await until(lambda: scene.newest == 5)
    await scene.write(b"e", b"f", b"g", b"h", b"i")
    await until(lambda: scene.newest == 10)
    assert [event.index for event in scene.recorder.of(SnapshotTaken)] == [5, 10]
    assert scene.server.snapshots.taken == 2


async def test_run_at_the_threshold_of_bytes(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """One is taken when so many bytes of entries were applied since the last one."""
    scene = await play(nursery, Snapshots(threshold_entries=0, threshold_bytes=1000, trailing_entries=0))
    await scene.write(b"x" * 900)
    await settle()
    assert scene.newest == 0
    await scene.write(b"x" * 100)
    await until(lambda: scene.newest == 3)


async def test_run_by_interval_if_anything_was_applied(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """One is taken so many seconds after the last, if anything was applied since."""
    scene = await play(nursery, Snapshots(threshold_entries=0, threshold_bytes=0, interval=60.0, trailing_entries=0))
    await scene.write(b"a")
    await trio.sleep(59)
    assert scene.newest == 0
    await trio.sleep(2)
    assert scene.newest == 2
    await trio.sleep(600)
    assert scene.server.snapshots.taken == 1
    await scene.write(b"b")
    await trio.sleep(61)
    assert scene.newest == 3


async def test_run_off_takes_none(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """With every trigger off, and for a machine that defines no snapshot, none is ever taken."""
    scene = await play(nursery)
    eager = Snapshots(threshold_entries=1, interval=1.0)
    other = await play(nursery, eager, supported=False)
    for quiet in (scene, other):
        await quiet.write(*[b"x"] * 100)
    await trio.sleep(100)
    assert [quiet.server.snapshots.taken for quiet in (scene, other)] == [0, 0]
    with pytest.raises(SnapshotUnavailable, match="Saving defines no snapshot"):
        await other.snapshotter.take()


async def test_take_without_anything_applied(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """There is no snapshot of nothing, and saying so is no trouble that an event has to tell."""
    scene = Scene(await make_server(config=make_config(members=(N1,), snapshots=NEVER)), SnapshotsUnderControl())
    nursery.start_soon(scene.snapshotter.run)
    with pytest.raises(SnapshotUnavailable, match="nothing was applied yet"):
        await scene.snapshotter.take()
    assert scene.failures == []


# ------------------------------------------------------------------------------------------- of which moment


async def test_take_is_of_one_moment(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """The state in it is that of its index, whatever is applied while it is written; and writing holds up no command
    (S8, K1).
    """
    scene = await play(nursery)
    await scene.write(b"a", b"b")
    lanes(scene.server.environment).stall(Lane.SNAPSHOT)
    taken: list[StoredSnapshot] = []

    async def take() -> None:
        taken.append(await scene.snapshotter.take())

    nursery.start_soon(take)
    await until(lambda: scene.machine.captured == [2])
    await scene.write(b"c", b"d")
    assert scene.server.state.last_applied == 5
    lanes(scene.server.environment).resume()
    await until(lambda: taken)
    assert taken[0].point.index == 3
    assert scene.store.state_of(taken[0]) == [b"a", b"b"]
    assert taken[0].meta.configuration.voters == (N1,)


async def test_take_cuts_the_log_when_it_is_visible(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """The log is cut behind a snapshot once that is visible, not before; the trailing entries stay (S7, N7)."""
    scene = await play(nursery, Snapshots(threshold_entries=0, threshold_bytes=0, trailing_entries=2))
    await scene.write(*[b"x"] * 9)
    bases: list[int] = []
    scene.store.hooks["finish"] = lambda: bases.append(scene.server.state.log.base_index)
    await scene.snapshotter.take()
    await until(lambda: scene.server.journal.durable_position == scene.server.journal.position)
    assert bases == [0]
    assert (scene.newest, scene.server.state.log.base_index) == (10, 8)
    assert scene.recorder.of(LogCompacted) == [LogCompacted(LogIndex(9))]
    kinds = [type(event) for event in scene.recorder.events]
    assert kinds.index(SnapshotTaken) < kinds.index(LogCompacted)


async def test_take_again_without_news(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """If nothing was applied since the newest one, that is the answer."""
    scene = await play(nursery)
    await scene.write(b"a")
    first = await scene.snapshotter.take()
    assert await scene.snapshotter.take() is first
    assert scene.server.snapshots.taken == 1


async def test_take_shared_by_those_who_asked_before_it(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Who asks while one is written gets the next one, since that one is older than the question."""
    scene = await play(nursery)
    await scene.write(b"a")
    found: dict[str, int] = {}

    async def take(name: str) -> None:
        found[name] = (await scene.snapshotter.take()).point.index

    nursery.start_soon(take, "one")
    nursery.start_soon(take, "two")
    lanes(scene.server.environment).stall(Lane.SNAPSHOT)
    await until(lambda: scene.machine.captured)
    await scene.write(b"b")
    nursery.start_soon(take, "late")
    await settle()
    lanes(scene.server.environment).resume()
    await until(lambda: len(found) == 3)
    assert found == {"one": 2, "two": 2, "late": 3}
    assert scene.server.snapshots.taken == 2


async def test_take_waits_for_a_restore(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """There is no state to capture while it is being restored."""
    store = SnapshotsUnderControl()
    config = make_config(members=(N1,), snapshots=NEVER)
    scene = Scene(await make_server(terms=[1] * 5, term=1, config=config, snapshots=store), store)
    scene.server.state.raise_commit(LogIndex(5))
    scene.server.snapshots.restore_index = LogIndex(5)
    nursery.start_soon(scene.snapshotter.run)
    nursery.start_soon(scene.snapshotter.take)
    await settle()
    assert scene.machine.captured == []
    scene.server.note_restored(LogIndex(5))
    await until(lambda: scene.newest == 5)


async def test_take_a_slow_capture_is_reported(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A capture that blocks the loop is named: nobody else could say where the time went (K1)."""
    scene = await play(nursery)
    await scene.write(b"a")
    times = iter([0.0, 0.3])
    scene.snapshotter._clock = _Watch(scene.snapshotter._clock, times)  # type: ignore[assignment]
    await scene.snapshotter.take()
    assert scene.recorder.of(LoopBlocked) == [LoopBlocked("Saving.snapshot", 0.3)]


class _Watch:
    """A clock with a stopwatch that shows what the test says."""

    def __init__(self, clock: object, times: object) -> None:
        self._clock, self._times = clock, times

    def stopwatch(self) -> float:
        return next(self._times)  # type: ignore[call-overload, no-any-return]

    def __getattr__(self, name: str) -> object:
        return getattr(self._clock, name)


async def test_take_many_pieces_in_turns(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A large state is written in turns of about a mebibyte: other work in the lane comes in between (K1)."""
    scene = await play(nursery)
    await scene.write(b"x")
    scene.machine.pieces = lambda _: [bytes(STEP_BYTES // 4)] * 20
    order: list[str] = []
    scene.store.hooks["write"] = lambda: order.append("piece")

    async def other() -> None:
        await until(lambda: order)
        await scene.server.environment.run_blocking(Lane.SNAPSHOT, order.append, "other")

    nursery.start_soon(other)
    await scene.snapshotter.take()
    assert "other" in order
    assert order.index("other") % 4 == 0
    assert order.index("other") < 20


# ------------------------------------------------------------------------------------------- failures

MACHINE_FAILURES = {
    "capture": ("capture_failure", ValueError("no"), "ValueError: no"),
    "an assertion of the machine's": ("capture_failure", AssertionError("mine"), "AssertionError: mine"),
    "piece": ("piece_failure", KeyError("no"), "KeyError: 'no'"),
    "no bytes": ("pieces", lambda _: ["text"], r"snapshot\(\) gave str, not bytes"),
    "None is no end": ("pieces", lambda _: [b"a", None, b"b"], r"snapshot\(\) gave NoneType, not bytes"),
    "not iterable": ("pieces", lambda _: 7, "TypeError: 'int' object is not iterable"),
}


@pytest.mark.parametrize("case", MACHINE_FAILURES)
async def test_take_the_machine_fails(case: str, autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Whatever the machine raises while it is saved fails that snapshot alone, with its reason; nothing is left."""
    attribute, value, reason = MACHINE_FAILURES[case]
    scene = await play(nursery)
    await scene.write(b"a", b"b")
    usual = getattr(scene.machine, attribute)
    setattr(scene.machine, attribute, value)
    with pytest.raises(SnapshotUnavailable, match=reason):
        await scene.snapshotter.take()
    await until(lambda: not scene.store.unfinished)
    assert len(scene.failures) == 1
    setattr(scene.machine, attribute, usual)
    assert (await scene.snapshotter.take()).point.index == 3
    assert scene.server.state.role is Role.LEADER


@pytest.mark.parametrize("step", ["begin", "write", "finish"])
@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (StorageFull(Path("/data"), 7), "the file system of /data has no room for another 7 bytes"),
        (
            StorageError(Path("/data/s"), "writing", "input/output error"),
            "writing of /data/s failed: input/output error",
        ),
        (OSError(errno.EIO, "broken"), "work of SnapshotsUnderControl failed: OSError: [Errno 5] broken"),
        (ZeroDivisionError("theirs"), "work of SnapshotsUnderControl failed: ZeroDivisionError: theirs"),
    ],
)
async def test_take_the_store_fails(
    step: str, failure: Exception, reason: str, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """A full or failing disk, or a user's store, fails that snapshot alone: the node has not stopped, and no text says
    so; the old snapshot stays, and nothing unfinished is left (S7).
    """
    scene = await play(nursery)
    await scene.write(b"a")
    old = await scene.snapshotter.take()
    await scene.write(b"b")
    scene.store.failures[step] = failure
    with pytest.raises(SnapshotUnavailable) as caught:
        await scene.snapshotter.take()
    assert caught.value.reason == reason
    assert scene.failures == [reason]
    await until(lambda: not scene.store.unfinished)
    assert scene.server.snapshots.newest is old
    assert scene.store.points == [(2, 1)]
    scene.store.failures.clear()
    assert (await scene.snapshotter.take()).point.index == 3


async def test_take_removing_old_ones_fails(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """That old ones cannot be removed is told, and spoils no snapshot that was taken."""
    scene = await play(nursery)
    await scene.write(b"a")
    scene.store.failures["retain"] = StorageError(Path("/data"), "removing", "read-only")
    assert (await scene.snapshotter.take()).point.index == 2
    assert scene.failures == ["removing of /data failed: read-only"]


@pytest.mark.parametrize("bug", [AssertionError("a bug"), RaftInternalError("a bug")])
async def test_run_own_bugs_end_the_node(bug: Exception, autojump_clock: MockClock) -> None:
    """What this package gets wrong itself is not taken for a snapshot that failed."""
    with pytest.raises(BaseExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            scene = await play(nursery)
            await scene.write(b"a")
            scene.store.failures["finish"] = bug
            nursery.start_soon(scene.snapshotter.take)
    assert caught.group_contains(type(bug), match="a bug", depth=1)


async def test_run_tries_again_later_and_later(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """After a failure the next attempt comes after a second, then two, four …, and what was counted still counts."""
    scene = await play(nursery, Snapshots(threshold_entries=2, threshold_bytes=0, trailing_entries=0))
    attempts: list[float] = []
    scene.store.hooks["begin"] = lambda: attempts.append(trio.current_time())
    scene.store.failures["begin"] = StorageFull(Path("/data"), 7)
    await scene.write(b"a")
    await trio.sleep(200)
    gaps = [later - earlier for earlier, later in itertools.pairwise(attempts)]
    assert [round(gap, 1) for gap in gaps] == [1, 2, 4, 8, 16, 32, 60, 60]
    scene.store.failures.clear()
    await until(lambda: scene.newest == 2)
    assert (scene.server.snapshots.entries_since, scene.server.snapshots.due) == (0, False)


async def test_run_failure_after_another_was_installed(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """What a failed snapshot would have held is not counted again if one that came from the leader holds it: else the
    task went round and round with nothing to take, and the loop with it.
    """
    scene = await play(nursery, Snapshots(threshold_entries=2, threshold_bytes=0, trailing_entries=0))
    lanes(scene.server.environment).stall(Lane.SNAPSHOT)
    await scene.write(b"a")
    await until(lambda: scene.machine.captured)
    scene.server.step_down("the test says so")
    made = make_snapshot(50, 1, b"all\n")
    scene.store._keep(made.snapshot, made.data)
    scene.server.snapshots.install(made.snapshot)
    scene.store.failures["begin"] = StorageFull(Path("/data"), 7)
    lanes(scene.server.environment).resume()
    with trio.fail_after(100):
        await until(lambda: scene.failures)
        await until(lambda: scene.machine.commands == [b"all"])
        await trio.sleep(10)
    assert scene.server.snapshots.entries_since == 0
    assert scene.newest == 50


# ------------------------------------------------------------------------------------------- cancel and close


async def test_take_cancelled_everywhere(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Wherever the only one who asked is cancelled, the work is given up, nothing unfinished is left, the old snapshot
    stays, and the next one is taken (X2).
    """
    scene = await play(nursery)
    await scene.write(b"first")
    await scene.snapshotter.take()
    for cut in every_cut():
        await scene.write(b"x")
        before = scene.newest
        result = await cut.run(scene.snapshotter.take())
        assert (result is None) is cut.was_made
        await trio.sleep(1)
        assert scene.store.unfinished == []
        assert scene.newest in (before, scene.server.state.last_applied)
        assert (await scene.snapshotter.take()).point.index == scene.server.state.last_applied
    assert scene.failures == []


async def test_take_cancelled_in_the_middle(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """At each moment of the writing in which the only one who asked gives up, what was begun is removed, also what a
    thread makes after the cancel (X2).
    """
    for delay in range(40):
        scene = await play(nursery)
        lanes(scene.server.environment).latency = 0.01
        await scene.write(b"a", b"b")
        with trio.move_on_after(delay / 1000):
            await scene.snapshotter.take()
        await trio.sleep(1)
        assert scene.store.unfinished == []
        assert scene.server.snapshots.taken in (0, 1)
        assert (await scene.snapshotter.take()).point.index == 3


async def test_take_cancelled_while_others_wait(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """One who gives up spoils it for nobody else who asked."""
    scene = await play(nursery)
    await scene.write(b"a")
    lanes(scene.server.environment).stall(Lane.SNAPSHOT)
    found: list[int] = []

    async def patient() -> None:
        found.append((await scene.snapshotter.take()).point.index)

    nursery.start_soon(patient)
    with trio.move_on_after(1):
        await scene.snapshotter.take()
    lanes(scene.server.environment).resume()
    await until(lambda: found == [2])
    assert scene.server.snapshots.taken == 1


async def test_take_when_the_server_closes(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Whoever waits for a snapshot when the node ends learns that it is closed (X1, X3)."""
    scene = await play(nursery)
    await scene.write(b"a")
    lanes(scene.server.environment).stall(Lane.SNAPSHOT)
    trio.lowlevel.spawn_system_task(close_later, scene.server)
    with pytest.raises(trio.ClosedResourceError):
        await scene.snapshotter.take()


async def close_later(server: Server) -> None:
    await trio.sleep(1)
    server.close(None)


# ------------------------------------------------------------------------------------------- cutting


async def test_run_cuts_much_in_steps(
    autojump_clock: MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large cut takes many turns of the loop, each bounded; the disk is told once, when all of it is cut (K1)."""
    monkeypatch.setattr("trio_raft._snapshots.CUT_ENTRIES", 7)
    scene = await play(nursery)
    await scene.write(*[b"x"] * 99)
    bases: list[int] = []
    log = scene.server.state.log
    compact = log.compact

    class Watched:
        def __getattr__(self, name: str) -> object:
            return getattr(log, name)

        def compact(self, up_to: LogIndex) -> None:
            bases.append(up_to)
            compact(up_to)

    scene.server.snapshots._state.log = Watched()  # type: ignore[assignment]
    await scene.snapshotter.take()
    await until(lambda: log.base_index == 100)
    assert [later - earlier for earlier, later in itertools.pairwise([0, *bases])] == [7] * 14 + [2]
    assert scene.recorder.of(LogCompacted) == [LogCompacted(LogIndex(101))]
