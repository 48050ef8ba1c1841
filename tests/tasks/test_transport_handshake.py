"""The handshake: what is compared, each refusal by its code, and peers that do not play along."""

from functools import partial
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from tests.tasks.connecting import ADDRESSES, N1, N2, Pair, RawPeer, cancelled_at, make_handshake
from trio_raft._codec import encode_frame
from trio_raft._config import Limits
from trio_raft._errors import HandshakeRefused, ProtocolError
from trio_raft._handshake import Handshake, bootstrap_digest
from trio_raft._messages import (
    AppendEntries,
    EntryKind,
    Heartbeat,
    HelloReply,
    Incarnation,
    LogIndex,
    Message,
    Purpose,
    ServerId,
    Term,
)
from trio_raft._records import make_entry
from trio_raft._transport import Channel, ChannelBroken, NobodyListens
from trio_raft.abc import Transport
from trio_raft.testing._network import MemoryNetwork

DIAL_TIMEOUT = 1.0
OTHER_MEMBERS: dict[str, str] = {N1: "127.0.0.1:7001", N2: "127.0.0.1:7002", "n3": "127.0.0.1:7003"}
SMALL = Limits(max_command_bytes=1000, max_batch_bytes=1000, max_frame_body=2000)


def judged(dialling: Handshake, listening: Handshake, *, receiver: ServerId = N2) -> HelloReply:
    """n2's answer to n1's Hello."""
    return listening.judge(dialling.hello(receiver=receiver, purpose=Purpose.CONTROL))


async def refused(pair: Pair) -> tuple[HandshakeRefused, HandshakeRefused]:
    """What n1 and n2 raise when they try; both must refuse."""
    errors: dict[str, HandshakeRefused] = {}
    listener = await pair.listen()

    async def accept_one() -> None:
        with pytest.raises(HandshakeRefused) as caught:
            await pair.accept(await listener.accept())
        errors["listening"] = caught.value

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept_one)
        with pytest.raises(HandshakeRefused) as caught:
            await pair.dial()
        errors["dialling"] = caught.value
    await listener.aclose()
    assert pair.network.open_connections == 0
    return errors["dialling"], errors["listening"]


# --------------------------------------------------------------------------------------------- accepted


@pytest.mark.parametrize("purpose", Purpose)
async def test_handshake_tells_both_sides(autojump_clock: MockClock, purpose: Purpose) -> None:
    """After the handshake each end knows the other's id, incarnation, boot id and limit, and the purpose (W2)."""
    pair = Pair(listening=make_handshake(N2, limits=Limits(max_frame_body=9 << 20)))
    listener = await pair.listen()
    accepted: list[Channel] = []

    async def accept_one() -> None:
        accepted.append(await pair.accept(await listener.accept()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept_one)
        client = await pair.dial(purpose=purpose)
    (server,) = accepted
    assert described(client) == ("n2", "b2", "boot of n2", purpose, 9 << 20)
    assert described(server) == ("n1", "a1", "boot of n1", purpose, 8 << 20)


def described(channel: Channel) -> tuple[str, str, str, Purpose, int]:
    """What a channel knows of its peer."""
    return (
        channel.peer,
        channel.peer_incarnation,
        channel.peer_boot_id,
        channel.purpose,
        channel.max_frame_body,
    )


def test_digest_ignores_the_order_of_members() -> None:
    """The digest depends on which ids there are, not on the order in which they were written."""
    assert bootstrap_digest([N1, N2]) == bootstrap_digest([N2, N1])
    assert bootstrap_digest([N1, N2]) != bootstrap_digest([N1])
    assert bootstrap_digest([ServerId("ab"), ServerId("c")]) != bootstrap_digest([ServerId("a"), ServerId("bc")])


async def test_handshake_tells_the_role(autojump_clock: MockClock) -> None:
    """The dialler learns what the listener is at that moment, if that says so (E11)."""
    for role in ("leader", "follower", ""):
        listening = attrs.evolve(make_handshake(N2), role=partial(str, role))
        async with Pair(listening=listening).connected() as (dialled, accepted):
            assert (dialled.peer_role, accepted.peer_role) == (role, "")


# ---------------------------------------------------------------------------------------------- refusals

REFUSED = {
    "cluster": (make_handshake(N1, cluster_id="other"), make_handshake(N2)),
    "members": (make_handshake(N1, members=OTHER_MEMBERS, done=False), make_handshake(N2)),
    "members, done here": (make_handshake(N1), make_handshake(N2, members=OTHER_MEMBERS, done=False)),
    "incarnation": (make_handshake(N1, incarnation="wiped"), make_handshake(N2)),
    "purpose": (make_handshake(N1), make_handshake(N2, purposes=frozenset({Purpose.REPLICATION}))),
    "limits": (make_handshake(N1), make_handshake(N2, limits=SMALL)),
    "limits, other way": (make_handshake(N1, limits=SMALL), make_handshake(N2)),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_refusal_reaches_both_sides(autojump_clock: MockClock, case: str) -> None:
    """Whatever does not fit, both sides raise HandshakeRefused with its code before Raft sees a message (W2)."""
    dialling, listening = REFUSED[case]
    by_dialler, by_listener = await refused(Pair(dialling=dialling, listening=listening))
    code = case.partition(",")[0]
    assert (by_dialler.code, by_listener.code) == (code, code)
    assert (by_dialler.peer, by_listener.peer) == ("n2", "n1")
    assert by_dialler.reason.startswith(by_listener.reason)


@pytest.mark.parametrize(("lowest", "highest"), [(2, 3), (0, 0)])
def test_version_ranges_apart(lowest: int, highest: int) -> None:
    """Servers without a common protocol version refuse each other, and say which they speak (W2)."""
    hello = make_handshake(N1).hello(receiver=N2, purpose=Purpose.CONTROL)
    reply = make_handshake(N2).judge(attrs.evolve(hello, lowest_version=lowest, highest_version=highest))
    assert (reply.accepted, reply.refusal_code) == (False, "version")
    assert reply.refusal == f"n1 speaks protocol versions {lowest} to {highest}, n2 1 to 1"


def test_version_ranges_overlap() -> None:
    """The newest version that both speak is chosen (W2)."""
    hello = make_handshake(N1).hello(receiver=N2, purpose=Purpose.CONTROL)
    reply = make_handshake(N2).judge(attrs.evolve(hello, highest_version=7))
    assert (reply.accepted, reply.version) == (True, 1)


def test_receiver_other_than_meant() -> None:
    """A server that is not whom the dialler means refuses: addresses get reused (W2)."""
    reply = judged(make_handshake(N1), make_handshake(N2), receiver=ServerId("n3"))
    assert (reply.accepted, reply.refusal_code) == (False, "receiver")
    assert reply.refusal == "n1 means to talk to 'n3', this is 'n2'"


def test_receiver_of_the_same_id() -> None:
    """Two servers that both call themselves n2 refuse each other (W2)."""
    reply = judged(make_handshake(N2), make_handshake(N2))
    assert (reply.accepted, reply.refusal_code) == (False, "receiver")


def test_unknown_purpose_is_refused_by_name() -> None:
    """A purpose that this version does not know is refused, and the refusal names it (W2)."""
    hello = make_handshake(N1).hello(receiver=N2, purpose=Purpose.CONTROL)
    reply = make_handshake(N2).judge(attrs.evolve(hello, purpose="telepathy"))
    assert (reply.accepted, reply.refusal_code) == (False, "purpose")
    assert reply.refusal == "n2 serves control, replication, snapshot, not 'telepathy'"


def test_members_are_compared_during_bootstrap_only() -> None:
    """Unequal lists of members are refused while either side has not finished bootstrap, never afterwards (W2, O1)."""
    for dialler_done in (False, True):
        for listener_done in (False, True):
            reply = judged(
                make_handshake(N1, members=OTHER_MEMBERS, done=dialler_done),
                make_handshake(N2, done=listener_done),
            )
            assert reply.accepted == (dialler_done and listener_done)
            assert reply.refusal_code == ("" if reply.accepted else "members")


def test_members_refusal_names_both_lists() -> None:
    """The refusal of unequal lists carries the listener's sorted ids, and the dialler adds its own (O1)."""
    dialling = make_handshake(N1, members=OTHER_MEMBERS, done=False)
    reply = judged(dialling, make_handshake(N2))
    assert reply.refusal == "n1 was configured with other members than n2, which has n1, n2"
    with pytest.raises(HandshakeRefused) as caught:
        dialling.judge_reply(reply, receiver=N2)
    assert caught.value.reason == f"{reply.refusal}; n1 was configured with n1, n2, n3"


@pytest.mark.parametrize("known", [{}, {N1: Incarnation("a1")}])
def test_incarnation_known_or_not(known: dict[ServerId, Incarnation]) -> None:
    """A server that is not known by any incarnation, or by the one it came with, is accepted (O1)."""
    assert judged(make_handshake(N1), make_handshake(N2, known=known)).accepted


@pytest.mark.parametrize("dialler_done", [False, True])
@pytest.mark.parametrize("purpose", Purpose)
def test_incarnation_is_not_compared_during_bootstrap(purpose: Purpose, dialler_done: bool) -> None:
    """What a server knows of incarnations before its bootstrap is done refuses nobody: it may still change (O1)."""
    hello = make_handshake(N1, incarnation="wiped", done=dialler_done).hello(receiver=N2, purpose=purpose)
    assert make_handshake(N2, done=False).judge(hello).accepted


@pytest.mark.parametrize("purpose", Purpose)
def test_incarnation_of_a_first_start(purpose: Purpose) -> None:
    """A server with an emptied directory may ask who it is to others, over control alone, and nothing more (O1)."""
    newcomer = make_handshake(N1, incarnation="wiped", done=False)
    reply = make_handshake(N2).judge(newcomer.hello(receiver=N2, purpose=purpose))
    assert reply.accepted == (purpose is Purpose.CONTROL)
    assert reply.refusal_code == ("" if reply.accepted else "incarnation")


async def test_incarnation_of_the_listener(autojump_clock: MockClock) -> None:
    """A listener whose directory was emptied is refused by the dialler that knows another incarnation (W2, O1)."""
    pair = Pair(listening=make_handshake(N2, incarnation="wiped", done=False, known={}))
    listener = await pair.listen()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_until_broken, pair, listener)
        with pytest.raises(HandshakeRefused) as caught:
            await pair.dial()
    assert (caught.value.peer, caught.value.code) == ("n2", "incarnation")
    assert pair.network.open_connections == 0


async def serve_until_broken(pair: Pair, listener: trio.abc.Listener[trio.abc.Stream]) -> None:
    with pytest.raises(ChannelBroken):
        channel = await pair.accept(await listener.accept())
        await channel.receive()


REPLY = make_handshake(N2).judge(make_handshake(N1).hello(receiver=N2, purpose=Purpose.CONTROL))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"sender": ServerId("n3")}, "receiver"),
        ({"incarnation": Incarnation("wiped")}, "incarnation"),
        ({"max_frame_body": 1000}, "limits"),
    ],
)
def test_reply_does_not_fit(changes: dict[str, Any], code: str) -> None:
    """The dialler judges the listener in turn (W2)."""
    with pytest.raises(HandshakeRefused) as caught:
        make_handshake(N1).judge_reply(attrs.evolve(REPLY, **changes), receiver=N2)
    assert caught.value.code == code


@pytest.mark.parametrize("version", [0, 2])
def test_reply_with_a_version_not_offered(version: int) -> None:
    """A listener must choose a version from the range that it was offered (W2)."""
    with pytest.raises(ProtocolError, match="was not offered"):
        make_handshake(N1).judge_reply(attrs.evolve(REPLY, version=version), receiver=N2)


# ------------------------------------------------------------------------------- peers that do not play along


async def first_words(*messages: bytes) -> tuple[Exception, bytes]:
    """A stranger connects and says these: what accepting raises, and what the stranger hears."""
    pair = Pair()
    listener = await pair.listen()
    stranger = await pair.network.transport("stranger").dial(ADDRESSES[N2])
    stream = await listener.accept()
    for message in messages:
        await stranger.send_all(message)
    with pytest.raises((ProtocolError, ChannelBroken)) as caught:
        await pair.accept(stream)
    heard = b""
    while data := await stranger.receive_some():
        heard += data
    await stranger.aclose()
    assert pair.network.open_connections == 0
    return caught.value, heard


async def test_accept_something_else_than_hello(autojump_clock: MockClock) -> None:
    """A peer that begins with a Raft message is refused: Raft never sees it (W2)."""
    error, heard = await first_words(encode_frame(Heartbeat(Term(9), N1, 0), request_id=1))
    assert isinstance(error, ProtocolError)
    assert error.reason == "it began with Heartbeat instead of Hello"
    assert heard == b""


async def test_accept_entries_before_hello(autojump_clock: MockClock) -> None:
    """Before the handshake no body is taken, whatever its size (W1, W2)."""
    entries = [make_entry(index=LogIndex(1), term=Term(1), kind=EntryKind.NO_OP, data=b"")]
    request = AppendEntries(Term(1), N1, LogIndex(0), Term(0), LogIndex(0), entries)
    error, _ = await first_words(encode_frame(request, request_id=1))
    assert isinstance(error, ProtocolError)
    assert error.reason == "a frame body of 32 bytes; 0 are allowed"


@pytest.mark.parametrize("words", [b"\x16\x03\x01\x02\x00\x01", b"SSH-2.0-OpenSSH_9.6\r\n", b"\x00"])
async def test_accept_another_protocol(autojump_clock: MockClock, words: bytes) -> None:
    """Someone who speaks another protocol is sent away at the first bytes, without an answer (W1)."""
    error, heard = await first_words(words)
    assert isinstance(error, ProtocolError)
    assert heard == b""


@pytest.mark.parametrize("sent", [0, 1, 40])
async def test_accept_silence(autojump_clock: MockClock, sent: int) -> None:
    """Someone who connects and does not complete a Hello is closed when dial_timeout is over (W3)."""
    hello = make_handshake(N1).hello(receiver=N2, purpose=Purpose.CONTROL)
    start = trio.current_time()
    error, _ = await first_words(*[encode_frame(hello, request_id=1)[:sent]] * bool(sent))
    assert isinstance(error, ChannelBroken)
    assert trio.current_time() - start == pytest.approx(DIAL_TIMEOUT, abs=0.01)


async def answered_hello(*answers: Message) -> Exception:
    """A false server takes n1's Hello and says these: what dialling raises."""
    pair = Pair()
    listener = await pair.listen()

    async def answer() -> None:
        peer = RawPeer(await listener.accept())
        await peer.receive()
        for message in answers:
            await peer.send(message, request_id=1)
        assert await peer.sees_close()
        await peer.stream.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        with pytest.raises((ProtocolError, ChannelBroken)) as caught:
            await pair.dial()
    assert pair.network.open_connections == 0
    return caught.value


async def test_dial_answered_by_something_else(autojump_clock: MockClock) -> None:
    """A server that answers Hello by anything but HelloReply is left."""
    error = await answered_hello(Heartbeat(Term(9), N2, 0))
    assert isinstance(error, ProtocolError)
    assert error.reason == "it answered Hello with Heartbeat"


async def test_dial_handshake_never_answered(autojump_clock: MockClock) -> None:
    """A server that takes the connection and says nothing is left when dial_timeout is over (W3)."""
    start = trio.current_time()
    error = await answered_hello()
    assert isinstance(error, ChannelBroken)
    assert error.reason == "the handshake took longer than 1.0 s"
    assert trio.current_time() - start == pytest.approx(DIAL_TIMEOUT, abs=0.01)


async def test_dial_hangs(autojump_clock: MockClock) -> None:
    """A dial whose packets vanish ends when dial_timeout is over (W3)."""
    pair = Pair()
    listener = await pair.listen()
    pair.network.cut(N1, N2)
    start = trio.current_time()
    with pytest.raises(ChannelBroken) as caught:
        await pair.dial()
    assert caught.value.reason == "connecting took longer than 1.0 s"
    assert trio.current_time() - start == DIAL_TIMEOUT
    await listener.aclose()


class FailingTransport(Transport):
    """Every dial fails like this."""

    def __init__(self, error: Exception, *causes: Exception) -> None:
        self.error = error
        if causes:
            error.__cause__ = causes[0] if len(causes) == 1 else ExceptionGroup("all attempts failed", causes)

    async def dial(self, address: str) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        raise self.error

    async def listen(self, address: str) -> Any:
        raise AssertionError(f"nobody listens at {address} in this test: it only dials")


NO_LISTENER, NO_ROUTE = ConnectionRefusedError("refused"), OSError("no route to host")


@pytest.mark.parametrize(
    ("transport", "certain"),
    [
        (FailingTransport(ConnectionRefusedError("refused")), True),
        (FailingTransport(OSError("to n2"), NO_LISTENER), True),
        (FailingTransport(OSError("to n2"), NO_LISTENER, NO_LISTENER), True),
        (FailingTransport(OSError("to n2"), NO_LISTENER, NO_ROUTE), False),
        (FailingTransport(OSError("to n2"), NO_ROUTE), False),
        (FailingTransport(OSError("to n2")), False),
        (FailingTransport(trio.BrokenResourceError("to n2")), False),
    ],
)
async def test_dial_knows_that_nobody_listens(
    autojump_clock: MockClock, transport: FailingTransport, certain: bool
) -> None:
    """Only a refusal at every address that a name has says for certain that no process listens (E11)."""
    with pytest.raises(ChannelBroken) as caught:
        await Pair().dial(transport=transport)
    assert isinstance(caught.value, NobodyListens) is certain


async def test_dial_nobody_there(autojump_clock: MockClock) -> None:
    """A dial that is refused is a broken channel whose text names the server, its address and the reason."""
    with pytest.raises(NobodyListens) as caught:
        await Pair().dial()
    assert str(caught.value).startswith(
        "connection with n2 at 127.0.0.1:7002: connecting to 127.0.0.1:7002 failed: connection refused"
    )


# ---------------------------------------------------------------------------------------------- cancels


async def test_cancel_dial_everywhere(autojump_clock: MockClock) -> None:
    """A dial cancelled at any of its awaits leaves no connection open."""
    step = 0
    for step in range(100):
        pair = Pair(network=MemoryNetwork(buffer_bytes=64))
        listener = await pair.listen()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept_and_drop, pair, listener)
            cancelled = await cancelled_at(step, pair.dial)
            if not cancelled:
                break
            await trio.sleep(2 * DIAL_TIMEOUT)
            nursery.cancel_scope.cancel()
        assert pair.network.open_connections == 0
    assert 8 < step < 99


async def accept_and_drop(pair: Pair, listener: trio.abc.Listener[trio.abc.Stream]) -> None:
    try:
        channel = await pair.accept(await listener.accept())
        await channel.drop()
    except ChannelBroken:
        pass


async def test_cancel_accept_everywhere(autojump_clock: MockClock) -> None:
    """An accept cancelled at any of its awaits closes the stream that it was given."""
    step = 0
    for step in range(100):
        pair = Pair(network=MemoryNetwork(buffer_bytes=64))
        listener = await pair.listen()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial_and_drop, pair)
            stream = await listener.accept()
            cancelled = await cancelled_at(step, partial(accept_and_keep, pair, stream))
            if not cancelled:
                break
        assert pair.network.open_connections == 0
    assert 5 < step < 99


async def dial_and_drop(pair: Pair) -> None:
    try:
        channel = await pair.dial()
        await channel.drop()
    except ChannelBroken:
        pass


async def accept_and_keep(pair: Pair, stream: trio.abc.Stream) -> None:
    await pair.accept(stream)
