"""What is kept for good of how a directory came to be: ``audit.jsonl``, one line of JSON for each time.

House rule: durable before the directory gets its name.
"""

import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path

from trio_raft._environment import date_and_time
from trio_raft._storage.files import Files, storage_errors
from trio_raft._tools.plain import plain

AUDIT_NAME = "audit.jsonl"


def write_audit(files: Files, directory: Path, action: str, facts: Mapping[str, object]) -> None:
    """The first line, in a directory that is being made; whoever makes that syncs it.

    Raises StorageFull, StorageError.
    """
    entry = {"when": date_and_time(), "action": action, "version": _version(), **facts}
    line = json.dumps(plain(entry)).encode() + b"\n"
    path = directory / AUDIT_NAME
    with storage_errors(path, "writing", needed=len(line)):
        descriptor = files.create(path)
        try:
            files.write(descriptor, line, offset=0)
            files.sync(descriptor)
        finally:
            files.close(descriptor)


def _version() -> str:
    try:
        return importlib.metadata.version("trio-raft")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
