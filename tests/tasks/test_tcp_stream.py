"""The stream under the TCP transport: what Trio promises of streams, over real sockets on the loopback interface."""

import socket

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_raft._config import Timeouts
from trio_raft._lanes import ThreadLanes, real_environment
from trio_raft._tcp import BULK_RECEIVE_BYTES, RECEIVE_BYTES, TCPListener, TCPStream, TCPTransport
from trio_raft._transport import Channel

MORE_THAN_A_BUFFER_HOLDS = 32 << 20


async def two_ends() -> tuple[TCPStream, TCPStream]:
    """Both ends of one connection."""
    [listener] = await TCPTransport().listen("127.0.0.1:0")
    assert isinstance(listener, TCPListener)
    dialled = await TCPTransport().dial(f"127.0.0.1:{listener.socket.getsockname()[1]}")
    assert isinstance(dialled, TCPStream)
    accepted = await listener.accept()
    await listener.aclose()
    return dialled, accepted


async def ended(*streams: TCPStream) -> None:
    for stream in streams:
        await trio.aclose_forcefully(stream)


async def test_send_fills_the_buffer_and_waits() -> None:
    """What the socket does not take at once is sent as room comes, in order; a send without waiting says how much."""
    near, far = await two_ends()
    data = bytes(range(256)) * (MORE_THAN_A_BUFFER_HOLDS // 256)
    sent = 0
    while step := near.send_nowait(data[sent:]):
        sent += step
    assert 0 < sent < len(data)
    received = bytearray()

    async def receive() -> None:
        while len(received) < len(data):
            received.extend(await far.receive_some())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.send_all, memoryview(data)[sent:])
        await wait_all_tasks_blocked()
        nursery.start_soon(receive)
    assert bytes(received) == data
    await ended(near, far)


async def test_receive_asks_for_more_while_more_comes() -> None:
    """After a receive that got all it asked for the next one asks for more, and then for less again."""
    near, far = await two_ends()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.send_all, bytes(MORE_THAN_A_BUFFER_HOLDS))
        await wait_all_tasks_blocked()
        assert len(await far.receive_some()) == RECEIVE_BYTES
        assert RECEIVE_BYTES < len(await far.receive_some()) <= BULK_RECEIVE_BYTES
        got = len(await far.receive_some(10))
        assert got == 10
        nursery.cancel_scope.cancel()
    await ended(near, far)


async def test_end_and_failure() -> None:
    """The end of the stream is nothing received; a reset is BrokenResourceError, at both calls."""
    near, far = await two_ends()
    await near.aclose()
    assert await far.receive_some() == b""
    await ended(far)
    near, far = await two_ends()
    far.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    await far.aclose()
    with pytest.raises(trio.BrokenResourceError, match="reset"):
        await near.receive_some()
    with pytest.raises(trio.BrokenResourceError):
        await near.send_all(b"x")
    await ended(near)


async def test_closed_here() -> None:
    """After closing, and while another task waits, every call says ClosedResourceError; closing twice is fine."""
    near, far = await two_ends()

    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await near.receive_some()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        await near.aclose()
        await near.aclose()
    for call in (near.receive_some, near.wait_send_all_might_not_block):
        with pytest.raises(trio.ClosedResourceError):
            await call()
    with pytest.raises(trio.ClosedResourceError):
        await near.send_all(b"x")
    with pytest.raises(trio.ClosedResourceError):
        near.send_nowait(b"x")
    assert near.peer_name == ""
    await ended(far)


async def test_cancelled_send_sends_nothing() -> None:
    """A send in a cancelled task sends nothing, although there is room."""
    near, far = await two_ends()
    with trio.CancelScope() as scope:
        scope.cancel()
        await near.send_all(b"x")
    assert scope.cancelled_caught
    await near.aclose()
    assert await far.receive_some() == b""
    await ended(far)


async def test_channel_does_not_pass_a_wrapper_by() -> None:
    """A stream that wraps ours, and passes on what it does not know, is sent through."""

    class Counting(trio.abc.Stream):
        def __init__(self, inner: TCPStream) -> None:
            self.inner, self.sent = inner, 0

        def __getattr__(self, name: str) -> object:
            return getattr(self.inner, name)

        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            self.sent += len(data)
            await self.inner.send_all(data)

        async def wait_send_all_might_not_block(self) -> None:
            await self.inner.wait_send_all_might_not_block()

        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            return await self.inner.receive_some(max_bytes)

        async def aclose(self) -> None:
            await self.inner.aclose()

    near, far = await two_ends()
    wrapper = Counting(near)
    lanes = ThreadLanes()
    channel = Channel(wrapper, peer="n2", environment=real_environment(lanes), timeouts=Timeouts())
    await channel.send_frames(b"a frame")
    assert wrapper.sent == len(b"a frame")
    await channel.drop()
    lanes.close()
    await ended(far)
