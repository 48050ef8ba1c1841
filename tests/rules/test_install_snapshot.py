"""The life of an InstallSnapshot: accepted, installed, digested; and how far the log is cut."""

from collections.abc import Callable

import pytest

from tests.rules.building import (
    N2,
    N3,
    PLENTY,
    THREE,
    append,
    candidate,
    compacted,
    entries,
    follower,
    leader,
    log_of,
    progress,
    terms_of,
)
from trio_raft._messages import AppendEntriesReply, InstallSnapshot, InstallSnapshotReply, SnapshotStatus
from trio_raft._records import LogIndex, Term
from trio_raft._rules import append_entries, install_snapshot
from trio_raft._rules.append_entries import Outcome
from trio_raft._rules.configuration import Configuration
from trio_raft._rules.install_snapshot import BadReply, BadRequest, Installed, Verdict
from trio_raft._rules.progress import Mode, Progress
from trio_raft._rules.state import State

TWO = Configuration((N2, N3), index=LogIndex(2))
"""What the snapshots here bring with them."""


def offer(
    index: int, of_term: int, *, term: int = 9, offset: int = 0, total: int = 10, data: bytes = b""
) -> InstallSnapshot:
    return InstallSnapshot(
        term=Term(term),
        leader=N2,
        transfer="t",
        last_included_index=LogIndex(index),
        last_included_term=Term(of_term),
        digest="d",
        total=total,
        offset=offset,
        data=data,
    )


def install(state: State, index: int, term: int, *, configuration: Configuration = TWO) -> Installed | None:
    return install_snapshot.install(state, index=LogIndex(index), term=Term(term), configuration=configuration)


def following() -> State:
    """One whose log has terms 2 2 3 3 above its base (2, 1), committed up to 4."""
    state = follower(compacted(log_of(1, 1, 2, 2, 3, 3), up_to=2), term=9)
    state.raise_commit(LogIndex(4))
    return state


def facts(state: State) -> tuple[object, ...]:
    log = state.log
    return (log.base_index, log.base_term, terms_of(log), state.commit_index, state.last_applied, state.configuration)


# ---------------------------------------------------------------------------------------------- accept


@pytest.mark.parametrize(
    ("index", "of_term", "expected"),
    [
        (1, 1, Verdict.ALREADY),
        (2, 1, Verdict.ALREADY),
        (3, 2, Verdict.ALREADY),
        (4, 2, Verdict.ALREADY),
        (5, 2, Verdict.TAKE),
        (5, 3, Verdict.TAKE),
        (6, 8, Verdict.TAKE),
        (99, 9, Verdict.TAKE),
    ],
)
def test_accept_up_to_the_commit_index_there_is_nothing_to_take(index: int, of_term: int, expected: Verdict) -> None:
    """A snapshot at or below the commit index is held already; accepting changes nothing either way (N2)."""
    state = following()
    before = facts(state)
    assert install_snapshot.accept(state, offer(index, of_term)) is expected
    assert facts(state) == before


@pytest.mark.parametrize(
    ("offset", "total", "data"), [(0, 1, b""), (0, 3, b"abc"), (2, 3, b"c"), (3, 3, b""), (1, 3, b"b")]
)
def test_accept_pieces_within_the_whole(offset: int, total: int, data: bytes) -> None:
    """Pieces from the first byte to the last are taken, and so is the question without data (N5)."""
    request = offer(7, 5, offset=offset, total=total, data=data)
    assert install_snapshot.accept(following(), request) is Verdict.TAKE


@pytest.mark.parametrize(
    "request_",
    [
        offer(0, 1),
        offer(-1, 1),
        offer(7, 0),
        offer(0, 0),
        offer(7, -1),
        offer(7, 10),
        offer(7, 5, offset=-1),
        offer(7, 5, offset=11),
        offer(7, 5, offset=10, data=b"x"),
        offer(7, 5, offset=8, data=b"xyz"),
        offer(7, 5, total=0),
        offer(7, 5, total=-1),
        offer(1, 1, offset=11),
    ],
)
def test_accept_refuses_what_no_leader_sends(request_: InstallSnapshot) -> None:
    """A snapshot of nothing, of a term to come, or with bytes outside of it is the sender's fault (N5)."""
    state = following()
    before = facts(state)
    with pytest.raises(BadRequest):
        install_snapshot.accept(state, request_)
    assert facts(state) == before


CONTRADICTIONS = [(1, 2), (2, 2), (3, 1), (3, 3), (4, 3), (4, 1), (5, 1), (99, 1)]
"""Places that cannot be in one history with what ``following`` has committed."""


@pytest.mark.parametrize(("index", "of_term"), CONTRADICTIONS)
def test_accept_and_install_never_contradict_what_is_committed(index: int, of_term: int) -> None:
    """Another entry where one is committed, or a term that falls behind one, stops the server, unchanged (N1, R4)."""
    state = following()
    before = facts(state)
    with pytest.raises(AssertionError, match="contradicts what is committed up to index 4"):
        install_snapshot.accept(state, offer(index, of_term))
    with pytest.raises(AssertionError, match="contradicts what is committed up to index 4"):
        install(state, index, of_term)
    assert facts(state) == before


@pytest.mark.parametrize("term", [8, 10])
def test_accept_only_in_the_current_term(term: int) -> None:
    """A request is answered only once its term was adopted, and an older one not at all."""
    with pytest.raises(AssertionError, match="must not answer"):
        install_snapshot.accept(following(), offer(7, 5, term=term))


@pytest.mark.parametrize("make_state", [candidate, leader])
def test_accept_and_install_only_as_follower(make_state: Callable[..., State]) -> None:
    """Candidates and leaders become followers before their log is replaced."""
    state = make_state(log_of(1), term=9)
    with pytest.raises(AssertionError, match="must not answer"):
        install_snapshot.accept(state, offer(7, 5))
    with pytest.raises(AssertionError, match="must not install"):
        install(state, 7, 5)
    assert terms_of(state.log) == [1]


# ---------------------------------------------------------------------------------------------- install


@pytest.mark.parametrize(
    ("index", "term", "kept", "left"),
    [
        # an equal entry keeps the suffix, which may be empty
        (5, 3, True, [3]),
        (6, 3, True, []),
        # another entry there: all of it goes, what stands behind included
        (5, 2, False, []),
        (5, 4, False, []),
        (6, 5, False, []),
        # nothing there
        (7, 3, False, []),
        (99, 9, False, []),
    ],
)
def test_install_keeps_the_suffix_of_an_equal_entry_only(index: int, term: int, kept: bool, left: list[int]) -> None:
    """An equal entry at the snapshot's last index keeps what follows; any other log goes whole (N1)."""
    state = following()
    state.last_applied = LogIndex(3)
    assert install(state, index, term) == Installed(kept)
    assert facts(state) == (index, term, left, index, 3, TWO)
    assert state.log.last_index == index + len(left)
    assert state.log.last_term == (left[-1] if left else term)


@pytest.mark.parametrize(("index", "term"), [(1, 1), (2, 1), (3, 2), (4, 2)])
def test_install_of_what_was_committed_meanwhile(index: int, term: int) -> None:
    """A snapshot that the commit index has caught up with while it arrived changes nothing (N2)."""
    state = following()
    before = facts(state)
    assert install(state, index, term) is None
    assert facts(state) == before


def test_install_twice() -> None:
    """The second time there is nothing left to do (N2)."""
    state = following()
    assert install(state, 8, 5) == Installed(kept=False)
    before = facts(state)
    assert install(state, 8, 5) is None
    assert facts(state) == before


@pytest.mark.parametrize(
    ("place", "snapshot", "replaced"), [(0, (5, 3), True), (5, (5, 3), True), (6, (5, 3), False), (6, (5, 4), True)]
)
def test_install_replaces_a_configuration_that_it_covers(place: int, snapshot: tuple[int, int], replaced: bool) -> None:
    """The snapshot's configuration is in force, unless a later one stands in the suffix that stays (N6)."""
    state = following()
    state.configuration = before = Configuration(THREE.voters, index=LogIndex(place))
    install(state, *snapshot)
    assert state.configuration == (TWO if replaced else before)


@pytest.mark.parametrize(("snapshot", "previous"), [((5, 3), (6, 3)), ((5, 4), (5, 4)), ((9, 4), (9, 4))])
def test_install_and_go_on(snapshot: tuple[int, int], previous: tuple[int, int]) -> None:
    """The entries behind the snapshot follow it as any others, and those before it are skipped (R4)."""
    state = following()
    install(state, *snapshot)
    answered = append_entries.answer(state, append(9, previous, entries(previous[0] + 1, [9, 9]), commit=99))
    assert (answered.reply.match_index, answered.truncated_from) == (previous[0] + 2, None)
    assert state.commit_index == previous[0] + 2
    late = append_entries.answer(state, append(9, (1, 1), entries(2, [1, 2, 2])))
    assert (late.reply.success, late.new_entries) == (True, [])


# ---------------------------------------------------------------------------------------------- digest


def leading() -> State:
    """One whose log has terms 4 5 5 above its base (3, 1)."""
    return leader(compacted(log_of(1, 1, 1, 4, 5, 5), up_to=3), term=5)


def sending() -> Progress:
    """A follower to whom the snapshot up to 4 is on its way."""
    made = progress(2, 1)
    made.become_snapshot(LogIndex(4))
    return made


def answer_of(status: SnapshotStatus, *, offset: int = 0, term: int = 5) -> InstallSnapshotReply:
    return InstallSnapshotReply(term=Term(term), status=status, offset=offset)


def digest(state: State, to: Progress, reply: InstallSnapshotReply) -> SnapshotStatus:
    return install_snapshot.digest(state, to, index=LogIndex(4), total=10, reply=reply)


def test_digest_installed_is_knowledge() -> None:
    """A follower that installed the snapshot holds all that it covers, and is served from the log again (N3, N7)."""
    state, to = leading(), sending()
    assert digest(state, to, answer_of(SnapshotStatus.INSTALLED)) is SnapshotStatus.INSTALLED
    assert (to.match_index, to.next_index, to.mode) == (4, 5, Mode.PROBE)
    request = append_entries.make(state, to, term=Term(5), max_entries=9, max_bytes=PLENTY)
    assert request == append(5, (4, 4), entries(5, [5, 5]), commit=3, by=state.node_id)
    reply = AppendEntriesReply(term=Term(5), success=True, match_index=LogIndex(6))
    outcome = append_entries.digest(state, to, prev_log_index=LogIndex(4), last_index=LogIndex(6), reply=reply)
    assert (outcome, to.match_index) == (Outcome.ADVANCED, 6)


@pytest.mark.parametrize(
    "reply",
    [
        answer_of(SnapshotStatus.WANTED),
        answer_of(SnapshotStatus.WANTED, offset=10),
        answer_of(SnapshotStatus.FINISHING, offset=10),
        answer_of(SnapshotStatus.REFUSED),
        answer_of(SnapshotStatus.REFUSED, term=0),
    ],
)
def test_digest_before_the_end_proves_nothing(reply: InstallSnapshotReply) -> None:
    """Bytes that arrived are no entries that are held: nothing is known until it is installed (N3, R6)."""
    to = sending()
    assert digest(leading(), to, reply) is reply.status
    assert (to.match_index, to.next_index, to.mode) == (1, 2, Mode.SNAPSHOT)


@pytest.mark.parametrize(
    "reply",
    [
        answer_of(SnapshotStatus.WANTED, offset=11),
        answer_of(SnapshotStatus.WANTED, offset=-1),
        answer_of(SnapshotStatus.INSTALLED, offset=11),
        answer_of(SnapshotStatus.INSTALLED, term=4),
        answer_of(SnapshotStatus.FINISHING, term=4),
        answer_of(SnapshotStatus.WANTED, term=4),
    ],
)
def test_digest_refuses_replies_that_make_no_sense(reply: InstallSnapshotReply) -> None:
    """An offset outside the snapshot, or an answer of another term, proves nothing and changes nothing (N5)."""
    to = sending()
    with pytest.raises(BadReply):
        digest(leading(), to, reply)
    assert (to.match_index, to.next_index, to.mode) == (1, 2, Mode.SNAPSHOT)


def test_digest_only_while_leading() -> None:
    """Replies of a newer term, or after the leadership, are never digested (R1, N3)."""
    for state, term in ((leading(), 6), (follower(log_of(1), term=5), 5), (candidate(log_of(1), term=5), 5)):
        with pytest.raises(AssertionError, match="must not digest"):
            digest(state, sending(), answer_of(SnapshotStatus.INSTALLED, term=term))


# ---------------------------------------------------------------------------------------------- cut


@pytest.mark.parametrize(
    ("snapshot_index", "trailing", "pins", "base_index", "expected"),
    [
        (100, 0, [], 0, 100),
        (100, 30, [], 0, 70),
        (100, 30, [], 69, 70),
        (100, 30, [], 70, None),
        (100, 30, [], 90, None),
        (100, 100, [], 0, None),
        (100, 200, [], 0, None),
        (100, 0, [40], 0, 40),
        (100, 0, [60, 40, 80], 0, 40),
        (100, 30, [90], 0, 70),
        (100, 0, [40], 40, None),
        (100, 0, [100, 120], 0, 100),
    ],
)
def test_compactable_leaves_trailing_entries_and_what_is_pinned(
    snapshot_index: int, trailing: int, pins: list[int], base_index: int, expected: int | None
) -> None:
    """The log is cut neither into its trailing entries nor above a snapshot in transfer, and never back (N7)."""
    found = install_snapshot.compactable(
        LogIndex(snapshot_index),
        trailing=trailing,
        pins=[LogIndex(pin) for pin in pins],
        base_index=LogIndex(base_index),
    )
    assert found == expected


def test_compactable_pin_serves_the_follower_without_another_snapshot() -> None:
    """However much is written and cut during a transfer, the follower goes on from the log afterwards (N7)."""
    state, to = leading(), sending()
    state.raise_commit(LogIndex(6))
    up_to = install_snapshot.compactable(
        LogIndex(6), trailing=0, pins=[to.snapshot_index], base_index=state.log.base_index
    )
    assert up_to == 4
    state.log.compact(up_to)
    digest(state, to, answer_of(SnapshotStatus.INSTALLED))
    request = append_entries.make(state, to, term=Term(5), max_entries=9, max_bytes=PLENTY)
    assert request == append(5, (4, 4), entries(5, [5, 5]), commit=6, by=state.node_id)
