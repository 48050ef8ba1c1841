"""The simulated disk takes what a power cut may take, and nothing else."""

import errno
from pathlib import Path

import pytest

from trio_raft._storage.files import LockHeld
from trio_raft.testing._disk import PowerCut, SimDisk, Unit

HERE = Path("/disk")
FILE = HERE / "file"


def make_file(disk: SimDisk, content: bytes = b"") -> int:
    """A file that is durable with this content."""
    disk.make_directory(HERE)
    descriptor = disk.create(FILE)
    disk.sync_directory(HERE)
    disk.write(descriptor, content, offset=0)
    disk.sync(descriptor)
    return descriptor


def keep_sectors(*offsets: int):  # type: ignore[no-untyped-def]
    return lambda unit: unit.what == "sector" and unit.position in offsets


def everything(_: Unit) -> bool:
    return True


def nothing(_: Unit) -> bool:
    return False


def test_power_cut_takes_any_sectors_that_were_not_synced() -> None:
    """Each sector of an unsynced write survives or not, by itself."""
    disk = SimDisk()
    descriptor = make_file(disk, b"a" * 1536)
    disk.write(descriptor, b"b" * 1536, offset=0)
    assert [unit.position for unit in disk.unsynced()] == [0, 512, 1024]
    assert disk.contents(FILE) == b"b" * 1536
    assert disk.after_power_cut(nothing).contents(FILE) == b"a" * 1536
    assert disk.after_power_cut(everything).contents(FILE) == b"b" * 1536
    kept = disk.after_power_cut(keep_sectors(512)).contents(FILE)
    assert kept == b"a" * 512 + b"b" * 512 + b"a" * 512


def test_power_cut_takes_nothing_that_was_synced() -> None:
    """After a sync nothing is at stake."""
    disk = SimDisk()
    make_file(disk, b"a" * 600)
    assert disk.unsynced() == []
    assert disk.after_power_cut(nothing).contents(FILE) == b"a" * 600


def test_power_cut_may_keep_a_length_without_the_data() -> None:
    """A file that grew may keep its length, with zeros where the data should be, or a sector beyond its old end."""
    disk = SimDisk()
    descriptor = make_file(disk)
    disk.write(descriptor, b"a" * 1024, offset=0)
    assert disk.after_power_cut(lambda unit: unit.what == "length").contents(FILE) == bytes(1024)
    assert disk.after_power_cut(keep_sectors(512)).contents(FILE) == bytes(512) + b"a" * 512
    assert disk.after_power_cut(nothing).contents(FILE) == b""


def test_power_cut_takes_names_that_were_not_synced() -> None:
    """A created file is lost, a removed one is back, unless the directory was synced."""
    disk = SimDisk()
    descriptor = disk.create(FILE)
    disk.write(descriptor, b"a", offset=0)
    disk.sync(descriptor)
    assert disk.after_power_cut(nothing).paths() == []
    assert disk.after_power_cut(everything).contents(FILE) == b"a"
    disk.sync_directory(HERE)
    assert disk.after_power_cut(nothing).contents(FILE) == b"a"
    disk.remove(FILE)
    assert disk.paths() == []
    assert disk.after_power_cut(nothing).contents(FILE) == b"a"
    disk.sync_directory(HERE)
    assert disk.after_power_cut(nothing).paths() == []


def test_failed_sync_forgets_what_it_was_for() -> None:
    """After a failed sync the data is readable and at stake, until it is written and synced again."""
    disk = SimDisk()
    descriptor = make_file(disk, b"a" * 512)
    disk.write(descriptor, b"b" * 512, offset=0)
    disk.fail("sync", errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        disk.sync(descriptor)
    disk.sync(descriptor)
    assert disk.contents(FILE) == b"b" * 512
    assert disk.after_power_cut(nothing).contents(FILE) == b"a" * 512
    disk.write(descriptor, b"b" * 512, offset=0)
    disk.sync(descriptor)
    assert disk.after_power_cut(nothing).contents(FILE) == b"b" * 512


def test_failed_directory_sync_makes_nothing_durable_ever_again() -> None:
    """After a failed sync of the directory a later one helps only names that are created or removed again."""
    disk = SimDisk()
    disk.make_directory(HERE)
    disk.create(FILE)
    disk.fail("sync_directory", errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        disk.sync_directory(HERE)
    disk.sync_directory(HERE)
    assert disk.paths() == [FILE]
    assert disk.after_power_cut(nothing).paths() == []
    disk.remove(FILE)
    disk.create(FILE)
    disk.sync_directory(HERE)
    assert disk.after_power_cut(nothing).paths() == [FILE]


def test_removal_that_is_durable_outlives_a_creation_that_was_forgotten() -> None:
    """A name whose creation was never made durable stays away once its removal was."""
    disk = SimDisk()
    disk.make_directory(HERE)
    disk.create(FILE)
    disk.fail("sync_directory", errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        disk.sync_directory(HERE)
    disk.remove(FILE)
    assert disk.after_power_cut(lambda unit: unit.what == "create").paths() == [FILE]
    disk.sync_directory(HERE)
    assert disk.after_power_cut(lambda _: True).paths() == []


def test_power_cut_before_an_operation_stops_everything_after_it() -> None:
    """The operation with that number, and all after it, find the machine off."""
    disk = SimDisk()
    descriptor = make_file(disk)
    disk.power_cut_before(len(disk.operations) + 1)
    disk.write(descriptor, b"a", offset=0)
    for operation in (lambda: disk.sync(descriptor), lambda: disk.read(descriptor, size=1, offset=0)):
        with pytest.raises(PowerCut):
            operation()
    disk.kill_process()
    assert disk.contents(FILE) == b"a"


def test_full_disk_takes_a_part_of_a_write() -> None:
    """A write beyond the capacity fills the disk and fails; with room it succeeds."""
    disk = SimDisk(capacity=1000)
    descriptor = make_file(disk, b"a" * 600)
    with pytest.raises(OSError, match="No space left"):
        disk.write(descriptor, b"b" * 800, offset=600)
    assert len(disk.contents(FILE)) == 1000
    disk.write(descriptor, b"c" * 1000, offset=0)
    disk.capacity = None
    disk.write(descriptor, b"b" * 800, offset=600)
    assert len(disk.contents(FILE)) == 1400


def test_faults_happen_as_often_as_was_said() -> None:
    """A fault ends by itself after its times; one without a number of times lasts until the disk is mended."""
    disk = SimDisk()
    descriptor = make_file(disk)
    disk.fail("write", errno.EIO, times=2)
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output"):
            disk.write(descriptor, b"a", offset=0)
    disk.write(descriptor, b"a", offset=0)
    disk.fail("sync", errno.EIO, times=None)
    for _ in range(3):
        with pytest.raises(OSError, match="Input/output"):
            disk.sync(descriptor)
    disk.mend()
    disk.sync(descriptor)


def test_lock_is_exclusive_until_closed() -> None:
    """A second lock on a path is refused until the first is closed."""
    disk = SimDisk()
    lock = disk.lock(FILE)
    with pytest.raises(LockHeld):
        disk.lock(FILE)
    disk.close(lock)
    disk.close(disk.lock(FILE))


def test_wrong_uses_fail_as_on_a_real_disk() -> None:
    """Creating what exists, opening what does not, and writing through a reader's descriptor are errors."""
    disk = SimDisk()
    make_file(disk)
    with pytest.raises(FileExistsError):
        disk.create(FILE)
    with pytest.raises(FileNotFoundError):
        disk.open(HERE / "other", write=False)
    with pytest.raises(OSError, match="Bad file descriptor"):
        disk.write(disk.open(FILE, write=False), b"a", offset=0)


def test_power_cut_takes_a_rename_that_was_not_synced() -> None:
    """Before the sync of its directory a renamed file has its old name, its new one or both, and never none."""
    disk = SimDisk()
    make_file(disk, b"new")
    target = HERE / "target"
    disk.overwrite(target, b"old")
    disk.rename(FILE, target)
    assert disk.paths() == [target]
    assert disk.contents(target) == b"new"
    assert [(unit.path, unit.what) for unit in disk.unsynced()] == [(target, "create"), (FILE, "remove")]
    before = disk.after_power_cut(nothing)
    assert (before.contents(FILE), before.contents(target)) == (b"new", b"old")
    assert disk.after_power_cut(lambda unit: unit.what == "remove").contents(FILE) == b"new"
    both = disk.after_power_cut(lambda unit: unit.what == "create")
    assert (both.contents(FILE), both.contents(target)) == (b"new", b"new")
    disk.sync_directory(HERE)
    assert disk.unsynced() == []
    after = disk.after_power_cut(nothing)
    assert after.paths() == [target]
    assert after.contents(target) == b"new"


def test_rename_fails_as_on_a_real_disk() -> None:
    """What is not there cannot be renamed or removed, and an injected error changes nothing."""
    disk = SimDisk()
    make_file(disk)
    with pytest.raises(FileNotFoundError):
        disk.rename(HERE / "other", FILE)
    with pytest.raises(FileNotFoundError):
        disk.remove(HERE / "other")
    disk.fail("rename", errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        disk.rename(FILE, HERE / "other")
    assert disk.paths() == [FILE]
    assert disk.injected == {"rename error": 1}


def test_directory_sync_leaves_names_of_a_call_under_way() -> None:
    """What another call renames behind a sync of its own is not made durable before that sync is done."""
    disk = SimDisk()
    descriptor = make_file(disk)
    with disk.staging() as writer:
        disk.write(descriptor, b"a", offset=0)
        disk.sync(descriptor)
        disk.rename(FILE, HERE / "target")
    with disk.staging() as other:
        disk.create(HERE / "another")
        disk.sync_directory(HERE)
    other.complete()
    assert disk.after_power_cut(nothing).paths() == [HERE / "another", FILE]
    writer.complete()
    assert disk.after_power_cut(everything).paths() == [HERE / "another", HERE / "target"]
