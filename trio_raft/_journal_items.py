"""What a server makes durable, item by item: the journal queues them, a log store keeps them.

Part of the vocabulary of ``abc.py``.
"""

from collections.abc import Mapping

import attrs

from trio_raft._messages import Incarnation, ServerId
from trio_raft._records import Entry, LogIndex, Term
from trio_raft._stored import SnapshotPoint


@attrs.define
class Append:
    """Entries to store.  The first one removes whatever stands at and above its index, on disk as in memory."""

    entries: list[Entry]
    """Contiguous, never empty."""
    durable_mark: LogIndex
    """The journal's: the last index that this item will make durable.  A later truncation lowers it."""
    size: int
    """Bytes of all records."""


@attrs.frozen
class SaveVote:
    """The current term and the vote given in it, one atomic record (paper Figure 2, persistent state)."""

    term: Term
    voted_for: ServerId | None


@attrs.frozen
class SaveBootstrap:
    """What is known of the members' incarnations, and whether all members confirmed it."""

    incarnations: Mapping[ServerId, Incarnation]
    done: bool


@attrs.frozen
class SaveSnapshot:
    """A snapshot took the place of the log up to its index (paper section 7); it is durable already.

    ``keep``: the log has an equal entry there, and what follows stays.  Otherwise the whole log goes, whatever its
    length, and the next entry is ``point.index + 1``.
    """

    point: SnapshotPoint
    keep: bool


@attrs.frozen
class Compact:
    """Entries up to there are not needed any more: they are covered by a durable snapshot.  No record of its own.

    The store removes what it can, whole files at a time, once this item's turn has come; never the entries above.
    """

    up_to: LogIndex


JournalItem = Append | SaveVote | SaveBootstrap | SaveSnapshot | Compact
