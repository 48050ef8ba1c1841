"""What a power cut, now, would leave of one server's log: read from the disk itself, as it grows.

What a node believes to be durable proves nothing about durability; the bytes that were synced do.  ``DurableLog``
follows them: asked for news, it looks whether the place behind the last batch that it knows has become durable on the
simulated disk, and if so decodes it.  A poll without news looks at a few bytes, and each batch is decoded once.

House rule: only durable bytes count, and only whole batches: nothing is taken from the node, its store or its journal.
"""

import zlib
from pathlib import Path
from typing import Protocol

import attrs

from trio_raft._messages import Incarnation
from trio_raft._records import Entry, EntryKind, decode_entries
from trio_raft._storage.format import (
    BATCH_HEADER_BYTES,
    MAX_DESCRIPTION_BYTES,
    BatchHeader,
    Description,
    bootstrap_of,
    decode_batch_header,
    decode_description,
    decode_description_header,
    is_whole,
    sectors_up,
    vote_of,
)
from trio_raft._storage.segments import segment_path
from trio_raft.abc import SaveBootstrap, SaveVote
from trio_raft.testing._disk import SimDisk
from trio_raft.testing._staging import File

DurableItem = Entry | SaveVote | SaveBootstrap
"""An entry removes what stands at and above its index."""


class DurableSource(Protocol):
    """Where the truth about one server's durable log comes from."""

    @property
    def incarnation(self) -> Incarnation | None:
        """Of the data directory; None as long as none is durable."""
        ...

    @property
    def history(self) -> list[int]:
        """One number for each write that is durable: a checksum of it and all before it."""
        ...

    def news(self) -> list[DurableItem]:
        """What became durable since the last call, in order."""
        ...


@attrs.define
class DurableLog:
    """The durable log of the server whose data directory is on this disk; a new one for each life of the server."""

    _disk: SimDisk
    _directory: Path = attrs.field(converter=Path)
    history: list[int] = attrs.field(init=False, factory=list[int])
    _description: Description | None = attrs.field(init=False, default=None)
    """Of the segment in which the log goes on."""
    _file: File = attrs.field(init=False, factory=File)
    """That segment."""
    _end: int = attrs.field(init=False, default=0)
    """Where its next batch will be."""
    _next_path: Path = attrs.field(init=False)
    """Of the segment after it; kept, since making a path costs more than looking whether the file is there."""

    def __attrs_post_init__(self) -> None:
        self._next_path = segment_path(self._directory, 1)

    @property
    def incarnation(self) -> Incarnation | None:
        """Of the data directory; None as long as none is durable."""
        return None if self._description is None else self._description.incarnation

    def news(self) -> list[DurableItem]:
        """What became durable since the last call, in order."""
        news: list[DurableItem] = []
        while True:
            batch = self._next_batch()
            if batch is not None:
                news += [_item(entry) for entry in decode_entries(batch)]
            elif not self._next_segment(news):
                return news

    def _next_batch(self) -> bytes | None:
        """The records of the batch behind the last one, if it is durable."""
        durable, end = self._file.durable, self._end
        # Nearly every look ends here: a place that was prepared and not written holds zeros.
        if self._description is None or end >= len(durable) or not durable[end]:
            return None
        header = decode_batch_header(bytes(durable[end : end + BATCH_HEADER_BYTES]), 0, salt=self._description.nonce)
        if header is None or header.number != len(self.history) + 1:
            return None
        batch = bytes(durable[end : end + sectors_up(header.length)])
        if not is_whole(header, batch, 0):
            return None
        self._end += len(batch)
        self._remember(header)
        return batch[BATCH_HEADER_BYTES : header.length]

    def _next_segment(self, news: list[DurableItem]) -> bool:
        """Go on in the next segment, if its description is durable."""
        file = self._disk._durable_names.get(self._next_path)  # noqa: SLF001  # the disk's own truth
        if file is None or not file.durable or not file.durable[0]:
            return False
        number = 1 if self._description is None else self._description.segment_number + 1
        start = bytes(file.durable[:MAX_DESCRIPTION_BYTES])
        header = decode_description_header(start, segment_number=number)
        if header is None or header.number != len(self.history) + 1:
            return False
        start = start[: sectors_up(header.length)]
        if not is_whole(header, start, 0):
            return False
        description = decode_description(start, header)
        if self._description is None:
            # Later descriptions only repeat what the batches before them said.
            news += [description.vote, *([description.bootstrap] if description.bootstrap else [])]
        self._description, self._file, self._end = description, file, len(start)
        self._next_path = segment_path(self._directory, number + 1)
        self._remember(header)
        return True

    def _remember(self, header: BatchHeader) -> None:
        before = self.history[-1] if self.history else 0
        self.history.append(zlib.crc32(f"{header.number} {header.length} {header.checksum}".encode(), before))


def _item(entry: Entry) -> DurableItem:
    match entry.kind:
        case EntryKind.VOTE:
            return vote_of(entry)
        case EntryKind.BOOTSTRAP:
            return bootstrap_of(entry)
        case _:
            return entry
