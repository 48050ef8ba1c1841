"""What a power cut, now, would leave of one server's log: read from the disk itself, as it grows.

What a node believes to be durable proves nothing about durability; the bytes that were synced do.  ``DurableLog``
follows them: asked for news, it looks whether the place behind the last batch that it knows has become durable on the
simulated disk, and if so decodes it.  A poll without news looks at a few bytes, and each batch is decoded once.

The log need not begin with the first segment: older ones are removed once a snapshot covers them.  Then the description
of the first one that is left says what was in force, and the entries before it are the snapshot's affair
(``_durable_snapshots``).

House rule: only durable bytes count, and only whole batches: nothing is taken from the node, its store or its journal.
"""

import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import attrs

from trio_raft._messages import Incarnation
from trio_raft._records import Entry, decode_entries
from trio_raft._storage.format import (
    BATCH_HEADER_BYTES,
    MAX_DESCRIPTION_BYTES,
    BatchHeader,
    Description,
    decode_batch_header,
    decode_description,
    decode_description_header,
    is_whole,
    item_of,
    sectors_up,
)
from trio_raft._storage.segments import segment_path
from trio_raft.abc import SaveBootstrap, SaveSnapshot, SaveVote, SnapshotPoint
from trio_raft.testing._disk import SimDisk
from trio_raft.testing._durable_snapshots import DurableSnapshots
from trio_raft.testing._staging import File


@attrs.frozen
class LogBegins:
    """Everything up to there is gone from the log: older segments were removed."""

    base: int


DurableItem = Entry | SaveVote | SaveBootstrap | SaveSnapshot | LogBegins
"""An entry removes what stands at and above its index; a marker that does not keep the log, all of it."""


class DurableSource(Protocol):
    """Where the truth about one server's durable log comes from."""

    @property
    def incarnation(self) -> Incarnation | None:
        """Of the data directory; None as long as none is durable."""
        ...

    @property
    def first_write(self) -> int:
        """The number of the first write in ``history``: what was written before is gone."""
        ...

    @property
    def history(self) -> list[int]:
        """A checksum for each write that is durable."""
        ...

    @property
    def snapshot(self) -> SnapshotPoint | None:
        """The newest snapshot that is whole, and durable."""
        ...

    @property
    def damaged_snapshots(self) -> list[str]:
        """Names of those that look finished and are not whole."""
        ...

    def news(self) -> list[DurableItem]:
        """What became durable since the last call, in order."""
        ...

    def base(self) -> int:
        """Entries up to there are not in the log any more, if the power fails now."""
        ...


@attrs.define
class _Contents:
    """Of one segment, as far as it matters to the segments after it."""

    path: Path
    lowest: int
    """Every entry in this segment has this index or a higher one."""
    reset: bool = False
    """Does the log begin anew in it?"""

    def note(self, items: Iterable[DurableItem]) -> None:
        for item in items:
            match item:
                case Entry():
                    self.lowest = min(self.lowest, item.index)
                case SaveSnapshot(keep=False):
                    self.lowest, self.reset = item.point.index + 1, True
                case _:
                    pass


@attrs.define
class DurableLog:
    """The durable log of the server whose data directory is on this disk; a new one for each life of the server."""

    _disk: SimDisk
    _directory: Path = attrs.field(converter=Path)
    history: list[int] = attrs.field(init=False, factory=list[int])
    first_write: int = attrs.field(init=False, default=1)
    _snapshots: DurableSnapshots = attrs.field(init=False)
    _description: Description | None = attrs.field(init=False, default=None)
    """Of the segment in which the log goes on."""
    _file: File = attrs.field(init=False, factory=File)
    """That segment."""
    _end: int = attrs.field(init=False, default=0)
    """Where its next batch will be."""
    _next_number: int = attrs.field(init=False, default=1)
    """Of the segment after it."""
    _next_path: Path = attrs.field(init=False)
    """Kept, since making a path costs more than looking whether the file is there."""
    _segments: list[_Contents] = attrs.field(init=False, factory=list[_Contents])
    """Those that were there when this began, and all since."""
    _changes: int = attrs.field(init=False, default=-1)
    _base: int = attrs.field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        self._snapshots = DurableSnapshots(self._disk, self._directory)
        self._next_number = _first_of_last_run(filter(self._is_used, self._disk.durable_names(self._directory)))
        self._next_path = segment_path(self._directory, self._next_number)

    @property
    def incarnation(self) -> Incarnation | None:
        """Of the data directory; None as long as none is durable."""
        return None if self._description is None else self._description.incarnation

    @property
    def snapshot(self) -> SnapshotPoint | None:
        """The newest snapshot that is whole, and durable."""
        return self._snapshots.newest

    @property
    def damaged_snapshots(self) -> list[str]:
        """Names of those that look finished and are not whole."""
        self._snapshots.refresh()
        return self._snapshots.damaged

    def news(self) -> list[DurableItem]:
        """What became durable since the last call, in order."""
        news: list[DurableItem] = []
        is_first = self._description is None
        while True:
            batch = self._next_batch()
            if batch is not None:
                items: list[DurableItem] = [item_of(entry) for entry in decode_entries(batch)]
                self._segments[-1].note(items)
                news += items
            elif not self._next_segment(news):
                break
        self._snapshots.refresh()
        if is_first and self._segments and _number_of(self._segments[0].path.name) != 1:
            return _without_removed(news, base=_base_of(self._segments))
        return news

    def base(self) -> int:
        """Entries up to there are not in the log any more, if the power fails now."""
        if self._changes != self._disk.name_changes:
            self._changes = self._disk.name_changes
            gone = [place for place, contents in enumerate(self._segments) if not self._disk.exists(contents.path)]
            del self._segments[: gone[-1] + 1 if gone else 0]
            self._base = _base_of(self._segments)
        return self._base

    def _is_used(self, name: str) -> bool:
        """A segment that was only prepared may come back after its removal."""
        file = self._disk.durable_file(self._directory / name)
        return file is not None and bool(file.durable) and file.durable[0] != 0

    def _next_batch(self) -> bytes | None:
        """The records of the batch behind the last one, if it is durable."""
        durable, end = self._file.durable, self._end
        # Nearly every look ends here: a place that was prepared and not written holds zeros.
        if self._description is None or end >= len(durable) or not durable[end]:
            return None
        header = decode_batch_header(bytes(durable[end : end + BATCH_HEADER_BYTES]), 0, salt=self._description.nonce)
        if header is None or header.number != self._next_write:
            return None
        batch = bytes(durable[end : end + sectors_up(header.length)])
        if not is_whole(header, batch, 0):
            return None
        self._end += len(batch)
        self._remember(header)
        return batch[BATCH_HEADER_BYTES : header.length]

    def _next_segment(self, news: list[DurableItem]) -> bool:
        """Go on in the next segment, if its description is durable."""
        file = self._disk.durable_file(self._next_path)
        if file is None or not file.durable or not file.durable[0]:
            return False
        start = bytes(file.durable[:MAX_DESCRIPTION_BYTES])
        header = decode_description_header(start, segment_number=self._next_number)
        if header is None or (self._description is not None and header.number != self._next_write):
            return False
        start = start[: sectors_up(header.length)]
        if not is_whole(header, start, 0):
            return False
        description = decode_description(start, header)
        if self._description is None:
            self.first_write = header.number
            # Later descriptions only repeat what the batches before them said.
            news += [description.vote, *([description.bootstrap] if description.bootstrap else [])]
        self._description, self._file, self._end = description, file, len(start)
        self._segments.append(_Contents(self._next_path, description.first_index))
        self._next_number += 1
        self._next_path = segment_path(self._directory, self._next_number)
        self._remember(header)
        return True

    @property
    def _next_write(self) -> int:
        return self.first_write + len(self.history)

    def _remember(self, header: BatchHeader) -> None:
        self.history.append(zlib.crc32(f"{header.number} {header.length} {header.checksum}".encode()))


def _number_of(name: str) -> int | None:
    """Of the segment with this name; None if it is none."""
    digits = name.removeprefix("log-").removesuffix(".segment")
    return int(digits) if digits.isdigit() else None


def _first_of_last_run(names: Iterable[str]) -> int:
    """Of the numbers of these segments, the first behind the last gap: what stands before that counts no more."""
    numbers = sorted(number for number in map(_number_of, names) if number is not None)
    first = 1
    for before, number in zip([0, *numbers], numbers, strict=False):
        if number != before + 1:
            first = number
    return first


def _base_of(segments: Iterable[_Contents]) -> int:
    """What the first entry that these segments still hold stands on."""
    lowest = 1
    for place, contents in enumerate(segments):
        lowest = contents.lowest if place == 0 or contents.reset else min(lowest, contents.lowest)
    return lowest - 1


def _without_removed(news: list[DurableItem], *, base: int) -> list[DurableItem]:
    """The same, without entries that later ones removed.

    What older segments held is gone, so an entry that only took the place of some of it would seem to leave a gap.
    """
    kept: list[DurableItem] = []
    lowest: int | None = None
    begins_anew = False
    for item in reversed(news):
        match item:
            case Entry(index=index) if begins_anew or (lowest is not None and index >= lowest):
                continue
            case Entry(index=index):
                lowest = index
            case SaveSnapshot() if begins_anew:
                continue
            case SaveSnapshot(keep=keep):
                begins_anew = not keep
            case _:
                pass
        kept.append(item)
    kept.reverse()
    return kept if begins_anew else [LogBegins(base), *kept]
