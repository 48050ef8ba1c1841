"""Does a transport of your own keep to its contract?  A suite for pytest, with pytest-trio.

Derive a test class, and say how to make the transport and an address::

    @pytest.mark.trio
    class TestMyTransport(TransportConformance):
        @pytest.fixture
        def transport(self):
            return MyTransport()

        @pytest.fixture
        def address(self):
            return "127.0.0.1:7199"

``address`` must be one at which nobody listens; on the suite's own clock each test takes seconds at most, also on real
time.

House rule: only the contract in ``trio_raft.abc.Transport`` is used, and the contract of Trio's streams.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio

from trio_raft._environment import TrioClock
from trio_raft.abc import Transport
from trio_raft.testing._conformance_log import NotConforming

PATIENCE_SECONDS = 10.0
"""For one test."""

LARGE_BYTES = 3 << 20
"""More than the buffers on the way hold."""

Ends = tuple[trio.abc.Stream, trio.abc.Stream]
"""The end that dialled, the end that accepted."""


class TransportConformance:
    """Derive from it, name the class ``Test…``, give it fixtures ``transport`` and ``address``; see the module."""

    async def test_bytes_arrive_both_ways(self, transport: Transport, address: str) -> None:
        """What one end sends the other receives, in both directions."""
        async with _connection(transport, address) as (dialled, accepted):
            await dialled.send_all(b"question")
            _expect("what was accepted", await _receive(accepted, 8), b"question")
            await accepted.send_all(b"answer")
            _expect("what was dialled", await _receive(dialled, 6), b"answer")

    async def test_order_is_kept(self, transport: Transport, address: str) -> None:
        """Many bytes arrive complete and in order, in both directions at once, through buffers that are too small."""
        data = b"".join(number.to_bytes(4, "big") for number in range(LARGE_BYTES // 4))
        async with _connection(transport, address) as ends, trio.open_nursery() as nursery:
            for end in ends:
                nursery.start_soon(end.send_all, data)
                nursery.start_soon(_expect_received, end, data)

    async def test_end_is_received_last(self, transport: Transport, address: str) -> None:
        """After a close the other end receives what was sent before it, and then the end."""
        async with _connection(transport, address) as (dialled, accepted):
            await dialled.send_all(b"last words")
            await dialled.aclose()
            _expect("what was sent", await _receive(accepted, 10), b"last words")
            _expect("the end", await accepted.receive_some(100), b"")

    async def test_lost_peer_is_noticed(self, transport: Transport, address: str) -> None:
        """When an end is closed by force, whoever waits on the other one learns it."""
        async with _connection(transport, address) as (dialled, accepted):
            await trio.aclose_forcefully(accepted)
            with suppress(trio.BrokenResourceError):
                _expect("the end", await dialled.receive_some(100), b"")

    async def test_closed_stream_refuses(self, transport: Transport, address: str) -> None:
        """A stream that was closed raises ClosedResourceError."""
        async with _connection(transport, address) as (dialled, _):
            await dialled.aclose()
            try:
                await dialled.send_all(b"too late")
            except trio.ClosedResourceError:
                return
            raise NotConforming("send_all on a closed stream succeeded: trio.ClosedResourceError is expected")

    async def test_connections_are_separate(self, transport: Transport, address: str) -> None:
        """Several connections to one listener carry their own bytes, and one that is stuck delays no other."""
        async with _listening(transport, address) as listener:
            ends = [await _connect(transport, address, listener) for _ in range(3)]
            with _patience():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ends[0][0].send_all, bytes(LARGE_BYTES))
                    for number, (dialled, accepted) in enumerate(ends[1:]):
                        await dialled.send_all(b"%d" % number)
                        _expect("a connection's byte", await _receive(accepted, 1), b"%d" % number)
                    nursery.cancel_scope.cancel()
            for dialled, accepted in ends:
                await trio.aclose_forcefully(dialled)
                await trio.aclose_forcefully(accepted)

    async def test_dial_to_nobody(self, transport: Transport, address: str) -> None:
        """Dialling where nobody listens raises OSError or BrokenResourceError."""
        with _patience() as patience:
            try:
                await transport.dial(address)
            except (OSError, trio.BrokenResourceError):
                return
        if patience.cancelled_caught:
            raise NotConforming(f"dialling {address}, where nobody listens, took longer than {PATIENCE_SECONDS} s")
        raise NotConforming(f"dialling {address}, where nobody listens, succeeded")

    async def test_listen_where_somebody_does(self, transport: Transport, address: str) -> None:
        """Listening at an address that is taken raises OSError."""
        async with _listening(transport, address):
            try:
                listeners = await transport.listen(address)
            except OSError:
                return
            for listener in listeners:
                await listener.aclose()
            raise NotConforming(f"{address} was taken, and could be listened at all the same: OSError is expected")

    async def test_listen_again(self, transport: Transport, address: str) -> None:
        """After a listener was closed its address can be used again at once, as a node that restarts does."""
        for _ in range(2):
            async with _connection(transport, address) as (dialled, accepted):
                await dialled.send_all(b"x")
                _expect("a byte", await _receive(accepted, 1), b"x")

    async def test_cancelled_accept(self, transport: Transport, address: str) -> None:
        """An ``accept`` that was cancelled loses no connection that is dialled later."""
        async with _listening(transport, address) as listener:
            with trio.CancelScope() as scope:
                scope.cancel()
                await listener.accept()
            dialled, accepted = await _connect(transport, address, listener)
            await dialled.send_all(b"x")
            _expect("a byte", await _receive(accepted, 1), b"x")
            await trio.aclose_forcefully(dialled)
            await trio.aclose_forcefully(accepted)


# ------------------------------------------------------------------------------------ helpers


@asynccontextmanager
async def _listening(transport: Transport, address: str) -> AsyncIterator[trio.abc.Listener[trio.abc.Stream]]:
    listeners = await transport.listen(address)
    try:
        yield listeners[0]
    finally:
        for listener in listeners:
            await trio.aclose_forcefully(listener)


@asynccontextmanager
async def _connection(transport: Transport, address: str) -> AsyncIterator[Ends]:
    """Both ends of a connection; what the block does is bounded in time."""
    async with _listening(transport, address) as listener:
        dialled, accepted = await _connect(transport, address, listener)
        try:
            with _patience() as patience:
                yield dialled, accepted
        finally:
            await trio.aclose_forcefully(dialled)
            await trio.aclose_forcefully(accepted)
        if patience.cancelled_caught:
            raise NotConforming(f"the streams did not do what they should within {PATIENCE_SECONDS:g} s")


async def _connect(transport: Transport, address: str, listener: trio.abc.Listener[trio.abc.Stream]) -> Ends:
    found: list[trio.abc.Stream] = []

    async def accept() -> None:
        found.append(await listener.accept())

    with _patience():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            dialled = await transport.dial(address)
        return dialled, found[0]
    raise NotConforming(f"no connection came about at {address} within {PATIENCE_SECONDS:g} s")


async def _receive(stream: trio.abc.Stream, size: int) -> bytes:
    """So many bytes, or fewer where the stream ends."""
    data = b""
    while len(data) < size:
        more = await stream.receive_some(size - len(data))
        if not more:
            break
        data += more
    return data


async def _expect_received(stream: trio.abc.Stream, data: bytes) -> None:
    received = bytearray()
    while len(received) < len(data):
        more = await stream.receive_some()
        if not more:
            break
        received += more
    if bytes(received) != data:
        raise NotConforming(f"of {len(data)} bytes sent, {len(received)} arrived, and not the same ones")


def _patience() -> trio.CancelScope:
    return TrioClock().move_on_after(PATIENCE_SECONDS)


def _expect(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise NotConforming(f"{what}: found {found!r}, but the contract demands {expected!r}")
