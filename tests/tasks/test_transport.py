"""Channels under good and bad weather, on virtual time: deadlines, half-open peers, cancels, drops."""

import zlib
from collections.abc import Awaitable, Callable
from functools import partial

import attrs
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.tasks.connecting import N1, N2, Pair, cancelled_at, make_handshake
from trio_raft._codec import encode_frame
from trio_raft._config import Limits
from trio_raft._errors import ProtocolError
from trio_raft._messages import (
    AppendEntries,
    EntryKind,
    Heartbeat,
    HeartbeatReply,
    LogIndex,
    Purpose,
    ServerId,
    Term,
    Unsupported,
)
from trio_raft._records import make_entry
from trio_raft._transport import Channel, ChannelBroken, dial
from trio_raft.abc import Transport
from trio_raft.testing._network import MemoryNetwork

FRAME_TIMEOUT = 5.0
STRANGE_FRAME = bytes.fromhex("ab526674014d00000000000009000000000000000000000000000000")


def heartbeat(number: int = 0) -> Heartbeat:
    return Heartbeat(Term(3), ServerId("n1"), number)


def large_request(size: int) -> AppendEntries:
    """A request with one entry of so many bytes."""
    entries = [make_entry(index=LogIndex(1), term=Term(1), kind=EntryKind.COMMAND, data=bytes(size))]
    return AppendEntries(Term(3), ServerId("n1"), LogIndex(0), Term(0), LogIndex(0), entries)


def strange_frame() -> bytes:
    """A sound frame of type 77, request id 9, without header and body."""
    return STRANGE_FRAME + zlib.crc32(STRANGE_FRAME).to_bytes(4, "little")


async def answer_heartbeats(channel: Channel) -> None:
    """Serve until the connection ends."""
    try:
        while True:
            frame = await channel.receive()
            assert isinstance(frame.message, Heartbeat)
            reply = HeartbeatReply(frame.message.term, frame.message.round)
            await channel.send(reply, request_id=frame.request_id)
    except ChannelBroken:
        pass


async def assert_dead(channel: Channel) -> None:
    """Every call fails, and fails at once."""
    start = trio.current_time()
    for call in (channel.receive, channel.receive_batch):
        with pytest.raises(ChannelBroken):
            await call()
    with pytest.raises(ChannelBroken):
        await channel.send(heartbeat(), request_id=99)
    with pytest.raises(ChannelBroken):
        await channel.request(heartbeat())
    assert trio.current_time() == start


# ---------------------------------------------------------------------------------------------- talking


async def test_request_gets_its_reply(autojump_clock: MockClock) -> None:
    """A request returns the message that answers it, one after the other, each under a number of its own."""
    async with Pair().connected() as (client, server), trio.open_nursery() as nursery:
        nursery.start_soon(answer_heartbeats, server)
        for number in range(3):
            assert await client.request(heartbeat(number)) == HeartbeatReply(Term(3), number)
        assert client.next_request_id() == 5
        await client.drop()


async def test_request_answered_out_of_step(autojump_clock: MockClock) -> None:
    """A reply to another request is the peer's error and ends the channel (R10)."""
    async with Pair().connected() as (client, server), trio.open_nursery() as nursery:
        nursery.start_soon(partial(server.send, HeartbeatReply(Term(3), 0), request_id=77))
        with pytest.raises(ProtocolError, match="answered request 77 instead of 2"):
            await client.request(heartbeat())
        await assert_dead(client)


async def test_receive_batch_takes_all_that_arrived(autojump_clock: MockClock) -> None:
    """Frames that arrived together come out together, in order; later ones come with the next call."""
    async with Pair().connected() as (client, server):
        await client.send_frames(b"".join(encode_frame(heartbeat(number), request_id=number) for number in range(5)))
        assert [frame.request_id for frame in await server.receive_batch()] == [0, 1, 2, 3, 4]
        await client.send(heartbeat(), request_id=5)
        assert [frame.request_id for frame in await server.receive_batch()] == [5]


async def test_receive_after_batch_and_before(autojump_clock: MockClock) -> None:
    """Receiving one by one and in batches loses nothing and repeats nothing."""
    async with Pair().connected() as (client, server):
        await client.send_frames(b"".join(encode_frame(heartbeat(number), request_id=number) for number in range(4)))
        first = await server.receive()
        rest = await server.receive_batch()
        assert [frame.request_id for frame in [first, *rest]] == [0, 1, 2, 3]


async def test_send_large_frame_in_pieces(autojump_clock: MockClock) -> None:
    """A frame larger than every buffer on the way arrives whole."""
    request = large_request(1 << 20)
    async with Pair().connected() as (client, server), trio.open_nursery() as nursery:
        nursery.start_soon(partial(client.send, request, request_id=1))
        assert (await server.receive()).message == request


async def test_send_from_two_tasks(autojump_clock: MockClock) -> None:
    """Frames of two tasks never interleave, and neither task is refused."""
    request = large_request(1 << 20)
    async with Pair().connected() as (client, server), trio.open_nursery() as nursery:
        for request_id in (1, 2):
            nursery.start_soon(partial(client.send, request, request_id=request_id))
        frames = [await server.receive(), await server.receive()]
        assert sorted(frame.request_id for frame in frames) == [1, 2]


# ---------------------------------------------------------------------------------------- unknown types


async def test_unknown_type_is_answered(autojump_clock: MockClock) -> None:
    """A request of an unknown type is answered by Unsupported, and the connection goes on."""
    async with Pair().connected() as (client, server), trio.open_nursery() as nursery:
        nursery.start_soon(answer_heartbeats, server)
        await client.send_frames(strange_frame() + encode_frame(heartbeat(1), request_id=10))
        first, second = await client.receive(), await client.receive()
        assert (first.request_id, first.message) == (9, Unsupported(message_type=77))
        assert (second.request_id, second.message) == (10, HeartbeatReply(Term(3), 1))
        await client.drop()


async def test_unknown_type_while_sending(autojump_clock: MockClock) -> None:
    """The answer to an unknown type waits for a send in hand instead of falling into the middle of it."""
    async with Pair().connected() as (client, server), trio.open_nursery() as nursery:
        nursery.start_soon(partial(server.send, large_request(1 << 20), request_id=1))
        await trio.testing.wait_all_tasks_blocked()
        await client.send_frames(strange_frame())
        nursery.start_soon(answer_heartbeats, server)
        await trio.testing.wait_all_tasks_blocked()
        assert [(await client.receive()).request_id for _ in range(2)] == [1, 9]
        await client.drop()


async def test_unknown_type_as_reply(autojump_clock: MockClock) -> None:
    """On the side that dialled only replies arrive: an unknown type there is the peer's error."""
    async with Pair().raw_peer() as (channel, peer):
        await peer.stream.send_all(strange_frame())
        with pytest.raises(ProtocolError, match="unknown type 77"):
            await channel.receive()
        await assert_dead(channel)


# ------------------------------------------------------------------------------------------ bad weather


async def test_bad_bytes_end_the_channel(autojump_clock: MockClock) -> None:
    """Bytes that are no frame raise ProtocolError with the peer's name and close that connection (W1)."""
    async with Pair().raw_peer() as (channel, peer):
        await peer.stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises(ProtocolError) as caught:
            await channel.receive()
        assert caught.value.peer == "n2"
        await assert_dead(channel)
        assert await peer.sees_close()


async def test_bad_bytes_leave_other_connections_alone(autojump_clock: MockClock) -> None:
    """Bad input on one connection does nothing to another one of the same server (W1)."""
    pair = Pair()
    async with pair.raw_peer() as (bad, peer):
        (listener,) = await pair.network.transport(N2).listen("127.0.0.1:7003")
        async with trio.open_nursery() as nursery:
            good: list[Channel] = []

            async def serve() -> None:
                await answer_heartbeats(await pair.accept(await listener.accept()))

            async def dial_other() -> None:
                good.append(
                    await dial(
                        pair.network.transport(N1),
                        "127.0.0.1:7003",
                        pair.dialling,
                        receiver=N2,
                        purpose=Purpose.CONTROL,
                        environment=pair.environment,
                        timeouts=pair.timeouts,
                    )
                )

            nursery.start_soon(serve)
            await dial_other()
            await peer.stream.send_all(b"nonsense")
            with pytest.raises(ProtocolError):
                await bad.receive()
            assert await good[0].request(heartbeat(4)) == HeartbeatReply(Term(3), 4)
            await good[0].drop()


async def test_body_beyond_own_limit(autojump_clock: MockClock) -> None:
    """A body above this side's own limit is refused before it arrives (W1)."""
    limits = Limits(max_command_bytes=1000, max_batch_bytes=1000, max_frame_body=2000)
    pair = Pair(dialling=make_handshake(N1, limits=limits), listening=make_handshake(N2, limits=limits))
    async with pair.raw_peer() as (channel, peer):
        await peer.stream.send_all(encode_frame(large_request(3000), request_id=1)[:32])
        with pytest.raises(ProtocolError, match="2000 are allowed"):
            await channel.receive()


async def test_peer_closes_between_frames(autojump_clock: MockClock) -> None:
    """A peer that leaves is an end, not an error of the protocol."""
    async with Pair().raw_peer() as (channel, peer):
        await peer.stream.aclose()
        with pytest.raises(ChannelBroken) as caught:
            await channel.receive()
        assert caught.value.reason == "the peer closed it"
        await assert_dead(channel)


async def test_peer_closes_inside_a_frame(autojump_clock: MockClock) -> None:
    """A peer that leaves midway through a frame is reported as such."""
    async with Pair().raw_peer() as (channel, peer):
        await peer.stream.send_all(encode_frame(heartbeat(), request_id=1)[:-1])
        await peer.stream.aclose()
        with pytest.raises(ChannelBroken) as caught:
            await channel.receive()
        assert caught.value.reason == "the peer closed it in the middle of a frame"


async def test_connection_reset_while_receiving_and_sending(autojump_clock: MockClock) -> None:
    """A reset reaches a task that receives and one that sends as ChannelBroken, whatever the stream raised."""
    pair = Pair()
    async with pair.connected() as (client, _):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_broken, client.receive)
            nursery.start_soon(expect_broken, partial(client.send, large_request(1 << 20), request_id=1))
            await trio.testing.wait_all_tasks_blocked()
            pair.network.reset(N1, N2)
        await assert_dead(client)


async def expect_broken(call: Callable[[], Awaitable[object]]) -> None:
    with pytest.raises(ChannelBroken):
        await call()


# -------------------------------------------------------------------------------------------- deadlines


async def test_idle_receive_has_no_deadline(autojump_clock: MockClock) -> None:
    """A connection on which nothing has begun to arrive may be silent for an hour."""
    async with Pair().raw_peer() as (channel, peer), trio.open_nursery() as nursery:

        async def speak_late() -> None:
            await trio.sleep(3600)
            await peer.send(HeartbeatReply(Term(3), 1), request_id=4)

        nursery.start_soon(speak_late)
        assert (await channel.receive()).request_id == 4


@pytest.mark.parametrize("sent", [1, 3, 31, 32, -1])
async def test_frame_stops_midway(autojump_clock: MockClock, sent: int) -> None:
    """A frame that stops anywhere after its first byte ends the channel when frame_timeout is over (W1, W3)."""
    async with Pair().raw_peer() as (channel, peer):
        await peer.stream.send_all(encode_frame(heartbeat(), request_id=1)[:sent])
        start = trio.current_time()
        with pytest.raises(ChannelBroken) as caught:
            await channel.receive()
        assert caught.value.reason == "a frame did not arrive whole within 5.0 s"
        assert trio.current_time() - start == pytest.approx(FRAME_TIMEOUT + 0.0005)
        assert await peer.sees_close()


async def test_frame_trickles(autojump_clock: MockClock) -> None:
    """A byte now and then does not move a frame's deadline (W1, W3)."""
    async with Pair().raw_peer() as (channel, peer), trio.open_nursery() as nursery:

        async def trickle() -> None:
            for byte in encode_frame(heartbeat(), request_id=1):
                await peer.stream.send_all(bytes([byte]))
                await trio.sleep(1)

        nursery.start_soon(trickle)
        start = trio.current_time()
        with pytest.raises(ChannelBroken):
            await channel.receive()
        assert trio.current_time() - start == pytest.approx(FRAME_TIMEOUT + 0.0005)
        nursery.cancel_scope.cancel()


async def test_every_frame_has_its_own_deadline(autojump_clock: MockClock) -> None:
    """Frames that each take 4 s of the 5 allowed arrive one after the other."""
    async with Pair().raw_peer() as (channel, peer), trio.open_nursery() as nursery:

        async def speak_slowly() -> None:
            data = b"".join(encode_frame(heartbeat(), request_id=number) for number in range(3))
            half = len(data) // 6
            for start in range(0, len(data), 2 * half):
                # Each piece ends one frame and begins the next.
                await peer.stream.send_all(data[max(start - half, 0) : start + half])
                await trio.sleep(4)
            await peer.stream.send_all(data[-half:])

        nursery.start_soon(speak_slowly)
        assert [(await channel.receive()).request_id for _ in range(3)] == [0, 1, 2]


async def test_send_to_a_stuck_peer(autojump_clock: MockClock) -> None:
    """A peer that takes no bytes is given up when frame_timeout is over (W3)."""
    async with Pair(network=MemoryNetwork(buffer_bytes=4096)).connected() as (client, _):
        start = trio.current_time()
        with pytest.raises(ChannelBroken) as caught:
            await client.send(large_request(1 << 20), request_id=1)
        assert "the peer did not take" in caught.value.reason
        assert trio.current_time() - start == FRAME_TIMEOUT
        await assert_dead(client)


async def test_half_open_peer_is_found_by_the_caller(autojump_clock: MockClock) -> None:
    """A peer that vanished without a word answers nothing: the caller's deadline ends the wait, not a hang (W3)."""
    pair = Pair()
    async with pair.connected() as (client, server), trio.open_nursery() as nursery:
        nursery.start_soon(answer_heartbeats, server)
        await client.request(heartbeat(1))
        pair.network.cut(N2, N1)
        with trio.move_on_after(0.5) as scope:
            await client.request(heartbeat(2))
        assert scope.cancelled_caught
        # The late answer must not be taken for that of the next request.
        await assert_dead(client)
        pair.network.heal()
        await server.drop()


async def test_dead_peer_delays_nobody(autojump_clock: MockClock) -> None:
    """While a dial to a dead peer and a send to a stuck one hang, another peer is answered within a round trip (W3)."""
    pair = Pair()
    (third,) = await pair.network.transport("n3").listen("127.0.0.1:7003")
    pair.network.cut(N1, "n3")
    async with pair.connected() as (client, server), trio.open_nursery() as nursery:
        nursery.start_soon(answer_heartbeats, server)

        async def dial_dead() -> None:
            with pytest.raises(ChannelBroken, match="connecting took longer"):
                await dial(
                    pair.network.transport(N1),
                    "127.0.0.1:7003",
                    pair.dialling,
                    receiver=ServerId("n3"),
                    purpose=Purpose.CONTROL,
                    environment=pair.environment,
                    timeouts=pair.timeouts,
                )

        nursery.start_soon(dial_dead)
        await trio.testing.wait_all_tasks_blocked()
        start = trio.current_time()
        await client.request(heartbeat(1))
        assert trio.current_time() - start == pytest.approx(0.001)
        await client.drop()
    await third.aclose()


# ---------------------------------------------------------------------------------------------- cancels


async def cancel_everywhere(call: Callable[[Channel], Awaitable[object]]) -> int:
    """Cancel a call on a fresh channel at each of its awaits; returns how many there were."""
    for step in range(200):
        pair = Pair(network=MemoryNetwork(buffer_bytes=256))
        async with pair.connected() as (client, server), trio.open_nursery() as nursery:
            nursery.start_soon(echo_slowly, server)
            if not await cancelled_at(step, partial(call, client)):
                assert step > 0
                await client.request(heartbeat(7))
                nursery.cancel_scope.cancel()
                return step
            await assert_dead(client)
        assert pair.network.open_connections == 0
    raise AssertionError("the call never finished")


async def echo_slowly(channel: Channel) -> None:
    """Answer each message by a heartbeat reply that arrives in pieces."""
    try:
        while True:
            frame = await channel.receive()
            await channel.send(
                HeartbeatReply(Term(3), 7 if isinstance(frame.message, Heartbeat) else 8),
                request_id=frame.request_id,
            )
    except ChannelBroken:
        pass


async def test_cancel_send_everywhere(autojump_clock: MockClock) -> None:
    """A send cancelled at any of its awaits leaves a dead channel: no half frame is ever followed by another."""

    async def send(channel: Channel) -> None:
        await channel.send(large_request(2000), request_id=channel.next_request_id())
        await channel.receive()

    assert await cancel_everywhere(send) > 8


async def test_cancel_request_everywhere(autojump_clock: MockClock) -> None:
    """A request cancelled at any of its awaits leaves a dead channel: its late reply answers nothing else (R10)."""
    assert await cancel_everywhere(lambda channel: channel.request(large_request(1000))) > 4


async def test_cancel_receive_mid_frame(autojump_clock: MockClock) -> None:
    """A receive that is cancelled while part of a frame is held ends the channel and closes it."""
    async with Pair().raw_peer() as (channel, peer):
        await peer.stream.send_all(encode_frame(heartbeat(), request_id=1)[:20])
        with trio.move_on_after(1) as scope:
            await channel.receive()
        assert scope.cancelled_caught
        await assert_dead(channel)
        assert await peer.sees_close()


# ------------------------------------------------------------------------------------------------ drops


@attrs.define
class StuckClose(trio.abc.Stream):
    """Like ``SSLStream``: closing in good order waits for the peer, and only a cancel cuts that short."""

    inner: trio.abc.Stream
    closes: int = 0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.inner.receive_some(max_bytes)

    async def aclose(self) -> None:
        self.closes += 1
        try:
            await trio.sleep_forever()
        finally:
            await trio.aclose_forcefully(self.inner)


@attrs.define
class StuckTransport(Transport):
    """Dials streams whose close hangs."""

    inner: Transport
    dialled: list[StuckClose] = attrs.field(factory=list)

    async def dial(self, address: str) -> trio.abc.Stream:
        self.dialled.append(StuckClose(await self.inner.dial(address)))
        return self.dialled[-1]

    async def listen(self, address: str) -> list[trio.abc.Listener[trio.abc.Stream]]:
        return list(await self.inner.listen(address))


async def test_drop_does_not_wait(autojump_clock: MockClock) -> None:
    """Dropping takes no time on a stream whose orderly close would hang, and may be repeated."""
    pair = Pair()
    listener = await pair.listen()
    transport = StuckTransport(pair.network.transport(N1))
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            await answer_heartbeats(await pair.accept(await listener.accept()))

        nursery.start_soon(serve)
        channel = await pair.dial(transport=transport)
        start = trio.current_time()
        await channel.drop()
        await channel.drop()
        assert trio.current_time() == start
        await assert_dead(channel)
    assert transport.dialled[0].closes >= 1
    assert pair.network.open_connections == 0


async def test_drop_wakes_receiver_and_sender(autojump_clock: MockClock) -> None:
    """A task inside a receive and one inside a send learn at once that the channel was dropped."""
    async with Pair(network=MemoryNetwork(buffer_bytes=256)).connected() as (client, _):
        reasons: list[str] = []

        async def note(call: Callable[[], Awaitable[object]]) -> None:
            with pytest.raises(ChannelBroken) as caught:
                await call()
            reasons.append(caught.value.reason)

        with trio.fail_after(0.1):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(note, client.receive)
                nursery.start_soon(note, partial(client.send, large_request(4000), request_id=1))
                await trio.testing.wait_all_tasks_blocked()
                await client.drop()
        assert reasons == ["it was dropped", "it was dropped"]


async def test_drop_forgets_what_had_arrived(autojump_clock: MockClock) -> None:
    """Frames that had arrived but were not yet taken are not delivered after a drop."""
    async with Pair().connected() as (client, server):
        await client.send_frames(encode_frame(heartbeat(), request_id=1) * 3)
        await server.receive()
        await server.drop()
        await assert_dead(server)
