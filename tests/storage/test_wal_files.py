"""The store on real files: who may open a directory, who closes it, and what the operating system is asked to do."""

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from tests.storage.support import (
    ENOUGH_MEMORY,
    N1,
    Image,
    commands,
    identity,
    keep_up,
    make_store,
    open_store,
    recover,
    save,
    vote,
)
from trio_raft._errors import (
    ConfigurationError,
    DirectoryInUse,
    DirectoryMismatch,
    LogCorrupt,
    RaftError,
    StorageError,
    StorageFull,
)
from trio_raft._records import LogIndex
from trio_raft._storage.custody import Custody
from trio_raft._storage.files import OsFiles
from trio_raft._storage.segments import Preparation, as_segment, next_slice, run_slice, segment_path

FILES = OsFiles()

LONG = b"\x01" * 2900
"""Of these, one command fits into a segment."""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "data"


def open_descriptors(directory: Path) -> list[str]:
    """What this process has open in the directory."""
    links = (Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd"))
    targets = [os.readlink(link) for link in links if link.is_symlink()]
    return sorted(target for target in targets if target.startswith(str(directory)))


def counted(name: str, real: Callable[..., object], calls: list[str]) -> Callable[..., object]:
    """The function, but it leaves a note."""

    def call(*given: object) -> object:
        calls.append(name)
        return real(*given)

    return call


def contents(directory: Path) -> dict[str, bytes]:
    """Every log file and its bytes."""
    return {path.name: path.read_bytes() for path in sorted(directory.glob("*.segment"))}


# ------------------------------------------------------------------------------------ round trips


def test_log_survives_closing(directory: Path) -> None:
    """Votes and entries in several files are there at the next start, and the one after it (S1)."""
    store = open_store(FILES, directory=directory)
    image = Image()
    for batch in ([vote(1, N1)], [commands(1, 1, term=1, data=LONG)], [commands(2, 3, term=2, data=LONG[:1400])]):
        save(store, *batch)
        image = image.after(batch)
    keep_up(store)
    store.close()
    for _ in range(2):
        found = recover(FILES, directory=directory)
        assert (Image.of(found), found.incarnation, found.cut_bytes) == (image, "aa", 0)
    assert list(contents(directory)) == [segment_path(directory, number).name for number in (1, 2)]


def test_log_is_asked_for_one_write_and_one_sync(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operating system sees one pwrite and one fdatasync per batch, whatever is in it (S1)."""
    store = open_store(FILES, directory=directory, segment_bytes=1 << 20)
    keep_up(store)
    calls: list[str] = []
    for name in ("pwrite", "fdatasync", "fsync", "pwritev", "write"):
        if hasattr(os, name):
            real = getattr(os, name)
            monkeypatch.setattr(os, name, counted(name, real, calls))
    for index in range(1, 4):
        first = (index - 1) * 100 + 1
        save(store, vote(index), commands(first, first + 99, term=index))
    assert calls == ["pwrite", "fdatasync"] * 3


def test_torn_tail_is_cut_on_a_real_file(directory: Path) -> None:
    """A torn last write is cut, reported once, and gone at the next start (S3, S4)."""
    store = open_store(FILES, directory=directory)
    save(store, commands(1, 1, term=1))
    save(store, commands(2, 2, term=1, data=LONG[:1500]))
    store.close()
    path = segment_path(directory, 1)
    content = bytearray(path.read_bytes())
    content[1024:1536] = bytes(512)
    path.write_bytes(content)
    found = recover(FILES, directory=directory)
    assert (found.last_index, found.cut_path) == (1, str(path))
    assert found.cut_bytes == len(content.rstrip(b"\0")) - 1024
    again = recover(FILES, directory=directory)
    assert (again.last_index, again.cut_bytes) == (1, 0)
    assert path.stat().st_size == 4096


@pytest.mark.parametrize("damage", ["shortened", "flipped", "missing"])
def test_damage_on_a_real_file_is_refused(directory: Path, damage: str) -> None:
    """A damaged directory is refused, nothing in it is changed, and it is not left locked (S3)."""
    store = open_store(FILES, directory=directory)
    for index in (1, 2, 3):
        save(store, commands(index, index, term=1, data=LONG))
    store.close()
    path = segment_path(directory, 2)
    if damage == "shortened":
        os.truncate(path, 4000)
    elif damage == "flipped":
        content = bytearray(path.read_bytes())
        content[1000] ^= 16
        path.write_bytes(content)
    else:
        path.unlink()
    before = contents(directory)
    for _ in range(2):
        with pytest.raises(LogCorrupt) as caught:
            recover(FILES, directory=directory)
        assert (caught.value.path, caught.value.index) == (path, 2)
    assert contents(directory) == before
    assert open_descriptors(directory) == []


# ------------------------------------------------------------------------------------ directories


def test_directory_of_another_node_is_refused(directory: Path) -> None:
    """A foreign directory is refused, not changed and not left locked."""
    open_store(FILES, directory=directory).close()
    before = contents(directory)
    with pytest.raises(DirectoryMismatch, match="belongs to node_id 'n1'"):
        make_store(FILES, directory=directory).open(identity("n2"), memory_bytes=0)
    assert contents(directory) == before
    assert open_descriptors(directory) == []


def test_directory_that_cannot_be_made_is_a_wrong_setting(tmp_path: Path) -> None:
    """A missing parent, or a file in the directory's place, is the configuration's fault."""
    file, missing = tmp_path / "file", tmp_path / "missing"
    file.write_bytes(b"")
    for path, problem in (
        (missing / "data", f"its parent {missing} does not exist; create it"),
        (file, "it is a file, not a directory"),
        (file / "data", f"its parent {file} is not a directory"),
    ):
        with pytest.raises(ConfigurationError) as caught:
            recover(FILES, directory=path)
        assert str(caught.value) == f"data_directory: {path} cannot be used: {problem}"


def test_directory_in_a_place_where_nobody_makes_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system says is passed on, where it is not the parent that is missing: so it is in /proc."""

    def refuse(*_: object) -> None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(ConfigurationError, match=r"no such file or directory; choose a directory that can be written"):
        recover(FILES, directory=tmp_path / "data")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_directory_that_is_not_writable_is_a_wrong_setting(directory: Path) -> None:
    """A directory without write permission is refused at the start, not when the first file is full."""
    open_store(FILES, directory=directory).close()
    directory.chmod(0o500)
    try:
        with pytest.raises(ConfigurationError, match="not readable and writable"):
            recover(FILES, directory=directory)
    finally:
        directory.chmod(0o700)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.EACCES, ConfigurationError),
        (errno.EROFS, ConfigurationError),
        (errno.EIO, StorageError),
        (errno.ENOSPC, StorageFull),
    ],
)
def test_directory_trouble_is_sorted_by_blame(number: int, expected: type[RaftError], directory: Path) -> None:
    """What is wrong with the path, with the disk, and with the room on it are three different errors."""

    class Trouble(OsFiles):
        def make_directory(self, path: Path) -> bool:
            raise OSError(number, os.strerror(number), str(path))

    with pytest.raises(expected):
        recover(Trouble(), directory=directory)


class Disk(OsFiles):
    """Says that so much is free, whatever there is."""

    def __init__(self, free: int | OSError | None) -> None:
        self.free = free

    def free_bytes(self, directory: Path) -> int | None:
        if isinstance(self.free, OSError):
            raise self.free
        return self.free


SEGMENT_BYTES = 4096
FIRST_BYTES = 3 * SEGMENT_BYTES
"""The segment that is written, and two that are ready."""


def test_disk_too_small_to_begin_is_refused(directory: Path) -> None:
    """A new log is refused where its first segments would not fit, by the directory and the bytes; none is begun."""
    with pytest.raises(StorageFull) as caught:
        recover(Disk(FIRST_BYTES - 1), directory=directory, segment_bytes=SEGMENT_BYTES)
    assert str(caught.value) == (
        f"the file system of {directory} has no room for the log, which takes {FIRST_BYTES} bytes to begin with. Free "
        f"some space, or choose a data_directory on a larger disk, then start again."
    )
    assert (caught.value.path, caught.value.needed) == (directory, FIRST_BYTES)
    assert [path.name for path in directory.iterdir()] == ["lock"]
    recover(Disk(FIRST_BYTES), directory=directory, segment_bytes=SEGMENT_BYTES)


@pytest.mark.parametrize("free", [None, OSError(errno.ENOSYS, "Function not implemented")])
def test_disk_of_unknown_size_is_tried(free: OSError | None, directory: Path) -> None:
    """Where the file system does not say what is left, writing finds out."""
    assert recover(Disk(free), directory=directory, segment_bytes=SEGMENT_BYTES).last_index == 0


def test_full_disk_does_not_keep_a_log_from_opening(directory: Path) -> None:
    """What is there was prepared already: a node whose disk is full may start, and goes on when there is room (S2)."""
    open_store(FILES, directory=directory, segment_bytes=SEGMENT_BYTES).close()
    recover(Disk(0), directory=directory, segment_bytes=SEGMENT_BYTES)


@pytest.mark.parametrize("operation", ["make_directory", "create", "write"])
def test_disk_that_fills_up_at_the_start(operation: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever step finds the disk full, a start says what it needs, not that it will go on by itself."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(OsFiles, operation, full)
    with pytest.raises(StorageFull, match=f"takes {FIRST_BYTES} bytes to begin with. Free some space") as caught:
        recover(OsFiles(), directory=directory, segment_bytes=SEGMENT_BYTES)
    assert caught.value.path == directory
    assert isinstance(caught.value.__cause__, OSError)


def test_free_bytes_of_a_real_disk(tmp_path: Path) -> None:
    """What the system says; some file systems say nothing."""
    free = FILES.free_bytes(tmp_path)
    assert free is None or free > 0


def test_directory_without_permission_bits_is_refused(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of the permission bits is made for whoever is not the superuser."""
    open_store(FILES, directory=directory).close()
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ConfigurationError, match="not readable and writable"):
        recover(FILES, directory=directory)


# ------------------------------------------------------------------------------------ one at a time


def test_lock_holds_within_one_process(directory: Path) -> None:
    """A second store on the directory is refused with the holder's process, until the first closes (S10)."""
    first = open_store(FILES, directory=directory)
    with pytest.raises(DirectoryInUse, match=f"process {os.getpid()} has locked it"):
        recover(FILES, directory=directory)
    save(first, vote(1, N1))
    first.close()
    first.close()
    assert recover(FILES, directory=directory).voted_for == "n1"


CHILD = """
import sys
from tests.storage.support import open_store
from trio_raft._storage.files import OsFiles
from pathlib import Path
store = open_store(OsFiles(), directory=Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.read()
"""


@pytest.mark.processes
def test_lock_holds_between_processes(directory: Path) -> None:
    """While another process has the directory it cannot be opened; when that is killed, it can (S10)."""
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"open\n"
            with pytest.raises(DirectoryInUse, match=f"process {child.pid} has locked it"):
                recover(FILES, directory=directory)
        finally:
            child.kill()
    assert recover(FILES, directory=directory).last_index == 0


class HangingFiles(OsFiles):
    """A disk whose sync hangs until it is let go."""

    def __init__(self) -> None:
        self.hangs = False
        self.arrived = threading.Event()
        self.let_go = threading.Event()

    def sync(self, descriptor: int) -> None:
        if self.hangs:
            self.arrived.set()
            if not self.let_go.wait(60):
                raise AssertionError("nobody let the sync go")
        super().sync(descriptor)


@pytest.fixture
def hanging_files() -> Iterator[HangingFiles]:
    files = HangingFiles()
    yield files
    files.let_go.set()


def test_hung_write_keeps_the_directory_after_closing(directory: Path, hanging_files: HangingFiles) -> None:
    """A write that outlives a close keeps descriptor and lock until it returns; only then may others open (S10)."""
    store = open_store(hanging_files, directory=directory)
    plan = store.plan([vote(7, N1)])
    assert plan is not None
    hanging_files.hangs = True
    thread = threading.Thread(target=store.execute, args=(plan,))
    thread.start()
    assert hanging_files.arrived.wait(60)
    store.close()
    held = open_descriptors(directory)
    assert held == [str(directory / "lock"), str(segment_path(directory, 1))]
    for _ in range(2):
        with pytest.raises(DirectoryInUse, match="a write of the previous node has not returned"):
            recover(FILES, directory=directory)
    hanging_files.let_go.set()
    thread.join(60)
    assert open_descriptors(directory) == []
    assert recover(FILES, directory=directory).term == 7
    again = open_store(FILES, directory=directory)
    with pytest.raises(DirectoryInUse, match="has locked it"):
        recover(FILES, directory=directory)
    again.close()


def test_closed_store_does_nothing_more(directory: Path) -> None:
    """A thread that starts after the close, with whatever plan, touches no descriptor (S10)."""
    store = open_store(FILES, directory=directory)
    save(store, commands(1, 1, term=1))
    read = store.plan_read(LogIndex(1), LogIndex(1), max_bytes=0)
    plan = store.plan([vote(7)])
    upkeep = store.plan_upkeep()
    assert plan is not None
    assert upkeep is not None
    store.close()
    assert open_descriptors(directory) == []
    before = contents(directory)
    with pytest.raises(trio.ClosedResourceError):
        store.execute(plan)
    with pytest.raises(trio.ClosedResourceError):
        store.execute_read(read)
    with pytest.raises(trio.ClosedResourceError):
        store.execute_upkeep(upkeep)
    with pytest.raises(trio.ClosedResourceError):
        store.open(identity(), memory_bytes=ENOUGH_MEMORY)
    assert contents(directory) == before


def test_close_gives_up_every_descriptor(directory: Path) -> None:
    """Closing leaves no descriptor behind, those of prepared and retired segments included (S10)."""
    store = open_store(FILES, directory=directory)
    for index in range(1, 6):
        save(store, commands(index, index, term=1, data=LONG))
    keep_up(store)
    assert len(open_descriptors(directory)) == 4
    store.close()
    assert open_descriptors(directory) == []


# ------------------------------------------------------------------------------------ half measures of the system


def test_write_goes_on_after_a_short_one(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the system takes a part of a write, or gives a part of a read, the rest follows."""
    pwrite, pread = os.pwrite, os.pread
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, bytes(data[:1000]), at))
    monkeypatch.setattr(os, "pread", lambda fd, size, at: pread(fd, min(size, 700), at))
    store = open_store(FILES, directory=directory)
    save(store, vote(1), commands(1, 1, term=1, data=LONG))
    store.close()
    found = recover(FILES, directory=directory)
    assert Image.of(found) == Image().after([vote(1), commands(1, 1, term=1, data=LONG)])


@pytest.mark.parametrize("can", ["yes", "not this file system", "not this system"])
def test_prepared_room_reads_as_zeros(can: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment that is to be allocated is as long, and reads as zeros, also where nothing can be allocated (S6)."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr("trio_raft._storage.files.CAN_ALLOCATE", can != "not this system")
    if can == "not this file system":
        monkeypatch.setattr(os, "posix_fallocate", refuse)
    files, length = OsFiles(), (3 << 20) + 512
    custody = Custody(files, tmp_path)
    step: Preparation | None
    step = done = Preparation(tmp_path / "file", 1, length, descriptor=None)
    slices: list[bool] = []
    with custody:
        while step is not None:
            run_slice(step, files, custody)
            slices.append(step.allocate)
            done, step = step, next_slice(step, batch_bytes=length)
        descriptor = as_segment(done).descriptor
        assert slices == [False, True]
        assert files.allocate(descriptor, size=length, offset=0) == (can == "yes")
        assert files.read(descriptor, size=8 << 20, offset=0) == bytes(length)
    custody.close()
