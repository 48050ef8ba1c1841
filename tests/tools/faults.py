"""A real disk that fails on demand: full, or gone in the middle, as if the process had been killed there."""

import errno
import os
from pathlib import Path

from trio_raft._storage.files import OsFiles


class Killed(BaseException):
    """The process was killed; nothing that it would do afterwards happens."""


class FailingFiles(OsFiles):
    """Counts what changes the disk; ``killed_before(n)`` and ``full_before(n)`` let operation n, from 0, not happen."""

    def __init__(self) -> None:
        self.operations: list[str] = []
        self._kill_at: int | None = None
        self._full_at: int | None = None

    def killed_before(self, number: int) -> None:
        self._kill_at = number

    def full_before(self, number: int) -> None:
        """From then on, whatever needs room fails; removing does not."""
        self._full_at = number

    def make_directory(self, path: Path) -> bool:
        self._begin("make_directory", path, needs_room=True)
        return super().make_directory(path)

    def sync_directory(self, path: Path) -> None:
        self._begin("sync_directory", path)
        super().sync_directory(path)

    def lock(self, path: Path) -> int:
        self._begin("lock", path)
        return super().lock(path)

    def create(self, path: Path) -> int:
        self._begin("create", path, needs_room=True)
        return super().create(path)

    def write(self, descriptor: int, data: bytes | bytearray, *, offset: int) -> None:
        self._begin("write", Path(os.readlink(f"/proc/self/fd/{descriptor}")), needs_room=True)
        super().write(descriptor, data, offset=offset)

    def sync(self, descriptor: int) -> None:
        self._begin("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        super().sync(descriptor)

    def rename(self, path: Path, target: Path) -> None:
        self._begin("rename", target)
        super().rename(path, target)

    def remove(self, path: Path) -> None:
        self._begin("remove", path)
        super().remove(path)

    def remove_directory(self, path: Path) -> None:
        self._begin("remove_directory", path)
        super().remove_directory(path)

    def _begin(self, operation: str, path: Path, *, needs_room: bool = False) -> None:
        if self._kill_at is not None and len(self.operations) >= self._kill_at:
            raise Killed
        if needs_room and self._full_at is not None and len(self.operations) >= self._full_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        self.operations.append(f"{operation} {path.name}")
