"""The life of an AppendEntries: made, answered, digested, committed."""

from collections.abc import Callable

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.rules.building import (
    N1,
    N2,
    N3,
    N4,
    PLENTY,
    append,
    candidate,
    compacted,
    entries,
    entry,
    follower,
    leader,
    log_of,
    progress,
    terms_of,
)
from trio_raft._messages import AppendEntries, AppendEntriesReply, Rejection, ServerId
from trio_raft._records import Entry, LogIndex, Term
from trio_raft._rules import append_entries
from trio_raft._rules.append_entries import BadReply, BadRequest, Outcome, ReadFirst
from trio_raft._rules.configuration import Configuration
from trio_raft._rules.log import NotInLog
from trio_raft._rules.progress import Mode, Progress
from trio_raft._rules.state import Role, State


def make(
    state: State,
    to: Progress,
    *,
    term: int = 5,
    max_entries: int = 100,
    read: list[Entry] | None = None,
    max_bytes: int = PLENTY,
) -> AppendEntries | ReadFirst:
    return append_entries.make(state, to, term=Term(term), max_entries=max_entries, max_bytes=max_bytes, entries=read)


# ---------------------------------------------------------------------------------------------- make


@pytest.mark.parametrize(
    ("next_index", "max_entries", "max_bytes", "previous", "sent"),
    [
        (1, 100, PLENTY, (0, 0), [1, 1, 4, 5]),
        (3, 100, PLENTY, (2, 1), [4, 5]),
        (3, 1, PLENTY, (2, 1), [4]),
        (2, 100, 64, (1, 1), [1, 4]),
        (2, 100, 1, (1, 1), [1]),
        (5, 100, PLENTY, (4, 5), []),
    ],
)
def test_make_follows_next_index(
    next_index: int, max_entries: int, max_bytes: int, previous: tuple[int, int], sent: list[int]
) -> None:
    """A request names the entry before next_index and brings what the bounds allow (R9)."""
    state = leader(log_of(1, 1, 4, 5), term=5)
    state.raise_commit(LogIndex(2))
    made = make(state, progress(next_index), max_entries=max_entries, max_bytes=max_bytes)
    assert made == append(5, previous, entries(next_index, sent), commit=2, by=N1)


@pytest.mark.parametrize("make_state", [follower, candidate, leader])
def test_make_only_for_the_leadership_in_force(make_state: Callable[..., State]) -> None:
    """Nothing is stamped with a term that this server does not lead, or leads no more (R1)."""
    state = make_state(log_of(1), term=6)
    with pytest.raises(AssertionError, match="leadership of term 5"):
        make(state, progress(1), term=5)
    if state.role is Role.LEADER:
        state.enter(Term(6), Role.FOLLOWER)
    with pytest.raises(AssertionError, match="leadership of term 6"):
        make(state, progress(1), term=6)


def test_make_below_the_snapshot_has_no_previous_term() -> None:
    """A follower that needs what only the snapshot holds is not sent a made-up previous term (R9)."""
    state = leader(compacted(log_of(1, 1, 4, 5), up_to=3), term=5)
    with pytest.raises(NotInLog):
        make(state, progress(3))
    assert make(state, progress(4)) == append(5, (3, 4), [entry(4, 5)], commit=3, by=N1)


def released() -> State:
    """A leader whose first four of six entries left memory."""
    state = leader(log_of(1, 1, 4, 5, 5, 5, memory_bytes=64), term=5)
    state.log.release(LogIndex(6))
    assert state.log.memory_first == 5
    return state


@pytest.mark.parametrize(
    ("next_index", "max_entries", "first", "last"),
    [(1, 100, 1, 4), (4, 100, 4, 4), (1, 2, 1, 2), (3, 2, 3, 4)],
)
def test_make_asks_for_what_left_memory(next_index: int, max_entries: int, first: int, last: int) -> None:
    """Entries that left memory are named, as many as one request may bring, to be read first."""
    made = make(released(), progress(next_index), max_entries=max_entries)
    assert made == ReadFirst(LogIndex(first), LogIndex(last))


def test_make_with_entries_that_were_read() -> None:
    """What was read from the store is sent, no more of it than asked for."""
    read = entries(2, [1, 4, 5])
    assert make(released(), progress(2), read=read) == append(5, (1, 1), read, by=N1)
    assert make(released(), progress(2), read=read, max_entries=2) == append(5, (1, 1), read[:2], by=N1)


def test_make_passes_over_entries_read_for_another_place() -> None:
    """If next_index moved while the store was read, the request is made for where it is now."""
    read = entries(2, [1, 4, 5])
    assert make(released(), progress(1), read=read) == ReadFirst(LogIndex(1), LogIndex(4))
    assert make(released(), progress(5), read=read) == append(5, (4, 5), entries(5, [5, 5]), by=N1)
    assert make(released(), progress(7), read=[]) == append(5, (6, 5), [], by=N1)


@pytest.mark.parametrize("read", [entries(2, [1, 3]), [entry(2, 1), entry(4, 5)], entries(2, [2])])
def test_make_refuses_entries_that_are_not_this_logs(read: list[Entry]) -> None:
    """A store that hands back other entries than were appended is not passed on to followers (R9)."""
    with pytest.raises(AssertionError, match="was read where"):
        make(released(), progress(2), read=read)


@pytest.mark.parametrize(
    "read",
    [[entry(2, 1), entry(4, 1)], entries(2, [1, 2]), entries(2, [2, 2]), [entry(2, 1), entry(3, 2), entry(4, 1)]],
    ids=["gap", "higher term at the end", "higher term", "higher term between"],
)
def test_make_refuses_among_entries_of_one_term(read: list[Entry]) -> None:
    """Where the log has one term, any other entry among those that were read is found too (R9)."""
    log = log_of(1, 1, 1, 1, 5, memory_bytes=0)
    log.release(LogIndex(5))
    with pytest.raises(AssertionError, match="was read where"):
        make(leader(log, term=5), progress(2), read=read)


# ---------------------------------------------------------------------------------------------- answer


@pytest.mark.parametrize(
    ("held", "previous", "new", "after", "truncated", "brought"),
    [
        ([], (0, 0), [], [], None, []),
        ([], (0, 0), [1, 1], [1, 1], None, [1, 1]),
        ([1, 1], (2, 1), [], [1, 1], None, []),
        ([1, 1], (2, 1), [3, 5], [1, 1, 3, 5], None, [3, 5]),
        # equal entries are skipped, and a shorter request removes nothing
        ([1, 1, 3, 5], (2, 1), [3, 5], [1, 1, 3, 5], None, []),
        ([1, 1, 3, 5], (1, 1), [1], [1, 1, 3, 5], None, []),
        ([1, 1, 3, 5], (0, 0), [], [1, 1, 3, 5], None, []),
        ([1, 1, 3], (1, 1), [1, 3, 5], [1, 1, 3, 5], None, [5]),
        # a conflict of terms removes the entry and everything above it
        ([1, 1, 2, 2, 2], (2, 1), [3], [1, 1, 3], 3, [3]),
        ([1, 1, 2, 2, 2], (1, 1), [1, 2, 4, 5], [1, 1, 2, 4, 5], 4, [4, 5]),
        ([2, 2], (0, 0), [3, 3, 3], [3, 3, 3], 1, [3, 3, 3]),
    ],
)
def test_answer_makes_the_log_agree(
    held: list[int],
    previous: tuple[int, int],
    new: list[int],
    after: list[int],
    truncated: int | None,
    brought: list[int],
) -> None:
    """Equal entries are skipped, only a conflict of terms removes any, and the rest is appended (R4)."""
    state = follower(log_of(*held), term=5)
    request = append(5, previous, entries(previous[0] + 1, new))
    answered = append_entries.answer(state, request)
    assert terms_of(state.log) == after
    assert answered.truncated_from == truncated
    assert [each.term for each in answered.new_entries] == brought
    assert answered.reply == AppendEntriesReply(
        term=Term(5), success=True, match_index=LogIndex(previous[0] + len(new))
    )


@pytest.mark.parametrize(
    ("held", "previous", "hint"),
    [
        ([], (1, 1), (1, 0)),
        ([1, 1], (5, 3), (3, 0)),
        ([1, 2, 2, 2], (4, 3), (2, 2)),
        ([1, 2, 2, 2], (3, 3), (2, 2)),
        ([3, 3], (2, 1), (1, 3)),
    ],
)
def test_answer_mismatch_says_what_stands_there(
    held: list[int], previous: tuple[int, int], hint: tuple[int, int]
) -> None:
    """A refusal names the first index of the conflicting term, or the end of a log that is too short (R8)."""
    state = follower(log_of(*held), term=5)
    answered = append_entries.answer(state, append(5, previous, entries(previous[0] + 1, [5]), commit=1))
    assert answered == append_entries.Answer(
        AppendEntriesReply(
            term=Term(5),
            success=False,
            rejection=Rejection.LOG_MISMATCH,
            conflict_index=LogIndex(hint[0]),
            conflict_term=Term(hint[1]),
        ),
        [],
        None,
    )
    assert (terms_of(state.log), state.commit_index) == (held, 0)


@pytest.mark.parametrize(
    ("previous", "new", "commit", "expected"),
    [
        ((2, 1), [], 9, 2),
        ((2, 1), [3], 9, 3),
        ((2, 1), [3, 3], 3, 3),
        ((0, 0), [], 9, 1),
        ((1, 1), [], 9, 1),
        ((1, 1), [1], 0, 1),
    ],
)
def test_answer_commits_only_what_the_request_verified(
    previous: tuple[int, int], new: list[int], commit: int, expected: int
) -> None:
    """The commit index follows the leader's, but never past the last entry that this message verified (R3)."""
    state = follower(log_of(1, 1, 2, 2, 2), term=5)
    state.raise_commit(LogIndex(1))
    append_entries.answer(state, append(5, previous, entries(previous[0] + 1, new), commit=commit))
    assert state.commit_index == expected


@pytest.mark.parametrize(
    "request_",
    [
        append(5, (2, 1), [entry(3, 4)]),
        append(5, (1, 1), [entry(2, 4), entry(3, 4)]),
        append(5, (2, 4)),
        append(5, (1, 3)),
    ],
)
def test_answer_never_contradicts_what_is_committed(request_: AppendEntries) -> None:
    """A leader that contradicts a committed entry is no leader to follow: nothing is changed (R4)."""
    state = follower(log_of(1, 1, 2, 2), term=5)
    state.raise_commit(LogIndex(3))
    with pytest.raises(AssertionError, match="committed term"):
        append_entries.answer(state, request_)
    assert (terms_of(state.log), state.commit_index) == ([1, 1, 2, 2], 3)


def test_answer_notices_two_entries_of_one_place() -> None:
    """Entries of the same index and term with different contents are never taken for equal (R4)."""
    state = follower(log_of(1, 1), term=5)
    with pytest.raises(AssertionError, match="two entries at index 2"):
        append_entries.answer(state, append(5, (1, 1), [entry(2, 1, data=b"other")]))


def test_answer_skips_equal_entries_that_left_memory() -> None:
    """An entry that left memory is known to be equal by its index and term (R4)."""
    state = follower(log_of(1, 1, 1, memory_bytes=0), term=5)
    state.log.release(LogIndex(3))
    answered = append_entries.answer(state, append(5, (0, 0), entries(1, [1, 1, 1, 5])))
    assert answered.new_entries == [entry(4, 5)]


@pytest.mark.parametrize(
    ("previous", "new"), [((1, 1), [1, 2, 2]), ((1, 1), [1]), ((1, 9), []), ((0, 0), []), ((3, 2), [2])]
)
def test_answer_previous_entry_inside_the_compacted_part_matches(previous: tuple[int, int], new: list[int]) -> None:
    """What a snapshot covers agrees with every leader, so a request that starts there succeeds (R4)."""
    state = follower(compacted(log_of(1, 1, 2, 2, 2), up_to=3), term=9)
    state.commit_index = LogIndex(3)
    answered = append_entries.answer(state, append(9, previous, entries(previous[0] + 1, new)))
    assert answered.reply.success
    assert answered.new_entries == []
    assert terms_of(state.log) == [2, 2]


@pytest.mark.parametrize(
    ("previous", "new", "after", "brought"),
    [
        ((1, 1), [1, 2, 2, 2, 9], [2, 2, 9], [9]),
        ((0, 0), [1, 1, 2, 3], [3], [3]),
        ((1, 1), [1, 2, 2, 9, 9], [2, 9, 9], [9, 9]),
        ((3, 2), [2, 4], [2, 4], [4]),
        ((5, 2), [3], [2, 2, 3], [3]),
    ],
)
def test_answer_entries_that_reach_above_the_base(
    previous: tuple[int, int], new: list[int], after: list[int], brought: list[int]
) -> None:
    """Of a request that begins in the compacted part, what stands above it is taken as ever (R4)."""
    state = follower(compacted(log_of(1, 1, 2, 2, 2), up_to=3), term=9)
    request = append(9, previous, entries(previous[0] + 1, new), commit=99)
    answered = append_entries.answer(state, request)
    verified = previous[0] + len(new)
    assert (answered.reply.success, answered.reply.match_index) == (True, verified)
    assert ([each.term for each in answered.new_entries], terms_of(state.log)) == (brought, after)
    assert state.commit_index == verified


@pytest.mark.parametrize(("previous", "new"), [((3, 1), []), ((3, 5), [5]), ((2, 1), [5]), ((0, 0), [1, 1, 3])])
def test_answer_never_contradicts_the_base(previous: tuple[int, int], new: list[int]) -> None:
    """A leader that has another entry at the base contradicts what is committed, and nothing is changed (R4)."""
    state = follower(compacted(log_of(1, 1, 2, 2), up_to=3), term=9)
    with pytest.raises(AssertionError, match="committed term 2"):
        append_entries.answer(state, append(9, previous, entries(previous[0] + 1, new)))
    assert (terms_of(state.log), state.commit_index) == ([2], 3)


@pytest.mark.parametrize(
    ("up_to", "previous", "hint"), [(3, (9, 5), (6, 0)), (5, (9, 5), (6, 0)), (3, (5, 5), (4, 2)), (3, (4, 5), (4, 2))]
)
def test_answer_hint_stays_above_the_base(up_to: int, previous: tuple[int, int], hint: tuple[int, int]) -> None:
    """A refusal points nowhere below the first entry that a follower has left (R8)."""
    state = follower(compacted(log_of(1, 1, 2, 2, 2), up_to=up_to), term=9)
    reply = append_entries.answer(state, append(9, previous)).reply
    assert (reply.success, reply.conflict_index, reply.conflict_term) == (False, *hint)


@pytest.mark.parametrize(
    "request_",
    [
        append(5, (2, 1), [entry(4, 1)]),
        append(5, (2, 1), [entry(2, 1)]),
        append(5, (2, 1), [entry(3, 1), entry(5, 1)]),
        append(5, (2, 1), [entry(3, 1), entry(3, 1)]),
        append(5, (2, 3), [entry(3, 2)]),
        append(5, (2, 1), [entry(3, 4), entry(4, 3)]),
        append(5, (2, 1), [entry(3, 6)]),
        append(5, (2, 6)),
        append(5, (0, 1)),
        append(5, (2, 0)),
        append(5, (-1, 0)),
        append(5, (2, 1), commit=-1),
    ],
)
def test_answer_refuses_malformed_requests(request_: AppendEntries) -> None:
    """Gaps, overlaps, falling terms, terms above the leader's and impossible places are the sender's fault (R9)."""
    state = follower(log_of(1, 1), term=5)
    with pytest.raises(BadRequest):
        append_entries.answer(state, request_)
    assert terms_of(state.log) == [1, 1]


@pytest.mark.parametrize("term", [4, 6])
def test_answer_only_in_the_current_term(term: int) -> None:
    """A request is answered only once its term was adopted, and an older one not at all."""
    with pytest.raises(AssertionError, match="must not answer"):
        append_entries.answer(follower(log_of(1), term=5), append(term, (0, 0)))


@pytest.mark.parametrize("make_state", [candidate, leader])
def test_answer_only_as_follower(make_state: Callable[..., State]) -> None:
    """Candidates and leaders become followers before they take entries."""
    with pytest.raises(AssertionError, match="must not answer"):
        append_entries.answer(make_state(log_of(1), term=5), append(5, (0, 0)))


def test_stale_names_the_newer_term() -> None:
    """A deposed leader learns the term that came after it, and nothing else (E4)."""
    assert append_entries.stale(follower(log_of(1), term=5)) == AppendEntriesReply(
        term=Term(5), success=False, rejection=Rejection.STALE_TERM
    )


# ---------------------------------------------------------------------------------------------- digest


def success(match_index: int, *, term: int = 5) -> AppendEntriesReply:
    return AppendEntriesReply(term=Term(term), success=True, match_index=LogIndex(match_index))


def mismatch(conflict_index: int, conflict_term: int, *, term: int = 5) -> AppendEntriesReply:
    return AppendEntriesReply(
        term=Term(term),
        success=False,
        rejection=Rejection.LOG_MISMATCH,
        conflict_index=LogIndex(conflict_index),
        conflict_term=Term(conflict_term),
    )


def digest(state: State, to: Progress, previous: int, last: int, reply: AppendEntriesReply) -> Outcome:
    return append_entries.digest(state, to, prev_log_index=LogIndex(previous), last_index=LogIndex(last), reply=reply)


def leading() -> State:
    return leader(log_of(1, 1, 1, 4, 4, 5, 5), term=5)


@pytest.mark.parametrize(
    ("before", "last", "after"),
    [((8, 0), 7, (8, 7)), ((3, 0), 5, (6, 5)), ((8, 4), 5, (8, 5)), ((8, 4), 3, (8, 4)), ((5, 4), 4, (5, 4))],
)
def test_digest_success_raises_match_index(before: tuple[int, int], last: int, after: tuple[int, int]) -> None:
    """Success proves what the request covered, no less than what was known before (R6)."""
    to = progress(*before)
    assert digest(leading(), to, 2, last, success(last)) is Outcome.ADVANCED
    assert (to.next_index, to.match_index) == after


@pytest.mark.parametrize(
    ("previous", "hint", "expected"),
    [
        # too short: where its log ends
        (7, (3, 0), 3),
        (7, (7, 0), 7),
        (7, (1, 0), 1),
        # its term stands in this log too: behind the last entry of it
        (7, (4, 4), 6),
        (7, (2, 1), 4),
        (5, (1, 1), 4),
        # its term is not in this log: the whole term goes
        (7, (4, 2), 4),
        (7, (6, 3), 4),
        (7, (2, 3), 2),
        (7, (1, 3), 1),
        # it has a later term there than this log, which has older entries than that up to previous - 1
        (5, (2, 5), 2),
        (5, (5, 5), 5),
    ],
)
def test_digest_mismatch_moves_back_by_the_hint(previous: int, hint: tuple[int, int], expected: int) -> None:
    """A rejection lowers next_index by a whole term, to the best place that the hint allows (R8)."""
    to = progress(previous + 1)
    assert digest(leading(), to, previous, 7, mismatch(*hint)) is Outcome.REPAIRED
    assert (to.next_index, to.match_index, to.mode) == (expected, 0, Mode.PROBE)


@pytest.mark.parametrize(
    ("previous", "hint", "expected"),
    [
        # too short, above the base, at it and below it
        (7, (6, 0), 6),
        (7, (5, 0), 5),
        (7, (2, 0), 2),
        # its term begins in the compacted part and is the base's: the base agrees
        (7, (2, 4), 6),
        (6, (2, 4), 6),
        # its term is older than the base's, so that the base itself is in dispute
        (7, (2, 3), 2),
        (7, (6, 3), 5),
        # the entry before was compacted after it was sent, or is the base
        (4, (2, 3), 2),
        (3, (3, 4), 3),
        (2, (1, 3), 1),
        (2, (2, 0), 2),
    ],
)
def test_digest_mismatch_around_the_base(previous: int, hint: tuple[int, int], expected: int) -> None:
    """A hint into the compacted part leads there, where a snapshot is found to be needed, and no higher (R8, R9)."""
    state = leader(compacted(log_of(1, 1, 1, 4, 4, 5, 5), up_to=4), term=5)
    to = progress(previous + 1)
    assert digest(state, to, previous, 7, mismatch(*hint)) is Outcome.REPAIRED
    assert to.next_index == expected <= previous
    if expected <= 4:
        with pytest.raises(NotInLog):
            make(state, to)


def test_digest_success_below_the_base() -> None:
    """A success counts although what it covers was compacted meanwhile (R6)."""
    to = progress(2)
    assert digest(leader(compacted(log_of(1, 1, 4, 5), up_to=3), term=5), to, 1, 2, success(2)) is Outcome.ADVANCED
    assert (to.match_index, to.next_index) == (2, 3)


def test_digest_mismatch_stays_above_match_index() -> None:
    """However far back the hint points, what the follower acknowledged is not sent again (R6, R8)."""
    to = progress(8, 3)
    assert digest(leading(), to, 7, 7, mismatch(2, 0)) is Outcome.REPAIRED
    assert (to.next_index, to.match_index, to.lost_data) == (4, 3, False)


def test_digest_mismatch_ends_a_pipeline() -> None:
    """A rejection proves nothing about what matches, and the pipeline is over (R6, R10)."""
    to = progress(4, 3)
    to.become_pipeline()
    to.next_index, to.told_commit, to.in_flight_bytes = LogIndex(8), LogIndex(3), 10
    assert digest(leading(), to, 5, 7, mismatch(4, 2)) is Outcome.REPAIRED
    assert (to.mode, to.next_index, to.match_index) == (Mode.PROBE, 4, 3)
    assert (to.told_commit, to.in_flight_bytes) == (0, 0)


@pytest.mark.parametrize("previous", [3, 2])
def test_digest_rejection_at_match_index_proves_lost_data(previous: int) -> None:
    """A follower that denies what it acknowledged has lost data and is not counted any more (R6)."""
    to = progress(4, 3)
    assert digest(leading(), to, previous, 7, mismatch(1, 0)) is Outcome.LOST_DATA
    assert (to.counts_for_quorum, to.match_index, to.next_index) == (False, 3, 4)


@pytest.mark.parametrize("term", [0, 5])
def test_digest_not_ready_changes_nothing_known(term: int) -> None:
    """A follower in bootstrap is tried again later, from the same place (O1)."""
    to = progress(6)
    to.told_commit = LogIndex(2)
    reply = AppendEntriesReply(term=Term(term), success=False, rejection=Rejection.NOT_READY)
    assert digest(leading(), to, 5, 7, reply) is Outcome.NOT_READY
    assert (to.next_index, to.match_index, to.told_commit) == (6, 0, 0)


@pytest.mark.parametrize(
    "reply",
    [
        success(6),
        success(8),
        success(7, term=4),
        attrs.evolve(success(7), rejection=Rejection.LOG_MISMATCH),
        mismatch(3, 2, term=4),
        mismatch(0, 0),
        mismatch(7, 0),
        mismatch(7, 2),
        mismatch(3, 6),
        mismatch(3, -1),
        mismatch(6, 5),
        attrs.evolve(mismatch(3, 2), rejection=Rejection.STALE_TERM),
        attrs.evolve(mismatch(3, 2), rejection=Rejection.NONE),
    ],
)
def test_digest_refuses_replies_that_make_no_sense(reply: AppendEntriesReply) -> None:
    """A reply that no follower gives to this request proves nothing and changes nothing (R6, R10)."""
    to = progress(7)
    with pytest.raises(BadReply):
        digest(leading(), to, 6, 7, reply)
    assert (to.next_index, to.match_index, to.lost_data) == (7, 0, False)


def test_digest_refuses_a_rejection_of_index_zero() -> None:
    """The empty log is a beginning of every log, so nobody rejects what follows index 0."""
    with pytest.raises(BadReply):
        digest(leading(), progress(1), 0, 7, mismatch(1, 0))


def test_digest_only_while_leading_and_only_for_what_was_sent() -> None:
    """Replies of a newer term, or to another leadership, are never digested (R1, R6)."""
    with pytest.raises(AssertionError, match="must not digest"):
        digest(leading(), progress(1), 0, 7, success(7, term=6))
    with pytest.raises(AssertionError, match="must not digest"):
        digest(follower(log_of(1), term=5), progress(1), 0, 1, success(1))
    with pytest.raises(AssertionError, match="never sent"):
        digest(leading(), progress(1), 0, 8, success(8))


# ---------------------------------------------------------------------------------------------- commit


@pytest.mark.parametrize(
    ("matches", "expected"),
    [
        ({N1: 7}, 1),
        ({N1: 7, N2: 5}, 1),
        ({N1: 7, N2: 6}, 6),
        ({N1: 7, N2: 6, N3: 7}, 7),
        ({N2: 7, N3: 6}, 6),
        ({N1: 7, N2: 0, N3: 0}, 1),
        ({N1: 7, N4: 7}, 1),
        ({}, 1),
    ],
)
def test_committable_counts_own_term_only(matches: dict[ServerId, int], expected: int) -> None:
    """A majority of voters commits entries of the leader's own term, and older ones only with them (R2)."""
    state = leader(log_of(1, 1, 1, 4, 4, 5, 5), term=5, configuration=Configuration((N1, N2, N3), (N4,)))
    state.raise_commit(LogIndex(1))
    found = append_entries.committable(state, {name: LogIndex(index) for name, index in matches.items()})
    assert found == expected


# ---------------------------------------------------------------------------------------------- repair

TERMS = st.lists(st.integers(0, 2), max_size=12)


@st.composite
def diverging_logs(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Terms of a leader's and a follower's log that may stand in one cluster: no term is in both after they part."""
    shared = _growing(draw(TERMS), start=1)
    last = shared[-1] if shared else 0
    parts: tuple[list[int], list[int]] = ([], [])
    term = last
    for owner, length in draw(st.lists(st.tuples(st.integers(0, 1), st.integers(1, 4)), max_size=8)):
        term += 1
        parts[owner].extend([term] * length)
    if draw(st.booleans()) and last:
        parts[draw(st.integers(0, 1))][:0] = [last] * draw(st.integers(1, 3))
    return shared + parts[0], shared + parts[1]


def _growing(steps: list[int], *, start: int) -> list[int]:
    return [start + sum(steps[: count + 1]) for count in range(len(steps))]


@given(logs=diverging_logs(), commit=st.integers(0, 12))
def test_repair_takes_one_round_trip_per_divergent_term(logs: tuple[list[int], list[int]], commit: int) -> None:
    """From any two logs that can arise, a probe finds the agreement at once per divergent term, and no later (R8)."""
    ours, theirs = logs
    agreed = next(
        (at for at, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]),
        min(len(ours), len(theirs)),
    )
    term = max([0, *ours, *theirs]) + 1
    led = leader(log_of(*ours), term=term)
    to = progress(len(ours) + 1)
    led.log.append(entry(len(ours) + 1, term))
    following = follower(log_of(*theirs), term=term, node_id=N2)
    following.raise_commit(LogIndex(min(agreed, commit)))
    divergent = len(set(theirs[agreed:]))
    for _ in range(divergent + 2):
        request = make(led, to, term=term)
        assert isinstance(request, AppendEntries)
        before = to.next_index
        reply = append_entries.answer(following, request).reply
        last = request.prev_log_index + len(request.entries)
        if digest(led, to, request.prev_log_index, last, reply) is Outcome.ADVANCED:
            break
        assert to.next_index < before
    else:
        pytest.fail(f"more than {divergent + 1} rejections")
    assert terms_of(following.log) == terms_of(led.log)
    assert to.match_index == led.log.last_index
