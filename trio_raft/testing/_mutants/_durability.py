"""Mistakes about what is on the disk, and who may rely on it."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs

from trio_raft._journal import Journal
from trio_raft._messages import AppendEntries
from trio_raft._records import LogIndex
from trio_raft._server import Server
from trio_raft._storage import segments, wal
from trio_raft.testing._mutants._mutant import fails_by, mutant, replaced


def _acknowledge_before_the_sync(sound: Any) -> Any:
    def answer_append(self: Server, request: AppendEntries) -> Any:
        return sound(self, request)[0], 0

    return answer_append


def _wait_for_own_entries_only(sound: Any) -> Any:
    """A reply waits for what this very request wrote, not for the rest that it vouches for."""

    def answer_append(self: Server, request: AppendEntries) -> Any:
        before = self.journal.position
        reply, position = sound(self, request)
        return reply, position if self.journal.position != before else self.vote_position

    return answer_append


def _leader_counts_memory(sound: Any) -> Any:
    def advance_commit(self: Server) -> None:
        durable, self.journal.durable_index = self.journal.durable_index, self.state.log.last_index
        try:
            sound(self)
        finally:
            self.journal.durable_index = durable

    return advance_commit


def _keep_marks(_journal: Journal, _highest: LogIndex) -> None:
    """A truncation leaves the durable index, and the marks of what is on its way, as they were."""


def _apply_before_durable(self: Server) -> LogIndex:
    return self.state.commit_index


class _Careless:
    """File operations that think little of syncs."""

    def __init__(self, files: Any) -> None:
        self._files = files

    def __getattr__(self, name: str) -> Any:
        return getattr(self._files, name)


class _DirectoryForgotten(_Careless):
    def sync_directory(self, path: Path) -> None:
        pass


class _DeafToDirectorySyncs(_Careless):
    def sync_directory(self, path: Path) -> None:
        with suppress(OSError):
            self._files.sync_directory(path)


class _SyncsAgain(_Careless):
    def sync(self, descriptor: int) -> None:
        try:
            self._files.sync(descriptor)
        except OSError:
            self._files.sync(descriptor)


class _DeafToSyncs(_Careless):
    def sync(self, descriptor: int) -> None:
        with suppress(OSError):
            self._files.sync(descriptor)


def _sync_again(sound: Any) -> Any:
    """A failed sync is tried once more, and succeeds: the system has forgotten which pages it was for."""

    def write_batch(plan: Any, files: Any) -> None:
        sound(plan, _SyncsAgain(files))

    return write_batch


def _deaf_to_syncs(sound: Any) -> Any:
    """A sync that failed is taken for done; the data is in the page cache, and nowhere else."""

    def write_batch(plan: Any, files: Any) -> None:
        sound(plan, _DeafToSyncs(files))

    return write_batch


def _forget_the_directory(sound: Any) -> Any:
    """A segment is created, and its directory not synced: a power cut may take it, whatever was synced in it."""

    def create(path: Path, files: Any, custody: Any) -> Any:
        return sound(path, _DirectoryForgotten(files), custody)

    return create


def _deaf_to_directory_syncs(sound: Any) -> Any:
    """A sync of the directory that failed is taken for done."""

    def create(path: Path, files: Any, custody: Any) -> Any:
        return sound(path, _DeafToDirectorySyncs(files), custody)

    return create


def _leave_the_torn_tail(sound: Any) -> Any:
    def repair(files: Any, custody: Any, directory: Any, found: Any, **options: Any) -> Any:
        return sound(files, custody, directory, attrs.evolve(found, torn=None), **options)

    return repair


DURABILITY = (
    mutant(
        "acknowledged-before-sync",
        "S1",
        "an append is acknowledged before the sync",
        Server,
        "answer_append",
        _acknowledge_before_the_sync,
    ),
    mutant(
        "vouches-for-memory",
        "S1",
        "a reply vouches for an entry that is still only in memory",
        Server,
        "answer_append",
        _wait_for_own_entries_only,
    ),
    mutant(
        "leader-counts-memory",
        "S1",
        "the leader counts its own log before it is durable",
        Server,
        "advance_commit",
        _leader_counts_memory,
    ),
    mutant(
        "durable-through-truncation",
        "S5",
        "the durable index stays through a truncation",
        Journal,
        "_lower_marks",
        replaced(_keep_marks),
    ),
    mutant(
        "applies-before-durable",
        "S11",
        "the state machine runs ahead of the own disk",
        Server,
        "applicable_index",
        replaced(property(_apply_before_durable)),
    ),
    mutant("syncs-again", "S2", "a failed sync is tried again", wal, "write_batch", _sync_again),
    mutant("failed-sync-done", "S2", "a failed sync is taken for done", wal, "write_batch", _deaf_to_syncs),
    mutant(
        "directory-not-synced",
        "S6",
        "a segment is created without a sync of its directory",
        segments,
        "_create",
        _forget_the_directory,
        also={
            "The durable index speaks of the entries in memory": "the journal believes in a file that may go",
            "What is committed is durable on a majority": "a file that a power cut may take was counted as durable",
        },
    ),
    mutant(
        "failed-directory-sync-done",
        "S6",
        "a failed sync of the directory is taken for done",
        segments,
        "_create",
        _deaf_to_directory_syncs,
        also={
            "What is committed is durable on a majority": "a file that a power cut may take was counted as durable",
            "The durable index speaks of the entries in memory": "the journal believes in a file that may go",
        },
    ),
    mutant(
        "torn-tail-left",
        "S4",
        "a torn tail is not cut before new entries are written",
        wal,
        "repair",
        _leave_the_torn_tail,
        also={
            fails_by("LogCorrupt"): "what is left of the torn write looks like damage at a later start",
            "Every disk holds what is committed": "a start on such a disk would be refused",
        },
    ),
)
