"""The journal: order, group commit, what counts as durable, and everything that a disk can do wrong."""

import errno
import random
from pathlib import Path
from typing import cast

import attrs
import pytest
import trio
from trio.testing import MockClock

from tests.tasks.parts import N1, N2, StoreUnderControl, about, command, commands, lanes, settle
from trio_raft._config import KIBIBYTE, Limits, Timeouts
from trio_raft._environment import Environment, Lane
from trio_raft._errors import StorageError, StorageFull
from trio_raft._events import DiskFull, DiskHasRoom, DiskRecovered, DiskStalled, Event
from trio_raft._journal import Journal
from trio_raft._messages import Incarnation
from trio_raft._records import Entry, LogIndex, Term
from trio_raft.abc import Append, Compact, LogStore, SaveBootstrap, SaveSnapshot, SaveVote, SnapshotPoint, StoreIdentity
from trio_raft.testing._environment import test_environment

LATENCY = 0.01


@attrs.define(eq=False)
class Desk:
    """A journal with everything round it."""

    store: StoreUnderControl
    environment: Environment
    journal: Journal
    events: list[Event]
    troubles: list[str]
    """What ``on_trouble`` was told."""


def make_desk(
    *, entries: list[Entry] | None = None, timeouts: Timeouts | None = None, limits: Limits | None = None
) -> Desk:
    """A journal in front of a store that holds these entries."""
    store, environment = StoreUnderControl(), test_environment(1, latency=LATENCY)
    store.inner.open(StoreIdentity("tests", N1, Incarnation("disk")), memory_bytes=0)
    if entries:
        plan = store.inner.plan([Append(entries, entries[-1].index, 0)])
        assert plan is not None
        store.inner.execute(plan)
    events: list[Event] = []
    journal = Journal(
        cast("LogStore[object, object, object]", store),
        environment,
        timeouts=timeouts or Timeouts(),
        limits=limits or Limits(),
        publish=events.append,
        last_index=LogIndex(len(entries or [])),
    )
    desk = Desk(store, environment, journal, events, [])
    journal.on_trouble = desk.troubles.append
    return desk


async def until_in_hand(desk: Desk) -> None:
    """Until a write has begun and not returned."""
    while not desk.journal._in_hand:
        await trio.lowlevel.checkpoint()


# ------------------------------------------------------------------------------------------- order and grouping


async def test_run_keeps_the_order_of_the_queue(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Everything is stored in the order in which it was queued, whatever it is."""
    desk = make_desk()
    desk.journal.append(command(1, 1))
    desk.journal.save_vote(Term(2), N2)
    desk.journal.append(command(2, 2))
    desk.journal.save_bootstrap({N1: Incarnation("a")}, done=True)
    desk.journal.supersede(commands(2, [3, 3]))
    nursery.start_soon(desk.journal.run)
    await desk.journal.wait_durable(desk.journal.position)
    [batch] = desk.store.batches
    kinds = [type(item) for item in batch]
    assert kinds == [Append, SaveVote, Append, SaveBootstrap, Append]
    assert [entry.term for entry in desk.store.on_disk] == [1, 3, 3]


async def test_append_joins_the_item_that_is_still_queued(autojump_clock: MockClock) -> None:
    """Commands that follow each other are one item and have one position, until something else comes between."""
    desk = make_desk()
    positions = []
    for entry in commands(1, [1, 1]):
        desk.journal.append(entry)
        positions.append(desk.journal.position)
    positions.append(desk.journal.save_vote(Term(1), None))
    desk.journal.append(command(3, 1))
    positions.append(desk.journal.position)
    assert positions == [1, 1, 2, 3]


async def test_run_callers_woken_in_one_turn_share_one_write(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Callers that are woken in the same turn of the loop share one write and one sync."""
    desk = make_desk()
    nursery.start_soon(desk.journal.run)
    await settle()
    go = trio.Event()

    async def caller(entry_index: int) -> None:
        await go.wait()
        # The order of the callers is chance; the log's is not.
        desk.journal.append(command(len(appended) + 1, 1))
        appended.append(entry_index)
        await desk.journal.wait_durable(desk.journal.position)

    appended: list[int] = []
    async with trio.open_nursery() as callers:
        for number in range(50):
            callers.start_soon(caller, number)
        await settle()
        go.set()
    assert (len(desk.store.batches), len(desk.store.on_disk)) == (1, 50)
    assert desk.journal.statistics.batches == 1


async def test_run_what_arrives_during_a_write_is_the_next_one(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """While a write is in hand the queue collects the next one; the first does not wait for it."""
    desk = make_desk()
    nursery.start_soon(desk.journal.run)
    desk.journal.append(command(1, 1))
    first = desk.journal.position
    await until_in_hand(desk)
    for index in (2, 3, 4):
        desk.journal.append(command(index, 1))
        desk.journal.save_vote(Term(index), None)
    await desk.journal.wait_durable(first)
    assert (desk.journal.durable_index, len(desk.store.batches)) == (1, 1)
    await desk.journal.wait_durable(desk.journal.position)
    assert [len(batch) for batch in desk.store.batches] == [1, 6]


async def test_take_stops_at_the_byte_bound(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A write takes items up to the byte bound, and a larger one by itself."""
    bound = 4 * KIBIBYTE
    desk = make_desk(limits=Limits(journal_batch_bytes=bound))
    large = commands(1, [1])
    for index, size in ((1, bound), (2, bound // 2), (3, bound // 2), (4, 3 * bound)):
        desk.journal.supersede([command(index, 1, bytes(size))])
    assert large
    nursery.start_soon(desk.journal.run)
    await desk.journal.wait_durable(desk.journal.position)
    sizes = [[item.entries[0].index for item in batch if isinstance(item, Append)] for batch in desk.store.batches]
    assert sizes == [[1], [2], [3], [4]]


async def test_wait_durable_returns_in_the_step_of_its_write(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """``wait_durable`` returns when the write that holds the position was synced, not before (S1)."""
    desk = make_desk()
    nursery.start_soon(desk.journal.run)
    position = desk.journal.save_vote(Term(1), N1)
    began = trio.current_time()
    await desk.journal.wait_durable(position)
    assert trio.current_time() - began == pytest.approx(LATENCY)
    assert desk.store.vote_on_disk == SaveVote(Term(1), N1)
    await desk.journal.wait_durable(0)
    assert trio.current_time() - began == pytest.approx(LATENCY)


async def test_wait_durable_cancelled(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Cancelling whoever waits cancels no write."""
    desk = make_desk()
    nursery.start_soon(desk.journal.run)
    position = desk.journal.save_vote(Term(1), N1)
    with trio.move_on_after(LATENCY / 4):
        await desk.journal.wait_durable(position)
    assert desk.journal.durable_position == 0
    await desk.journal.wait_durable(position)
    assert desk.store.vote_on_disk == SaveVote(Term(1), N1)


async def test_on_durable_is_told_in_the_same_step(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Whoever counts match indexes learns of a write in the very step in which it became durable."""
    desk = make_desk()
    seen: list[tuple[int, int]] = []
    desk.journal.on_durable = lambda: seen.append((desk.journal.durable_index, desk.journal.durable_position))
    nursery.start_soon(desk.journal.run)
    desk.journal.append(command(1, 1))
    await desk.journal.wait_durable(1)
    assert seen == [(1, 1)]


# ------------------------------------------------------------------------------------------- durable index


async def test_supersede_lowers_durable_index_at_once(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A truncation at i lowers ``durable_index`` to i - 1 in the same step, and only its own write raises it (S5)."""
    desk = make_desk(entries=commands(1, [1, 1, 1, 1]))
    assert desk.journal.durable_index == 4
    desk.journal.supersede(commands(3, [2, 2, 2]))
    assert desk.journal.durable_index == 2
    nursery.start_soon(desk.journal.run)
    await desk.journal.wait_durable(desk.journal.position)
    assert desk.journal.durable_index == 5


async def test_supersede_while_the_old_entries_are_in_hand(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """The completion of an older write does not count for the newer entries at the same index (S5)."""
    desk = make_desk()
    nursery.start_soon(desk.journal.run)
    desk.journal.supersede(commands(1, [1, 1, 1]))
    first = desk.journal.position
    await until_in_hand(desk)
    desk.journal.supersede(commands(2, [2]))
    await desk.journal.wait_durable(first)
    assert desk.journal.durable_index == 1
    await desk.journal.wait_durable(desk.journal.position)
    assert desk.journal.durable_index == 2
    assert [entry.term for entry in desk.store.on_disk] == [1, 2]


async def test_supersede_back_and_forth_at_one_index(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A, then B, then A again at one index: only the last write of A makes it durable (S5)."""
    desk = make_desk()
    nursery.start_soon(desk.journal.run)
    positions: list[int] = []
    seen: list[tuple[int, int]] = []
    for term in (1, 2, 1):
        desk.journal.supersede([command(1, term)])
        positions.append(desk.journal.position)
        if not seen:
            await until_in_hand(desk)
            seen.append((0, desk.journal.durable_index))
    for position in positions:
        await desk.journal.wait_durable(position)
        seen.append((position, desk.journal.durable_index))
    # The second and the third item shared a write.
    assert seen == [(0, 0), (1, 0), (2, 1), (3, 1)]
    assert [len(batch) for batch in desk.store.batches] == [1, 2]


async def test_durable_index_never_runs_ahead_of_the_disk(autojump_clock: MockClock) -> None:
    """Whatever is appended, superseded and written when, every entry up to ``durable_index`` is on disk as in memory
    (S5).
    """
    for seed in range(60):
        chance = random.Random(seed)
        desk = make_desk()
        memory: list[Entry] = []

        def check(desk: Desk = desk, memory: list[Entry] = memory, seed: int = seed) -> None:
            durable = desk.journal.durable_index
            assert desk.store.on_disk[:durable] == memory[:durable], f"seed {seed}"

        desk.journal.on_durable = check
        async with trio.open_nursery() as nursery:
            nursery.start_soon(desk.journal.run)
            for step in range(40):
                if chance.random() < 0.6 or not memory:
                    memory.append(command(len(memory) + 1, 1, b"%d" % step))
                    desk.journal.append(memory[-1])
                else:
                    first = chance.randint(max(1, len(memory) - 4), len(memory))
                    terms = [1] * chance.randint(1, 3)
                    newer = [command(first + offset, 1, b"%d" % step) for offset in range(len(terms))]
                    del memory[first - 1 :]
                    memory += newer
                    desk.journal.supersede(newer)
                check()
                if chance.random() < 0.4:
                    await trio.sleep(chance.choice([0, LATENCY / 3, LATENCY]))
                    check()
            desk.journal.close()
        assert desk.store.on_disk == memory, f"seed {seed}"
        assert desk.journal.durable_index == len(memory), f"seed {seed}"


# ------------------------------------------------------------------------------------------- failure


async def test_run_failed_write_poisons(autojump_clock: MockClock) -> None:
    """A failed write is never tried again: ``run`` raises, and nothing is acknowledged after it (S2)."""
    desk = make_desk()
    desk.store.failure = OSError(errno.EIO, "Input/output error", "/disk/log")
    waited: list[str] = []

    async def wait() -> None:
        await desk.journal.wait_durable(1)
        waited.append("durable")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        desk.journal.append(command(1, 1))
        with pytest.raises(StorageError) as caught:
            await desk.journal.run()
        desk.store.failure = None
        desk.journal.append(command(2, 1))
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert waited == []
    assert (desk.journal.durable_position, desk.journal.durable_index) == (0, 0)
    assert (desk.store.batches, desk.store.noted) == ([], [])
    assert caught.value.path == Path("/disk/log")
    assert isinstance(caught.value.__cause__, OSError)
    assert "Input/output error" in str(caught.value)


async def test_run_storage_error_leaves_as_itself(autojump_clock: MockClock) -> None:
    """A store that names the file itself keeps its own error (S2)."""
    desk = make_desk()
    desk.store.failure = StorageError(Path("/disk/log"), "syncing", "Input/output error")
    desk.journal.append(command(1, 1))
    with pytest.raises(StorageError) as caught:
        await desk.journal.run()
    assert caught.value is desk.store.failure


async def test_upkeep_failure_ends_it(autojump_clock: MockClock) -> None:
    """A failure while room is prepared is a failure of the disk, and is not tried again (S2)."""
    desk = make_desk()
    desk.store.upkeep_results = [OSError(errno.EIO, "Input/output error", "/disk/next")]
    with pytest.raises(StorageError, match="/disk/next"):
        await desk.journal.upkeep()
    assert desk.store.upkeep_runs == 1


# ------------------------------------------------------------------------------------------- a slow disk


async def test_watch_reports_a_stall_once(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A write that takes too long is reported once, in the moment in which it becomes overdue, and once when it
    returned (S9).
    """
    patience = Timeouts().disk_stall_timeout
    desk = make_desk()
    nursery.start_soon(desk.journal.run)
    nursery.start_soon(desk.journal.watch)
    await trio.sleep(0.7 * patience)
    lanes(desk.environment).stall(Lane.JOURNAL)
    position, began = desk.journal.save_vote(Term(1), None), trio.current_time()
    await trio.sleep(0.99 * patience)
    assert (desk.events, desk.troubles) == ([], [])
    await trio.sleep(0.02 * patience)
    assert desk.events == [DiskStalled(about(patience))]
    assert desk.troubles == ["the disk of the log is stalled"]
    await trio.sleep(20 * patience)
    assert (len(desk.events), len(desk.troubles)) == (1, 1)
    lanes(desk.environment).resume()
    await desk.journal.wait_durable(position)
    assert desk.events[1:] == [DiskRecovered(about(trio.current_time() - began))]
    lanes(desk.environment).stall(Lane.JOURNAL)
    desk.journal.save_vote(Term(2), None)
    await trio.sleep(1.01 * patience)
    assert [type(event) for event in desk.events] == [DiskStalled, DiskRecovered, DiskStalled]
    lanes(desk.environment).resume()


async def test_watch_a_slow_but_tolerable_write_is_nothing(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Writes slower than usual but below ``disk_stall_timeout`` raise no event and no alarm (K1)."""
    patience = Timeouts().disk_stall_timeout
    desk = make_desk()
    nursery.start_soon(desk.journal.run)
    nursery.start_soon(desk.journal.watch)
    lanes(desk.environment).latency = 0.9 * patience
    for term in range(1, 10):
        await desk.journal.wait_durable(desk.journal.save_vote(Term(term), None))
        assert not desk.journal.overdue(trio.current_time())
    assert (desk.events, desk.troubles) == ([], [])


@pytest.mark.parametrize("patience", [0.1, 0.3, 2.0])
async def test_watch_is_not_caught_by_rounding(patience: float, autojump_clock: MockClock) -> None:
    """The deadline that the watch sleeps until and the question whether a write is overdue agree to the last bit."""
    desk = make_desk(timeouts=Timeouts(disk_stall_timeout=patience))
    chance = random.Random(5)
    for _ in range(200):
        desk.journal._write_began = began = chance.random()
        assert desk.journal.overdue(began + patience)
        assert not desk.journal.overdue(began + 0.999 * patience)


async def test_overdue_is_asked_synchronously(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """``overdue`` is true from ``disk_stall_timeout`` after the write began until it returned."""
    patience = Timeouts().disk_stall_timeout
    desk = make_desk()
    nursery.start_soon(desk.journal.run)
    assert not desk.journal.overdue(trio.current_time() + 100)
    lanes(desk.environment).stall(Lane.JOURNAL)
    position, began = desk.journal.save_vote(Term(1), None), trio.current_time()
    await until_in_hand(desk)
    assert not desk.journal.overdue(began + 0.9 * patience)
    assert desk.journal.overdue(began + 1.1 * patience)
    lanes(desk.environment).resume()
    await desk.journal.wait_durable(position)
    assert not desk.journal.overdue(began + 1.1 * patience)


# ------------------------------------------------------------------------------------------- a full disk


async def test_upkeep_full_disk_is_no_failure(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A disk that is full while room is prepared is reported once and asked again until there is room (S2)."""
    desk = make_desk()
    full = StorageFull(Path("/disk"), 1000)
    desk.store.upkeep_results = [full, full, full, None]
    desk.store.has_room = False
    nursery.start_soon(desk.journal.run)
    nursery.start_soon(desk.journal.upkeep)
    position = desk.journal.save_vote(Term(1), None)
    await trio.sleep(0.5)
    found: list[object] = [desk.journal.full]
    assert (desk.events, desk.troubles) == ([DiskFull(str(full))], ["the disk is full"])
    # The write that found no room goes on by itself.
    await desk.journal.wait_durable(position)
    found.append(desk.journal.full)
    assert found == [full, None]
    assert desk.events == [DiskFull(str(full)), DiskHasRoom()]
    assert desk.troubles == ["the disk is full"]
    assert desk.store.upkeep_runs == 4


async def test_run_waits_for_room_and_wakes_the_upkeep(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A writer that outran the preparation of room wakes it, waits, and counts as overdue meanwhile."""
    desk = make_desk()
    nursery.start_soon(desk.journal.run)
    nursery.start_soon(desk.journal.upkeep)
    await settle()
    lanes(desk.environment).stall(Lane.PREPARE)
    desk.store.has_room = False
    desk.store.upkeep_results = [None]
    position = desk.journal.save_vote(Term(1), None)
    await trio.sleep(3)
    assert desk.journal.overdue(trio.current_time())
    lanes(desk.environment).resume()
    await desk.journal.wait_durable(position)


# ------------------------------------------------------------------------------------------- the end


async def test_close_drains(autojump_clock: MockClock) -> None:
    """After ``close`` the journal ends once everything queued is durable."""
    desk = make_desk()
    for index in range(1, 10):
        desk.journal.append(command(index, 1))
        desk.journal.save_vote(Term(index), None)
    desk.journal.close()
    await desk.journal.run()
    assert desk.journal.durable_position == desk.journal.position == 18
    assert desk.journal.durable_index == 9


async def test_close_while_idle(autojump_clock: MockClock) -> None:
    """An idle journal ends as soon as it is closed."""
    desk = make_desk()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.journal.run)
        await settle()
        desk.journal.close()
    assert desk.store.batches == []


async def test_run_cancelled_abandons_the_write(autojump_clock: MockClock) -> None:
    """A cancelled write is abandoned: whatever the disk still does, nobody takes note of it."""
    desk = make_desk()
    lanes(desk.environment).stall(Lane.JOURNAL)
    desk.journal.append(command(1, 1))
    with trio.move_on_after(1) as scope:
        await desk.journal.run()
    assert scope.cancelled_caught
    assert (desk.journal.durable_position, desk.journal.durable_index, desk.store.noted) == (0, 0, [])


async def test_statistics_count_batches_entries_and_bytes(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """The statistics count writes, entries and bytes, and keep the last and the longest time."""
    desk = make_desk()
    nursery.start_soon(desk.journal.run)
    entries = commands(1, [1, 1, 1])
    desk.journal.supersede(entries)
    await desk.journal.wait_durable(1)
    lanes(desk.environment).latency = LATENCY / 2
    desk.journal.save_vote(Term(1), None)
    await desk.journal.wait_durable(2)
    statistics = desk.journal.statistics
    assert (statistics.batches, statistics.entries) == (2, 3)
    assert statistics.bytes == sum(len(entry.record) for entry in entries)
    assert statistics.last_write_seconds == pytest.approx(LATENCY / 2)
    assert statistics.longest_write_seconds == pytest.approx(LATENCY)


def test_save_bootstrap_copies_the_map() -> None:
    """What is queued does not change afterwards: the caller's map may."""
    desk = make_desk()
    incarnations = {N1: Incarnation("a")}
    desk.journal.save_bootstrap(incarnations, done=False)
    incarnations[N2] = Incarnation("b")
    assert list(desk.journal._queue) == [SaveBootstrap({N1: Incarnation("a")}, done=False)]


# ------------------------------------------------------------------------------------------- snapshots


async def test_save_snapshot_that_keeps_the_log(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """What a snapshot covers is durable at once; what stands behind it, when its own write has returned (S5)."""
    desk = make_desk(entries=commands(1, [1] * 5))
    desk.journal.supersede(commands(6, [1] * 5))
    position = desk.journal.save_snapshot(SnapshotPoint(LogIndex(8), Term(1)), keep=True)
    assert (desk.journal.durable_index, position) == (8, 2)
    nursery.start_soon(desk.journal.run)
    await desk.journal.wait_durable(position)
    assert desk.journal.durable_index == 10
    assert [entry.index for entry in desk.store.on_disk] == [9, 10]


async def test_save_snapshot_that_discards_the_log(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Without the log nothing that was queued or in hand before makes anything durable above the snapshot (S5, N1)."""
    desk = make_desk(entries=commands(1, [1] * 5))
    nursery.start_soon(desk.journal.run)
    desk.journal.supersede(commands(6, [1] * 5))
    await until_in_hand(desk)
    desk.journal.supersede(commands(11, [1] * 5))
    desk.journal.save_snapshot(SnapshotPoint(LogIndex(8), Term(2)), keep=False)
    assert desk.journal.durable_index == 8
    desk.journal.supersede(commands(9, [2]))
    seen: list[int] = []
    desk.journal.on_durable = lambda: seen.append(desk.journal.durable_index)
    await desk.journal.wait_durable(desk.journal.position)
    assert (seen[0], seen[-1]) == (8, 9)
    assert [(entry.index, entry.term) for entry in desk.store.on_disk] == [(9, 2)]


async def test_compact_keeps_its_place(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A cut is carried out in the order of the queue, and no later command joins an item that stands before it (S6)."""
    desk = make_desk()
    desk.journal.append(command(1, 1))
    desk.journal.append(command(2, 1))
    desk.journal.compact(LogIndex(1))
    desk.journal.append(command(3, 1))
    assert [type(item) for item in desk.journal._queue] == [Append, Compact, Append]
    nursery.start_soon(desk.journal.run)
    await desk.journal.wait_durable(desk.journal.position)
    assert [entry.index for entry in desk.store.on_disk] == [2, 3]
    assert desk.journal.durable_index == 3


def test_save_snapshot_closes_the_open_item() -> None:
    """A command that comes after a marker is not written before it (N8)."""
    desk = make_desk()
    desk.journal.append(command(1, 1))
    desk.journal.save_snapshot(SnapshotPoint(LogIndex(1), Term(1)), keep=True)
    desk.journal.append(command(2, 1))
    assert [type(item) for item in desk.journal._queue] == [Append, SaveSnapshot, Append]
