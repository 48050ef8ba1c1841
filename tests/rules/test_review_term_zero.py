"""An AppendEntries with an entry that no leader can have made."""

import pytest

from trio_raft._messages import AppendEntries, ServerId
from trio_raft._records import EntryKind, LogIndex, Term, make_entry
from trio_raft._rules import append_entries
from trio_raft._rules.append_entries import BadRequest
from trio_raft._rules.configuration import Configuration
from trio_raft._rules.log import Log
from trio_raft._rules.state import Role, State


def test_entry_of_term_zero() -> None:
    """An entry of term 0 is refused and leaves no trace: it would match the place below every log, and the next
    start could not read it back (R9, W1).
    """
    state = State(
        node_id=ServerId("n1"),
        log=Log(memory_bytes=1000),
        configuration=Configuration((ServerId("n1"), ServerId("n2"))),
    )
    state.enter(Term(3), Role.FOLLOWER)
    entry = make_entry(index=LogIndex(1), term=Term(0), kind=EntryKind.COMMAND, data=b"x")
    request = AppendEntries(Term(3), ServerId("n2"), LogIndex(0), Term(0), LogIndex(0), [entry])
    with pytest.raises(BadRequest, match="cannot follow"):
        append_entries.answer(state, request)
    assert state.log.last_index == 0
