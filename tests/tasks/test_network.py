"""The network in memory: it must be a network before anything is believed that was tested on it."""

from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from trio_raft.testing._network import BACKLOG, MemoryNetwork

ADDRESS = "b:7000"


async def listen(network: MemoryNetwork, node: str = "b", address: str = ADDRESS) -> trio.abc.Listener[trio.abc.Stream]:
    (listener,) = await network.transport(node).listen(address)
    return listener


async def connect(network: MemoryNetwork) -> tuple[trio.abc.Stream, trio.abc.Stream]:
    """(a's end, b's end) of a new connection."""
    listener = await listen(network)
    dialled = await network.transport("a").dial(ADDRESS)
    accepted = await listener.accept()
    await listener.aclose()
    return dialled, accepted


async def close(network: MemoryNetwork, *streams: trio.abc.Stream) -> None:
    for stream in streams:
        await stream.aclose()
    assert network.open_connections == 0


# -------------------------------------------------------------------------------------------- a real stream


async def test_stream_passes_trios_own_checks(autojump_clock: MockClock) -> None:
    """Its streams do what Trio's conformance suite asks of any stream: closing, cancelling, blocking, clogging."""
    network = MemoryNetwork(buffer_bytes=1000)

    async def make() -> tuple[trio.abc.Stream, trio.abc.Stream]:
        return await connect(network)

    async def make_clogged() -> tuple[trio.abc.Stream, trio.abc.Stream]:
        streams = await connect(network)
        for stream in streams:
            with trio.move_on_after(0.1):
                await stream.send_all(bytes(10_000))
        return streams

    with trio.fail_after(60):
        await trio.testing.check_two_way_stream(make, make_clogged)
    assert network.open_connections == 0


async def test_delay_of_a_directed_link(autojump_clock: MockClock) -> None:
    """Bytes take the delay of their own direction."""
    network = MemoryNetwork(delay=0.001)
    network.set_delay("a", "b", 0.25)
    dialled, accepted = await connect(network)
    assert trio.current_time() == pytest.approx(0.251)
    for sender, receiver, delay in ((dialled, accepted, 0.25), (accepted, dialled, 0.001)):
        start = trio.current_time()
        await sender.send_all(b"x")
        assert trio.current_time() == start
        assert await receiver.receive_some() == b"x"
        assert trio.current_time() - start == pytest.approx(delay)
    await close(network, dialled, accepted)


async def test_order_survives_a_shorter_delay(autojump_clock: MockClock) -> None:
    """A link that becomes faster does not let later bytes overtake earlier ones."""
    network = MemoryNetwork(delay=1)
    dialled, accepted = await connect(network)
    await dialled.send_all(b"first ")
    network.set_delay("a", "b", 0.001)
    await dialled.send_all(b"second")
    assert await accepted.receive_some() == b"first second"
    await close(network, dialled, accepted)


async def test_buffer_is_bounded(autojump_clock: MockClock) -> None:
    """A sender waits once the buffer is full, until the receiver takes something."""
    network = MemoryNetwork(buffer_bytes=100)
    dialled, accepted = await connect(network)
    await dialled.send_all(bytes(100))
    with trio.move_on_after(10) as scope:
        await dialled.send_all(b"x")
    assert scope.cancelled_caught
    assert len(await accepted.receive_some(30)) == 30
    await dialled.send_all(bytes(30))
    await close(network, dialled, accepted)


# ------------------------------------------------------------------------------------------- dial and listen


async def test_dial_takes_a_round_trip(autojump_clock: MockClock) -> None:
    """Connecting takes the delay there and back."""
    network = MemoryNetwork(delay=0.01)
    streams = await connect(network)
    assert trio.current_time() == pytest.approx(0.02)
    await close(network, *streams)


async def test_dial_nobody_listens(autojump_clock: MockClock) -> None:
    """A dial to an address where nobody listens, or listened, is refused after a round trip."""
    network = MemoryNetwork()
    with pytest.raises(ConnectionRefusedError):
        await network.transport("a").dial(ADDRESS)
    await (await listen(network)).aclose()
    with pytest.raises(ConnectionRefusedError):
        await network.transport("a").dial(ADDRESS)


async def test_listen_twice(autojump_clock: MockClock) -> None:
    """An address can be listened on once at a time, and again after the listener closed."""
    network = MemoryNetwork()
    listener = await listen(network)
    with pytest.raises(OSError, match="in use"):
        await listen(network)
    await listener.aclose()
    await listener.aclose()
    await (await listen(network)).aclose()


async def test_listener_backlog(autojump_clock: MockClock) -> None:
    """Connections that nobody accepts are bounded, and break when the listener closes."""
    network = MemoryNetwork()
    listener = await listen(network)
    transport = network.transport("a")
    streams = [await transport.dial(ADDRESS) for _ in range(BACKLOG)]
    with pytest.raises(ConnectionRefusedError):
        await transport.dial(ADDRESS)
    await listener.aclose()
    for stream in streams:
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
    assert network.open_connections == 0


async def test_listener_close_wakes_accept(autojump_clock: MockClock) -> None:
    """A task inside accept learns that the listener was closed."""
    listener = await listen(MemoryNetwork())

    async def accept() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await listener.accept()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        await trio.testing.wait_all_tasks_blocked()
        await listener.aclose()


async def test_refuse_and_heal(autojump_clock: MockClock) -> None:
    """Dials to a refusing node fail until it is healed; connections that it has go on."""
    network = MemoryNetwork()
    dialled, accepted = await connect(network)
    listener = await listen(network)
    network.refuse("b")
    with pytest.raises(ConnectionRefusedError):
        await network.transport("a").dial(ADDRESS)
    await dialled.send_all(b"still here")
    assert await accepted.receive_some() == b"still here"
    network.heal()
    another = await network.transport("a").dial(ADDRESS)
    await close(network, dialled, accepted, another, await listener.accept())


async def test_refuse_one_source(autojump_clock: MockClock) -> None:
    """A node may be refused where others are not, as behind a firewall; and whether it is can be asked."""
    network = MemoryNetwork()
    listener = await listen(network)
    assert not network.refuses("a", "b")
    network.refuse("b", source="a")
    assert (network.refuses("a", "b"), network.refuses("c", "b")) == (True, False)
    with pytest.raises(ConnectionRefusedError):
        await network.transport("a").dial(ADDRESS)
    dialled = await network.transport("c").dial(ADDRESS)
    network.heal()
    assert not network.refuses("a", "b")
    await close(network, dialled, await listener.accept())


async def test_refuses_when_too_many_wait(autojump_clock: MockClock) -> None:
    """A node that accepts nothing refuses once its backlog is full, and this can be asked, too."""
    network = MemoryNetwork()
    listener = await listen(network)
    dialled: list[trio.abc.Stream] = []
    while not network.refuses("a", "b"):
        dialled.append(await network.transport("a").dial(ADDRESS))
    assert len(dialled) == BACKLOG
    with pytest.raises(ConnectionRefusedError):
        await network.transport("a").dial(ADDRESS)
    await listener.aclose()
    await close(network, *dialled)


async def test_hang_up(autojump_clock: MockClock) -> None:
    """When a process dies its machine closes its connections: the peer reads what was sent, and then the end."""
    network = MemoryNetwork()
    dialled, accepted = await connect(network)
    await accepted.send_all(b"last words")
    network.hang_up("b")
    network.freeze("b")
    with pytest.raises(trio.ClosedResourceError):
        await accepted.send_all(b"never said")
    assert await dialled.receive_some() == b"last words"
    assert await dialled.receive_some() == b""
    assert network.injected["hang up"] == 1
    await close(network, dialled, accepted)


# ------------------------------------------------------------------------------------------------- faults


async def silent(seconds: float, call: Callable[[], Awaitable[object]]) -> bool:
    """Whether the call is still waiting after so long."""
    with trio.move_on_after(seconds) as scope:
        await call()
    return scope.cancelled_caught


async def test_cut_one_way(autojump_clock: MockClock) -> None:
    """A cut keeps one direction silent, what was on its way included; the other one works on."""
    network = MemoryNetwork()
    dialled, accepted = await connect(network)
    await dialled.send_all(b"lost on the way")
    network.cut("a", "b")
    await dialled.send_all(b", and after")
    await accepted.send_all(b"fine")
    assert await dialled.receive_some() == b"fine"
    assert await silent(60, accepted.receive_some)
    await close(network, dialled, accepted)


async def test_cut_then_heal_delivers_in_order(autojump_clock: MockClock) -> None:
    """What a cut held up arrives after healing, whole and in order, and not before the link's delay."""
    network = MemoryNetwork(delay=0.01)
    dialled, accepted = await connect(network)
    network.cut("a", "b")
    await dialled.send_all(b"one ")
    await trio.sleep(5)
    await dialled.send_all(b"two")

    async def heal_later() -> None:
        await trio.sleep(5)
        network.heal()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(heal_later)
        start = trio.current_time()
        assert await accepted.receive_some() == b"one two"
        assert trio.current_time() - start == pytest.approx(5.01)
    await close(network, dialled, accepted)


async def test_cut_hides_a_close(autojump_clock: MockClock) -> None:
    """A peer that closes behind a cut leaves the other end half-open: no end arrives, and sends are swallowed."""
    network = MemoryNetwork(buffer_bytes=100)
    dialled, accepted = await connect(network)
    network.cut("a", "b")
    await dialled.aclose()
    assert await silent(60, accepted.receive_some)
    await accepted.send_all(bytes(100))
    assert await silent(60, partial(accepted.send_all, b"x"))

    async def heal_later() -> None:
        await trio.sleep(1)
        network.heal()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(heal_later)
        with pytest.raises(trio.BrokenResourceError):
            await accepted.send_all(b"x")
    assert await accepted.receive_some() == b""
    await close(network, accepted)


@pytest.mark.parametrize(("source", "target"), [("a", "b"), ("b", "a")])
async def test_cut_hangs_dials(autojump_clock: MockClock, source: str, target: str) -> None:
    """A dial hangs while either direction is cut, and succeeds after healing."""
    network = MemoryNetwork()
    listener = await listen(network)
    network.cut(source, target)
    assert await silent(60, partial(network.transport("a").dial, ADDRESS))

    async def heal_later() -> None:
        await trio.sleep(1)
        network.heal()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(heal_later)
        dialled = await network.transport("a").dial(ADDRESS)
    await close(network, dialled, await listener.accept())
    await listener.aclose()


async def test_cut_hangs_dials_to_a_dead_node(autojump_clock: MockClock) -> None:
    """Behind a cut nobody can tell a dead node from a live one: its address hangs, too."""
    network = MemoryNetwork()
    await (await listen(network)).aclose()
    network.cut("a", "b")
    assert await silent(60, partial(network.transport("a").dial, ADDRESS))


async def test_reset_breaks_both_ends(autojump_clock: MockClock) -> None:
    """A reset breaks every connection between two nodes at both ends, what was on its way is lost; others live."""
    network = MemoryNetwork()
    dialled, accepted = await connect(network)
    other_listener = await listen(network, "c", "c:7000")
    other = await network.transport("a").dial("c:7000")
    await dialled.send_all(b"lost")
    network.reset("b", "a")
    for stream in (dialled, accepted):
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"x")
    await other.send_all(b"alive")
    far = await other_listener.accept()
    assert await far.receive_some() == b"alive"
    await close(network, dialled, accepted, other, far)


async def test_same_calls_same_run(autojump_clock: MockClock) -> None:
    """Two networks that are treated alike deliver the same bytes at the same times."""

    async def run() -> list[tuple[float, bytes]]:
        network = MemoryNetwork(delay=0.003, buffer_bytes=50)
        start = trio.current_time()
        dialled, accepted = await connect(network)
        seen: list[tuple[float, bytes]] = []

        async def receive() -> None:
            while data := await accepted.receive_some(40):
                seen.append((round(trio.current_time() - start, 6), bytes(data)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await dialled.send_all(bytes(range(200)))
            network.cut("a", "b")
            await trio.sleep(1)
            network.heal()
            await dialled.aclose()
        await accepted.aclose()
        return seen

    first, second = await run(), await run()
    assert first == second
    assert b"".join(data for _, data in first) == bytes(range(200))
