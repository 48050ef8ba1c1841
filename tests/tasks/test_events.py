"""The event hub: bounded, never waiting, in order, one log line each."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio
from trio.testing import MockClock

from tests.tasks.parts import N1, N2, N3, about, settle
from trio_raft._event_hub import KEPT_FINDINGS, REMEMBERED_REFUSALS, EventHub
from trio_raft._events import (
    BadInput,
    ContactLost,
    DiskHasRoom,
    Event,
    LeaderChanged,
    LoopBlocked,
    PeerRefused,
    RoleChanged,
    TornTailCut,
)
from trio_raft._messages import ServerId
from trio_raft._records import Term
from trio_raft._snapshot_events import SnapshotIgnored


class SlowHandler(logging.Handler):
    """A log handler that takes as long as it is told, on a stopwatch of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.takes = 0.0
        self.lines: list[tuple[str, int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.now += self.takes
        self.lines.append((record.name, record.levelno, record.getMessage()))


@pytest.fixture
def handler() -> Iterator[SlowHandler]:
    handler, logger = SlowHandler(), logging.getLogger("trio_raft")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(before)


def make_hub(handler: SlowHandler | None = None) -> EventHub:
    return EventHub(N1, stopwatch=lambda: handler.now if handler else 0.0, blocked_threshold=0.05)


def changes(count: int) -> list[Event]:
    return [LeaderChanged(N2, Term(term)) for term in range(count)]


def test_publish_reaches_every_reader_in_order() -> None:
    """Every reader gets every event, in the order in which they were published."""
    hub = make_hub()
    with hub.subscribe(10) as first, hub.subscribe(10) as second:
        for event in changes(3):
            hub.publish(event)
        assert [first.receive_nowait() for _ in range(3)] == changes(3)
        assert [second.receive_nowait() for _ in range(3)] == changes(3)
        with pytest.raises(trio.WouldBlock):
            first.receive_nowait()


def test_publish_drops_the_oldest_and_counts() -> None:
    """A slow reader loses the oldest events and is told how many; nobody waits for it."""
    hub = make_hub()
    with hub.subscribe(3) as slow, hub.subscribe(100) as quick:
        for event in changes(10):
            hub.publish(event)
        assert [slow.receive_nowait() for _ in range(3)] == changes(10)[7:]
        assert (slow.dropped, quick.dropped) == (7, 0)


def test_subscribe_sees_what_comes_after() -> None:
    """A reader gets what is published from now on, until its block ends."""
    hub = make_hub()
    hub.publish(DiskHasRoom())
    with hub.subscribe(10) as events:
        hub.publish(changes(1)[0])
    hub.publish(DiskHasRoom())
    assert events.receive_nowait() == changes(1)[0]
    with pytest.raises(trio.EndOfChannel):
        events.receive_nowait()


def test_findings_come_first_to_the_first_reader() -> None:
    """What recovery found waits for a reader; later ones do not get it again, nor what else came before them."""
    hub, found = make_hub(), TornTailCut("/data/log", 512)
    hub.publish_finding(found)
    hub.publish(DiskHasRoom())
    with hub.subscribe(10) as first, hub.subscribe(10) as second:
        hub.publish(changes(1)[0])
        assert [first.receive_nowait() for _ in range(2)] == [found, changes(1)[0]]
        assert second.receive_nowait() == changes(1)[0]
        for reader in (first, second):
            with pytest.raises(trio.WouldBlock):
                reader.receive_nowait()


def test_findings_are_bounded() -> None:
    """A directory full of remains costs no memory for good: the first are kept, among them the torn tail."""
    hub = make_hub()
    found: list[Event] = [TornTailCut("/data/log", 512)]
    found += (SnapshotIgnored(f"{n}.partial", "unfinished") for n in range(20))
    for each in found:
        hub.publish_finding(each)
    with hub.subscribe(100) as events:
        assert [events.receive_nowait() for _ in range(KEPT_FINDINGS)] == found[:KEPT_FINDINGS]
        with pytest.raises(trio.WouldBlock):
            events.receive_nowait()


def test_small_buffer_counts_the_findings_that_it_loses() -> None:
    """What recovery found takes no more room than the reader has."""
    hub = make_hub()
    for number in range(5):
        hub.publish_finding(TornTailCut("/data/log", number))
    with hub.subscribe(3) as events:
        assert (events.receive_nowait(), events.dropped) == (TornTailCut("/data/log", 2), 2)


async def test_receive_waits_and_ends(nursery: trio.Nursery) -> None:
    """Iterating waits for events, and ends after the last one once the node is closed."""
    hub, seen = make_hub(), list[Event]()
    with hub.subscribe(10) as events:

        async def read() -> None:
            async for event in events:
                seen.append(event)
            seen.append(DiskHasRoom())

        nursery.start_soon(read)
        await settle()
        hub.publish(changes(1)[0])
        await settle()
        assert seen == changes(1)
        for event in changes(2):
            hub.publish(event)
        hub.close()
        await settle()
        assert seen == [*changes(1), *changes(2), DiskHasRoom()]
        with pytest.raises(trio.EndOfChannel):
            await events.receive()


async def test_receive_cancelled(autojump_clock: MockClock) -> None:
    """A cancelled receive loses no event."""
    hub = make_hub()
    with hub.subscribe(10) as events:
        with trio.move_on_after(1):
            await events.receive()
        hub.publish(changes(1)[0])
        with trio.CancelScope() as scope:
            scope.cancel()
            await events.receive()
        assert scope.cancelled_caught
        assert await events.receive() == changes(1)[0]


def test_subscribe_after_the_end() -> None:
    """Whoever subscribes to a closed node sees the end at once."""
    hub = make_hub()
    hub.close()
    with hub.subscribe(10) as events, pytest.raises(trio.EndOfChannel):
        events.receive_nowait()


def test_publish_writes_one_log_line(handler: SlowHandler) -> None:
    """Each event is one log line, with its own logger and level, and names the node."""
    hub = make_hub(handler)
    hub.publish(RoleChanged("leader", Term(3), "elected by n1, n2"))
    hub.publish(ContactLost(N2, "connection refused"))
    assert handler.lines == [
        ("trio_raft.election", logging.INFO, "n1: leader in term 3: elected by n1, n2"),
        ("trio_raft.replication", logging.WARNING, "n1: lost contact with n2: connection refused"),
    ]


def test_publish_reports_a_slow_log_handler(handler: SlowHandler) -> None:
    """A log handler that blocks the loop is itself an event, after the one that it delayed (K1)."""
    hub = make_hub(handler)
    with hub.subscribe(10) as events:
        handler.takes = 0.04
        hub.publish(DiskHasRoom())
        handler.takes = 0.3
        hub.publish(changes(1)[0])
        seen = [events.receive_nowait() for _ in range(3)]
        assert seen == [
            DiskHasRoom(),
            changes(1)[0],
            LoopBlocked("a log handler of trio_raft.election", about(0.3)),
        ]
        with pytest.raises(trio.WouldBlock):
            events.receive_nowait()
    # Logging the report would go through the very handler that is slow.
    assert len(handler.lines) == 2


def test_publish_refusal_once_per_reason() -> None:
    """A refused peer is reported once, not at each attempt, and again when the reason changes."""
    hub = make_hub()
    refused, other = PeerRefused(N2, "cluster", "belongs to another"), PeerRefused(N2, "version", "too new")
    with hub.subscribe(100) as events:
        for refusal in (refused, refused, other, other, PeerRefused(N3, "cluster", "too"), other):
            hub.publish_refusal(refusal)
        seen = [events.receive_nowait() for _ in range(3)]
        assert seen == [refused, other, PeerRefused(N3, "cluster", "too")]
        with pytest.raises(trio.WouldBlock):
            events.receive_nowait()


def test_publish_refusal_remembers_a_bounded_number() -> None:
    """Strangers may invent any number of names: what is remembered of them is bounded (W1)."""
    hub = make_hub()
    for number in range(10 * REMEMBERED_REFUSALS):
        hub.publish_refusal(PeerRefused(f"stranger {number}", "cluster", "no"))
    assert len(hub._refusals) <= REMEMBERED_REFUSALS


@contextmanager
def reading(hub: EventHub, capacity: int) -> Iterator[None]:
    with hub.subscribe(capacity):
        yield


def test_subscribe_forgets_its_reader() -> None:
    """A reader that has left costs nothing any more, even if it left by an exception."""
    hub = make_hub()
    with pytest.raises(ZeroDivisionError), reading(hub, 5):
        raise ZeroDivisionError
    assert hub._receivers == []


def test_events_speak_in_one_line() -> None:
    """An event's text is a line for a person, with the facts in it."""
    assert str(BadInput("n9 at 10.0.0.1", "sent garbage")) == "closed the connection with n9 at 10.0.0.1: sent garbage"
    assert str(LeaderChanged(None, Term(4))) == "leader of term 4 is not known"
    assert "\n" not in str(PeerRefused(ServerId("n2"), "version", "speaks 7"))
