"""The trace: lines for a person, and one digest of all of them."""

import pytest

from trio_raft._messages import (
    AppendEntries,
    AppendEntriesReply,
    BootstrapStatement,
    Heartbeat,
    HeartbeatReply,
    Hello,
    Incarnation,
    Message,
    Rejection,
    RequestVote,
    RequestVoteReply,
    ServerId,
    Unsupported,
)
from trio_raft._records import EntryKind, LogIndex, Term, make_entry
from trio_raft.testing._trace import Trace, describe

N1 = ServerId("n1")


def clock_at(*times: float) -> Trace:
    """A trace that sees these times, one for each line."""
    moments = iter(times)
    return Trace(keep=2, now=lambda: next(moments))


def test_note_writes_time_who_and_what() -> None:
    """A line says when, on which server, and what."""
    trace = clock_at(3.2045)
    trace.note("n1", "follower of term 4 -> candidate of term 5")
    assert trace.lines() == ["    3.204500 n1   follower of term 4 -> candidate of term 5"]


def test_lines_keeps_the_last_ones() -> None:
    """Only so many lines are kept, but all are counted."""
    trace = clock_at(1, 2, 3)
    for what in ("a", "b", "c"):
        trace.note("n1", what)
    assert [line[-1] for line in trace.lines()] == ["b", "c"]
    assert [line[-1] for line in trace.lines(last=1)] == ["c"]
    assert trace.lines(last=0) == []
    assert trace.count == 3


def test_lines_keeps_all_if_told() -> None:
    """Without a bound every line is kept."""
    trace = Trace(keep=None, now=lambda: 0.0)
    for number in range(10_000):
        trace.note("n1", str(number))
    assert len(trace.lines()) == 10_000


def test_digest_is_of_every_line() -> None:
    """Two traces have the same digest if and only if all lines are the same, those that were dropped included."""
    one, same, other = clock_at(1, 2, 3), clock_at(1, 2, 3), clock_at(1, 2, 3)
    for trace, first in ((one, "a"), (same, "a"), (other, "x")):
        for what in (first, "b", "c"):
            trace.note("n1", what)
    assert one.lines() == other.lines()
    assert one.digest() == same.digest()
    assert one.digest() != other.digest()


def test_digest_tells_lines_apart() -> None:
    """Where one line ends and the next begins is part of the digest."""
    one, other = clock_at(1, 1), clock_at(1)
    one.note("n1", "a")
    one.note("n1", "b")
    other.note("n1", "a" + one.lines()[1])
    assert one.digest() != other.digest()


def test_note_asks_trio_for_the_time() -> None:
    """Unless told otherwise a trace is on the time of the Trio run, and there is none outside."""
    with pytest.raises(RuntimeError):
        Trace().note("n1", "a")


ENTRIES = [
    make_entry(index=LogIndex(index), term=Term(2), kind=EntryKind.COMMAND, data=b"secret") for index in (8, 9, 10)
]

DESCRIPTIONS: list[tuple[Message, str]] = [
    (Heartbeat(Term(3), N1, 7), "Heartbeat(term=3, round=7)"),
    (HeartbeatReply(term=Term(3), round=7), "HeartbeatReply(term=3, round=7)"),
    (HeartbeatReply(term=Term(3), round=7, ready=False), "HeartbeatReply(term=3, round=7, not ready)"),
    (
        AppendEntries(Term(3), N1, LogIndex(7), Term(1), LogIndex(6), ENTRIES),
        "AppendEntries(term=3, prev=7:1, entries=8:2..10:2, commit=6)",
    ),
    (
        AppendEntries(Term(3), N1, LogIndex(7), Term(1), LogIndex(6), ENTRIES[:1]),
        "AppendEntries(term=3, prev=7:1, entries=8:2, commit=6)",
    ),
    (
        AppendEntries(Term(3), N1, LogIndex(7), Term(1), LogIndex(6)),
        "AppendEntries(term=3, prev=7:1, entries=none, commit=6)",
    ),
    (
        AppendEntriesReply(term=Term(3), success=True, match_index=LogIndex(9)),
        "AppendEntriesReply(term=3, match=9)",
    ),
    (
        AppendEntriesReply(Term(3), False, LogIndex(0), Rejection.LOG_MISMATCH, LogIndex(4), Term(2)),
        "AppendEntriesReply(term=3, log_mismatch, conflict=4:2)",
    ),
    (RequestVote(Term(3), N1, LogIndex(7), Term(2), True), "PreVote(term=3, last=7:2)"),
    (RequestVote(Term(3), N1, LogIndex(7), Term(2), False), "RequestVote(term=3, last=7:2)"),
    (RequestVoteReply(Term(3), True, False, Term(3)), "RequestVoteReply(term=3, for=3, granted)"),
    (RequestVoteReply(Term(3), False, True, Term(4), "no"), "PreVoteReply(term=3, for=4, refused: no)"),
    (
        BootstrapStatement({ServerId("n2"): Incarnation("b"), N1: Incarnation("a")}, True),
        "BootstrapStatement(n1=a, n2=b, done)",
    ),
    (
        Hello(1, 1, "c", "d", True, N1, ServerId("n2"), Incarnation("a"), "b00t", "control", 1, 1),
        "Hello(control, boot b00t)",
    ),
    (Unsupported(200), "Unsupported(message_type=200)"),
]


@pytest.mark.parametrize(("message", "text"), DESCRIPTIONS)
def test_describe(message: Message, text: str) -> None:
    """A message is described in a few words, without the contents of its entries."""
    assert describe(message) == text
