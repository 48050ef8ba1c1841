"""Channels over real sockets, on the loopback interface."""

import errno
import socket
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio

from tests.tasks.connecting import N1, N2, make_handshake
from trio_raft._config import Timeouts
from trio_raft._errors import HandshakeRefused
from trio_raft._lanes import ThreadLanes, real_environment
from trio_raft._messages import Heartbeat, HeartbeatReply, Purpose, Term
from trio_raft._tcp import TCPListener, TCPStream, TCPTransport
from trio_raft._transport import Channel, ChannelBroken, NobodyListens, accept, dial

LANES = ThreadLanes()
LANES.close()
ENVIRONMENT = real_environment(LANES)
TIMEOUTS = Timeouts()


async def listening(host: str = "127.0.0.1") -> tuple[trio.abc.Listener[trio.abc.Stream], str]:
    """A listener on a free port, and its address."""
    (listener,) = await TCPTransport().listen(f"{host}:0")
    assert isinstance(listener, TCPListener)
    return listener, f"{host}:{listener.socket.getsockname()[1]}"


async def dial_n2(address: str) -> Channel:
    return await dial(
        TCPTransport(),
        address,
        make_handshake(N1),
        receiver=N2,
        purpose=Purpose.CONTROL,
        environment=ENVIRONMENT,
        timeouts=TIMEOUTS,
    )


async def serve_one(listener: trio.abc.Listener[trio.abc.Stream], *, cluster_id: str = "demo") -> None:
    """Answer heartbeats on one connection until it ends."""
    handshake = make_handshake(N2, cluster_id=cluster_id)
    try:
        channel = await accept(await listener.accept(), handshake, environment=ENVIRONMENT, timeouts=TIMEOUTS)
        while True:
            for frame in await channel.receive_batch():
                assert isinstance(frame.message, Heartbeat)
                reply = HeartbeatReply(frame.message.term, frame.message.round)
                await channel.send(reply, request_id=frame.request_id)
    except (ChannelBroken, HandshakeRefused):
        pass


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
async def test_tcp_round_trip(host: str) -> None:
    """Two servers talk over TCP, by name and by address of either family."""
    try:
        listener, address = await listening(host)
    except (OSError, ValueError) as error:
        pytest.skip(f"{host} does not give one listener here: {error}")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_one, listener)
        channel = await dial_n2(address)
        for number in range(3):
            assert await channel.request(Heartbeat(Term(1), N1, number)) == HeartbeatReply(Term(1), number)
        await channel.drop()
    await listener.aclose()


async def test_tcp_sends_without_delay() -> None:
    """Neither end waits to fill a packet."""
    listener, address = await listening()
    dialled = await TCPTransport().dial(address)
    accepted = await listener.accept()
    for stream in (dialled, accepted):
        assert isinstance(stream, TCPStream)
        assert stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        await stream.aclose()
    await listener.aclose()


async def test_tcp_refusal_arrives_before_the_close() -> None:
    """The reason of a refusal reaches the dialler although the listener closes at once (W2)."""
    listener, address = await listening()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(serve_one, listener, cluster_id="other"))
        with pytest.raises(HandshakeRefused) as caught:
            await dial_n2(address)
    assert caught.value.code == "cluster"
    await listener.aclose()


async def test_tcp_refusal_names_the_host_without_its_port() -> None:
    """The listener's refusals of one peer read the same at each try, so that they are told once."""
    listener, address = await listening()
    reasons: list[str] = []

    async def refuse() -> None:
        with pytest.raises(HandshakeRefused) as caught:
            await accept(
                await listener.accept(),
                make_handshake(N2, cluster_id="other"),
                environment=ENVIRONMENT,
                timeouts=TIMEOUTS,
            )
        assert caught.value.peer == "n1"
        reasons.append(caught.value.reason)

    for _ in range(2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(refuse)
            with pytest.raises(HandshakeRefused):
                await dial_n2(address)
    assert reasons == ["n1 belongs to cluster 'demo', n2 to 'other' (it dialled from 127.0.0.1)"] * 2
    await listener.aclose()


async def test_tcp_nobody_there() -> None:
    """A port on which nobody listens breaks the dial with the system's reason, and that is certain (E11)."""
    listener, address = await listening()
    await listener.aclose()
    with pytest.raises(NobodyListens, match=r"connecting to .* failed: connection refused"):
        await dial_n2(address)


async def test_tcp_peer_goes_away() -> None:
    """A peer that closes its socket ends a receive in hand."""
    listener, address = await listening()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_one, listener)
        channel = await dial_n2(address)

        async def receive() -> None:
            with pytest.raises(ChannelBroken):
                await channel.receive()

        nursery.start_soon(receive)
        nursery.start_soon(channel.drop)
    await listener.aclose()


async def test_tcp_port_in_use() -> None:
    """Listening where another listens raises OSError."""
    listener, address = await listening()
    with pytest.raises(OSError, match="in use") as caught:
        await TCPTransport().listen(address)
    assert caught.value.errno == errno.EADDRINUSE
    await listener.aclose()


@pytest.mark.parametrize("address", [f"{'a' * 70}.example:7000", "a..b:7000"])
async def test_tcp_impossible_host_name(address: str) -> None:
    """A host that cannot be a name raises OSError as one that does not exist, on both sides."""
    with pytest.raises(OSError, match="is no host name"):
        await TCPTransport().dial(address)
    with pytest.raises(OSError, match="is no host name"):
        await TCPTransport().listen(address)


async def test_unix_socket_streams(tmp_path: Path) -> None:
    """A channel needs nothing from its stream but to be one: a Unix socket does (W2)."""

    @attrs.define
    class UnixTransport(TCPTransport):
        async def dial(self, address: str) -> trio.abc.Stream:
            return await trio.open_unix_socket(address)

    path = str(tmp_path / "socket")
    server = trio.socket.socket(socket.AF_UNIX)
    await server.bind(path)
    server.listen()
    listener = trio.SocketListener(server)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_one, listener)
        channel = await dial(
            UnixTransport(),
            path,
            make_handshake(N1),
            receiver=N2,
            purpose=Purpose.CONTROL,
            environment=ENVIRONMENT,
            timeouts=TIMEOUTS,
        )
        assert await channel.request(Heartbeat(Term(1), N1, 1)) == HeartbeatReply(Term(1), 1)
        await channel.drop()
    await listener.aclose()


async def test_tcp_dial_a_host_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is not found is told in words, not as a number that means something else."""

    async def unknown(*_: object, **__: object) -> trio.SocketStream:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(trio, "open_tcp_stream", unknown)
    with pytest.raises(ChannelBroken, match=r"failed: no address is known of 'nowhere\.invalid': name or service not"):
        await dial_n2("nowhere.invalid:7001")
