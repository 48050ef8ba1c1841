"""Crash points of the snapshot store, enumerated: the power goes before every operation and takes any legal part.

House rule: what is found is compared with what was promised, and once more after another power cut that takes
everything which the start itself failed to make durable.
"""

from collections.abc import Callable, Iterator

import attrs
import pytest

from tests.storage.snapshot_support import encoded, find, meta, open_snapshots, state_of, take
from tests.storage.support import DIRECTORY, identity, lose_everything, power_cuts
from trio_raft._storage import snapshot_files
from trio_raft._storage.snapshot_files import snapshot_path
from trio_raft._storage.snapshots import FileSnapshotStore
from trio_raft.abc import SnapshotPoint
from trio_raft.testing._disk import PowerCut, SimDisk

STATES = {index: bytes([index]) * 1300 for index in (5, 9, 12)}


@attrs.define
class Life:
    """How far a store got before the power went."""

    promised: SnapshotPoint | None = None
    attempted: SnapshotPoint | None = None


Script = Callable[[FileSnapshotStore, Life], None]


def write(store: FileSnapshotStore, life: Life) -> None:
    """Take two, and forget the first."""
    for index in (5, 9):
        life.attempted = meta(index).point
        take(store, meta(index), STATES[index])
        life.promised = life.attempted
    store.retain(1)


def receive(store: FileSnapshotStore, life: Life) -> None:
    """Take one, receive a newer one in small parts, and give up a third."""
    life.attempted = meta(5).point
    take(store, meta(5), STATES[5])
    life.promised, life.attempted = life.attempted, meta(9).point
    data = encoded(meta(9), [STATES[9]])
    receiver = store.receive(size=len(data), digest=snapshot_digest(data))
    for start in range(0, len(data), 700):
        receiver.write(data[start : start + 700])
    receiver.finish()
    life.promised = life.attempted
    writer = store.begin(meta(12))
    writer.write(STATES[12])
    writer.abort()


def replace(store: FileSnapshotStore, life: Life) -> None:
    """Take one again under the name that it has."""
    for _ in range(2):
        life.attempted = meta(5).point
        take(store, meta(5), STATES[5])
        life.promised = life.attempted


def snapshot_digest(data: bytes) -> str:
    disk = SimDisk()
    path = DIRECTORY / "any"
    disk.overwrite(path, data)
    return snapshot_files.verify_snapshot(path, files=disk).digest


def lives(script: Script) -> Iterator[tuple[SimDisk, Life]]:
    """The script with a power cut before each operation, and after the last."""
    whole = SimDisk()
    script(open_snapshots(whole), Life())
    for number in range(len(whole.operations) + 1):
        disk, life = SimDisk(), Life()
        disk.power_cut_before(number)
        try:
            script(open_snapshots(disk), life)
        except PowerCut:
            pass
        else:
            assert number == len(whole.operations)
        yield disk, life


def check_start(disk: SimDisk, life: Life) -> None:
    """A start finds what was promised, or what was attempted, whole; and so does the next."""
    store = FileSnapshotStore(DIRECTORY, files=disk)
    found = store.open(identity(incarnation="next"))
    assert found.damaged == ()
    assert (found.newest and found.newest.point) in (life.promised, life.attempted)
    store.tidy()
    if found.newest:
        assert state_of(store, found.newest) == STATES[found.newest.point.index]
    again = find(disk.after_power_cut(lose_everything))
    assert again == attrs.evolve(found, unfinished=())


@pytest.mark.parametrize("script", [write, receive, replace])
def test_power_cut_anywhere_leaves_the_whole_or_nothing(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every crash point of taking, receiving, replacing and removing leaves whole snapshots only (S7, S6)."""
    monkeypatch.setattr(snapshot_files, "SYNC_BYTES", 600)
    for disk, life in lives(script):
        for after in power_cuts(disk, at_most=128):
            check_start(after, life)


@pytest.mark.parametrize("script", [write, receive, replace])
def test_process_kill_anywhere_leaves_nothing_for_a_later_power_cut(script: Script) -> None:
    """What a start finds is durable once it has tidied, although a process died between renaming and sync (S7)."""
    for disk, life in lives(script):
        disk.kill_process()
        check_start(disk, life)


def test_copy_that_was_never_synced_is_durable_once_it_was_found() -> None:
    """A file that came here without a sync, an operator's copy, is made durable before anything rests on it (S7)."""
    disk = SimDisk()
    descriptor = disk.create(snapshot_path(DIRECTORY, meta(5).point))
    disk.write(descriptor, encoded(meta(5), [STATES[5]]), offset=0)
    check_start(disk, Life(attempted=meta(5).point))
    assert find(disk).newest is not None


def test_process_kill_in_the_middle_of_a_sync() -> None:
    """A process that dies while it publishes leaves nothing that a later power cut could make a part of (S7)."""
    disk = SimDisk()
    store = open_snapshots(disk)
    writer = store.begin(meta(5))
    writer.write(STATES[5])
    with disk.staging():
        writer.finish()
    disk.kill_process()
    check_start(disk, Life(attempted=meta(5).point))


def test_old_one_is_removed_only_when_the_new_one_is_durable() -> None:
    """After any crash of taking and removing there is a snapshot, once there was one (S7)."""
    for disk, life in lives(write):
        if life.promised:
            for after in power_cuts(disk, at_most=64):
                assert find(after).newest is not None
