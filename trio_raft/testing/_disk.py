"""A disk in memory that knows what a power cut may take.

``SimDisk`` implements the file operations of the log store.  What was written is *visible* at once; it is *durable*
once it was synced.  In between, ``unsynced`` lists what is at stake, unit by unit:

* a sector of a write (512 bytes reach the medium whole or not at all; each by itself, in any order),
* the new length of a file that a write made longer,
* a name that was created or removed without a sync of its directory; a file that was renamed has its old name, its new
  one, or both.

``after_power_cut(keep)`` gives the disk as the next start finds it: everything durable, and of the units at stake
those that ``keep`` says yes to.  Any choice is legal, so a test can enumerate them, and a simulation can draw one
(``crash``).  The disk itself is not changed by the question.

A sync that fails leaves the units that it was for at stake for good: no later sync makes them durable, although
reading shows them, until they are written again.  That is what operating systems do.  So it is with the sync of a
directory, and the names in it, until a name is created or removed again.

**Staging** lets a call take time.  Inside ``with disk.staging() as call`` operations run at once, but no sync has an
effect before ``call.complete()``.  A power cut in between finds the call in the middle of some sync: the syncs before
it are done, what was written after it was never written at all, and the rest is at stake.

Every operation has a number.  ``power_cut_before(n)`` makes operation n and all after it raise ``PowerCut``.
``fail`` lets operations of a kind fail with an error of the operating system, ``capacity`` bounds the disk, bits can be
flipped; ``injected`` counts what happened of all that.

House rule: no chance and no time in here; who wants them brings them.
"""

import errno
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from trio_raft._storage.files import LockHeld
from trio_raft.testing._disk_view import DiskView
from trio_raft.testing._staging import (
    SECTOR_BYTES,
    Barrier,
    Call,
    Fault,
    File,
    Name,
    PowerCut,
    Unit,
    Write,
    is_issued,
    kept_names,
    overwrite,
    whole_sectors,
    without_changes_before,
)

__all__ = ["SECTOR_BYTES", "Call", "PowerCut", "SimDisk", "Unit"]

SHARES_KEPT = (0.0, 0.1, 0.5, 0.5, 0.9, 1.0)
"""What a crash keeps of the units at stake, one of these in each crash: all and nothing are likely cases."""

_NOT_ZERO = re.compile(rb"[^\0]")


class SimDisk(DiskView):
    """File operations in memory; see the module."""

    def __init__(self, *, capacity: int | None = None) -> None:
        super().__init__()
        self.capacity = capacity
        """Bytes that all files may take together; None: no bound."""
        self.operations: list[str] = []
        """Every operation that changes or secures something, as it happened."""
        self.injected: dict[str, int] = {}
        """Kind of fault → how often it happened, on this disk and on those that it came from."""
        self._directories: set[Path] = set()
        self._pending_names: list[Name] = []
        self._open: dict[int, tuple[File, Path]] = {}
        self._locked: dict[int, Path] = {}
        self._read_only: set[int] = set()
        self._next_descriptor = 3
        self._cut_at: int | None = None
        self._faults: list[Fault] = []
        self._call: Call | None = None
        self._calls: list[Call] = []

    # ------------------------------------------------------------------------- what tests do to it

    def power_cut_before(self, number: int) -> None:
        """Operation ``number``, counted from 0 over the disk's whole life, and all after it raise PowerCut."""
        self._cut_at = number

    def fail(self, operation: str, number: int, *, times: int | None = 1, part: float = 0.0, prefix: str = "") -> None:
        """Let the next ``times`` operations of this kind fail with this ``errno``; None: all from now on.

        ``part``: how much of a write, 0 to 1, reaches the file before it fails.  ``prefix``: only on files, or in
        directories, whose names begin so.
        """
        self._faults.append(Fault(operation, number, times, part, prefix))

    def mend(self) -> None:
        """No more faults."""
        self._faults.clear()

    def kill_process(self) -> None:
        """The process dies, the machine does not: descriptors and locks go, and reading still shows every write.

        Syncs under way have no effect, but for those that a call was done with before its last write or renaming.
        """
        self._open.clear()
        self._locked.clear()
        self._cut_at = None
        for call in self._calls:
            if not call.ended:
                call.proceed(call.last_rank)
            call.ended = True
        self._calls.clear()

    def finish_calls(self) -> None:
        """Nobody waits any more for the calls that are under way: they come to their ends."""
        for call in self._calls:
            call.complete()
        self._calls.clear()

    @contextmanager
    def staging(self) -> Iterator[Call]:
        """Operations inside run at once; their syncs take effect when the call is completed."""
        if self._call is not None:
            raise AssertionError("one call at a time runs its operations")
        self._calls = [call for call in self._calls if not call.ended]
        self._call = call = Call(self._secure)
        self._calls.append(call)
        try:
            yield call
        finally:
            self._call = None
            # A call that changed nothing needs no completion.
            call.ended = not call.touched and not call.barriers

    def unsynced(self) -> list[Unit]:
        """What is at stake, in the order in which it happened to each file."""
        units = [name.unit for name in self._pending_names if is_issued(name.call, name.rank)]
        for file in {id(file): file for file in self._every_file()}.values():
            for write in file.at_stake():
                units += write.units()
        return units

    def after_power_cut(self, keep: Callable[[Unit], bool]) -> "SimDisk":
        """The disk as the next start finds it; locks are gone, faults are over, and what is visible is durable."""
        disk = SimDisk(capacity=self.capacity)
        disk.injected = self.injected
        disk._directories = set(self._directories)
        for path, file in kept_names(self._durable_names, self._pending_names, keep).items():
            content = bytearray(file.durable)
            for write in file.at_stake():
                for unit in write.units():
                    if keep(unit):
                        unit.apply(content)
            disk._files[path] = File(content, bytearray(content), hits=list(file.hits))
        disk._durable_names = dict(disk._files)
        return disk

    def crash(self, random: Random) -> "SimDisk":
        """The power fails now: the disk as the next start finds it, one of all that are legal.

        This one is off from now on: every further operation raises PowerCut.
        """
        self.power_cut_before(0)
        for call in self._calls:
            if not call.ended:
                # Rather early than late: then more is at stake.
                last = len(call.barriers)
                call.proceed(min(random.randint(0, last), random.randint(0, last)))
        share = random.choice(SHARES_KEPT)
        counts = {"kept": 0, "lost": 0}

        def keep(unit: Unit) -> bool:
            kept = random.random() < share
            counts["kept" if kept else "lost"] += 1
            if not kept:
                self._count("lost name" if unit.what in ("create", "remove") else "lost write")
            return kept

        disk = self.after_power_cut(keep)
        self._count("power cut")
        if counts["kept"] and counts["lost"]:
            self._count("torn write")
        return disk

    def snapshot(self) -> "SimDisk":
        """A copy of what is durable now: an old copy, if it is put in place later."""
        copy = self.after_power_cut(lambda _: False)
        copy.injected = {}
        return copy

    def flip_bit(self, path: Path, *, position: int, bit: int = 0) -> None:
        """One bit of a file reads differently from now on, durably."""
        file = self._files[path]
        for content in (file.visible, file.durable):
            if position < len(content):
                content[position] ^= 1 << bit
                if position not in file.hits:
                    file.hits.append(position)
        self._count("bit flip")

    def flip_any_bit(self, random: Random) -> tuple[Path, int] | None:
        """Flip a bit of a byte that is not zero, and not at stake; returns (path, position), None if there is none."""
        cold = [path for path in self.paths() if not self._files[path].pending and any(self._files[path].durable)]
        if not cold:
            return None
        path = random.choice(cold)
        content = self._files[path].durable
        found = _NOT_ZERO.search(content, random.randrange(len(content))) or _NOT_ZERO.search(content)
        if found is None:
            raise AssertionError(f"{path} has a byte that is not zero, and was searched for it")
        self.flip_bit(path, position=found.start(), bit=random.randrange(8))
        return path, found.start()

    def overwrite(self, path: Path, content: bytes) -> None:
        """Exchange a file's contents, durably: damage, or another program's doing."""
        self._files[path] = File(bytearray(content), bytearray(content))
        self._durable_names[path] = self._files[path]

    # ------------------------------------------------------------------------- file operations

    def make_directory(self, path: Path) -> bool:
        self._begin("make_directory", path)
        created = path not in self._directories
        self._directories.add(path)
        return created

    def list_directory(self, path: Path) -> list[str]:
        return [each.name for each in self._files if each.parent == path]

    def sync_directory(self, path: Path) -> None:
        fault = self._begin("sync_directory", path, take_fault=False)
        # What another call did to names, and has not come to yet, is not this sync's to make durable.
        names = [
            name
            for name in self._pending_names
            if name.unit.path.parent == path
            and not name.forgotten
            and (name.call is self._call or is_issued(name.call, name.rank))
        ]
        if fault is not None:
            for name in names:
                name.forgotten = True
            raise OSError(fault.number, os.strerror(fault.number), str(path))
        self._sync(Barrier(names=names))

    def lock(self, path: Path) -> int:
        if path in self._locked.values():
            raise LockHeld("another node on this disk has locked it")
        descriptor = self._descriptor(File(), path)
        self._locked[descriptor] = path
        return descriptor

    def create(self, path: Path) -> int:
        self._begin("create", path)
        if path in self._files:
            raise FileExistsError(errno.EEXIST, "File exists", str(path))
        file = self._files[path] = File()
        self._rename(Name(Unit(path, "create"), file, *self._touch()))
        return self._descriptor(file, path)

    def open(self, path: Path, *, write: bool) -> int:
        self._begin("open", path, counts=False)
        if path not in self._files:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        return self._descriptor(self._files[path], path, writable=write)

    def close(self, descriptor: int) -> None:
        self._locked.pop(descriptor, None)
        del self._open[descriptor]

    def size(self, descriptor: int) -> int:
        return len(self._open[descriptor][0].visible)

    def read(self, descriptor: int, *, size: int, offset: int) -> bytes:
        file, path = self._open[descriptor]
        self._begin("read", path, counts=False)
        return bytes(file.visible[offset : offset + size])

    def write(self, descriptor: int, data: bytes | bytearray, *, offset: int) -> None:
        file, path = self._open[descriptor]
        fault = self._begin("write", path, take_fault=False)
        done = len(data) if fault is None else whole_sectors(len(data) * fault.part, offset)
        if descriptor in self._read_only:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), str(path))
        if self.capacity is not None:
            others = sum(len(each.visible) for each in self._every_file() if each is not file)
            room = self.capacity - others - offset
            if len(data) > room and offset + len(data) > len(file.visible):
                fault, done = Fault("write", errno.ENOSPC, 1, 0.0), max(0, room)
                self._count("disk full")
        if done:
            self._write(file, path, data[:done], offset)
        if fault is not None:
            if done:
                self._count("short write")
            raise OSError(fault.number, os.strerror(fault.number), str(path))

    def allocate(self, descriptor: int, *, size: int, offset: int) -> bool:
        self.write(descriptor, bytes(size), offset=offset)
        return True

    def start_writing(self, descriptor: int, *, size: int, offset: int) -> None:
        """Nothing to do: what was written may reach the disk at any time as it is."""

    def sync(self, descriptor: int) -> None:
        file, path = self._open[descriptor]
        fault = self._begin("sync", path, take_fault=False)
        if fault is not None:
            file.forget_pending()
            raise OSError(fault.number, os.strerror(fault.number), str(path))
        self._sync(Barrier(file, list(file.pending)))

    def rename(self, path: Path, target: Path) -> None:
        self._begin("rename", path)
        if path not in self._files:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        file = self._files[target] = self._files.pop(path)
        made = Name(Unit(target, "create"), file, *self._touch())
        self._rename(made, Name(Unit(path, "remove"), file, *self._touch(), only_after=made))

    def remove(self, path: Path) -> None:
        self._begin("remove", path)
        if path not in self._files:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        self._rename(Name(Unit(path, "remove"), self._files.pop(path), *self._touch()))

    # ------------------------------------------------------------------------- inside

    def _begin(self, operation: str, path: Path, *, counts: bool = True, take_fault: bool = True) -> Fault | None:
        """Count the operation, cut the power if it is time, and find the fault that is due, if any."""
        if self._cut_at is not None and len(self.operations) >= self._cut_at:
            raise PowerCut
        if counts:
            self.operations.append(f"{operation} {path.name}")
        for fault in self._faults:
            if fault.operation == operation and path.name.startswith(fault.prefix):
                self._count(f"{operation} error")
                if fault.times is not None:
                    fault.times -= 1
                    if fault.times == 0:
                        self._faults.remove(fault)
                if take_fault:
                    raise OSError(fault.number, os.strerror(fault.number), str(path))
                return fault
        return None

    def _count(self, kind: str) -> None:
        self.injected[kind] = self.injected.get(kind, 0) + 1

    def _descriptor(self, file: File, path: Path, *, writable: bool = True) -> int:
        # Never used again, so that a use after closing shows.
        self._next_descriptor += 1
        if not writable:
            self._read_only.add(self._next_descriptor)
        self._open[self._next_descriptor] = file, path
        return self._next_descriptor

    def _rename(self, *names: Name) -> None:
        self._pending_names += names
        self.name_changes += 1

    def _touch(self) -> tuple[Call | None, int]:
        """The call that an operation belongs to, and its rank in it."""
        if self._call is None:
            return None, 0
        self._call.touched = True
        self._call.last_rank = len(self._call.barriers)
        return self._call, self._call.last_rank

    def _write(self, file: File, path: Path, data: bytes | bytearray, offset: int) -> None:
        end = offset + len(data)
        grown = end if end > len(file.visible) else 0
        overwrite(file.visible, data, offset=offset)
        start = offset - offset % SECTOR_BYTES
        content = bytes(file.visible[start : end + -end % SECTOR_BYTES])
        file.pending.append(Write(path, start, content, grown, *self._touch()))

    def _sync(self, barrier: Barrier) -> None:
        if self._call is None:
            self._secure(barrier)
        else:
            self._call.barriers.append(barrier)

    def _secure(self, barrier: Barrier) -> None:
        if barrier.file is not None:
            barrier.file.secure(barrier.writes)
        for name in barrier.names:
            if name in self._pending_names:
                self._pending_names = without_changes_before(self._pending_names, name)
                self.name_changes += 1
                if name.unit.what == "create":
                    self._durable_names[name.unit.path] = name.file
                else:
                    self._durable_names.pop(name.unit.path, None)
