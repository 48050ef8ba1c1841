"""Short spellings for what the tests of the rules are made of."""

from collections.abc import Sequence

from trio_raft._messages import AppendEntries, ServerId
from trio_raft._records import Entry, EntryKind, LogIndex, Term, make_entry
from trio_raft._rules.configuration import Configuration
from trio_raft._rules.log import Log
from trio_raft._rules.progress import Progress
from trio_raft._rules.state import Role, State

PLENTY = 1 << 20
"""More bytes than any test has."""


def servers(*names: str) -> tuple[ServerId, ...]:
    return tuple(ServerId(name) for name in names)


N1, N2, N3, N4, N5 = servers("n1", "n2", "n3", "n4", "n5")
THREE = Configuration((N1, N2, N3))


def entry(index: int, term: int, *, data: bytes = b"", kind: EntryKind = EntryKind.COMMAND) -> Entry:
    return make_entry(index=LogIndex(index), term=Term(term), kind=kind, data=data)


def entries(first: int, terms: Sequence[int]) -> list[Entry]:
    """Entries of these terms from index ``first`` on."""
    return [entry(index, term) for index, term in enumerate(terms, start=first)]


def log_of(*terms: int, memory_bytes: int = PLENTY) -> Log:
    """A log whose entries have these terms."""
    log = Log(memory_bytes=memory_bytes)
    for each in entries(1, terms):
        log.append(each)
    return log


def compacted(log: Log, up_to: int) -> Log:
    """The log, without the entries up to an index."""
    log.compact(LogIndex(up_to))
    return log


def terms_of(log: Log) -> list[int]:
    return [log.term_at(LogIndex(index)) for index in range(log.base_index + 1, log.last_index + 1)]


def follower(log: Log, *, term: int, node_id: ServerId = N1, configuration: Configuration = THREE) -> State:
    return State(node_id=node_id, log=log, configuration=configuration, current_term=Term(term))


def candidate(log: Log, *, term: int, node_id: ServerId = N1, configuration: Configuration = THREE) -> State:
    """One that stands in ``term``."""
    state = follower(log, term=term - 1, node_id=node_id, configuration=configuration)
    state.enter(Term(term), Role.CANDIDATE)
    return state


def leader(log: Log, *, term: int, node_id: ServerId = N1, configuration: Configuration = THREE) -> State:
    """One that leads ``term``, before anything was appended in it."""
    state = candidate(log, term=term, node_id=node_id, configuration=configuration)
    state.enter(Term(term), Role.LEADER)
    return state


def progress(next_index: int, match_index: int = 0) -> Progress:
    return Progress(next_index=LogIndex(next_index), match_index=LogIndex(match_index))


def append(
    term: int, previous: tuple[int, int], new: Sequence[Entry] = (), *, commit: int = 0, by: ServerId = N2
) -> AppendEntries:
    """A request whose previous entry is (index, term)."""
    index, previous_term = previous
    return AppendEntries(
        term=Term(term),
        leader=by,
        prev_log_index=LogIndex(index),
        prev_log_term=Term(previous_term),
        leader_commit=LogIndex(commit),
        entries=list(new),
    )
