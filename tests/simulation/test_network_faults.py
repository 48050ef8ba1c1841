"""What can be wrong with links, connections and hosts of the network in memory."""

import math
import random

import pytest
import trio
from trio.testing import MockClock

from trio_raft.testing._determinism import Latency
from trio_raft.testing._network import MemoryListener, MemoryNetwork
from trio_raft.testing._streams import READ_DELAY

ADDRESS = "b:7000"
A_TENTH = Latency(0.1)
"""Of a second."""


class Pair:
    """A connection that a dialled and b accepted, over links of a tenth of a second."""

    def __init__(
        self, network: MemoryNetwork, listener: MemoryListener, a: trio.abc.Stream, b: trio.abc.Stream
    ) -> None:
        self.network = network
        self.listener = listener
        self.a = a
        self.b = b


async def connected(*, latency: Latency = A_TENTH, buffer_bytes: int = 1000) -> Pair:
    network = MemoryNetwork(latency=latency, buffer_bytes=buffer_bytes, generator=random.Random(1))
    listener = network.listen("b", ADDRESS)
    a = await network.transport("a").dial(ADDRESS)
    return Pair(network, listener, a, await listener.accept())


async def received(stream: trio.abc.Stream, *, within: float = 1.0) -> bytes | str:
    """What arrives within that time, or what else happens."""
    with trio.move_on_after(within):
        try:
            return bytes(await stream.receive_some())
        except trio.BrokenResourceError:
            return "broken"
    return "nothing"


async def dialled(network: MemoryNetwork, source: str = "a", *, within: float = 1.0) -> str:
    """What becomes of a dial."""
    with trio.move_on_after(within):
        try:
            await network.transport(source).dial(ADDRESS)
        except ConnectionRefusedError:
            return "refused"
        return "connected"
    return "nothing"


# -------------------------------------------------------------------------------------------- links


async def test_latency_has_a_tail(autojump_clock: MockClock) -> None:
    """Each send takes a time of its own; slow ones are counted, and none overtakes another."""
    pair = await connected(latency=Latency(0.001, jitter=0.5, tail=0.2, longest=3.0))
    times: list[float] = []
    for number in range(100):
        began = trio.current_time()
        await pair.a.send_all(bytes([number]))
        assert await pair.b.receive_some() == bytes([number])
        times.append(trio.current_time() - began)
    slow = [seconds for seconds in times if seconds > 0.0015]
    assert 8 <= len(slow) <= 35
    assert pair.network.injected["slow delivery"] >= len(slow)
    for number in range(100):
        await pair.a.send_all(bytes([number]))
    arrived = b""
    while len(arrived) < 100:
        arrived += await pair.b.receive_some()
    assert arrived == bytes(range(100))


async def test_bandwidth(autojump_clock: MockClock) -> None:
    """A narrow link delivers so many bytes per second, one send after the other; the other direction is wide."""
    pair = await connected()
    pair.network.set_bandwidth("a", "b", 100)
    await pair.a.send_all(bytes(50))
    await pair.a.send_all(bytes(100))
    began = trio.current_time()
    await pair.b.send_all(bytes(500))
    assert len(await pair.a.receive_some()) == 500
    assert trio.current_time() - began == pytest.approx(0.1)
    assert len(await pair.b.receive_some()) == 50
    assert trio.current_time() - began == pytest.approx(0.6)
    assert len(await pair.b.receive_some()) == 100
    assert trio.current_time() - began == pytest.approx(1.6)
    with pytest.raises(ValueError, match="cut it instead"):
        pair.network.set_bandwidth("a", "b", 0)


async def test_narrow_link_parts_a_send(autojump_clock: MockClock) -> None:
    """What is sent over a narrow link arrives bit by bit, not all at its end, as no stream knows of frames."""
    pair = await connected(buffer_bytes=4000)
    pair.network.set_bandwidth("a", "b", 1460)
    began = trio.current_time()
    await pair.a.send_all(bytes(3650))
    sizes: list[tuple[int, float]] = []
    while sum(size for size, _ in sizes) < 3650:
        sizes.append((len(await pair.b.receive_some()), round(trio.current_time() - began, 2)))
    assert sizes == [(1460, 1.1), (1460, 2.1), (730, 2.6)]


async def test_unsteady_link_parts_some_sends(autojump_clock: MockClock) -> None:
    """On a link with slow deliveries some sends arrive in several pieces, in order; on a steady one none does."""
    for tail in (0.0, 0.3):
        pair = await connected(latency=Latency(0.001, jitter=0.5, tail=tail, longest=0.1))
        whole, received = bytes(range(200)), 0
        for _ in range(50):
            await pair.a.send_all(whole)
            arrived = b""
            while len(arrived) < len(whole):
                arrived += await pair.b.receive_some()
                received += 1
            assert arrived == whole
        assert (received > 50) is bool(tail)
        assert (pair.network.injected.get("parted send", 0) > 0) is bool(tail)


async def test_clog(autojump_clock: MockClock) -> None:
    """Nothing moves while a link is clogged, what is on its way included; then everything does, at once."""
    pair = await connected()
    began = trio.current_time()
    await pair.a.send_all(b"before ")
    pair.network.clog("a", "b", 5)
    await pair.a.send_all(b"during")
    await pair.b.send_all(b"back")
    assert await received(pair.a) == b"back"
    assert await pair.b.receive_some() == b"before during"
    assert trio.current_time() - began == pytest.approx(5)
    assert pair.network.injected == {"clog": 1}


async def test_clog_ends_early(autojump_clock: MockClock) -> None:
    """Mending one link, and healing all, end clogs and cuts; a waiting receiver notices."""
    pair = await connected()
    for heal in (pair.network.heal, lambda: pair.network.mend("a", "b")):
        for clogged in (True, False):
            if clogged:
                pair.network.clog("a", "b", 1000)
            else:
                pair.network.cut("a", "b")
            await pair.a.send_all(b"x")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep, 3)
                assert await received(pair.b) == "nothing"
                heal()
                assert await received(pair.b) == b"x"


async def test_dial_over_a_clogged_link(autojump_clock: MockClock) -> None:
    """A dial waits for the end of a clog."""
    pair = await connected()
    began = trio.current_time()
    pair.network.clog("b", "a", 7)
    assert await dialled(pair.network, within=100) == "connected"
    assert trio.current_time() - began == pytest.approx(7)


async def test_dial_over_a_clogged_link_that_is_mended(autojump_clock: MockClock) -> None:
    """A dial goes on as soon as the clog before it is mended."""
    pair = await connected()
    began = trio.current_time()
    pair.network.clog("b", "a", 1000)
    async with trio.open_nursery() as nursery:

        async def mend_later() -> None:
            await trio.sleep(3)
            pair.network.mend("b", "a")

        nursery.start_soon(mend_later)
        assert await dialled(pair.network, within=100) == "connected"
    assert trio.current_time() - began == pytest.approx(3)


# -------------------------------------------------------------------------------------------- connections


async def test_tear(autojump_clock: MockClock) -> None:
    """A torn send arrives in part, at least a byte and never all; then both ends are broken."""
    for _ in range(20):
        pair = await connected()
        pair.network.tear("a", "b")
        await pair.a.send_all(b"0123456789")
        part = await received(pair.b)
        assert isinstance(part, bytes)
        assert b"0123456789".startswith(part)
        assert 1 <= len(part) <= 9
        assert await received(pair.b) == "broken"
        assert await received(pair.a) == "broken"
        with pytest.raises(trio.BrokenResourceError):
            await pair.a.send_all(b"x")
        assert pair.network.injected == {"torn frame": 1}
        assert pair.network.open_connections == 0


async def test_tear_is_for_so_many_sends(autojump_clock: MockClock) -> None:
    """A tear hits the next sends over the link, in one direction, and no other; healing calls it off."""
    pair = await connected()
    pair.network.tear("a", "b", times=2)
    await pair.b.send_all(b"unharmed")
    assert await received(pair.a) == b"unharmed"
    pair.network.heal()
    await pair.a.send_all(b"unharmed")
    assert await received(pair.b) == b"unharmed"
    assert pair.network.injected == {}


async def test_reset_is_counted(autojump_clock: MockClock) -> None:
    """A reset breaks each connection once, in both directions."""
    pair = await connected()
    await pair.a.send_all(b"x")
    pair.network.reset("b", "a")
    assert [await received(pair.a), await received(pair.b)] == ["broken", "broken"]
    assert pair.network.injected == {"reset": 1}


async def test_half_open(autojump_clock: MockClock) -> None:
    """One end forgets the connection: the other hears nothing of it until it sends, then a reset comes back."""
    pair = await connected()
    pair.network.half_open("a", "b")
    assert await received(pair.b) == "broken"
    with pytest.raises(trio.BrokenResourceError):
        await pair.b.send_all(b"x")
    await pair.b.aclose()
    assert await received(pair.a, within=1000) == "nothing"
    began = trio.current_time()
    await pair.a.send_all(b"x")
    assert await received(pair.a) == "broken"
    assert trio.current_time() - began == pytest.approx(0.1)
    assert pair.network.injected == {"half open": 1}
    assert pair.network.open_connections == 0


async def test_half_open_spares_new_connections(autojump_clock: MockClock) -> None:
    """Connections made afterwards work."""
    pair = await connected()
    pair.network.half_open("b", "a")
    again = await pair.network.transport("a").dial(ADDRESS)
    accepted = await pair.listener.accept()
    await again.send_all(b"x")
    assert await received(accepted) == b"x"


# -------------------------------------------------------------------------------------------- hosts


async def test_pause(autojump_clock: MockClock) -> None:
    """A paused node reads, accepts, dials and sends nothing; its machine takes what arrives, up to the buffer."""
    pair = await connected()
    pair.network.pause("b")
    await pair.a.send_all(bytes(1000))
    with trio.move_on_after(1) as full:
        await pair.a.send_all(b"x")
    assert full.cancelled_caught
    assert await received(pair.b) == "nothing"
    assert await dialled(pair.network) == "connected"
    with trio.move_on_after(1) as accepting:
        await pair.listener.accept()
    assert accepting.cancelled_caught
    assert await dialled(pair.network, source="b") == "nothing"
    with trio.move_on_after(1) as sending:
        await pair.b.send_all(b"x")
    assert sending.cancelled_caught
    assert await received(pair.a) == "nothing"
    pair.network.resume("b")
    assert await received(pair.b) == bytes(1000)
    await pair.listener.accept()
    assert pair.network.injected == {"pause": 1}


async def test_resume_reads_after_timers(autojump_clock: MockClock) -> None:
    """A node that is continued reads what has arrived a moment later: its timers come first."""
    pair = await connected()
    times: list[float] = []

    async def receive() -> None:
        await pair.b.receive_some()
        times.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        pair.network.pause("b")
        await pair.a.send_all(b"x")
        await trio.sleep(10)
        resumed = trio.current_time()
        pair.network.resume("b")
    assert times[0] - resumed == pytest.approx(READ_DELAY, rel=0.01)


async def test_freeze_says_nothing(autojump_clock: MockClock) -> None:
    """A machine without power closes nothing that others see: they hear nothing, and dials to it hang."""
    pair = await connected()
    await pair.b.send_all(b"the last word")
    pair.network.freeze("b")
    await pair.b.send_all(b"never leaves")
    await pair.b.aclose()
    await pair.listener.aclose()
    assert await received(pair.a) == b"the last word"
    assert await received(pair.a, within=1000) == "nothing"
    assert await dialled(pair.network, within=1000) == "nothing"
    await pair.a.send_all(b"to nobody")
    assert await received(pair.a, within=1000) == "nothing"
    assert pair.network.injected == {"freeze": 1}


async def test_freeze_in_the_backlog(autojump_clock: MockClock) -> None:
    """A connection that a machine had not accepted when it lost its power is not reset either."""
    pair = await connected()
    waiting = await pair.network.transport("a").dial(ADDRESS)
    pair.network.freeze("b")
    await pair.listener.aclose()
    assert await received(waiting, within=1000) == "nothing"


async def test_thaw_answers_with_a_reset(autojump_clock: MockClock) -> None:
    """A machine that is on again knows no connection: what was sent to it, then or now, is answered with a reset."""
    for sent_meanwhile in (True, False):
        pair = await connected()
        pair.network.freeze("b")
        await pair.b.aclose()
        await pair.listener.aclose()
        if sent_meanwhile:
            await pair.a.send_all(b"x")
        await trio.sleep(100)
        pair.network.thaw("b")
        assert await received(pair.a, within=1000) == ("broken" if sent_meanwhile else "nothing")
        if not sent_meanwhile:
            await pair.a.send_all(b"x")
            assert await received(pair.a) == "broken"
        assert pair.network.open_connections == 0


async def test_thaw_lets_dials_go_on(autojump_clock: MockClock) -> None:
    """Dials that hung learn that nobody listens, or connect once somebody does."""
    pair = await connected()
    pair.network.freeze("b")
    await pair.listener.aclose()
    found: list[str] = []

    async def dial() -> None:
        found.append(await dialled(pair.network, within=math.inf))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dial)
        await trio.sleep(100)
        pair.network.thaw("b")
    assert found == ["refused"]
    assert await dialled(pair.network) == "refused"
    pair.network.listen("b", ADDRESS)
    assert await dialled(pair.network) == "connected"
    assert pair.network.injected == {"freeze": 1, "refused dial": 2}


async def test_sender_that_only_sends_notices_a_reset(autojump_clock: MockClock) -> None:
    """An end that sends and does not receive learns of the reset at its next send after that has arrived."""
    pair = await connected()
    pair.network.half_open("a", "b")
    await pair.a.send_all(b"x")
    await pair.a.send_all(b"y")
    await trio.sleep(0.2)
    with pytest.raises(trio.BrokenResourceError):
        await pair.a.send_all(b"z")
