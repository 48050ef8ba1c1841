"""A transport that shows every message in the moment in which it is sent.

House rule: what it shows is decoded from the very bytes that leave, with the codec that the peer will use, and nothing
is changed on the way.
"""

from collections.abc import Callable, Sequence

import attrs
import trio

from trio_raft._codec import Frame, FrameDecoder
from trio_raft._messages import Message
from trio_raft.abc import Transport

LARGEST_BODY = 1 << 24
"""More than any node sends: its own limit is what counts."""

Watcher = Callable[[str, str, Message], object]
"""(sender, receiver, message); the receiver is empty where the sender was dialled by it."""


@attrs.frozen(eq=False)
class WatchedTransport(Transport):
    """One node's transport, with every message that the node sends shown to a watcher first."""

    inner: Transport
    node_id: str
    watch: Watcher

    async def dial(self, address: str) -> trio.abc.Stream:
        stream = await self.inner.dial(address)
        return _WatchedStream(stream, self, address.rpartition(":")[0])

    async def listen(self, address: str) -> Sequence[trio.abc.Listener[trio.abc.Stream]]:
        return [_WatchedListener(listener, self) for listener in await self.inner.listen(address)]


class _WatchedListener(trio.abc.Listener[trio.abc.Stream]):
    def __init__(self, inner: trio.abc.Listener[trio.abc.Stream], transport: WatchedTransport) -> None:
        self._inner = inner
        self._transport = transport

    async def accept(self) -> trio.abc.Stream:
        return _WatchedStream(await self._inner.accept(), self._transport, "")

    async def aclose(self) -> None:
        await self._inner.aclose()


class _WatchedStream(trio.abc.Stream):
    """Decodes what it sends."""

    def __init__(self, inner: trio.abc.Stream, transport: WatchedTransport, receiver: str) -> None:
        self._transport = transport
        self._receiver = receiver
        self._decoder = FrameDecoder(peer=transport.node_id, max_body=LARGEST_BODY)
        self._inner = inner

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._decoder.feed(bytes(data))
        while (frame := self._decoder.next_frame()) is not None:
            if isinstance(frame, Frame):
                self._transport.watch(self._transport.node_id, self._receiver, frame.message)
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._inner.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._inner.aclose()
