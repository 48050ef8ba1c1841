"""What a simulated disk keeps beside its durable bytes: writes and names at stake, calls under way, faults.

A ``Call`` is a piece of blocking work whose operations were run at once, but whose time has not passed yet.  Between
its operations stand ``Barrier`` objects, one for each sync.  Each write and each name knows its *rank*: how many syncs
of its call came before it.  So as long as the call is in the middle of sync number ``synced``, what has a higher rank
was never issued, however visible it is.

House rule: a write is one object, whatever its size; its sectors are counted out only when somebody asks.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import attrs

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

    def apply(self, content: bytearray) -> None:
        """Let this one reach the medium."""
        overwrite(content, self.content, offset=self.position)


@attrs.define(eq=False)
class Write:
    """Whole sectors of a file as one write left them, not yet durable."""

    path: Path
    offset: int
    content: bytes = attrs.field(repr=False)
    length: int
    """The new length of the file; 0 if it did not grow."""
    call: "Call | None"
    rank: int
    durable: bool = False
    _units: list[Unit] | None = None

    def units(self) -> list[Unit]:
        """What a power cut may take of it, one by one; the same objects each time."""
        if self._units is None:
            self._units = [Unit(self.path, "length", self.length)] if self.length else []
            for start in range(0, len(self.content), SECTOR_BYTES):
                content = self.content[start : start + SECTOR_BYTES]
                self._units.append(Unit(self.path, "sector", self.offset + start, content))
        return self._units

    def split(self) -> Iterator["Write"]:
        """The same, one unit each."""
        for unit in self.units():
            length = unit.position if unit.what == "length" else 0
            yield attrs.evolve(self, offset=unit.position, content=unit.content, length=length, units=[unit])


@attrs.define(eq=False)
class File:
    """An inode: its name is the directory's affair."""

    durable: bytearray = attrs.Factory(bytearray)
    visible: bytearray = attrs.Factory(bytearray)
    pending: list[Write] = attrs.Factory(list[Write])
    """In the order of writing; the next sync makes them durable."""
    forgotten: list[Write] = attrs.Factory(list[Write])
    """One unit each.  Their sync failed: no later one knows of them."""
    hits: list[int] = attrs.Factory(list[int])
    """Positions of bytes of which a bit was flipped."""

    def secure(self, writes: list[Write]) -> None:
        """A sync that was for these writes is done."""
        written: dict[int, None] = {}
        for write in writes:
            if not write.durable:
                write.durable = True
                overwrite(self.durable, write.content, offset=write.offset)
                written.update(dict.fromkeys(range(write.offset, write.offset + len(write.content), SECTOR_BYTES)))
        self.pending = [write for write in self.pending if not write.durable]
        if self.forgotten:
            self.forgotten = [lost for lost in self.forgotten if not lost.content or lost.offset not in written]

    def forget_pending(self) -> None:
        """A sync failed; one that a call made before it, and that has not taken effect, will still do so."""
        for write in self.pending:
            self.forgotten += write.split()
        self.pending = []

    def at_stake(self) -> Iterator[Write]:
        """Everything that is not durable and was issued, the oldest first."""
        for write in self.forgotten + self.pending:
            if is_issued(write.call, write.rank):
                yield write


@attrs.define(eq=False)
class Name:
    """A name that was created or removed, not yet durable."""

    unit: Unit
    file: File
    call: "Call | None"
    rank: int
    only_after: "Name | None" = None
    """Of a renamed file: no power cut takes the old name while the new one is lost."""
    forgotten: bool = False
    """The sync of its directory failed: no later one knows of it."""


def without_changes_before(names: list[Name], durable: Name) -> list[Name]:
    """What is left at stake once the directory holds this change of a name: not it, nor what was done to it before."""
    position, path = names.index(durable), durable.unit.path
    return [name for at, name in enumerate(names) if at > position or name.unit.path != path]


@attrs.define
class Fault:
    """An error that operations are to meet."""

    operation: str
    number: int
    """Of the error."""
    times: int | None
    """How often it will still happen; None: for ever."""
    part: float
    """How much of a write reaches the file before it fails."""
    prefix: str = ""
    """Of the names of the files that it is about."""


@attrs.define(eq=False)
class Barrier:
    """A sync of a file, or of a directory, that a call made and that has not taken effect."""

    file: File | None = None
    writes: list[Write] = attrs.Factory(list[Write])
    names: list[Name] = attrs.Factory(list[Name])


@attrs.define(eq=False)
class Call:
    """The operations of one piece of blocking work while its time passes."""

    _effect: Callable[[Barrier], None]
    barriers: list[Barrier] = attrs.Factory(list[Barrier])
    synced: int = 0
    """How many of the barriers have taken effect."""
    ended: bool = False
    touched: bool = False
    """Did it write, create, rename or remove anything?"""
    last_rank: int = 0
    """Of what it did last."""

    def complete(self) -> None:
        """The time has passed: every sync that the call made is done.  Idempotent."""
        self.proceed(len(self.barriers))
        self.ended = True

    def proceed(self, synced: int) -> None:
        """The first ``synced`` of the call's syncs are done."""
        while self.synced < synced:
            self._effect(self.barriers[self.synced])
            self.synced += 1


def is_issued(call: Call | None, rank: int) -> bool:
    """Did an operation of this rank happen, as far as the medium is concerned?"""
    return call is None or call.ended or rank <= call.synced


def kept_names(durable: Mapping[Path, File], pending: Iterable[Name], keep: Callable[[Unit], bool]) -> dict[Path, File]:
    """The names after a power cut that leaves those pending that ``keep`` says yes to."""
    names, lost = dict(durable), list[Name]()
    for name in pending:
        if not is_issued(name.call, name.rank) or name.only_after in lost or not keep(name.unit):
            lost.append(name)
        elif name.unit.what == "create":
            names[name.unit.path] = name.file
        else:
            names.pop(name.unit.path, None)
    return names


def overwrite(content: bytearray, data: bytes | bytearray, *, offset: int) -> None:
    """Put ``data`` there, with zeros up to it if the content ends before."""
    end = offset + len(data)
    if end > len(content):
        content.extend(bytes(end - len(content)))
    content[offset:end] = data


def whole_sectors(size: float, offset: int) -> int:
    """How many bytes from there on, at most ``size``, end with a sector: systems copy pages, and stop between two."""
    end = offset + int(size)
    return max(0, end - end % SECTOR_BYTES - offset)
