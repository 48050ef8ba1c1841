"""The simulated disk in the middle of calls: what a crash may leave, and what happens to each kind of damage."""

import errno
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from trio_raft.testing._disk import SECTOR_BYTES, Call, PowerCut, SimDisk, Unit

HERE = Path("/disk")
FILE = HERE / "file"
OTHER = HERE / "other"
SEEDS = range(300)


def sectors(*letters: str) -> bytes:
    """One sector of each letter."""
    return b"".join(letter.encode() * SECTOR_BYTES for letter in letters)


def make_disk() -> tuple[SimDisk, int]:
    """A disk with a durable file of four sectors of dots, and its descriptor."""
    disk = SimDisk()
    disk.make_directory(HERE)
    descriptor = disk.create(FILE)
    disk.sync_directory(HERE)
    disk.write(descriptor, sectors(*"...."), offset=0)
    disk.sync(descriptor)
    return disk, descriptor


def letters(disk: SimDisk, path: Path = FILE) -> str:
    """A file's contents, a letter for a sector."""
    return disk.contents(path)[::SECTOR_BYTES].decode()


def crash_outcomes(prepare: Callable[[], SimDisk], look: Callable[[SimDisk], str] = letters) -> dict[str, int]:
    """What is found after a crash → how often, over many seeds."""
    found: dict[str, int] = {}
    for seed in SEEDS:
        outcome = look(prepare().crash(random.Random(seed)))
        found[outcome] = found.get(outcome, 0) + 1
    return found


def write_and_sync(disk: SimDisk, descriptor: int, letter: str, *, sector: int) -> None:
    disk.write(descriptor, sectors(letter), offset=sector * SECTOR_BYTES)
    disk.sync(descriptor)


# -------------------------------------------------------------------------------------------- calls


def two_barriers() -> SimDisk:
    """A call that wrote and synced A, then B, and then wrote C."""
    disk, descriptor = make_disk()
    with disk.staging():
        write_and_sync(disk, descriptor, "A", sector=0)
        write_and_sync(disk, descriptor, "B", sector=1)
        disk.write(descriptor, sectors("C"), offset=2 * SECTOR_BYTES)
    return disk


def test_crash_respects_barriers() -> None:
    """Of several syncs in one call a prefix is done: nothing written after a sync survives what it was for."""
    outcomes = crash_outcomes(two_barriers)
    assert sorted(outcomes) == ["....", "A...", "AB..", "ABC."]


def test_staged_sync_waits_for_its_completion() -> None:
    """A sync inside a call has its effect when the call is completed; reading shows everything at once."""
    disk, descriptor = make_disk()
    with disk.staging() as call:
        write_and_sync(disk, descriptor, "A", sector=0)
    assert letters(disk) == "A..."
    assert letters(disk.snapshot()) == "...."
    assert [unit.position for unit in disk.unsynced()] == [0]
    call.complete()
    call.complete()
    assert letters(disk.snapshot()) == "A..."
    assert disk.unsynced() == []


def test_what_was_never_issued_is_not_at_stake() -> None:
    """While a call is in its first sync, what it wrote after that is not there to be kept."""
    disk = two_barriers()
    assert [unit.position for unit in disk.unsynced()] == [0]
    assert letters(disk.after_power_cut(lambda _: True)) == "A..."


def test_completed_call_loses_nothing() -> None:
    """What a completed call synced survives every crash."""

    def prepare() -> SimDisk:
        disk, descriptor = make_disk()
        with disk.staging() as call:
            write_and_sync(disk, descriptor, "A", sector=0)
        call.complete()
        disk.write(descriptor, sectors("B"), offset=SECTOR_BYTES)
        return disk

    assert sorted(crash_outcomes(prepare)) == ["A...", "AB.."]


def test_crash_tears_writes() -> None:
    """Of one write that was not synced any sectors survive; nothing and everything are common."""

    def prepare() -> SimDisk:
        disk, descriptor = make_disk()
        disk.write(descriptor, sectors(*"ABCD"), offset=0)
        return disk

    outcomes = crash_outcomes(prepare)
    assert len(outcomes) == 16
    assert all(found in (".", letter) for outcome in outcomes for found, letter in zip(outcome, "ABCD", strict=True))
    assert outcomes["...."] > 50
    assert outcomes["ABCD"] > 50


def test_crash_reorders_between_files() -> None:
    """Of two files that were not synced the later write may survive without the earlier one."""

    def prepare() -> SimDisk:
        disk, descriptor = make_disk()
        other = disk.create(OTHER)
        disk.sync_directory(HERE)
        disk.write(descriptor, sectors("A"), offset=0)
        disk.write(other, sectors("B"), offset=0)
        return disk

    assert {"....|B", "A...|"} < set(crash_outcomes(prepare, lambda disk: f"{letters(disk)}|{letters(disk, OTHER)}"))


def test_crash_takes_names() -> None:
    """A file that was created or removed without a sync of its directory is there or not."""

    def create() -> SimDisk:
        disk, _ = make_disk()
        with disk.staging():
            disk.create(OTHER)
            disk.sync_directory(HERE)
        return disk

    def remove() -> SimDisk:
        disk, _ = make_disk()
        disk.remove(FILE)
        return disk

    def names(disk: SimDisk) -> str:
        return " ".join(path.name for path in disk.paths())

    assert sorted(crash_outcomes(create, names)) == ["file", "file other"]
    assert sorted(crash_outcomes(remove, names)) == ["", "file"]


def test_calls_of_two_lanes() -> None:
    """Calls that overlap proceed by themselves: the later one may be done and the earlier one not."""

    def prepare() -> SimDisk:
        disk, descriptor = make_disk()
        other = disk.create(OTHER)
        disk.sync_directory(HERE)
        with disk.staging():
            write_and_sync(disk, descriptor, "A", sector=0)
        with disk.staging() as later:
            disk.write(other, sectors("B"), offset=0)
            disk.sync(other)
        later.complete()
        return disk

    assert sorted(crash_outcomes(prepare, lambda disk: letters(disk) + letters(disk, OTHER))) == ["....B", "A...B"]


def test_later_sync_covers_an_earlier_call() -> None:
    """A completed sync is for everything that its file held, whoever wrote it; the older write does not come back."""
    disk, descriptor = make_disk()
    with disk.staging() as earlier:
        write_and_sync(disk, descriptor, "A", sector=0)
    with disk.staging() as later:
        write_and_sync(disk, descriptor, "B", sector=0)
    later.complete()
    earlier.complete()
    assert letters(disk.snapshot()) == "B..."


def test_killed_process_in_a_call() -> None:
    """The machine survives: everything written is there to be read.  What came after the last sync is at stake until
    the next; what came before it is not, since the process wrote on only when the sync had returned."""
    disk = two_barriers()
    disk.kill_process()
    assert letters(disk) == "ABC."
    assert letters(disk.snapshot()) == "AB.."
    assert [unit.position // SECTOR_BYTES for unit in disk.unsynced()] == [2]
    disk.sync(disk.open(FILE, write=True))
    assert letters(disk.snapshot()) == "ABC."


def test_calls_that_nobody_waits_for_come_to_their_ends() -> None:
    """A thread that was abandoned by a node that ended by itself goes on: what it syncs is durable."""
    disk = two_barriers()
    disk.finish_calls()
    assert letters(disk.snapshot()) == "AB.."
    assert letters(disk.after_power_cut(lambda _: True)) == "ABC."


def test_fail_by_prefix() -> None:
    """Errors may be meant for some files only, by the beginning of their names."""
    disk, descriptor = make_disk()
    disk.fail("write", errno.EIO, prefix="another")
    disk.write(descriptor, b"A" * SECTOR_BYTES, offset=0)
    assert letters(disk) == "A..."
    disk.fail("write", errno.EIO, prefix=FILE.name[:2])
    with pytest.raises(OSError, match="Input/output error"):
        disk.write(descriptor, b"B" * SECTOR_BYTES, offset=0)


def test_calls_do_not_nest() -> None:
    """One call at a time runs its operations."""
    disk, _ = make_disk()
    with disk.staging(), pytest.raises(AssertionError, match="one call at a time"):
        with disk.staging():
            pass


def test_calls_are_forgotten() -> None:
    """Calls that were completed, and calls that changed nothing, leave nothing behind."""
    disk, descriptor = make_disk()
    for _ in range(100):
        with disk.staging() as call:
            write_and_sync(disk, descriptor, "A", sector=0)
        call.complete()
        with disk.staging():
            disk.read(descriptor, size=1, offset=0)
    assert len(disk._calls) == 1
    assert disk._files[FILE].pending == []


# ------------------------------------------------------------------------------------------- damage


def failed_sync(disk: SimDisk, descriptor: int) -> Call:
    """A call whose first sync succeeds and whose second one fails."""
    with disk.staging() as call:
        write_and_sync(disk, descriptor, "A", sector=0)
        disk.fail("sync", errno.EIO)
        with pytest.raises(OSError, match="Input/output error"):
            write_and_sync(disk, descriptor, "B", sector=1)
    return call


def test_failed_sync_in_a_call() -> None:
    """A sync that fails leaves what an earlier one was for to that one, and forgets the rest for good (S4)."""
    disk, descriptor = make_disk()
    failed_sync(disk, descriptor).complete()
    assert letters(disk.snapshot()) == "A..."
    disk.sync(descriptor)
    assert letters(disk) == "AB.."
    assert letters(disk.snapshot()) == "A..."
    assert letters(disk.after_power_cut(lambda _: True)) == "AB.."


def test_rewritten_after_a_failed_sync() -> None:
    """What was written again and synced is safe: what the failed sync was for does not come back over it."""
    disk, descriptor = make_disk()
    disk.write(descriptor, sectors(*"AB"), offset=0)
    disk.fail("sync", errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        disk.sync(descriptor)
    write_and_sync(disk, descriptor, "C", sector=0)
    assert letters(disk.after_power_cut(lambda _: True)) == "CB.."
    assert letters(disk.after_power_cut(lambda _: False)) == "C..."


def test_crash_in_a_call_with_a_failed_sync() -> None:
    """What was written after a sync that is not done was never written, also if its own sync failed."""

    def prepare() -> SimDisk:
        disk, descriptor = make_disk()
        failed_sync(disk, descriptor)
        return disk

    assert sorted(crash_outcomes(prepare)) == ["....", "A...", "AB.."]


@pytest.mark.parametrize("operation", ["read", "write", "sync"])
@pytest.mark.parametrize("times", [1, None])
def test_error_once_or_for_good(operation: str, times: int | None) -> None:
    """An error of reading, writing or syncing happens once, or every time until the disk is mended; it is counted."""
    disk, descriptor = make_disk()
    actions: dict[str, Callable[[], object]] = {
        "read": lambda: disk.read(descriptor, size=1, offset=0),
        "write": lambda: disk.write(descriptor, b"x", offset=0),
        "sync": lambda: disk.sync(descriptor),
    }
    disk.fail(operation, errno.EIO, times=times)
    for _ in range(times or 3):
        with pytest.raises(OSError, match="Input/output error"):
            actions[operation]()
    assert disk.injected == {f"{operation} error": times or 3}
    disk.mend()
    actions[operation]()


def test_short_write() -> None:
    """A write can reach the file in part and fail."""
    disk, descriptor = make_disk()
    disk.fail("write", errno.EIO, part=0.5)
    with pytest.raises(OSError, match="Input/output error"):
        disk.write(descriptor, sectors(*"ABCD"), offset=0)
    assert letters(disk) == "AB.."
    assert disk.injected == {"write error": 1, "short write": 1}


def test_full_disk_and_recovery() -> None:
    """A disk that is bounded at what it holds takes no more, until it has room again."""
    disk, descriptor = make_disk()
    disk.capacity = disk.used
    with pytest.raises(OSError, match="No space left"):
        disk.write(descriptor, sectors("A"), offset=disk.used)
    disk.write(descriptor, sectors("B"), offset=0)
    disk.capacity = None
    disk.write(descriptor, sectors("A"), offset=disk.used)
    assert letters(disk) == "B...A"
    assert disk.injected == {"disk full": 1}


def test_crash_turns_the_disk_off() -> None:
    """After a crash the old disk answers nothing, and the new one has no descriptors, locks and faults."""
    disk, descriptor = make_disk()
    disk.lock(OTHER)
    disk.fail("read", errno.EIO, times=None)
    after = disk.crash(random.Random(1))
    with pytest.raises(PowerCut):
        disk.read(descriptor, size=1, offset=0)
    after.close(after.lock(OTHER))
    assert after.read(after.open(FILE, write=False), size=1, offset=0) == b"."
    assert after.injected == {"power cut": 1}


def test_crash_counts_what_it_took() -> None:
    """Lost and torn writes and lost names are counted, over all lives of a disk."""
    disk, descriptor = make_disk()
    for seed in range(40):
        disk.write(descriptor, sectors(*"ABCD"), offset=0)
        disk = disk.crash(random.Random(seed))
        descriptor = disk.open(FILE, write=True)
        disk.create(Path(f"/disk/{seed}"))
    assert disk.injected["power cut"] == 40
    assert all(disk.injected[kind] > 5 for kind in ("lost write", "torn write", "lost name"))


def test_flip_bit() -> None:
    """A flipped bit is flipped for good, and nothing else is."""
    disk, _ = make_disk()
    disk.flip_bit(FILE, position=7, bit=3)
    expected = bytearray(sectors(*"...."))
    expected[7] ^= 8
    assert disk.contents(FILE) == bytes(expected)
    assert disk.snapshot().contents(FILE) == bytes(expected)
    assert disk.injected == {"bit flip": 1}


def test_flip_any_bit() -> None:
    """A drawn flip hits a byte that is not zero, in a file of which nothing is at stake; with none it hits nothing."""
    disk, descriptor = make_disk()
    disk.overwrite(OTHER, bytes(1000) + b"x" + bytes(1000))
    disk.write(descriptor, sectors("A"), offset=0)
    before = disk.contents(FILE)
    assert disk.flip_any_bit(random.Random(1)) == (OTHER, 1000)
    assert disk.contents(FILE) == before
    assert SimDisk().flip_any_bit(random.Random(1)) is None


def test_snapshot_is_a_copy() -> None:
    """An old copy shows what was durable then, whatever happens to the disk or to the copy."""
    disk, descriptor = make_disk()
    copy = disk.snapshot()
    write_and_sync(disk, descriptor, "A", sector=0)
    again = copy.snapshot()
    write_and_sync(again, again.open(FILE, write=True), "B", sector=0)
    assert (letters(disk), letters(copy), letters(again)) == ("A...", "....", "B...")


def test_read_durable() -> None:
    """What is certain to survive can be read without asking for a crash."""
    disk, descriptor = make_disk()
    with disk.staging() as call:
        write_and_sync(disk, descriptor, "A", sector=0)
        disk.create(OTHER)
    assert disk.read_durable(FILE, size=2, offset=0) == b".."
    assert disk.read_durable(OTHER, size=2, offset=0) == b""
    call.complete()
    assert disk.read_durable(FILE, size=2, offset=SECTOR_BYTES - 1) == b"A."


def test_units_are_the_same_objects() -> None:
    """What is asked about at a power cut is what was listed as unsynced, object by object."""
    disk, descriptor = make_disk()
    disk.write(descriptor, sectors(*"ABCDE"), offset=0)
    listed = disk.unsynced()
    asked: list[Unit] = []

    def keep(unit: Unit) -> bool:
        asked.append(unit)
        return False

    disk.after_power_cut(keep)
    assert all(one is other for one, other in zip(listed, asked, strict=True))
    assert [unit.what for unit in listed] == ["length"] + ["sector"] * 5


def test_flipped_bit_stays_with_its_bytes() -> None:
    """Where a bit was flipped is known through renaming and a power cut, and not of another file of that name."""
    disk, _ = make_disk()
    disk.flip_bit(FILE, position=7, bit=3)
    assert disk.is_hit(FILE, start=7, end=8)
    assert not disk.is_hit(FILE, start=8, end=1000)
    assert not disk.is_hit(OTHER, start=0, end=1000)
    disk.rename(FILE, OTHER)
    disk.sync_directory(OTHER.parent)
    after = disk.after_power_cut(lambda _: True)
    assert after.is_hit(OTHER, start=7, end=8)
    descriptor = after.create(FILE)
    after.write(descriptor, b"another file", offset=0)
    after.sync(descriptor)
    after.rename(FILE, OTHER)
    # A power cut may still bring the first one back.
    assert after.is_hit(OTHER, start=7, end=8)
    after.sync_directory(OTHER.parent)
    assert not after.is_hit(OTHER, start=0, end=1000)
