"""Reports and errors as what JSON can hold.

House rule: a field keeps its name; nothing is left out.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import attrs

from trio_raft._errors import DirectoryMismatch, LogCorrupt, RaftError, SnapshotCorrupt, StorageError, StorageFull


def plain(value: object) -> Any:
    """What JSON can hold, from reports, errors and paths."""
    if isinstance(value, RaftError):
        return error_plain(value)
    if attrs.has(type(value)):
        fields = attrs.asdict(cast(attrs.AttrsInstance, value), recurse=False)
        return {name: plain(field) for name, field in fields.items()}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in cast("Mapping[object, object]", value).items()}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain(item) for item in cast("Sequence[object]", value)]
    return value


def error_line(error: RaftError) -> str:
    """The error in one line; without what it says about a running node or its settings, where there are none."""
    match error:
        case StorageError():
            return f"{error.operation} of {error.path} failed: {error.problem}"
        case StorageFull():
            problem = f"the file system of {error.path} has no room for another {error.needed} bytes"
            return f"{problem}; free space, then try again"
        case LogCorrupt():
            where = f"{error.path} is damaged at byte {error.offset}, near log index {error.index}"
            return f"{where}: {error.problem}. No crash leaves this behind"
        case SnapshotCorrupt():
            return f"snapshot {error.path} is damaged at byte {error.offset}: {error.problem}"
        case DirectoryMismatch():
            return f"{error.path} belongs to {error.field} {error.found!r}, what stands beside it to {error.expected!r}"
        case _:
            return str(error)


def error_plain(error: RaftError) -> dict[str, Any]:
    """Its type, its text, and its facts, for JSON."""
    facts = {name: plain(value) for name, value in vars(error).items() if not name.startswith("_")}
    return {"type": type(error).__name__, "message": error_line(error), **facts}
