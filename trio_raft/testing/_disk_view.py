"""What a simulated disk shows to whoever looks at it from outside.

House rule: looking changes nothing, and is no operation of the disk.
"""

from collections.abc import Iterator
from pathlib import Path

from trio_raft.testing._staging import File


class DiskView:
    """The files of a disk, as they are visible, and as they are durable."""

    def __init__(self) -> None:
        self.name_changes: int = 0
        """Grows whenever a name is created, renamed or removed, and whenever that becomes durable."""
        self._files: dict[Path, File] = {}
        self._durable_names: dict[Path, File] = {}

    @property
    def used(self) -> int:
        """Bytes that all files take."""
        return sum(len(file.visible) for file in self._every_file())

    def contents(self, path: Path) -> bytes:
        """What reading shows."""
        return bytes(self._files[path].visible)

    def read_durable(self, path: Path, *, size: int, offset: int) -> bytes:
        """What is certain to be there after a power cut, as ``read`` shows it; nothing of a file that may be gone."""
        file = self._durable_names.get(path)
        return b"" if file is None else bytes(file.durable[offset : offset + size])

    def durable_file(self, path: Path) -> File | None:
        """The file that is certain to have this name after a power cut."""
        return self._durable_names.get(path)

    def is_hit(self, path: Path, *, start: int, end: int) -> bool:
        """Was a bit flipped in these bytes of the file of this name, or of one that a power cut brings back?"""
        files = (self._files.get(path), self._durable_names.get(path))
        return any(start <= position < end for file in files if file is not None for position in file.hits)

    def durable_names(self, directory: Path) -> list[str]:
        """Names that are certain to be there after a power cut, in order."""
        return sorted(path.name for path in self._durable_names if path.parent == directory)

    def free_bytes(self, directory: Path) -> int | None:  # noqa: ARG002  # the name is the protocol's
        """Not told: that a simulated disk is full is found out by writing, the hard way."""
        return None

    def exists(self, path: Path) -> bool:
        """Is there such a file now?"""
        return path in self._files

    def paths(self) -> list[Path]:
        """All files, by name."""
        return sorted(self._files)

    def _every_file(self) -> Iterator[File]:
        yield from self._files.values()
        yield from (file for path, file in self._durable_names.items() if path not in self._files)
