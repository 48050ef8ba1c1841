"""One follower as its leader sees it: window, modes, and what counts."""

from collections.abc import Callable

import pytest

from tests.rules.building import progress
from trio_raft._records import LogIndex
from trio_raft._rules.progress import InFlight, Mode, Progress, ReplyMismatch


def request(request_id: int, previous: int, last: int, *, size: int = 10) -> InFlight:
    return InFlight(
        request_id=request_id,
        prev_log_index=LogIndex(previous),
        last_index=LogIndex(last),
        size=size,
        sent_at=0.0,
    )


def piping(match_index: int = 4) -> Progress:
    made = progress(match_index + 1, match_index)
    made.become_pipeline()
    return made


def send(follower: Progress, made: InFlight, *, commit: int = 0) -> None:
    follower.sent(made, leader_commit=LogIndex(commit))


def test_next_index_is_above_match_index() -> None:
    """A progress whose next index is not above its match index is not made (R6)."""
    with pytest.raises(AssertionError, match="must be above"):
        progress(3, 3)


@pytest.mark.parametrize(
    ("match_index", "expected"), [(0, (4, 9)), (3, (4, 9)), (4, (4, 9)), (6, (6, 9)), (9, (9, 10))]
)
def test_advance_is_monotone(match_index: int, expected: tuple[int, int]) -> None:
    """The match index never falls, and the next index stays above it (R6)."""
    follower = progress(9, 4)
    follower.advance(LogIndex(match_index))
    assert (follower.match_index, follower.next_index) == expected


def test_probe_has_one_request_in_flight() -> None:
    """A probe waits for its reply, whatever the window allows, and its guess does not run ahead."""
    follower = progress(5)
    assert follower.window_open(requests=4, size=100)
    send(follower, request(1, 4, 7))
    assert not follower.window_open(requests=4, size=100)
    assert follower.next_index == 5
    with pytest.raises(AssertionError, match="still in flight"):
        send(follower, request(2, 4, 7))


def test_pipeline_runs_ahead_within_the_window() -> None:
    """Requests leave one behind the other until their number or their bytes fill the window (R10)."""
    follower = piping()
    send(follower, request(1, 4, 6, size=30))
    send(follower, request(2, 6, 9, size=50))
    assert (follower.next_index, follower.match_index, follower.in_flight_bytes) == (10, 4, 80)
    assert follower.window_open(requests=3, size=81)
    assert not follower.window_open(requests=2, size=81)
    assert not follower.window_open(requests=3, size=80)
    assert follower.answered(1).last_index == 6
    assert follower.in_flight_bytes == 50
    assert follower.window_open(requests=2, size=80)


def test_pipeline_without_entries_stays_where_it_is() -> None:
    """A request that only carries the commit index does not move the next index."""
    follower = piping()
    send(follower, request(1, 4, 4, size=0), commit=3)
    assert (follower.next_index, follower.told_commit) == (5, 3)


@pytest.mark.parametrize("reply_to", [2, 3, 0])
def test_answered_takes_the_oldest_only(reply_to: int) -> None:
    """A reply to anything but the oldest request in flight is a mismatch and takes nothing (R10)."""
    follower = piping()
    send(follower, request(1, 4, 5))
    send(follower, request(2, 5, 6))
    with pytest.raises(ReplyMismatch, match="oldest in flight is 1"):
        follower.answered(reply_to)
    assert [each.request_id for each in follower.in_flight] == [1, 2]


def test_answered_without_a_request() -> None:
    """A reply when nothing is in flight is a mismatch (R10)."""
    with pytest.raises(ReplyMismatch, match="nothing is in flight"):
        progress(5).answered(1)


def test_become_probe_out_of_a_pipeline() -> None:
    """In doubt the pipeline is forgotten, and the probe starts from what is known (R10)."""
    follower = piping()
    send(follower, request(1, 4, 8), commit=6)
    follower.become_probe()
    assert (follower.mode, follower.next_index, follower.match_index) == (Mode.PROBE, 5, 4)
    assert (len(follower.in_flight), follower.in_flight_bytes, follower.told_commit) == (0, 0, 0)
    with pytest.raises(ReplyMismatch):
        follower.answered(1)


def test_become_probe_keeps_the_guess_of_a_probe() -> None:
    """A probe that failed on the way asks again at the same place, not from the start of the log."""
    follower = progress(900)
    send(follower, request(1, 899, 950), commit=800)
    follower.become_probe()
    assert (follower.next_index, follower.told_commit) == (900, 0)
    assert follower.window_open(requests=1, size=1)


def test_become_pipeline_needs_a_success() -> None:
    """There is no pipeline from a place that the follower has not confirmed, nor with a probe in flight."""
    with pytest.raises(AssertionError, match="without a success"):
        progress(5, 3).become_pipeline()
    follower = progress(5, 4)
    send(follower, request(1, 4, 5))
    with pytest.raises(AssertionError, match="without a success"):
        follower.become_pipeline()


def test_told_commit_is_what_the_request_can_prove() -> None:
    """A follower is told of a commit only as far as the request reaches, and of the highest one (R3)."""
    follower = piping()
    send(follower, request(1, 4, 6), commit=9)
    assert follower.told_commit == 6
    send(follower, request(2, 6, 8), commit=7)
    assert follower.told_commit == 7
    send(follower, request(3, 8, 8), commit=5)
    assert follower.told_commit == 7


def test_lost_data_does_not_count() -> None:
    """A follower that lost data counts for no quorum (R6)."""
    follower = progress(1)
    assert follower.counts_for_quorum
    follower.lost_data = True
    assert not follower.counts_for_quorum


# ---------------------------------------------------------------------------------------------- snapshot


def installing(next_index: int = 5, match_index: int = 2, *, up_to: int = 9) -> Progress:
    made = progress(next_index, match_index)
    made.become_snapshot(LogIndex(up_to))
    return made


def test_become_snapshot_stops_everything_else() -> None:
    """While a snapshot is on its way no entries are, and no pipeline begins (N3)."""
    follower = installing(3, 2)
    assert (follower.mode, follower.snapshot_index) == (Mode.SNAPSHOT, 9)
    assert not follower.window_open(requests=9, size=100)
    with pytest.raises(AssertionError, match="up to 9 is still on its way"):
        send(follower, request(1, 2, 3))
    with pytest.raises(AssertionError, match="without a success"):
        follower.become_pipeline()


@pytest.mark.parametrize("case", ["pipeline", "snapshot", "in flight", "known"])
def test_become_snapshot_only_from_an_idle_probe(case: str) -> None:
    """A snapshot follows a probe that cannot be made, and only one with something new in it."""
    follower = piping() if case == "pipeline" else installing() if case == "snapshot" else progress(5, 4)
    if case == "in flight":
        send(follower, request(1, 4, 5))
    before = (follower.mode, follower.snapshot_index)
    with pytest.raises(AssertionError, match="no snapshot up to"):
        follower.become_snapshot(LogIndex(4 if case == "known" else 20))
    assert (follower.mode, follower.snapshot_index) == before


def test_snapshot_installed() -> None:
    """What the snapshot covers is known to be held, and the probe goes on behind it (R6, N3)."""
    follower = installing(5, 2)
    follower.snapshot_installed(LogIndex(9))
    assert (follower.match_index, follower.next_index, follower.mode) == (9, 10, Mode.PROBE)
    assert (follower.snapshot_index, follower.told_commit) == (0, 9)
    assert follower.window_open(requests=1, size=1)


@pytest.mark.parametrize("make", [lambda: progress(5, 2), piping, installing])
def test_snapshot_installed_counts_once_and_for_the_one_on_its_way(make: Callable[[], Progress]) -> None:
    """No other snapshot, and none that was given up, raises the match index (R6, N3)."""
    follower = make()
    before = (follower.match_index, follower.next_index, follower.mode)
    with pytest.raises(AssertionError, match="was not on its way"):
        follower.snapshot_installed(LogIndex(8))
    assert (follower.match_index, follower.next_index, follower.mode) == before


def test_become_probe_after_a_transfer_that_failed() -> None:
    """A transfer that failed proves nothing: both indexes are what they were (R6, N3)."""
    follower = installing(5, 2)
    follower.become_probe()
    assert (follower.next_index, follower.match_index, follower.mode) == (5, 2, Mode.PROBE)
    assert follower.snapshot_index == 0
    assert follower.window_open(requests=1, size=1)
