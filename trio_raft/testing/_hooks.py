"""Where the invariants hang on a running server: on the calls through which everything that can change passes.

The calls are replaced on the *instance*, so that a change of the class beneath them, such as a mutant's, is still in
effect and is watched like everything else.

House rule: the original call runs exactly as without us, once, with the same arguments, and its errors leave as they
are.
"""

from collections.abc import Callable
from typing import Any

import attrs

from trio_raft.testing._watch import Watch
from trio_raft.testing._watch_commit import CommitChecks
from trio_raft.testing._watch_elections import ElectionChecks
from trio_raft.testing._watch_log import LogChecks
from trio_raft.testing._watch_snapshots import SnapshotChecks

AnyCall = Callable[..., Any]


@attrs.frozen(eq=False)
class MachineChecks:
    """What watches a state machine."""

    commit: CommitChecks
    snapshots: SnapshotChecks


def hang(watch: Watch) -> MachineChecks:
    """Begin to watch: from here on nothing of this server changes unseen.  Returns what watches its state machine."""
    server, journal, events, snapshots = watch.server, watch.server.journal, watch.server.events, watch.server.snapshots
    elections, log, commit = ElectionChecks(watch), LogChecks(watch), CommitChecks(watch)
    snapshot = SnapshotChecks(watch)
    _around(server, "transition", elections.around_transition)
    _around(server, "answer_vote", elections.around_answer_vote)
    _after(watch, server, "accept_leader", elections.after_accept_leader)
    _around(server, "answer_append", log.around_answer_append)
    _before(watch, server, "advance_commit", commit.before_advance_commit)
    _after(watch, server, "_commit_or_disk_moved", commit.after_commit_or_disk_moved)
    _after(watch, server, "note_applied", commit.after_note_applied)
    _after(watch, server, "submit_nowait", watch.after_submit)
    _after(watch, journal, "append", log.after_append)
    _after(watch, journal, "supersede", log.after_supersede)
    _after(watch, journal, "save_vote", elections.after_save_vote)
    _after(watch, journal, "_note_durable", commit.after_note_durable)
    _after(watch, journal, "save_snapshot", snapshot.after_save_snapshot)
    _after(watch, journal, "compact", snapshot.after_compact)
    _after(watch, snapshots, "install", snapshot.after_install)
    _after(watch, snapshots, "note_taken", snapshot.after_note_taken)
    _after(watch, events, "publish", watch.after_publish)
    # The journal was given this one when it was made.
    _after(watch, journal, "_publish", watch.after_publish)
    return MachineChecks(commit, snapshot)


def _around(owner: object, name: str, wrap: Callable[[AnyCall], AnyCall]) -> None:
    setattr(owner, name, wrap(getattr(owner, name)))


def _before(watch: Watch, owner: object, name: str, check: Callable[[], None]) -> None:
    original = getattr(owner, name)

    def call() -> Any:
        watch.run(check)
        return original()

    setattr(owner, name, call)


def _after(watch: Watch, owner: object, name: str, check: Callable[..., None]) -> None:
    """The check gets the call's result, then its arguments."""
    original = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        watch.run(check, result, *args, **kwargs)
        return result

    setattr(owner, name, call)
