"""Two servers on a network in memory, for tests of channels: n1 dials, n2 listens."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

from trio_raft._codec import FrameDecoder, encode_frame
from trio_raft._config import Config, Limits, Timeouts
from trio_raft._environment import Environment
from trio_raft._handshake import Handshake
from trio_raft._messages import Incarnation, Message, Purpose, ServerId
from trio_raft._transport import Channel, accept, dial
from trio_raft.abc import Transport
from trio_raft.testing._environment import test_environment as make_environment
from trio_raft.testing._network import MemoryNetwork

N1, N2 = ServerId("n1"), ServerId("n2")
ADDRESSES: dict[str, str] = {N1: "127.0.0.1:7001", N2: "127.0.0.1:7002"}


def make_handshake(
    node_id: ServerId,
    *,
    cluster_id: str = "demo",
    members: Mapping[str, str] = ADDRESSES,
    incarnation: str = "",
    done: bool = True,
    known: dict[ServerId, Incarnation] | None = None,
    limits: Limits | None = None,
    purposes: frozenset[Purpose] = frozenset(Purpose),
) -> Handshake:
    """A server's side; by default both are members of one cluster, know each other and have finished bootstrap."""
    incarnations = {N1: Incarnation("a1"), N2: Incarnation("b2")} if known is None else known
    return Handshake(
        config=Config(
            node_id=node_id,
            cluster_id=cluster_id,
            members=members,
            data_directory=Path("/nowhere"),
            limits=limits or Limits(),
        ),
        incarnation=Incarnation(incarnation) if incarnation else Incarnation({"n1": "a1", "n2": "b2"}[node_id]),
        boot_id=f"boot of {node_id}",
        bootstrap_done=lambda: done,
        known_incarnation=incarnations.get,
        purposes=purposes,
    )


@attrs.define
class Pair:
    """What most tests need: a network, and how to connect over it."""

    network: MemoryNetwork = attrs.field(factory=MemoryNetwork)
    timeouts: Timeouts = attrs.field(factory=Timeouts)
    environment: Environment = attrs.field(factory=lambda: make_environment(1))
    dialling: Handshake = attrs.field(factory=lambda: make_handshake(N1))
    listening: Handshake = attrs.field(factory=lambda: make_handshake(N2))

    async def listen(self) -> trio.abc.Listener[trio.abc.Stream]:
        """n2's listener."""
        (listener,) = await self.network.transport(N2).listen(ADDRESSES[N2])
        return listener

    async def dial(self, *, purpose: Purpose = Purpose.CONTROL, transport: Transport | None = None) -> Channel:
        """n1's end of a new connection."""
        return await dial(
            transport or self.network.transport(N1),
            ADDRESSES[N2],
            self.dialling,
            receiver=N2,
            purpose=purpose,
            environment=self.environment,
            timeouts=self.timeouts,
        )

    async def accept(self, stream: trio.abc.Stream) -> Channel:
        """n2's end of a connection."""
        return await accept(stream, self.listening, environment=self.environment, timeouts=self.timeouts)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[tuple[Channel, Channel]]:
        """(n1's end, n2's end) of one connection past its handshake; both are dropped at the end."""
        listener = await self.listen()
        ends: dict[str, Channel] = {}

        async def accept_one() -> None:
            ends["listening"] = await self.accept(await listener.accept())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept_one)
            ends["dialling"] = await self.dial()
        try:
            yield ends["dialling"], ends["listening"]
        finally:
            await ends["dialling"].drop()
            await ends["listening"].drop()
            await listener.aclose()

    @asynccontextmanager
    async def raw_peer(self) -> AsyncIterator[tuple[Channel, "RawPeer"]]:
        """(n1's end, the other end as a bare stream) of a connection past its handshake."""
        listener = await self.listen()
        ends: dict[str, Channel] = {}

        async def dial_in() -> None:
            ends["dialling"] = await self.dial()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial_in)
            peer = RawPeer(await listener.accept())
            frame = await peer.receive()
            await peer.send(self.listening.judge(frame), request_id=1)  # type: ignore[arg-type]
        try:
            yield ends["dialling"], peer
        finally:
            await ends["dialling"].drop()
            await peer.stream.aclose()
            await listener.aclose()


@attrs.define
class RawPeer:
    """The far end without a channel: may send anything."""

    stream: trio.abc.Stream
    decoder: FrameDecoder = attrs.field(factory=lambda: FrameDecoder(peer="the channel", max_body=1 << 20))

    async def send(self, message: Message, *, request_id: int) -> None:
        """One sound frame."""
        await self.stream.send_all(encode_frame(message, request_id=request_id))

    async def receive(self) -> Message:
        """The next message; it must be sound."""
        while (frame := self.decoder.next_frame()) is None:
            data = await self.stream.receive_some()
            assert data, "the channel closed"
            self.decoder.feed(data)
        return frame.message  # type: ignore[union-attr]

    async def sees_close(self) -> bool:
        """Whether the connection ends; waits for it, and passes over what still comes."""
        try:
            while await self.stream.receive_some():
                pass
        except trio.BrokenResourceError:
            pass
        return True


class _CancelAtStep(trio.abc.Instrument):
    def __init__(self, scope: trio.CancelScope, step: int) -> None:
        self.task = trio.lowlevel.current_task()
        self.scope = scope
        self.left = step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            self.left -= 1
            if self.left == 0:
                self.scope.cancel()


async def cancelled_at(step: int, function: Callable[[], Awaitable[object]]) -> bool:
    """Run the function and cancel it when its task wakes for the ``step``-th time (0: before it starts).

    True if the cancel came through, False if the function finished before.
    """
    with trio.CancelScope() as scope:
        if step == 0:
            scope.cancel()
        instrument = _CancelAtStep(scope, step)
        trio.lowlevel.add_instrument(instrument)
        try:
            await function()
        finally:
            trio.lowlevel.remove_instrument(instrument)
    return scope.cancelled_caught
