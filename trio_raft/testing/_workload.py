"""What the clients of the swarm do: a small state machine that is easy to judge, and clients that never rest.

Every value that is written is a number that nobody wrote before, so that a read says which write it saw.  There are two
shapes: ``lists`` only grow, and one read shows every write, in order; ``values`` are put, exchanged and deleted, and a
stale read shows at once.

House rule: a client records what it asked and what it was told, and judges nothing; ``check_linearizable`` does.
"""

import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

import attrs
import msgpack
import trio

from trio_raft._environment import Clock
from trio_raft._errors import LeadershipLost, Rejected
from trio_raft._node import Node
from trio_raft.abc import Committed, SavedState, StateMachine
from trio_raft.testing._client import NOT_TAKEN, Client
from trio_raft.testing._determinism import Random
from trio_raft.testing._failures import Unanswered
from trio_raft.testing._history import History
from trio_raft.testing._member import Member
from trio_raft.testing._models import Append, AppendList, CompareAndSwap, Delete, Get, KeyValue, Model, Put, Read

Shape = Literal["lists", "values"]

NOTHING = 0
"""Stands for "no value" in a swap: numbers count from 1."""

FILLINGS = (0, 1, 255)
"""Bytes that commands are made longer with."""

LONG_SHARE = 0.7
"""How often a command is made longer, where any are."""

LOCAL_PAUSE_SECONDS = 0.5
"""Between two reads of a program beside a member, on average."""

PIECE_BYTES = 1000
"""Of the state, in a snapshot."""

PADDING_KEPT = 1000
"""Bytes of each key's last command, as a part of the state."""

KEY_REFUSED = "refused"
"""Commands on this key are refused by every machine, and change nothing."""


@attrs.frozen
class Add:
    """Append ``value`` to the list ``key``."""

    key: str
    value: int
    padding: bytes = b""
    """Only there to make the command longer."""


@attrs.frozen
class Set:
    """Let ``key`` hold ``value``."""

    key: str
    value: int
    padding: bytes = b""


@attrs.frozen
class Swap:
    """Let ``key`` hold ``value`` if it holds ``expected``; the result says whether."""

    key: str
    expected: int
    value: int


@attrs.frozen
class Remove:
    """Let ``key`` hold nothing."""

    key: str


class Shelf(StateMachine[Add | Set | Swap | Remove, bool]):
    """Lists and values, by key."""

    def __init__(self) -> None:
        self.lists: dict[str, list[int]] = {}
        self.values: dict[str, int] = {}
        self.paddings: dict[str, bytes] = {}
        """Of the last command on each key: only there to make snapshots longer."""

    def apply(self, entry: Committed[Add | Set | Swap | Remove]) -> bool:
        command = entry.command
        if command.key == KEY_REFUSED:
            raise Rejected(f"{command} is refused on every server")
        if isinstance(command, Add | Set):
            self.paddings[command.key] = command.padding[:PADDING_KEPT]
        match command:
            case Add(key, value):
                self.lists.setdefault(key, []).append(value)
            case Set(key, value):
                self.values[key] = value
            case Swap(key, expected, value):
                if self.values.get(key, NOTHING) != expected:
                    return False
                self.values[key] = value
            case Remove(key):
                self.values.pop(key, None)
        return True

    def snapshot(self) -> Iterator[bytes]:
        # Encoded here and now: what comes later must not show.
        state = msgpack.packb({"lists": self.lists, "values": self.values, "paddings": self.paddings})
        return (state[start : start + PIECE_BYTES] for start in range(0, len(state), PIECE_BYTES))

    def restore(self, state: SavedState) -> None:
        found: Any = msgpack.unpackb(b"".join(state))
        self.lists, self.values, self.paddings = found["lists"], found["values"], found["paddings"]

    def __eq__(self, other: object) -> bool:
        mine = self.lists, self.values, self.paddings
        return isinstance(other, Shelf) and mine == (other.lists, other.values, other.paddings)

    __hash__ = None  # type: ignore[assignment]  # it changes


@attrs.frozen(kw_only=True)
class Workload:
    """What the clients of one run do."""

    shape: Shape = "lists"
    clients: int = 4
    """They work side by side, each on one thing at a time."""
    pause: float = 0.2
    """Seconds that a client rests between two calls, on average; 0: never."""
    keys: int = 3
    read_share: float = 0.3
    padding: int = 0
    """Bytes that are added to most commands."""
    local: bool = False
    """Is there also a program beside each member that reads there, and nowhere else?"""
    patience: float = 5.0
    """Virtual seconds after which a client gives up on a call, and makes another."""

    @property
    def names(self) -> list[str]:
        """The keys that are read and written."""
        return [f"k{number}" for number in range(self.keys)]

    @property
    def model(self) -> Model[Any, Any]:
        """By which the history is judged."""
        return AppendList() if self.shape == "lists" else KeyValue()


class Worker:
    """One client that never rests."""

    def __init__(
        self,
        client: Client[Any, Any],
        workload: Workload,
        *,
        clock: Clock,
        random: Random,
        numbers: "itertools.count[int]",
        bell: trio.lowlevel.ParkingLot,
        count: Callable[[str], None],
    ) -> None:
        """``bell``: whoever is unparked there writes at once."""
        self._client = client
        self._workload = workload
        self._clock = clock
        self._random = random
        self._numbers = numbers
        self._bell = bell
        self._count = count
        self._last: dict[str, int] = {}
        """What this client knows of each value, for swaps."""

    async def run(self) -> None:
        """Write and read until cancelled."""
        random, workload = self._random, self._workload
        while True:
            called = await self._rest(random.expovariate(1 / workload.pause) if workload.pause else 0.0)
            key = random.choice(workload.names)
            try:
                if called:
                    await self._write(key, long=True)
                elif random.random() < workload.read_share:
                    await self.read(key, within=workload.patience)
                else:
                    await self._write(key, long=random.random() < LONG_SHARE)
            except LeadershipLost:
                self._count("writes with unknown outcome")
            except Unanswered as error:
                self._count("writes with unknown outcome" if error.sent else "calls without an answer")

    async def _rest(self, seconds: float) -> bool:
        """Until it is time for the next call; True if the bell was rung before."""
        with self._clock.move_on_after(seconds):
            await self._bell.park()
            return True
        return False

    async def read(self, key: str, *, within: float) -> None:
        """One linearizable read, answered within so many virtual seconds."""
        shape = self._workload.shape
        action = Read() if shape == "lists" else Get()
        value = await self._client.read(partial(look, shape=shape, key=key), key=key, action=action, within=within)
        if isinstance(value, int | None):
            self._last[key] = value or NOTHING
        self._count("reads")

    async def _write(self, key: str, *, long: bool) -> None:
        command, action = self._draw_write(key, long=long)
        try:
            await self._client.propose(command, key=command.key, action=action, within=self._workload.patience)
        except Rejected:
            self._count("writes refused by the machine")
        else:
            self._count("writes")

    def _draw_write(self, key: str, *, long: bool) -> tuple[Add | Set | Swap | Remove, Hashable]:
        random, value = self._random, next(self._numbers)
        # Zeros too: to a log on disk a sector of zeros looks like one that was never written.
        padding = bytes([random.choice(FILLINGS)]) * (self._workload.padding if long else 0)
        kind = random.random()
        if kind < 0.03:
            # Both models take this for a write of nothing that anybody reads.
            refused = Add(KEY_REFUSED, value) if self._workload.shape == "lists" else Set(KEY_REFUSED, value)
            return refused, Append(value) if self._workload.shape == "lists" else Put(value)
        if self._workload.shape == "lists":
            return Add(key, value, padding), Append(value)
        if kind < 0.3:
            expected = self._last.get(key, NOTHING)
            self._last[key] = value
            return Swap(key, expected, value), CompareAndSwap(expected or None, value)
        if kind < 0.4:
            self._last[key] = NOTHING
            return Remove(key), Delete()
        self._last[key] = value
        return Set(key, value, padding), Put(value)


class LocalReader:
    """A program beside one member, that reads there and nowhere else, whoever leads.

    It is the one who asks a leader that was deposed and does not know it yet: a careful client has long gone elsewhere.
    """

    def __init__(
        self,
        home: Member[Any, Any],
        workload: Workload,
        *,
        clock: Clock,
        random: Random,
        history: History,
        count: Callable[[str], None],
    ) -> None:
        self._home = home
        self._workload = workload
        self._clock = clock
        self._random = random
        self._history = history
        self._count = count

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            await self._clock.sleep(self._random.expovariate(1 / LOCAL_PAUSE_SECONDS))
            life = self._home.life
            if life is not None and life.node is not None and await self._home.awake(life):
                await self._read(life.node, self._random.choice(self._workload.names))

    async def _read(self, node: Node[Any, Any], key: str) -> None:
        shape = self._workload.shape
        call = self._history.begin(f"beside {self._home.id}", key, Read() if shape == "lists" else Get())
        try:
            with self._clock.move_on_after(self._workload.patience):
                call.complete(await node.read(partial(look, shape=shape, key=key)))
                self._count("local reads")
                return
        except NOT_TAKEN:
            pass
        # A read changes nothing: without an answer it did not happen.
        call.fail()


def look(machine: Shelf, *, shape: Shape, key: str) -> tuple[int, ...] | int | None:
    """What a read of ``key`` shows."""
    return tuple(machine.lists.get(key, ())) if shape == "lists" else machine.values.get(key)


async def work(workers: Sequence[Worker | LocalReader]) -> None:
    """All of them, until cancelled."""
    async with trio.open_nursery() as nursery:
        for worker in workers:
            nursery.start_soon(worker.run)
        await trio.Event().wait()
