"""What happened in a simulation, line by line, and one hash of it all.

A line says when (virtual seconds), on which server, what, and why::

        3.204511 n2   follower of term 4 -> candidate of term 5: n1, n2 would vote for it
        3.204518 n2   sends RequestVote(term=5, last=(11, 4)) to n3

Only the last lines are kept, for the person who reads of a failure; but *every* line goes into ``digest``.  Two runs
of one seed have the same digest, or something in them was left to chance.

House rule: a line is made of values that the seed decides: no addresses of objects, no order of sets, no wall clock.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable

from trio_raft._environment import TrioClock
from trio_raft._messages import (
    AppendEntries,
    AppendEntriesReply,
    BootstrapReply,
    BootstrapStatement,
    Heartbeat,
    HeartbeatReply,
    Hello,
    HelloReply,
    InstallSnapshot,
    InstallSnapshotReply,
    Message,
    RequestVote,
    RequestVoteReply,
)

LINES_KEPT = 4000
"""Enough to see a whole election of seven before the failure; a few hundred kilobytes."""


class Trace:
    """The last lines of a run, and the digest of all of them."""

    def __init__(self, *, keep: int | None = LINES_KEPT, now: Callable[[], float] | None = None) -> None:
        """``keep``: how many lines; None keeps all.  ``now``: the virtual time, Trio's if it is not given."""
        self._now = now or TrioClock().now
        self._lines: deque[str] = deque(maxlen=keep)
        self._hash = hashlib.sha256()
        self.count = 0
        """Lines so far, kept or not."""

    def note(self, who: str, what: str) -> None:
        """Add a line: ``who`` is a server, a client, or the part of the simulation that acted."""
        line = f"{self._now():12.6f} {who:<4} {what}"
        self._lines.append(line)
        self._hash.update(line.encode())
        self._hash.update(b"\n")
        self.count += 1

    def digest(self) -> str:
        """SHA-256, in hexadecimal, of all lines so far."""
        return self._hash.hexdigest()

    def lines(self, *, last: int | None = None) -> list[str]:
        """The lines that were kept, the oldest first; only so many of the ``last`` if that is given."""
        lines = list(self._lines)
        return lines if last is None else lines[max(len(lines) - last, 0) :]


def describe(message: Message) -> str:
    """A message in a few words; entries by index and term, never by content."""
    match message:
        case Heartbeat():
            return f"Heartbeat(term={message.term}, round={message.round})"
        case HeartbeatReply():
            return f"HeartbeatReply(term={message.term}, round={message.round}{_unless(message.ready, 'not ready')})"
        case AppendEntries():
            return (
                f"AppendEntries(term={message.term}, prev={message.prev_log_index}:{message.prev_log_term}, "
                f"entries={_span(message)}, commit={message.leader_commit})"
            )
        case AppendEntriesReply(success=True):
            return f"AppendEntriesReply(term={message.term}, match={message.match_index})"
        case AppendEntriesReply():
            return (
                f"AppendEntriesReply(term={message.term}, {message.rejection.value}, "
                f"conflict={message.conflict_index}:{message.conflict_term})"
            )
        case RequestVote():
            return f"{_kind(message)}(term={message.term}, last={message.last_log_index}:{message.last_log_term})"
        case RequestVoteReply():
            answer = "granted" if message.granted else f"refused: {message.reason}"
            return f"{_kind(message)}Reply(term={message.term}, for={message.requested_term}, {answer})"
        case InstallSnapshot() | InstallSnapshotReply():
            return _describe_transfer(message)
        case BootstrapStatement() | BootstrapReply():
            done = "done" if message.done else "not done"
            return f"{type(message).__name__}({_items(message.incarnations.items())}, {done})"
        case Hello():
            return f"Hello({message.purpose}, boot {message.boot_id})"
        case HelloReply():
            return f"HelloReply({'accepted' if message.accepted else message.refusal_code}, boot {message.boot_id})"
        case _:
            return str(message)


def _describe_transfer(message: InstallSnapshot | InstallSnapshotReply) -> str:
    if isinstance(message, InstallSnapshot):
        return (
            f"InstallSnapshot(term={message.term}, {message.last_included_index}:{message.last_included_term}, "
            f"transfer {message.transfer}, bytes {message.offset}+{len(message.data)} of {message.total})"
        )
    why = f", {message.reason}" if message.reason else ""
    return f"InstallSnapshotReply(term={message.term}, {message.status.value} {message.offset}{why})"


def _unless(condition: bool, text: str) -> str:
    return "" if condition else f", {text}"


def _kind(message: RequestVote | RequestVoteReply) -> str:
    return "PreVote" if message.pre_vote else "RequestVote"


def _span(message: AppendEntries) -> str:
    if not message.entries:
        return "none"
    first, last = message.entries[0], message.entries[-1]
    return f"{first.index}:{first.term}" if first is last else f"{first.index}:{first.term}..{last.index}:{last.term}"


def _items(pairs: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(pairs))
