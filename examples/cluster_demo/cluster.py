"""All children together: start, stop, who leads, and what the event feed says about it.

House rule: the controller believes nothing but what the nodes say. The leader is the running node that says
it leads in the highest term.
"""

import errno
import random
import socket
from collections import deque
from collections.abc import Callable
from pathlib import Path

import attrs
import trio

from .child import Child, Condition, DidNotStart, NoAnswer

MAX_FEED_LINES = 1000
"""Events kept; older ones are forgotten."""

START_SECONDS = 30.0
"""A node must listen by then; starting three interpreters takes seconds on a busy machine."""

FIRST_PORT, LAST_PORT = 20_000, 32_000
"""Below the range from which the system takes ports for outgoing connections. A port from that range could
be taken between the end of a node and its restart, even by a peer's own attempt to dial it."""


class OutOfPatience(Exception):
    """Something did not happen in time; the text says what, and how the nodes are."""


class WrongMoment(Exception):
    """A verb that makes no sense just now, for example to resume a node that is not paused."""


@attrs.frozen
class FeedLine:
    """One line of the event feed; ``at`` is in seconds since the start."""

    at: float
    text: str


class Feed:
    """What happened, in plain words."""

    def __init__(self, *, show: Callable[[FeedLine], None]) -> None:
        self.lines: deque[FeedLine] = deque(maxlen=MAX_FEED_LINES)
        self.show = show
        """Called with every line; a live view that reads ``lines`` needs no calls."""
        self._started = trio.current_time()

    def say(self, text: str) -> None:
        """Add a line."""
        line = FeedLine(self.elapsed(), text)
        self.lines.append(line)
        self.show(line)

    def elapsed(self) -> float:
        """Seconds since the start."""
        return trio.current_time() - self._started


class Cluster:
    """The nodes n1, n2, … as child processes of this one.

    ``patience`` in seconds bounds every wait here, but for START_SECONDS; ``node_options`` go to every node.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        feed: Feed,
        directory: Path,
        *,
        size: int,
        node_options: list[str],
        patience: float,
    ) -> None:
        self.feed = feed
        self.patience = patience
        self.on_leader_stopped: Callable[[Child, str], None] = lambda _child, _how: None
        """Called when a leader was killed or paused, with which of the two."""
        self.on_majority_back: Callable[[], None] = lambda: None
        """Called when a majority of the nodes runs, and did not before."""
        self.catching_up: dict[str, int] = {}
        """Nodes that came back, and up to which entry they have to apply to have what the others had by then."""
        self._had_majority = False
        self._nursery = nursery
        self._changed = trio.lowlevel.ParkingLot()
        self._leaders_paused: list[Child] = []
        self._followers_paused: list[Child] = []
        self.led_since = 0.0
        """When the leader of the highest term was first seen, on Trio's clock."""
        self._last_leadership: tuple[int, str] = (0, "")
        names = [f"n{number}" for number in range(1, size + 1)]
        members = [f"{name}=127.0.0.1:{port}" for name, port in zip(names, free_ports(size), strict=True)]
        self.children = {
            name: Child(
                name,
                [name, *members, f"--directory={directory / name}", *node_options],
                log=directory / f"{name}.log",
                on_change=self._note_change,
                on_event=feed.say,
            )
            for name in names
        }

    async def start(self) -> None:
        """Start every node that is not running, and wait until each listens. Raises DidNotStart."""
        problems: list[DidNotStart] = []
        async with trio.open_nursery() as nursery:
            for child in self.stopped():
                nursery.start_soon(self._start, child, problems)
        if problems:
            raise problems[0]

    async def wait_leader(self) -> Child:
        """The leader, as soon as there is one."""
        while (leader := self.leader()) is None:
            await self._changed.park()
        return leader

    async def need_leader(self, purpose: str) -> Child:
        """The leader. Raises OutOfPatience."""
        with trio.move_on_after(self.patience):
            return await self.wait_leader()
        raise self.out_of_patience(f"{purpose}: no leader")

    async def wait_change(self) -> None:
        """Until any node says something, or changes its condition."""
        await self._changed.park()

    def leader(self) -> Child | None:
        """The running node that says it leads in the highest term."""
        found: Child | None = None
        for child in self.running():
            if _leads(child) and (found is None or _term(child) > _term(found)):
                found = child
        return found

    def running(self) -> list[Child]:
        """The nodes that can answer."""
        return [child for child in self.children.values() if child.condition is Condition.RUNNING]

    def stopped(self) -> list[Child]:
        """The nodes whose process has ended."""
        return [child for child in self.children.values() if child.condition is Condition.STOPPED]

    def paused(self) -> list[Child]:
        """The nodes under SIGSTOP."""
        return [child for child in self.children.values() if child.condition is Condition.PAUSED]

    def has_majority(self) -> bool:
        """Whether enough nodes run to elect a leader and to commit."""
        return len(self.running()) > len(self.children) // 2

    def count_running(self) -> str:
        """How many nodes run, in words."""
        return f"{len(self.running())} of {len(self.children)} run"

    async def choose(self, who: str, purpose: str) -> Child:
        """The node that ``leader``, ``follower`` or a name means now. Raises OutOfPatience, WrongMoment."""
        if who in self.children:
            return self.children[who]
        leader = await self.need_leader(purpose)
        if who == "leader":
            return leader
        followers = [child for child in self.running() if child is not leader]
        if not followers:
            raise WrongMoment("no follower runs")
        return followers[0]

    async def kill(self, child: Child) -> None:
        """SIGKILL. Raises WrongMoment if there is no process."""
        if child.condition is Condition.STOPPED:
            raise WrongMoment(f"{child.name} is stopped already")
        led = child is self.leader()
        if led:
            self.on_leader_stopped(child, "killed")
        self._forget(child)
        self.feed.say(f"{child.name} killed ({_described_role(child)})")
        await child.kill()
        self._say_without_majority()

    async def pause(self, child: Child) -> None:
        """SIGSTOP. Raises WrongMoment if it is not running."""
        if child.condition is not Condition.RUNNING:
            raise WrongMoment(f"{child.name} is {child.condition.value}, not running")
        self.feed.say(f"{child.name} paused ({_described_role(child)})")
        if child is self.leader():
            self.on_leader_stopped(child, "paused")
            self._leaders_paused.append(child)
        else:
            self._followers_paused.append(child)
        await child.pause()
        self._say_without_majority()

    def choose_paused(self, who: str) -> Child:
        """Whom ``resume`` means: ``leader`` is the node that led when it was paused. Raises WrongMoment."""
        if who in self.children:
            return self.children[who]
        candidates = self._leaders_paused if who == "leader" else self._followers_paused
        if not candidates:
            raise WrongMoment(f"no node that was {who} is paused")
        return candidates[-1]

    def resume(self, child: Child) -> None:
        """SIGCONT. Raises WrongMoment if it is not paused."""
        if child.condition is not Condition.PAUSED:
            raise WrongMoment(f"{child.name} is {child.condition.value}, not paused")
        self._forget(child)
        applied_before = child.status.entries_applied if child.status is not None else 0
        child.resume()
        self._nursery.start_soon(self._watch_catch_up, child, "resumed", applied_before)

    async def take_snapshot(self, purpose: str) -> None:
        """Let the leader take a snapshot; the next one, if it goes away meanwhile. Raises OutOfPatience."""
        problem = "no leader"
        with trio.move_on_after(self.patience):
            while True:
                try:
                    return await self.take_snapshot_on(await self.wait_leader())
                except NoAnswer as error:
                    problem = str(error)
                await self.wait_change()
        raise self.out_of_patience(f"{purpose}: no snapshot ({problem})")

    async def take_snapshot_on(self, child: Child) -> None:
        """Let this node take a snapshot, and say which. Raises NoAnswer."""
        answer, _ = await child.ask({"do": "snapshot"}, patience=self.patience)
        if "error" in answer:
            raise NoAnswer(f"{child.name}: {answer['error']}")
        self.feed.say(f"the newest snapshot of {child.name} is {answer['index']}, {answer['bytes']:,} bytes")

    def out_of_patience(self, what: str) -> OutOfPatience:
        """The error for a wait that took too long, with how every node is."""
        nodes = "; ".join(_described(child) for child in self.children.values())
        return OutOfPatience(f"{what} within {self.patience:g} s. {nodes}")

    async def _start(self, child: Child, problems: list[DidNotStart]) -> None:
        is_restart = self._last_leadership[0] > 0
        with trio.move_on_after(START_SECONDS) as patience:
            try:
                await self._nursery.start(child.run)
            except DidNotStart as problem:
                problems.append(problem)
            else:
                if is_restart:
                    self._nursery.start_soon(self._watch_catch_up, child, "restarted", 0)
        if patience.cancelled_caught:
            problems.append(
                DidNotStart(f"{child.name} did not listen within {START_SECONDS:g} s: {child.last_words()}")
            )

    def _forget(self, child: Child) -> None:
        for paused in (self._leaders_paused, self._followers_paused):
            if child in paused:
                paused.remove(child)

    def _say_without_majority(self) -> None:
        if not self.has_majority():
            self.feed.say(f"{self.count_running()}: no majority, so no write is acknowledged until one runs again")

    def _note_change(self) -> None:
        had_majority, self._had_majority = self._had_majority, self.has_majority()
        if self._had_majority and not had_majority:
            self.on_majority_back()
        self._note_leader()
        self._changed.unpark_all()

    def _note_leader(self) -> None:
        leader = self.leader()
        if leader is not None and leader.status is not None:
            leadership = (leader.status.term, leader.name)
            if leadership > self._last_leadership:
                self._last_leadership = leadership
                self.led_since = trio.current_time()
                self.feed.say(f"{leader.name} is leader of term {leader.status.term}")

    async def _watch_catch_up(self, child: Child, how: str, applied_before: int) -> None:
        """Say how long a node that came back takes to apply all that the others have committed by now."""
        began = trio.current_time()
        with trio.move_on_after(self.patience):
            try:
                leader = await self.wait_leader()
                reached, _ = await leader.ask({"do": "barrier"}, patience=self.patience)
                self.catching_up[child.name] = reached.get("applied", 0)
                wait_applied = {"do": "wait_applied", "index": reached.get("applied", 0)}
                caught_up, _ = await child.ask(wait_applied, patience=self.patience)
            except NoAnswer:
                return  # stopped again meanwhile
            finally:
                self.catching_up.pop(child.name, None)
            if "applied" in reached and "applied" in caught_up:
                milliseconds = (trio.current_time() - began) * 1000
                entries = caught_up["entries_applied"] - applied_before
                self.feed.say(
                    f"{child.name} {how} → caught up after {milliseconds:.0f} ms, {entries:,} entries applied"
                )


def free_ports(count: int) -> list[int]:
    """Ports on the loopback interface that nobody listens on now."""
    ports: list[int] = []
    for port in random.sample(range(FIRST_PORT, LAST_PORT), 1000):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise OSError(errno.EADDRINUSE, f"no {count} free ports between {FIRST_PORT} and {LAST_PORT}")


def _term(child: Child) -> int:
    return child.status.term if child.status is not None else 0


def _leads(child: Child) -> bool:
    return child.status is not None and child.status.role == "leader"


def _described_role(child: Child) -> str:
    if child.status is None:
        return child.condition.value
    return f"{child.status.role} of term {child.status.term}"


def _described(child: Child) -> str:
    if child.ended_by_itself:
        return f"{child.name} ended by itself: {child.last_words()}"
    if child.condition is not Condition.RUNNING or child.status is None:
        return f"{child.name} is {child.condition.value}"
    status = child.status
    leader = f"leader {status.leader}" if status.leader else f"no leader: {status.why_no_leader or 'unknown'}"
    return f"{child.name} is {status.role} of term {status.term}, {leader}"
