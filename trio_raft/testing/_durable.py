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
    _description: Description | None = None
    """Of the segment in which the log goes on."""
    _end: int = 0
    """Where its next batch will be."""
    history: list[int] = attrs.field(init=False, factory=list[int])

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
        if self._description is None:
            return None
        number, salt = self._description.segment_number, self._description.nonce
        header = decode_batch_header(self._read(number, self._end, BATCH_HEADER_BYTES), 0, salt=salt)
        if header is None or header.number != len(self.history) + 1:
            return None
        batch = self._read(number, self._end, sectors_up(header.length))
        if not is_whole(header, batch, 0):
            return None
        self._end += len(batch)
        self._remember(header)
        return batch[BATCH_HEADER_BYTES : header.length]

    def _next_segment(self, news: list[DurableItem]) -> bool:
        """Go on in the next segment, if its description is durable."""
        number = 1 if self._description is None else self._description.segment_number + 1
        if not self._read(number, 0, 1).strip(b"\0"):
            return False
        start = self._read(number, 0, MAX_DESCRIPTION_BYTES)
        header = decode_description_header(start, segment_number=number)
        if header is None or header.number != len(self.history) + 1:
            return False
        start = start[: sectors_up(header.length)]
        if not is_whole(header, start, 0):
            return False
        if self._description is None:
            # Later descriptions only repeat what the batches before them said.
            self._description = decode_description(start, header)
            bootstrap = self._description.bootstrap
            news += [self._description.vote, *([bootstrap] if bootstrap else [])]
        self._description = decode_description(start, header)
        self._end = len(start)
        self._remember(header)
        return True

    def _remember(self, header: BatchHeader) -> None:
        before = self.history[-1] if self.history else 0
        self.history.append(zlib.crc32(f"{header.number} {header.length} {header.checksum}".encode(), before))

    def _read(self, segment_number: int, offset: int, size: int) -> bytes:
        path = segment_path(self._directory, segment_number)
        file = self._disk._durable_names.get(path)  # noqa: SLF001  # the disk's own truth, which no operation shows
        return b"" if file is None else bytes(file.durable[offset : offset + size])


def _item(entry: Entry) -> DurableItem:
    match entry.kind:
        case EntryKind.VOTE:
            return vote_of(entry)
        case EntryKind.BOOTSTRAP:
            return bootstrap_of(entry)
        case _:
            return entry
