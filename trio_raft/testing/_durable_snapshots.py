"""What a power cut, now, would leave of one server's snapshots: read from the disk itself.

House rule: a file is read once, when it is first seen under a finished name; from then on it stays as it is, unless
somebody tampers with the disk, which a new life finds out.
"""

from pathlib import Path

import attrs

from trio_raft._storage.snapshot_files import point_of
from trio_raft._storage.snapshot_format import BadSnapshot, NewerSnapshot
from trio_raft._storage.snapshot_parsing import SnapshotParser
from trio_raft.abc import SnapshotPoint
from trio_raft.testing._disk import SimDisk
from trio_raft.testing._staging import File


@attrs.define
class DurableSnapshots:
    """Those on this disk, in this directory."""

    _disk: SimDisk
    _directory: Path
    newest: SnapshotPoint | None = None
    """The newest that is whole, by (term, index)."""
    damaged: list[str] = attrs.field(factory=list[str])
    """Finished by name, but not whole."""
    _changes: int = -1
    _known: dict[str, tuple[File, SnapshotPoint | None]] = attrs.field(
        factory=dict[str, tuple[File, SnapshotPoint | None]]
    )
    """By name: the file, and the point of the snapshot that it holds, if that is whole."""

    def refresh(self) -> None:
        """Look whether names have changed."""
        if self._changes == self._disk.name_changes:
            return
        self._changes = self._disk.name_changes
        known, self._known = self._known, {}
        for name in self._disk.durable_names(self._directory):
            file = self._disk.durable_file(self._directory / name)
            if file is None or point_of(name) is None:
                continue
            before = known.get(name)
            is_known = before is not None and before[0] is file
            self._known[name] = before if before is not None and is_known else (file, _read(name, file))
        whole = [point for _, point in self._known.values() if point is not None]
        self.newest = max(whole, key=lambda point: (point.term, point.index), default=None)
        self.damaged = sorted(name for name, (_, point) in self._known.items() if point is None)


def _read(name: str, file: File) -> SnapshotPoint | None:
    parser = SnapshotParser()
    try:
        parser.feed(bytes(file.durable))
        parser.check_end()
    except (BadSnapshot, NewerSnapshot):
        return None
    return parser.meta.point if parser.meta is not None and parser.meta.point == point_of(name) else None
