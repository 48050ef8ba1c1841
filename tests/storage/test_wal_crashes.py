"""Crash points, enumerated: the power goes before every single operation, and takes any legal part of what is unsynced.

House rule: what a store finds is compared with the list model, opened again at once, and once more after another
power cut that takes everything that the recovery itself failed to sync.
"""

import errno
from collections.abc import Iterator, Sequence

import attrs
import pytest

from tests.storage.support import (
    DIRECTORY,
    ENOUGH_MEMORY,
    N1,
    N2,
    Image,
    append,
    bootstrap,
    commands,
    entry,
    identity,
    keep_up,
    lose_everything,
    make_store,
    point,
    power_cuts,
    recover,
    save,
    vote,
)
from trio_raft._errors import StorageError
from trio_raft._messages import Incarnation
from trio_raft._records import EntryKind, LogIndex
from trio_raft._storage.segments import segment_numbers
from trio_raft._storage.wal import FileLogStore
from trio_raft.abc import Compact, JournalItem, SaveBootstrap, SaveSnapshot, SnapshotPoint
from trio_raft.testing._disk import PowerCut, SimDisk

SEGMENT_BYTES = 4096

Script = Sequence[Sequence[JournalItem] | SnapshotPoint]
"""Batches, one after the other; an empty one stands for upkeep, a point for a snapshot that becomes durable."""

START: Script = [[vote(1, N1), bootstrap(done=True)]]

APPEND: Script = [
    *START,
    [commands(1, 3, term=1)],
    [commands(4, 4, term=1, data=bytes(1500))],
    [vote(2), commands(5, 6, term=2, data=b"\x01" * 600)],
]

SUPERSEDE: Script = [
    *START,
    [commands(1, 6, term=1, data=b"old" * 100)],
    [vote(3, N2), append(entry(4, 3, b"new"), entry(5, 3, b"new"))],
    [commands(2, 2, term=4)],
    [append(entry(2, 5, kind=EntryKind.NO_OP, data=b""), entry(3, 5)), commands(3, 7, term=6)],
]

PREPARE: Script = [*START, [], [commands(1, 2, term=1)]]

ROTATE: Script = [
    *START,
    [append(entry(1, 1, b"members", EntryKind.CONFIGURATION))],
    [commands(2, 2, term=1, data=b"\x07" * 1400)],
    [],
    [vote(2, N2), commands(3, 3, term=2, data=b"\x08" * 1400)],
    [commands(3, 4, term=3, data=b"\x09" * 500)],
    [commands(1, 1, term=4, data=b"\x0a" * 3000)],
]

ALLOCATE: Script = [
    *START,
    [commands(1, 1, term=1, data=b"\x01" * 3000)],
    [commands(2, 2, term=1, data=b"\x02" * 3000)],
    [],
    [commands(3, 3, term=1, data=b"\x03" * 3000)],
    [commands(4, 4, term=2, data=b"\x04" * 3000)],
]
"""Batches so large that segments are allocated instead of filled."""

HALF = b"\x0b" * 1300
"""Of these, two commands fit into a segment."""

COMPACT: Script = [
    *START,
    *([commands(index, index, term=1, data=HALF)] for index in range(1, 7)),
    point(5, 1),
    [],
    [Compact(LogIndex(4)), vote(2)],
    [],
    [commands(7, 7, term=2, data=HALF)],
    point(7, 2),
    [commands(8, 8, term=2, data=HALF), Compact(LogIndex(7))],
    [],
    [Compact(LogIndex(7))],
]

COMPACT_ALL: Script = [
    *START,
    [commands(1, 1, term=1, data=b"\x0c" * 2900)],
    [],
    point(1, 1),
    [vote(2), SaveBootstrap({N1: Incarnation("aa" * 500)}, done=True), Compact(LogIndex(1))],
    [],
    [commands(2, 2, term=2)],
]

COMPACT_BELOW: Script = [
    *START,
    *([commands(index, index, term=1, data=HALF)] for index in range(1, 5)),
    [],
    [append(entry(2, 2, HALF, EntryKind.CONFIGURATION)), commands(3, 3, term=2)],
    point(2, 2),
    [Compact(LogIndex(1))],
    [],
    [commands(4, 4, term=2, data=b"\x0d" * 2900)],
    point(4, 2),
    [Compact(LogIndex(2))],
    [],
]

MARKERS: Script = [
    *START,
    [commands(1, 6, term=1, data=b"\x0e" * 200)],
    point(4, 1),
    [SaveSnapshot(point(4, 1), keep=True)],
    [],
    [commands(7, 7, term=1, data=b"\x0e" * 2900)],
    point(20, 3),
    [vote(3), SaveSnapshot(point(20, 3), keep=False), commands(21, 22, term=3, data=b"\x0f" * 1200)],
    [],
    [commands(22, 23, term=4, data=b"\x10" * 1200)],
    point(22, 4),
    [Compact(LogIndex(22))],
    [],
]

CONFLICT: Script = [
    *START,
    [commands(1, 6, term=1, data=b"\x0e" * 200)],
    point(4, 2),
    [SaveSnapshot(point(4, 2), keep=False), commands(5, 5, term=2, data=b"\x0f" * 2900)],
    [],
]


@attrs.define
class Life:
    """How far a store got before the power went."""

    opened: bool = False
    snapshot: SnapshotPoint | None = None
    """The newest durable one."""
    promised: Image = attrs.Factory(Image)
    attempted: Image = attrs.Factory(Image)


def live(disk: SimDisk, script: Script, life: Life) -> FileLogStore:
    """Run the script; ``life`` says what was promised, and what was being written."""
    store = make_store(disk, segment_bytes=SEGMENT_BYTES)
    store.open(identity(), memory_bytes=ENOUGH_MEMORY)
    life.opened = True
    for batch in script:
        if isinstance(batch, SnapshotPoint):
            life.snapshot = batch
            continue
        life.attempted = life.promised.after(batch)
        if batch:
            save(store, *batch)
        else:
            keep_up(store)
        life.promised = life.attempted
    return store


def lives(script: Script) -> Iterator[tuple[SimDisk, Life]]:
    """The script with a power cut before each operation, and after the last."""
    whole = SimDisk()
    live(whole, script, Life())
    for number in range(len(whole.operations) + 1):
        disk, life = SimDisk(), Life()
        disk.power_cut_before(number)
        try:
            live(disk, script, life)
        except PowerCut:
            pass
        else:
            assert number == len(whole.operations)
        yield disk, life


def check_recovery(disk: SimDisk, allowed: Sequence[Image], *, snapshot: SnapshotPoint | None = None) -> Image:
    """Open, open again, cut the power, open again: always the same, and one of those that are allowed."""
    once = recover(disk, snapshot=snapshot)
    found = Image.of(once)
    assert found in [each.beside(snapshot).above(found.base) for each in allowed]
    assert (once.last_index, once.term_runs) == (found.last_index, found.term_runs)
    again = recover(disk, snapshot=snapshot)
    assert (Image.of(again), again.cut_bytes) == (found, 0)
    assert Image.of(recover(disk.after_power_cut(lose_everything), snapshot=snapshot)) == found
    return found


@pytest.mark.parametrize(
    "script",
    [APPEND, SUPERSEDE, PREPARE, ROTATE, ALLOCATE],
    ids=["append", "supersede", "prepare", "rotate", "allocate"],
)
def test_power_cut_anywhere_keeps_what_was_synced(script: Script) -> None:
    """Every crash point of append, supersede, preparation and rotation reopens with all that was synced (S1, S6)."""
    for disk, life in lives(script):
        for after in power_cuts(disk, at_most=512):
            check_recovery(after, [life.promised, life.attempted])


WITH_SNAPSHOTS = {
    "compact": COMPACT,
    "compact-all": COMPACT_ALL,
    "compact-below": COMPACT_BELOW,
    "markers": MARKERS,
    "conflict": CONFLICT,
}


@pytest.mark.parametrize("script", WITH_SNAPSHOTS.values(), ids=WITH_SNAPSHOTS)
def test_power_cut_anywhere_beside_a_snapshot(script: Script) -> None:
    """Every crash point of a marker, of the removal of segments, and of a rotation with it reopens with all that was
    synced, as far as the newest snapshot lets it count (S6, N1, N8).
    """
    for disk, life in lives(script):
        for after in power_cuts(disk, at_most=64):
            check_recovery(after, [life.promised, life.attempted], snapshot=life.snapshot)


@pytest.mark.parametrize("script", WITH_SNAPSHOTS.values(), ids=WITH_SNAPSHOTS)
def test_power_cut_anywhere_beside_a_snapshot_lets_the_log_go_on(script: Script) -> None:
    """After any crash the log goes on above the snapshot or the entries that count, over rotations and removals, and
    the next start finds that (S6, N1).
    """
    for disk, life in lives(script):
        for after in power_cuts(disk, at_most=4):
            store = make_store(after, segment_bytes=SEGMENT_BYTES)
            found = store.open(identity(), memory_bytes=ENOUGH_MEMORY, snapshot=life.snapshot)
            image = Image.of(found)
            last = found.last_index
            marker = [SaveSnapshot(found.base, keep=False)] if found.superseded else []
            batches: list[list[JournalItem]] = [
                [*marker, vote(9, N1), commands(last + 1, last + 1, term=9, data=b"\x11" * 1900)],
                [commands(last + 2, last + 3, term=9, data=b"\x12" * 900)],
                [Compact(found.base.index)],
            ]
            for batch in batches:
                save(store, *batch)
                image = image.after(batch)
            keep_up(store)
            check_recovery(after.after_power_cut(lose_everything), [image], snapshot=life.snapshot)


def test_power_cut_anywhere_leaves_no_gap() -> None:
    """Segments go oldest first, each durably before the next: no crash leaves a gap in their numbers (S6)."""
    removed = 0
    for script in WITH_SNAPSHOTS.values():
        for disk, _ in lives(script):
            for after in power_cuts(disk, at_most=64):
                numbers = segment_numbers(after, DIRECTORY)
                assert numbers == list(range(numbers[0], numbers[-1] + 1)) if numbers else True
                removed = max(removed, numbers[0] - 1 if numbers else 0)
    assert removed == 3


def test_power_cut_anywhere_lets_the_log_go_on() -> None:
    """After any crash the log takes new entries over whatever was cut, and finds them at the next start (S4, S6)."""
    for disk, _ in lives(ROTATE):
        for after in power_cuts(disk, at_most=32):
            store = make_store(after, segment_bytes=SEGMENT_BYTES)
            found = Image.of(store.open(identity(), memory_bytes=ENOUGH_MEMORY))
            batch: Sequence[JournalItem] = [
                vote(9, N1),
                commands(len(found.entries) + 1, len(found.entries) + 2, term=9),
            ]
            save(store, *batch)
            expected = found.after(batch)
            check_recovery(after.after_power_cut(lose_everything), [expected])


def test_power_cut_during_recovery() -> None:
    """A crash at any point of a recovery, a cut of a torn tail included, comes to the same result (S4, S6)."""
    disk, life = SimDisk(), Life()
    store = live(disk, [*START, [], [commands(1, 2, term=1, data=b"\x05" * 400)]], life)
    batch = [commands(3, 5, term=1, data=b"\x06" * 400)]
    disk.power_cut_before(len(disk.operations) + 1)
    with pytest.raises(PowerCut):
        save(store, *batch)
    outcomes: set[int] = set()
    for torn in power_cuts(disk):
        calm = torn.after_power_cut(lose_everything)
        outcome = Image.of(recover(calm))
        assert outcome in (life.promised, life.promised.after(batch))
        outcomes.add(len(outcome.entries))
        for number in range(len(calm.operations)):
            interrupted = torn.after_power_cut(lose_everything)
            interrupted.power_cut_before(number)
            with pytest.raises(PowerCut):
                recover(interrupted)
            for after in power_cuts(interrupted, at_most=16):
                check_recovery(after, [outcome])
    assert outcomes == {2, 5}


def test_vote_is_there_whole_or_not_at_all() -> None:
    """After a crash the term and the vote are those before, or those that were being saved, never a mixture (E1)."""
    script: Script = [[vote(1, N1)], [vote(2)], [vote(2, N2)], [vote(3, N1)]]
    pairs: set[tuple[int, str | None]] = set()
    for disk, life in lives(script):
        for after in power_cuts(disk):
            found = check_recovery(after, [life.promised, life.attempted])
            pairs.add((found.term, found.voted_for))
    assert pairs == {(0, None), (1, "n1"), (2, None), (2, "n2"), (3, "n1")}


def test_incarnation_survives_once_it_was_told() -> None:
    """A directory keeps the incarnation that its first opening returned, whatever crashes follow (S1)."""
    for disk, life in lives(APPEND):
        if life.opened:
            for after in power_cuts(disk, at_most=16):
                store = make_store(after)
                found = store.open(identity(incarnation="other"), memory_bytes=ENOUGH_MEMORY)
                assert found.incarnation == "aa"
                store.close()


def test_process_kill_leaves_nothing_for_a_later_power_cut() -> None:
    """What a start finds is durable then, although the process before it died between write and sync (S1, S6)."""
    for disk, life in lives(ROTATE):
        disk.kill_process()
        found = Image.of(recover(disk))
        assert found in (life.promised, life.attempted)
        check_recovery(disk.after_power_cut(lose_everything), [found])


def test_failed_sync_leaves_nothing_for_a_later_power_cut() -> None:
    """After a failed sync reading shows what the disk never got: recovery writes it again (S2, S6)."""
    disk, life = SimDisk(), Life()
    store = live(disk, APPEND, life)
    disk.fail("sync", errno.EIO)
    with pytest.raises(StorageError):
        save(store, commands(7, 9, term=2))
    disk.kill_process()
    found = Image.of(recover(disk))
    assert found == life.promised.after([commands(7, 9, term=2)])
    check_recovery(disk.after_power_cut(lose_everything), [found])
