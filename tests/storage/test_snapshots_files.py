"""The snapshot store and its directory: damage, errors of the disk, threads that hang, and copies for an operator."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
import trio

from tests.golden.snapshots import golden_snapshot
from tests.storage.snapshot_support import (
    CONFIGURATION,
    bytes_of,
    encoded,
    find,
    meta,
    open_snapshots,
    state_of,
    take,
)
from tests.storage.support import DIRECTORY, identity, make_store
from trio_raft._errors import (
    ConfigurationError,
    DirectoryMismatch,
    IncompatibleVersion,
    SnapshotCorrupt,
    StorageError,
    StorageFull,
)
from trio_raft._storage import snapshot_files, snapshot_format
from trio_raft._storage.files import Files, OsFiles
from trio_raft._storage.snapshot_copies import copy_snapshot, rewrite_snapshot
from trio_raft._storage.snapshot_files import snapshot_path, verify_snapshot
from trio_raft._storage.snapshots import FileSnapshotStore
from trio_raft.abc import SnapshotConfiguration, SnapshotsFound, StoredSnapshot
from trio_raft.testing._disk import SimDisk


def names(disk: SimDisk) -> list[str]:
    return [path.name for path in disk.paths()]


def path_of(index: int, term: int = 1) -> Path:
    return snapshot_path(DIRECTORY, meta(index, term).point)


def disk_with(*indexes: int) -> SimDisk:
    """A disk with these snapshots."""
    disk = SimDisk()
    store = open_snapshots(disk)
    for index in indexes:
        take(store, meta(index))
    store.close()
    return disk


# ---------------------------------------------------------------------------------------------- opening


def test_name_of_a_snapshot() -> None:
    """A snapshot is a file of the data directory itself, named so that names sort like (term, index) (N4)."""
    disk = SimDisk()
    taken = take(open_snapshots(disk), meta(10_000, 12))
    assert taken.name == "/data/snapshot-0000000000000012-0000000000010000.snapshot"
    assert names(disk) == [Path(taken.name).name]
    assert disk.contents(Path(taken.name)) == encoded(meta(10_000, 12))
    assert taken.size == len(encoded(meta(10_000, 12)))


@pytest.mark.parametrize("directory", ["missing", "file/below"])
def test_open_without_a_directory(tmp_path: Path, directory: str) -> None:
    """Where there is no data directory there is no snapshot; what stands in its way is for the log to say."""
    (tmp_path / "file").touch()
    assert FileSnapshotStore(tmp_path / directory).open(identity()) == SnapshotsFound(None)
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_open_of_a_directory_that_may_not_be_read() -> None:
    """A directory that cannot be listed is not taken for an empty one."""

    class Forbidden(SimDisk):
        def list_directory(self, path: Path) -> list[str]:
            raise PermissionError(errno.EACCES, "Permission denied")

    with pytest.raises(ConfigurationError, match="cannot be used"):
        FileSnapshotStore(DIRECTORY, files=Forbidden()).open(identity())


def test_open_falls_back_to_the_newest_that_is_whole() -> None:
    """Damaged ones are reported, newest first, with file and place; nothing is changed (N4)."""
    disk = disk_with(5, 6, 7, 8)
    disk.overwrite(path_of(8), disk.contents(path_of(8))[:-1])
    disk.flip_bit(path_of(7), position=3)
    before = {path: disk.contents(path) for path in disk.paths()}
    operations = list(disk.operations)
    found = find(disk)
    assert found.newest
    assert found.newest.point == meta(6).point
    size = len(encoded(meta(8)))
    assert [(each.path, each.offset) for each in found.damaged] == [(path_of(8), size - 1), (path_of(7), 0)]
    assert {path: disk.contents(path) for path in disk.paths()} == before
    assert disk.operations == operations


def test_open_finds_damage_anywhere_in_a_large_one() -> None:
    """The newest is read to its end: a flipped bit far inside is found, at the start of its piece."""
    disk = SimDisk()
    take(open_snapshots(disk), meta(5), bytes(3 << 20))
    disk.flip_bit(path_of(5), position=5 << 19)
    found = find(disk)
    assert found.newest is None
    [damage] = found.damaged
    assert "piece 2 has a wrong checksum" in damage.problem
    start = damage.offset
    assert disk.contents(path_of(5))[start + 8 : start + 16] == (2).to_bytes(8, "little")


@pytest.mark.parametrize("place", [5 << 18, (1 << 20) - 100, (3 << 20) + 1000, -20, -100])
def test_receive_damaged_on_the_way(place: int) -> None:
    """A byte that changed between two servers is found, whichever it is, and named; nothing is published (N5)."""
    disk = SimDisk()
    taken = take(open_snapshots(disk), meta(5), bytes(range(256)) * (1 << 14))
    damaged = bytearray(disk.contents(path_of(5)))
    damaged[place] ^= 1
    target = SimDisk()
    receiver = open_snapshots(target).receive(size=taken.size, digest=taken.digest)
    for start in range(0, len(damaged), 1 << 19):
        receiver.write(bytes(damaged[start : start + (1 << 19)]))
    with pytest.raises(SnapshotCorrupt) as caught:
        receiver.finish()
    where = place % len(damaged)
    assert where - (1 << 20) - 32 <= caught.value.offset <= where
    if where < 4 << 20:
        assert f"piece {where >> 20} has a wrong checksum" in caught.value.problem
    receiver.abort()
    assert path_of(5) not in target.paths()


def test_open_refuses_a_newer_format() -> None:
    """A snapshot of a later version stops the start; it is not taken for a damaged one."""
    disk = disk_with(5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshot_format, "SNAPSHOT_VERSION", 2)
        disk.overwrite(path_of(6), encoded(meta(6)))
    with pytest.raises(IncompatibleVersion) as caught:
        find(disk)
    assert (caught.value.what, caught.value.found, caught.value.supported) == (str(path_of(6)), 2, 1)


def test_open_refuses_another_cluster() -> None:
    """Another cluster's snapshot stops the start, and is named."""
    disk = disk_with(5)
    disk.overwrite(path_of(6), encoded(meta(6, cluster_id="other")))
    with pytest.raises(DirectoryMismatch, match="'other'") as caught:
        find(disk)
    assert (caught.value.path, caught.value.field) == (path_of(6), "cluster_id")


def test_open_refuses_a_name_that_is_not_its_own() -> None:
    """A snapshot under the name of another would be ordered wrongly: it counts as damaged (N4)."""
    disk = disk_with(5)
    disk.overwrite(path_of(9), encoded(meta(5)))
    found = find(disk)
    assert found.newest
    assert found.newest.point == meta(5).point
    assert [(each.path, each.problem[:25]) for each in found.damaged] == [(path_of(9), "its header says index 5, ")]


def test_open_leaves_other_files_alone() -> None:
    """Files whose names are not the store's are neither looked at nor removed."""
    disk = disk_with(5)
    others = ["snapshot-1-2.snapshot", "log-0000000000000001.segment", "snapshot.partial", "x.partial"]
    others.append(f"snapshot-0{1:016d}-{9:016d}.snapshot")
    for name in others:
        disk.overwrite(DIRECTORY / name, b"something")
    store = FileSnapshotStore(DIRECTORY, files=disk)
    found = store.open(identity())
    store.tidy()
    store.retain(1)
    assert found == SnapshotsFound(found.newest)
    assert names(disk) == sorted([*others, path_of(5).name])


def test_open_passes_over_what_vanishes() -> None:
    """Before the lock is taken another process may remove what was listed: the next older one is found."""
    disk = disk_with(5, 6)

    class Vanishing(SimDisk):
        def list_directory(self, path: Path) -> list[str]:
            listed = super().list_directory(path)
            if path_of(6) in self._files:
                self.remove(path_of(6))
            return listed

    vanishing = Vanishing()
    for path in disk.paths():
        vanishing.overwrite(path, disk.contents(path))
    found = find(vanishing)
    assert found.newest
    assert found.newest.point == meta(5).point


def test_open_reports_the_unfinished_and_tidy_removes_it() -> None:
    """What was never finished has a name of its own life, is reported, and goes (S7)."""
    disk = SimDisk()
    for life in ("aa", "bb"):
        store = FileSnapshotStore(DIRECTORY, files=disk)
        store.open(identity(incarnation=life))
        store.begin(meta(5))
        store.receive(size=9, digest="")
        store.close()
    partial = [f"snapshot-{life}-{number}.partial" for life in ("aa", "bb") for number in (1, 2)]
    assert find(disk) == SnapshotsFound(None, (), tuple(partial))
    open_snapshots(disk)
    assert names(disk) == []


def test_read_error_is_no_damage() -> None:
    """A disk that does not read says nothing about the snapshot: the start fails."""
    disk = disk_with(5)
    disk.fail("read", errno.EIO)
    with pytest.raises(StorageError, match="reading"):
        find(disk)


# ---------------------------------------------------------------------------------------------- errors


def write_one(store: FileSnapshotStore) -> Callable[[], object]:
    """Take one; returns how it is given up."""
    writer = store.begin(meta(9))
    try:
        writer.write(bytes(1 << 20))
        writer.finish()
    except (StorageError, StorageFull):
        writer.abort()
        raise
    return writer.abort


def receive_one(store: FileSnapshotStore) -> Callable[[], object]:
    data = encoded(meta(9), [bytes(1 << 20)])
    disk = SimDisk()
    disk.overwrite(path_of(9), data)
    receiver = store.receive(size=len(data), digest=verify_snapshot(path_of(9), files=disk).digest)
    try:
        receiver.write(data[:1000])
        receiver.write(data[1000:])
        receiver.finish()
    except (StorageError, StorageFull):
        receiver.abort()
        raise
    return receiver.abort


@pytest.mark.parametrize("make", [write_one, receive_one])
@pytest.mark.parametrize("operation", ["create", "write", "sync", "rename"])
@pytest.mark.parametrize(("number", "error"), [(errno.EIO, StorageError), (errno.ENOSPC, StorageFull)])
def test_failure_leaves_nothing(
    make: Callable[[FileSnapshotStore], object], operation: str, number: int, error: type[Exception]
) -> None:
    """Whichever step fails, nothing is visible, the part is gone, and the store goes on; full is told apart (S7)."""
    disk = disk_with(5)
    store = open_snapshots(disk, incarnation="bb")
    disk.fail(operation, number)
    with pytest.raises(error):
        make(store)
    assert names(disk) == [path_of(5).name]
    make(store)
    store.close()
    assert disk._open == {}
    found = find(disk)
    assert found.newest
    assert found.newest.point == meta(9).point


def test_failed_sync_is_never_tried_again() -> None:
    """After a failed sync nobody knows what the disk holds: the writer refuses whatever else is asked (S2)."""
    disk = SimDisk()
    writer = open_snapshots(disk).begin(meta(5))
    disk.fail("sync", errno.EIO)
    with pytest.raises(StorageError):
        writer.finish()
    with pytest.raises(AssertionError, match="has failed"):
        writer.finish()
    writer.abort()
    assert names(disk) == []


def test_directory_sync_that_fails_leaves_the_older_one() -> None:
    """What may vanish in a power cut is no reason to remove what will not (S7)."""
    disk = disk_with(5)
    store = open_snapshots(disk, incarnation="bb")
    disk.fail("sync_directory", errno.EIO)
    with pytest.raises(StorageError):
        write_one(store)
    store.retain(1)
    assert names(disk) == [path_of(5).name, path_of(9).name]
    take(store, meta(9))
    store.retain(1)
    assert names(disk) == [path_of(9).name]


def test_full_disk_says_how_much_is_needed() -> None:
    """A receiver knows how much is to come, and says so."""
    disk = SimDisk(capacity=1000)
    data = encoded(meta(5), [bytes(5000)])
    receiver = open_snapshots(disk).receive(size=len(data), digest="")
    receiver.write(data[:900])
    with pytest.raises(StorageFull) as caught:
        receiver.write(data[900:2000])
    assert caught.value.needed == len(data) - 900
    receiver.abort()
    assert disk.used == 0


def test_no_more_is_queued_than_a_slow_disk_writes_soon() -> None:
    """Between two syncs little enough is written that the log's next one does not wait for long behind it (K1)."""
    disk = SimDisk()
    store = open_snapshots(disk)
    take(store, meta(5), bytes(32 << 20))
    assert [each.split()[0] for each in disk.operations].count("sync") >= 3
    store.close()


def test_syncs_come_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writer and receiver sync now and then, so that the last sync has little left to do."""
    monkeypatch.setattr(snapshot_files, "SYNC_BYTES", 3 << 20)
    disk = SimDisk()
    store = open_snapshots(disk)
    taken = take(store, meta(5), bytes(10 << 20))
    assert [each.split()[0] for each in disk.operations].count("sync") == 4
    before = len(disk.operations)
    data = bytes_of(store, taken)
    receiver = store.receive(size=taken.size, digest=taken.digest)
    for start in range(0, taken.size, 1 << 20):
        receiver.write(data[start : start + (1 << 20)])
    receiver.finish()
    assert [each.split()[0] for each in disk.operations[before:]].count("sync") == 4


def test_retain_does_not_count_the_damaged() -> None:
    """A damaged snapshot never takes the place of a whole one; it goes once enough newer ones are whole."""
    disk = disk_with(5, 6, 7)
    disk.flip_bit(path_of(7), position=3)
    store = open_snapshots(disk)
    store.retain(2)
    assert names(disk) == [path_of(each).name for each in (5, 6, 7)]
    take(store, meta(8))
    store.retain(2)
    assert names(disk) == [path_of(each).name for each in (6, 7, 8)]
    take(store, meta(9))
    store.retain(2)
    assert names(disk) == [path_of(each).name for each in (8, 9)]


def test_retain_removes_the_oldest_first() -> None:
    """A power cut in the middle of a removal leaves the newest (N4)."""
    disk = disk_with(5, 6, 7, 8)
    before = len(disk.operations)
    open_snapshots(disk).retain(1)
    removed = [f"remove {path_of(each).name}" for each in (5, 6, 7)]
    tidied = [f"sync {path_of(8).name}", "sync_directory data"]
    assert disk.operations[before:] == [*tidied, *removed, "sync_directory data"]


def test_read_of_one_that_was_replaced() -> None:
    """Another snapshot of the same point has other bytes: the one that was there before cannot be read any more."""
    store = open_snapshots(SimDisk())
    first = take(store, meta(5), b"first")
    reader = store.read(first)
    second = take(store, meta(5), b"second")
    assert b"".join(reader.state()) == b"first"
    assert state_of(store, second) == b"second"
    with pytest.raises(StorageError, match="has taken its place"):
        store.read(first)
    with pytest.raises(StorageError, match="opening"):
        store.read(attrs.evolve(second, name=str(path_of(6))))


def test_state_is_checked_while_it_is_read() -> None:
    """Damage that comes after the start is found before the piece is handed out, with file and place."""
    disk = SimDisk()
    store = open_snapshots(disk)
    taken = take(store, meta(5), bytes(3 << 20))
    disk.flip_bit(path_of(5), position=5 << 19)
    read: list[bytes] = []
    with pytest.raises(SnapshotCorrupt, match="piece 2") as caught:
        read.extend(store.read(taken).state())
    assert caught.value.path == path_of(5)
    disk.overwrite(path_of(5), disk.contents(path_of(5))[: 1 << 20])
    with pytest.raises(SnapshotCorrupt, match="ends in the middle of piece 0"):
        read.extend(store.read(taken).state())


def test_receiver_remembers_what_was_wrong() -> None:
    """Bytes that make no sense are not written, and ``finish`` says what was wrong with them, and where (N5)."""
    disk = SimDisk()
    store = open_snapshots(disk)
    receiver = store.receive(size=1 << 20, digest="")
    for _ in range(4):
        receiver.write(b"no snapshot at all" * 100)
    assert receiver.received == 7200
    assert disk.used == 0
    with pytest.raises(SnapshotCorrupt, match="does not begin like a snapshot") as caught:
        receiver.finish()
    assert (caught.value.path.name, caught.value.offset) == ("snapshot-aa-1.partial", 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshot_format, "SNAPSHOT_VERSION", 2)
        newer = encoded(meta(6))
    receiver = store.receive(size=len(newer), digest="")
    receiver.write(newer)
    with pytest.raises(IncompatibleVersion):
        receiver.finish()


# ---------------------------------------------------------------------------------------------- who closes


class HangingFiles(OsFiles):
    """Real files, whose syncs hang when told so."""

    def __init__(self) -> None:
        self.hangs = False
        self.arrived = threading.Event()
        self.let_go = threading.Event()

    def sync(self, descriptor: int) -> None:
        if self.hangs:
            self.arrived.set()
            assert self.let_go.wait(60)
        super().sync(descriptor)


def open_descriptors(directory: Path) -> list[str]:
    """What this process has open in the directory."""
    links = (Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd"))
    targets = [os.readlink(link) for link in links if link.is_symlink()]
    return sorted(target for target in targets if target.startswith(str(directory)))


@pytest.mark.parametrize("ending", ["close", "abort"])
def test_hung_thread_keeps_its_file_until_it_returns(tmp_path: Path, ending: str) -> None:
    """A thread that was abandoned in a sync closes its file itself; what it wrote never becomes visible (S10)."""
    files = HangingFiles()
    store = open_snapshots(files, directory=tmp_path)
    writer = store.begin(meta(5))
    files.hangs = True
    errors: list[BaseException] = []

    def finish() -> None:
        try:
            writer.finish()
        except StorageError as error:
            errors.append(error)

    thread = threading.Thread(target=finish)
    thread.start()
    assert files.arrived.wait(60)
    if ending == "abort":
        writer.abort()
    store.close()
    files.hangs = False
    held = open_descriptors(tmp_path)
    assert len(held) == 1
    # The next life takes the directory over.
    later = open_snapshots(files, directory=tmp_path, incarnation="bb")
    files.let_go.set()
    thread.join(60)
    assert [type(error) for error in errors] == [StorageError]
    assert open_descriptors(tmp_path) == []
    later.close()
    assert list(tmp_path.iterdir()) == []


class HangingReads(HangingFiles):
    """Real files, whose reads hang when told so."""

    def read(self, descriptor: int, *, size: int, offset: int) -> bytes:
        if self.hangs:
            self.arrived.set()
            assert self.let_go.wait(60)
        return super().read(descriptor, size=size, offset=offset)


def test_hung_reader_does_not_keep_the_directory(tmp_path: Path) -> None:
    """Who only reads changes nothing: the next life opens the log while the last one's reader still hangs (S10)."""
    files = HangingReads()
    log = make_store(files, directory=tmp_path)
    store = FileSnapshotStore(tmp_path, files=files, log_store=log)
    store.open(identity())
    log.open(identity(), memory_bytes=1 << 20, snapshot=None)
    reader = store.read(take(store, meta(5)))
    files.hangs = True
    thread = threading.Thread(target=reader.read, args=(0, 10))
    thread.start()
    assert files.arrived.wait(60)
    files.hangs = False
    store.close()
    log.close()
    try:
        later = make_store(files, directory=tmp_path)
        later.open(identity(incarnation="bb"), memory_bytes=1 << 20, snapshot=meta(5).point)
        later.close()
    finally:
        files.let_go.set()
        thread.join(60)
    assert open_descriptors(tmp_path) == []


def test_close_gives_up_every_descriptor(tmp_path: Path) -> None:
    """Closing closes what was given out; giving that up later still removes what was never finished (X2)."""
    store = open_snapshots(OsFiles(), directory=tmp_path)
    taken = take(store, meta(5))
    store.begin(meta(6)).abort()
    store.read(taken).close()
    writer, reader = store.begin(meta(7)), store.read(taken)
    receiver = store.receive(size=5, digest="")
    assert len(open_descriptors(tmp_path)) == 3
    store.close()
    assert open_descriptors(tmp_path) == []
    for attempt in (writer.finish, lambda: receiver.write(b"tRsn"), lambda: list(reader.state())):
        with pytest.raises(trio.ClosedResourceError):
            attempt()
    writer.abort()
    receiver.abort()
    reader.close()
    assert [path.name for path in tmp_path.iterdir()] == [Path(taken.name).name]


def test_file_that_is_created_while_the_store_closes() -> None:
    """A file whose creation outlives the store is closed and removed by the thread that made it (X2)."""
    store: FileSnapshotStore

    class ClosesMeanwhile(SimDisk):
        def create(self, path: Path) -> int:
            store.close()
            return super().create(path)

    disk = ClosesMeanwhile()
    store = open_snapshots(disk)
    with pytest.raises(trio.ClosedResourceError):
        store.begin(meta(5))
    assert names(disk) == []
    assert disk._open == {}


# ---------------------------------------------------------------------------------------------- for operators


def test_verify_a_file_anywhere(tmp_path: Path) -> None:
    """One file is checked wherever it is, with progress; its name means nothing."""
    path = tmp_path / "backup"
    path.write_bytes(encoded(meta(5), [bytes(3 << 20)]))
    progress: list[tuple[int, int]] = []
    found = verify_snapshot(path, progress=lambda done, total: progress.append((done, total)))
    size = path.stat().st_size
    assert (found.meta, found.size, found.name) == (meta(5), size, str(path))
    assert [done for done, _ in progress] == [1 << 20, 2 << 20, 3 << 20, size]
    assert {total for _, total in progress} == {size}
    with pytest.raises(DirectoryMismatch):
        verify_snapshot(path, cluster_id="other")
    with pytest.raises(StorageError, match="No such file"):
        verify_snapshot(tmp_path / "nothing")


def test_copy(tmp_path: Path) -> None:
    """A copy is the same, byte for byte, and visible only when it is whole and durable (S7)."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(golden_snapshot())
    progress: list[tuple[int, int]] = []
    copied = copy_snapshot(source, target, progress=lambda done, total: progress.append((done, total)))
    assert target.read_bytes() == golden_snapshot()
    assert copied == verify_snapshot(target)
    assert progress == [(copied.size, copied.size)]
    assert sorted(tmp_path.iterdir()) == [source, target]


def rewrite(source: Path, target: Path, *, files: Files | None = None) -> StoredSnapshot:
    return rewrite_snapshot(source, target, cluster_id="new", configuration=CONFIGURATION, files=files)


def test_rewrite(tmp_path: Path) -> None:
    """Another cluster's copy has the same state, point and version under another header (N6)."""
    source, target = tmp_path / "source", snapshot_path(tmp_path, meta(5).point)
    state = bytes(range(256)) * 10_000
    source.write_bytes(encoded(meta(5), [state]))
    alone = SnapshotConfiguration(CONFIGURATION.index, CONFIGURATION.voters[:1], (), {})
    written = rewrite_snapshot(source, target, cluster_id="new", configuration=alone)
    assert written.meta == attrs.evolve(meta(5), cluster_id="new", configuration=alone)
    assert target.read_bytes() == encoded(written.meta, [state])
    assert written == verify_snapshot(target, cluster_id="new")


@pytest.mark.parametrize("copy", [copy_snapshot, rewrite])
def test_copy_of_a_damaged_one_leaves_nothing(tmp_path: Path, copy: Callable[[Path, Path], object]) -> None:
    """Nothing damaged is copied, nothing that exists is replaced, and the source stays as it is."""
    source, target = tmp_path / "source", tmp_path / "target"
    for damaged in (golden_snapshot()[:-1], golden_snapshot()[:-30] + bytes(30)):
        source.write_bytes(damaged)
        with pytest.raises(SnapshotCorrupt) as caught:
            copy(source, target)
        assert caught.value.path == source
        assert list(tmp_path.iterdir()) == [source]
    source.write_bytes(golden_snapshot())
    target.write_bytes(b"precious")
    with pytest.raises(StorageError, match="a file of that name exists"):
        copy(source, target)
    assert (source.read_bytes(), target.read_bytes()) == (golden_snapshot(), b"precious")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("copy", [copy_snapshot, rewrite])
def test_copy_to_a_full_disk(copy: Callable[..., object]) -> None:
    """A full disk is told, and the part is removed."""
    disk = SimDisk()
    disk.overwrite(DIRECTORY / "source", golden_snapshot())
    disk.capacity = disk.used + 10
    with pytest.raises(StorageFull):
        copy(DIRECTORY / "source", DIRECTORY / "target", files=disk)
    assert disk.paths() == [DIRECTORY / "source"]
    assert disk._open == {}
