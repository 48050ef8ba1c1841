"""A transport that shows every frame in the moment in which it is sent."""

from collections.abc import Callable, Sequence

import attrs
import trio

from trio_raft._codec import Frame, FrameDecoder
from trio_raft._messages import Message
from trio_raft.abc import Transport

LARGEST_BODY = 1 << 24

Observer = Callable[[str, str, Message], None]
"""(sender, receiver, message); the receiver is empty for an answer."""


@attrs.frozen
class WatchedTransport(Transport):
    """One node's transport, with every message that the node sends shown to an observer first."""

    inner: Transport
    node_id: str
    observe: Observer

    async def dial(self, address: str) -> trio.abc.Stream:
        stream = await self.inner.dial(address)
        return WatchedStream(stream, self, address.partition(":")[0])

    async def listen(self, address: str) -> Sequence[trio.abc.Listener[trio.abc.Stream]]:
        return [WatchedListener(listener, self) for listener in await self.inner.listen(address)]


class WatchedListener(trio.abc.Listener[trio.abc.Stream]):
    """A listener whose streams are watched."""

    def __init__(self, inner: trio.abc.Listener[trio.abc.Stream], transport: WatchedTransport) -> None:
        self._inner = inner
        self._transport = transport

    async def accept(self) -> trio.abc.Stream:
        return WatchedStream(await self._inner.accept(), self._transport, "")

    async def aclose(self) -> None:
        await self._inner.aclose()


class WatchedStream(trio.abc.Stream):
    """A stream that decodes what it sends."""

    def __init__(self, inner: trio.abc.Stream, transport: WatchedTransport, receiver: str) -> None:
        self._inner = inner
        self._transport = transport
        self._receiver = receiver
        self._decoder = FrameDecoder(peer=receiver, max_body=LARGEST_BODY)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._decoder.feed(bytes(data))
        while (frame := self._decoder.next_frame()) is not None:
            assert isinstance(frame, Frame)
            self._transport.observe(self._transport.node_id, self._receiver, frame.message)
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._inner.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._inner.aclose()
