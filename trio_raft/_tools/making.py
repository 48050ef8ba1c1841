"""A new directory that is there whole or not at all.

It is made beside its place as NAME.partial, and gets its name when everything in it is synced.  An error or Ctrl-C
removes what was made; a crash leaves NAME.partial, which nobody takes for the real one, and which the next try refuses
to write over.

House rule: nothing that was there before is changed.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from trio_raft._errors import RecoveryRefused
from trio_raft._storage.files import Files, OfflineFiles, storage_errors
from trio_raft._tools.directories import names_in


def partial_path(path: Path) -> Path:
    """Where it is made."""
    return path.with_name(f"{path.name}.partial")


@contextlib.contextmanager
def new_directory(files: OfflineFiles, path: Path) -> Iterator[Path]:
    """Yields the directory to fill; on leaving, it has the name ``path``, durably.

    Raises RecoveryRefused (it exists), StorageFull, StorageError, ConfigurationError (there is no such parent).
    """
    refuse_if_there(files, path)
    partial = partial_path(path)
    with storage_errors(partial, "creating"):
        if not files.make_directory(partial):
            raise RecoveryRefused(f"{partial} was made by another command meanwhile")
    try:
        yield partial
        with storage_errors(path, "creating"):
            files.sync_directory(partial)
            files.rename(partial, path)
            files.sync_directory(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            _remove_all(files, partial)
        raise


def refuse_if_there(files: Files, path: Path, *, replace: bool = False) -> None:
    """Raises RecoveryRefused if there is something of that name, unless it may be replaced; or a remainder."""
    names = names_in(files, path.parent)
    if path.name in names and not replace:
        raise RecoveryRefused(f"{path} exists already; give a name that does not")
    if (partial := partial_path(path)).name in names:
        raise RecoveryRefused(f"{partial} is what an interrupted command left behind; remove it, then try again")


def _remove_all(files: OfflineFiles, directory: Path) -> None:
    for name in files.list_directory(directory):
        files.remove(directory / name)
    files.remove_directory(directory)
