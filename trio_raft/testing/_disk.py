"""A disk in memory that knows what a power cut may take.

``SimDisk`` implements the file operations of the log store.  What was written is *visible* at once; it is *durable*
once it was synced.  In between, ``unsynced`` lists what is at stake, unit by unit:

* a sector of a write (512 bytes reach the medium whole or not at all; each by itself, in any order),
* the new length of a file that a write made longer,
* a name that was created or removed without a sync of its directory.

``after_power_cut(keep)`` gives the disk as the next start finds it: everything durable, and of the units at stake
those that ``keep`` says yes to.  Any choice is legal, so a test can enumerate them, and a simulation can draw one.
The disk itself is not changed by the question.

A sync that fails leaves the units that it was for at stake for good: no later sync makes them durable, although
reading shows them, until they are written again.  That is what operating systems do.

Every operation has a number.  ``power_cut_before(n)`` makes operation n and all after it raise ``PowerCut``.
``fail`` lets operations of a kind fail with an error of the operating system, ``capacity`` bounds the disk.

House rule: no chance and no time in here; who wants them brings them.
"""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs

from trio_raft._storage.files import LockHeld

SECTOR_BYTES = 512


class PowerCut(BaseException):
    """The machine is off.  Not an Exception: no code that runs on the machine survives it."""


@attrs.frozen
class Unit:
    """Something that a power cut may take or leave, by itself."""

    path: Path
    what: str
    """"sector", "length", "create" or "remove"."""
    position: int = 0
    """Offset of the sector; the length."""
    content: bytes = attrs.field(default=b"", repr=False)
    """Of the sector, afterwards."""


@attrs.define(eq=False)
class _File:
    """An inode: its name is the directory's affair."""

    durable: bytearray = attrs.Factory(bytearray)
    visible: bytearray = attrs.Factory(bytearray)
    pending: list[Unit] = attrs.Factory(list[Unit])
    """In the order of writing; the next sync makes them durable."""
    forgotten: list[Unit] = attrs.Factory(list[Unit])
    """Their sync failed: no later one knows of them."""


@attrs.define
class _Fault:
    operation: str
    number: int
    """Of the error."""
    times: int | None
    """How often it will still happen; None: for ever."""
    part: float
    """How much of a write reaches the file before it fails."""


class SimDisk:
    """File operations in memory; see the module."""

    def __init__(self, *, capacity: int | None = None) -> None:
        self.capacity = capacity
        """Bytes that all files may take together; None: no bound."""
        self.operations: list[str] = []
        """Every operation that changes or secures something, as it happened."""
        self._files: dict[Path, _File] = {}
        self._durable_names: dict[Path, _File] = {}
        self._directories: set[Path] = set()
        self._pending_names: list[tuple[Unit, _File]] = []
        self._open: dict[int, tuple[_File, Path]] = {}
        self._locked: dict[int, Path] = {}
        self._read_only: set[int] = set()
        self._next_descriptor = 3
        self._cut_at: int | None = None
        self._faults: list[_Fault] = []

    # ------------------------------------------------------------------------- what tests do to it

    def power_cut_before(self, number: int) -> None:
        """Operation ``number``, counted from 0 over the disk's whole life, and all after it raise PowerCut."""
        self._cut_at = number

    def fail(self, operation: str, number: int, *, times: int | None = 1, part: float = 0.0) -> None:
        """Let the next ``times`` operations of this kind fail with this ``errno``; None: all from now on.

        ``part``: how much of a write, 0 to 1, reaches the file before it fails.
        """
        self._faults.append(_Fault(operation, number, times, part))

    def mend(self) -> None:
        """No more faults."""
        self._faults.clear()

    def kill_process(self) -> None:
        """The process dies, the machine does not: descriptors and locks go, and reading still shows every write."""
        self._open.clear()
        self._locked.clear()
        self._cut_at = None

    def unsynced(self) -> list[Unit]:
        """What is at stake, in the order in which it happened to each file."""
        units = [unit for unit, _ in self._pending_names]
        for file in {id(file): file for file in self._every_file()}.values():
            units += file.forgotten + file.pending
        return units

    def after_power_cut(self, keep: Callable[[Unit], bool]) -> "SimDisk":
        """The disk as the next start finds it; locks are gone, and what is visible is durable."""
        disk = SimDisk(capacity=self.capacity)
        disk._directories = set(self._directories)
        names = dict(self._durable_names)
        for unit, file in self._pending_names:
            if keep(unit):
                if unit.what == "create":
                    names[unit.path] = file
                else:
                    names.pop(unit.path, None)
        for path, file in names.items():
            content = bytearray(file.durable)
            for unit in file.forgotten + file.pending:
                if keep(unit):
                    _apply(unit, content)
            disk._files[path] = _File(content, bytearray(content))
        disk._durable_names = dict(disk._files)
        return disk

    def contents(self, path: Path) -> bytes:
        """What reading shows."""
        return bytes(self._files[path].visible)

    def overwrite(self, path: Path, content: bytes) -> None:
        """Exchange a file's contents, durably: damage, or another program's doing."""
        self._files[path] = _File(bytearray(content), bytearray(content))
        self._durable_names[path] = self._files[path]

    def paths(self) -> list[Path]:
        """All files, by name."""
        return sorted(self._files)

    # ------------------------------------------------------------------------- file operations

    def make_directory(self, path: Path) -> bool:
        self._begin("make_directory", path)
        created = path not in self._directories
        self._directories.add(path)
        return created

    def list_directory(self, path: Path) -> list[str]:
        return [each.name for each in self._files if each.parent == path]

    def sync_directory(self, path: Path) -> None:
        self._begin("sync_directory", path)
        remaining: list[tuple[Unit, _File]] = []
        for unit, file in self._pending_names:
            if unit.path.parent != path:
                remaining.append((unit, file))
            elif unit.what == "create":
                self._durable_names[unit.path] = file
            else:
                self._durable_names.pop(unit.path, None)
        self._pending_names = remaining

    def lock(self, path: Path) -> int:
        if path in self._locked.values():
            raise LockHeld("another node on this disk has locked it")
        descriptor = self._descriptor(_File(), path)
        self._locked[descriptor] = path
        return descriptor

    def create(self, path: Path) -> int:
        self._begin("create", path)
        if path in self._files:
            raise FileExistsError(errno.EEXIST, "File exists", str(path))
        file = self._files[path] = _File()
        self._pending_names.append((Unit(path, "create"), file))
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
        if descriptor in self._read_only:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), str(path))
        data = bytes(data)
        if self.capacity is not None:
            others = sum(len(each.visible) for each in self._every_file() if each is not file)
            room = self.capacity - others - offset
            if len(data) > room and offset + len(data) > len(file.visible):
                fault = _Fault("write", errno.ENOSPC, 1, max(0.0, room / len(data)))
        done = data if fault is None else data[: int(len(data) * fault.part)]
        if done:
            self._stage(file, path, done, offset)
        if fault is not None:
            raise OSError(fault.number, os.strerror(fault.number), str(path))

    def sync(self, descriptor: int) -> None:
        file, path = self._open[descriptor]
        fault = self._begin("sync", path, take_fault=False)
        if fault is not None:
            file.forgotten += file.pending
            file.pending = []
            raise OSError(fault.number, os.strerror(fault.number), str(path))
        for unit in file.pending:
            _apply(unit, file.durable)
        written = {unit.position for unit in file.pending if unit.what == "sector"}
        file.forgotten = [unit for unit in file.forgotten if unit.position not in written]
        file.pending = []

    def remove(self, path: Path) -> None:
        self._begin("remove", path)
        self._pending_names.append((Unit(path, "remove"), self._files.pop(path)))

    # ------------------------------------------------------------------------- inside

    def _begin(self, operation: str, path: Path, *, counts: bool = True, take_fault: bool = True) -> _Fault | None:
        """Count the operation, cut the power if it is time, and find the fault that is due, if any."""
        if self._cut_at is not None and len(self.operations) >= self._cut_at:
            raise PowerCut
        if counts:
            self.operations.append(f"{operation} {path.name}")
        for fault in self._faults:
            if fault.operation == operation:
                if fault.times is not None:
                    fault.times -= 1
                    if fault.times == 0:
                        self._faults.remove(fault)
                if take_fault:
                    raise OSError(fault.number, os.strerror(fault.number), str(path))
                return fault
        return None

    def _descriptor(self, file: _File, path: Path, *, writable: bool = True) -> int:
        # Never used again, so that a use after closing shows.
        self._next_descriptor += 1
        if not writable:
            self._read_only.add(self._next_descriptor)
        self._open[self._next_descriptor] = file, path
        return self._next_descriptor

    def _every_file(self) -> Iterator[_File]:
        yield from self._files.values()
        yield from (file for path, file in self._durable_names.items() if path not in self._files)

    def _stage(self, file: _File, path: Path, data: bytes, offset: int) -> None:
        end = offset + len(data)
        if end > len(file.visible):
            file.visible.extend(bytes(end - len(file.visible)))
            file.pending.append(Unit(path, "length", end))
        file.visible[offset:end] = data
        for start in range(offset - offset % SECTOR_BYTES, end, SECTOR_BYTES):
            content = bytes(file.visible[start : start + SECTOR_BYTES])
            file.pending.append(Unit(path, "sector", start, content))


def _apply(unit: Unit, content: bytearray) -> None:
    end = unit.position + len(unit.content)
    if end > len(content):
        content.extend(bytes(end - len(content)))
    content[unit.position : end] = unit.content
