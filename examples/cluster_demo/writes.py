"""Attempts to write, and what became of each.

Every attempt has a key of its own, ``k`` and its number, and is made once. What it comes to is one byte in
the ledger, so that hours of writes stay small:

* acknowledged: the node said that it is applied. From then on it must never be missing;
* refused: the node said that it never entered the log. It must never turn up;
* unknown: nobody said anything, since the node was killed, paused or deposed meanwhile. It may turn up or
  not.

House rule: an attempt is in the ledger before it is sent; silence is never read as success or as failure.
"""

import enum
import random
from collections import deque
from collections.abc import Callable, Iterable

import attrs
import trio

from .child import Child, NoAnswer
from .cluster import Cluster

RECENT_SECONDS = 5.0
"""The live figures look back so far."""

MAX_LATENCIES = 100_000
"""Percentiles are over the last so many acknowledged writes."""

RETREAT_SECONDS = 0.05
"""After a refusal a writer waits for news from a node, but no longer than this."""


class Outcome(enum.IntEnum):
    """What became of an attempt."""

    OPEN = 0
    ACKNOWLEDGED = 1
    REFUSED = 2
    UNKNOWN = 3


class Ledger:
    """Which key was attempted, and with what outcome."""

    def __init__(self) -> None:
        self._outcomes = bytearray(1)  # attempts count from 1
        self._run = f"{random.getrandbits(32):08x}"

    @property
    def attempts(self) -> int:
        """The number of the last attempt."""
        return len(self._outcomes) - 1

    def begin(self) -> int:
        """Enter a new attempt; returns its number."""
        self._outcomes.append(Outcome.OPEN)
        return self.attempts

    def close(self, number: int, outcome: Outcome) -> None:
        """Enter what became of it."""
        self._outcomes[number] = outcome

    def count(self, outcome: Outcome) -> int:
        """How many attempts came to this."""
        return self._outcomes.count(outcome, 1)

    def numbers(self, outcome: Outcome) -> Iterable[int]:
        """The attempts that came to this, ascending."""
        return (number for number, found in enumerate(self._outcomes) if number and found == outcome)

    def outcome_of(self, key: str) -> Outcome | None:
        """What became of the attempt with this key; None if there was none."""
        digits = key.removeprefix("k")
        known = digits.isdecimal() and 1 <= int(digits) <= self.attempts and key == self.key(int(digits))
        return Outcome(self._outcomes[int(digits)]) if known else None

    def key(self, number: int) -> str:
        """The key of an attempt."""
        return f"k{number:08d}"

    def value(self, key: str) -> str:
        """The value that is written under a key; no other run writes the same."""
        return f"{self._run} wrote {key}"


@attrs.define(eq=False)
class Failover:
    """From the kill or pause of a leader to the next acknowledged write.

    Nobody can take over while no majority runs: that time is not counted.
    """

    stopped: str
    how: str
    at: float
    """From when it counts, on Trio's clock."""
    last_attempt: int
    """Only attempts after this one can end it: older ones may have been served by the stopped leader."""
    lacked_majority: bool = False
    """Whether too few nodes ran meanwhile; then it counts from when enough ran again."""
    milliseconds: float | None = None
    leader_milliseconds: float = 0.0
    """Until the leader that made it was seen; less than the whole if nobody wrote meanwhile."""
    leader_went_on: bool = False
    """Whether that leader was there all the time: the pause was too short for another one."""
    leader: Child | None = None
    """Who acknowledged that next write."""
    term: int = 0
    """In which term that was."""


class Writes:
    """Makes the attempts, many at a time, and keeps the figures."""

    def __init__(self, cluster: Cluster, *, writers: int) -> None:
        self.ledger = Ledger()
        self.failovers: list[Failover] = []
        self.seconds_spent = 0.0
        """Time during which there was something to write."""
        self.on_failover_ended: Callable[[Failover], None] = lambda _failover: None
        self._cluster = cluster
        self._writers = writers
        self._began = trio.current_time()
        self._open = 0
        """Attempts that are under way."""
        self._finishing = False
        self._settled = trio.lowlevel.ParkingLot()
        self._recent: deque[tuple[float, float]] = deque(maxlen=MAX_LATENCIES)
        """(when acknowledged, latency in seconds)."""
        cluster.on_leader_stopped = self._note_leader_stopped
        cluster.on_majority_back = self._note_majority_back

    async def write(self, count: int) -> None:
        """Attempt until ``count`` writes are acknowledged. Raises OutOfPatience when none is for too long."""
        began = trio.current_time()
        missing = count

        async def writer() -> None:
            nonlocal missing
            while missing > 0:
                missing -= 1
                if await self._attempt() is Outcome.ACKNOWLEDGED:
                    patience.deadline = trio.current_time() + self._cluster.patience
                else:
                    missing += 1

        with trio.move_on_after(self._cluster.patience) as patience:
            async with trio.open_nursery() as nursery:
                for _ in range(min(self._writers, count)):
                    nursery.start_soon(writer)
        self.seconds_spent += trio.current_time() - began
        if patience.cancelled_caught:
            raise self._cluster.out_of_patience(f"write {count}: no write was acknowledged")

    async def write_steadily(self, *, per_second: float) -> None:
        """Write until ``finish``, at most so many a second."""
        began = next_turn = trio.current_time()

        async def writer() -> None:
            nonlocal next_turn
            while True:
                # No debt: what could not be written during a failover is not made up for in a burst.
                next_turn = max(next_turn + 1 / per_second, trio.current_time())
                await trio.sleep_until(next_turn)
                await self._attempt()

        try:
            async with trio.open_nursery() as nursery:
                for _ in range(self._writers):
                    nursery.start_soon(writer)
                while self._open or not self._finishing:
                    await self._settled.park()
                nursery.cancel_scope.cancel()
        finally:
            self.seconds_spent += trio.current_time() - began

    def finish(self) -> None:
        """Begin no further attempt; ``write_steadily`` returns once those under way have ended."""
        self._finishing = True
        self._settled.unpark_all()

    def recent_rate(self) -> float:
        """Acknowledged writes per second of late."""
        return len(self._recent_latencies()) / min(RECENT_SECONDS, trio.current_time() - self._began + 0.001)

    def recent_percentile(self, fraction: float) -> float | None:
        """Seconds; None without a recent write."""
        return percentile(self._recent_latencies(), fraction)

    def percentile(self, fraction: float) -> float | None:
        """Seconds, over all latencies that are still kept."""
        return percentile([latency for _, latency in self._recent], fraction)

    def writes_per_second(self) -> float:
        """Acknowledged writes per second of the time in which there was something to write."""
        return self.ledger.count(Outcome.ACKNOWLEDGED) / self.seconds_spent if self.seconds_spent else 0.0

    async def _attempt(self) -> Outcome:
        leader = await self._cluster.wait_leader()
        if self._finishing:
            await trio.sleep_forever()  # until write_steadily cancels its writers
        number = self.ledger.begin()
        self._open += 1
        outcome = Outcome.UNKNOWN
        key = self.ledger.key(number)
        sent_at = trio.current_time()
        try:
            request = {"do": "write", "key": key, "value": self.ledger.value(key)}
            answer, _ = await leader.ask(request, patience=self._cluster.patience)
            outcome = Outcome[answer.get("outcome", "unknown").upper()]
        except NoAnswer:
            pass
        finally:
            # Cancelled, too: the request may be on its way.
            self.ledger.close(number, outcome)
            self._open -= 1
            self._settled.unpark_all()
        if outcome is Outcome.ACKNOWLEDGED:
            self._note_acknowledged(number, leader, sent_at)
        else:
            with trio.move_on_after(RETREAT_SECONDS):
                await self._cluster.wait_change()
        return outcome

    def _note_acknowledged(self, number: int, leader: Child, sent_at: float) -> None:
        now = trio.current_time()
        self._recent.append((now, now - sent_at))
        for failover in reversed(self.failovers):
            if failover.milliseconds is not None:
                break
            if number > failover.last_attempt:
                failover.milliseconds = (now - failover.at) * 1000
                led_since = self._cluster.led_since
                failover.leader_went_on = led_since <= failover.at
                failover.leader_milliseconds = ((now if failover.leader_went_on else led_since) - failover.at) * 1000
                failover.leader = leader
                failover.term = leader.status.term if leader.status else 0
                self.on_failover_ended(failover)

    def _note_leader_stopped(self, leader: Child, how: str) -> None:
        self.failovers.append(Failover(leader.name, how, trio.current_time(), self.ledger.attempts))

    def _note_majority_back(self) -> None:
        for failover in self.failovers:
            if failover.milliseconds is None:
                failover.at = trio.current_time()
                failover.lacked_majority = True

    def _recent_latencies(self) -> list[float]:
        since = trio.current_time() - RECENT_SECONDS
        latencies = []
        for at, latency in reversed(self._recent):
            if at < since:
                break
            latencies.append(latency)
        return latencies


def percentile(values: list[float], fraction: float) -> float | None:
    """The smallest value that is not below ``fraction`` of all; None if there are none."""
    if not values:
        return None
    return sorted(values)[min(len(values) - 1, int(len(values) * fraction))]
