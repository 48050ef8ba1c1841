"""Serving peers: the pipeline of a replication connection, control replies that overtake, and bad input."""

from collections import deque
from typing import cast

import attrs
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.tasks.parts import (
    N1,
    N2,
    N3,
    command,
    commands,
    connect,
    lanes,
    listen_for,
    make_config,
    make_server,
    record,
    store_of,
)
from trio_raft._codec import Frame, encode_frame
from trio_raft._config import Limits
from trio_raft._environment import Lane
from trio_raft._events import BadInput
from trio_raft._leader_loss import LeaderLoss
from trio_raft._messages import (
    AppendEntries,
    AppendEntriesReply,
    BootstrapReply,
    BootstrapStatement,
    Heartbeat,
    HeartbeatReply,
    Message,
    Purpose,
    RequestVote,
    RequestVoteReply,
    ServerId,
)
from trio_raft._peers import QUEUED_REPLIES, PeerService, _QueuedReply, _Replies
from trio_raft._receiving import SnapshotService
from trio_raft._records import LogIndex, Term
from trio_raft._server import Server
from trio_raft._transport import Channel, ChannelBroken
from trio_raft.testing._network import MemoryNetwork

DISK = 1.0
"""Latency of the disk in seconds: far longer than anything on the network takes."""

WAY = 0.01
"""Ample time for a frame to arrive and be answered, in seconds."""


async def serve(
    nursery: trio.Nursery, *, settled: bool = True, limits: Limits | None = None
) -> tuple[MemoryNetwork, Server]:
    """A follower of term 1 that serves its peers, on a slow disk."""
    network = MemoryNetwork()
    config = make_config(limits=limits)
    server = await make_server(term=1, config=config, network=network, settled=settled, latency=DISK)
    nursery.start_soon(server.journal.run)
    await listen_for(server, nursery)
    return network, server


def one_entry(index: int, *, leader: ServerId = N2, term: int = 1) -> AppendEntries:
    """The request that brings the entry at ``index``."""
    prev = LogIndex(index - 1)
    prev_term = Term(1 if index > 1 else 0)
    return AppendEntries(Term(term), leader, prev, prev_term, LogIndex(0), commands(index, [1]))


def vote(term: int, *, pre_vote: bool = False, candidate: ServerId = N2) -> RequestVote:
    return RequestVote(Term(term), candidate, LogIndex(9), Term(1), pre_vote)


async def is_closed(channel: Channel) -> bool:
    """Does the other side close this connection, within a moment?"""
    with trio.move_on_after(WAY):
        try:
            await channel.receive()
        except ChannelBroken:
            return True
    return False


# ------------------------------------------------------------------------------------------- replication


async def test_replication_requests_in_flight_share_a_sync(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """While earlier replies wait for the disk the next requests are read and applied, and share its next write (W6)."""
    network, server = await serve(nursery)
    channel = await connect(network, server, Purpose.REPLICATION)
    for index in range(1, 9):
        await channel.send(one_entry(index), request_id=index)
        await trio.sleep(WAY)
    assert server.state.log.last_index == 8
    replies = [await channel.receive() for _ in range(8)]
    assert [frame.request_id for frame in replies] == list(range(1, 9))
    matches = [frame.message.match_index for frame in replies if isinstance(frame.message, AppendEntriesReply)]
    assert matches == list(range(1, 9))
    assert [len(batch) for batch in store_of(server).batches] == [1, 7]


async def test_replication_reply_waits_for_the_disk(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Nothing is acknowledged before its sync returned, probes of the same entries included (S1)."""
    network, server = await serve(nursery)
    channel = await connect(network, server, Purpose.REPLICATION)
    lanes(server.environment).stall(Lane.JOURNAL)
    await channel.send(one_entry(1), request_id=1)
    probe = AppendEntries(Term(1), N2, LogIndex(1), Term(1), LogIndex(0))
    await channel.send(probe, request_id=2)
    with trio.move_on_after(100) as scope:
        await channel.receive()
    assert scope.cancelled_caught
    assert server.state.log.last_index == 1
    assert store_of(server).on_disk == []


async def test_replication_replies_keep_their_order(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A refusal that rests on nothing does not overtake a success that waits for the disk (W6)."""
    network, server = await serve(nursery)
    channel = await connect(network, server, Purpose.REPLICATION)
    await channel.send(one_entry(1), request_id=1)
    await channel.send(one_entry(7), request_id=2)
    first, second = await channel.receive(), await channel.receive()
    assert [first.request_id, second.request_id] == [1, 2]
    assert isinstance(second.message, AppendEntriesReply)
    assert not second.message.success


async def test_replication_reader_is_bounded(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A peer that sends on while nothing is answered is no longer read: the answers that wait are bounded (R10)."""
    network, server = await serve(nursery)
    channel = await connect(network, server, Purpose.REPLICATION)
    lanes(server.environment).stall(Lane.JOURNAL)
    for index in range(1, 2 * QUEUED_REPLIES):
        await channel.send(one_entry(index), request_id=index)
        await trio.sleep(WAY)
    assert server.state.log.last_index == QUEUED_REPLIES + 1
    lanes(server.environment).resume()
    for index in range(1, 2 * QUEUED_REPLIES):
        assert (await channel.receive()).request_id == index


async def test_replication_reader_is_bounded_in_bytes(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Large requests that wait for the disk stop the reader before they are many (R10)."""
    large = 1000
    limits = Limits(
        max_command_bytes=large, max_batch_bytes=large, max_frame_body=4 * large, journal_batch_bytes=4 * large
    )
    network, server = await serve(nursery, limits=limits)
    lanes(server.environment).stall(Lane.JOURNAL)
    channel = await connect(network, server, Purpose.REPLICATION)
    for index in range(1, 20):
        request = attrs.evolve(one_entry(index), entries=[command(index, 1, bytes(large - 40))])
        await channel.send(request, request_id=index)
        await trio.sleep(WAY)
    assert server.state.log.last_index == 4


# ------------------------------------------------------------------------------------------- control


class StuffedChannel:
    """Has received everything already, and has room for all that is sent: neither makes anybody wait."""

    peer = N2

    def __init__(self, frames: list[Frame]) -> None:
        self._frames = deque(frames)
        self.sent: list[Message] = []
        self.sent_frames = b""

    async def receive(self) -> Frame:
        if not self._frames:
            raise ChannelBroken(N2, "the peer closed it")
        return self._frames.popleft()

    async def send(self, message: Message, *, request_id: int) -> None:
        self.sent.append(message)

    async def send_frames(self, frames: bytes) -> None:
        self.sent_frames += frames


async def test_control_heartbeat_overtakes_a_vote(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A heartbeat's reply never waits, a newer term included, and overtakes a vote that waits for the disk (W6)."""
    network, server = await serve(nursery)
    channel = await connect(network, server, Purpose.CONTROL)
    lanes(server.environment).stall(Lane.JOURNAL)
    await channel.send(vote(2), request_id=1)
    await channel.send(Heartbeat(Term(5), N2, 3), request_id=2)
    began = trio.current_time()
    frame = await channel.receive()
    assert (frame.request_id, trio.current_time() - began < WAY) == (2, True)
    assert frame.message == HeartbeatReply(term=Term(5), round=3)
    lanes(server.environment).resume()
    frame = await channel.receive()
    assert frame.request_id == 1
    assert isinstance(frame.message, RequestVoteReply)
    # The reply was made when the request arrived, and counts for that term alone.
    assert (frame.message.granted, frame.message.term, frame.message.requested_term) == (True, 2, 2)


async def test_control_pre_vote_never_waits(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A pre-vote is answered although the disk hangs (E2)."""
    network, server = await serve(nursery)
    channel = await connect(network, server, Purpose.CONTROL)
    lanes(server.environment).stall(Lane.JOURNAL)
    server.adopt_term(Term(3), N3)
    with trio.fail_after(WAY):
        reply = await channel.request(vote(4, pre_vote=True))
    assert isinstance(reply, RequestVoteReply)
    assert (reply.granted, reply.pre_vote, reply.term) == (True, True, 3)


async def test_control_vote_leaves_with_its_record(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A vote arrives after it was made durable, never before (E2, S1)."""
    network, server = await serve(nursery)
    channel = await connect(network, server, Purpose.CONTROL)
    began = trio.current_time()
    reply = await channel.request(vote(2))
    assert isinstance(reply, RequestVoteReply)
    assert reply.granted
    assert trio.current_time() - began >= DISK
    assert store_of(server).vote_on_disk.voted_for == N2


async def test_control_waiting_votes_are_bounded(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A peer that asks without end while the disk hangs loses its connection (W1)."""
    network, server = await serve(nursery)
    recorder = record(server)
    channel = await connect(network, server, Purpose.CONTROL)
    lanes(server.environment).stall(Lane.JOURNAL)
    with pytest.raises(ChannelBroken):
        for number in range(1, 3 * QUEUED_REPLIES):
            await channel.send(vote(2), request_id=number)
            await trio.sleep(WAY)
    [event] = recorder.of(BadInput)
    assert (event.peer, str(QUEUED_REPLIES) in event.reason) == (N2, True)


async def test_control_lets_others_run(autojump_clock: MockClock) -> None:
    """A peer whose heartbeats arrive all together is not answered in one turn of the loop (W1)."""
    frames, turns = 64 * 10, 0
    stuffed = StuffedChannel([Frame(number, Heartbeat(Term(1), N2, number), 0) for number in range(frames)])
    server = await make_server(term=1)
    service = PeerService(server, SnapshotService(server).answer, LeaderLoss(server).look)

    async def count_turns() -> None:
        nonlocal turns
        while len(stuffed.sent) < frames:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count_turns)
        with pytest.RaisesGroup(ChannelBroken):
            await service._serve_control(cast("Channel", stuffed))
    assert len(stuffed.sent) == frames
    # Ten portions have nine pauses between them; whether the other task runs before the first, Trio draws.
    assert turns >= frames / 64 - 1


async def test_control_bootstrap_statement(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A statement is answered with the own map once that is durable, the sender's incarnation in it (O1)."""
    network, server = await serve(nursery, settled=False)
    channel = await connect(network, server, Purpose.CONTROL)
    began = trio.current_time()
    reply = await channel.request(BootstrapStatement({}, False))
    assert isinstance(reply, BootstrapReply)
    assert (set(reply.incarnations), reply.done) == ({N1, N2}, False)
    assert trio.current_time() - began >= DISK


# ------------------------------------------------------------------------------------------- bad input

BAD: list[tuple[str, Purpose, Message]] = [
    ("speaks for n3", Purpose.REPLICATION, one_entry(1, leader=N3)),
    ("speaks for n3", Purpose.CONTROL, Heartbeat(Term(1), N3, 0)),
    ("speaks for n3", Purpose.CONTROL, vote(2, candidate=N3)),
    ("sent Heartbeat for replication", Purpose.REPLICATION, Heartbeat(Term(1), N2, 0)),
    ("sent AppendEntries for control", Purpose.CONTROL, one_entry(1)),
    ("sent HeartbeatReply for control", Purpose.CONTROL, HeartbeatReply(Term(1), 0)),
    ("previous entry 0 of term 9", Purpose.REPLICATION, AppendEntries(Term(9), N2, LogIndex(0), Term(9), LogIndex(0))),
    (
        "above the leader's term 1",
        Purpose.REPLICATION,
        AppendEntries(Term(1), N2, LogIndex(0), Term(0), LogIndex(0), commands(1, [2])),
    ),
]


@pytest.mark.parametrize(("reason", "purpose", "message"), BAD)
async def test_bad_input_closes_one_connection(
    reason: str, purpose: Purpose, message: Message, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """What a peer must not send closes that connection with an event; the others go on, and nothing is changed
    (W1, R9).
    """
    network, server = await serve(nursery)
    recorder = record(server)
    others = [await connect(network, server, Purpose.CONTROL, sender=sender) for sender in (N2, N3)]
    channel = await connect(network, server, purpose)
    await channel.send(message, request_id=1)
    assert await is_closed(channel)
    [event] = recorder.of(BadInput)
    assert event.peer == N2
    assert reason in event.reason
    assert (server.state.log.last_index, server.state.commit_index) == (0, 0)
    for other, sender in zip(others, (N2, N3), strict=True):
        assert isinstance(await other.request(Heartbeat(Term(0), sender, 0)), HeartbeatReply)


async def test_bad_input_garbage(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Bytes that are no frame close that connection with an event, at the start or later; the node serves on (W1)."""
    network, server = await serve(nursery)
    recorder = record(server)
    stream = await network.transport(N3).dial(server.config.listen_address)
    await stream.send_all(b"GET / HTTP/1.1\r\n\r\n" * 10)
    assert await stream.receive_some() == b""
    channel = await connect(network, server, Purpose.CONTROL)
    await channel.send_frames(b"\0" * 200)
    assert await is_closed(channel)
    assert len(recorder.of(BadInput)) == 2
    again = await connect(network, server, Purpose.CONTROL)
    assert isinstance(await again.request(Heartbeat(Term(1), N2, 0)), HeartbeatReply)


async def test_bad_input_half_a_frame(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A frame that stops in the middle closes its connection after its deadline (W1, W3)."""
    network, server = await serve(nursery)
    channel = await connect(network, server, Purpose.REPLICATION)
    await channel.send_frames(encode_frame(one_entry(1), request_id=1)[:-3])
    await trio.sleep(server.config.timeouts.frame_timeout + WAY)
    assert await is_closed(channel)


async def test_serve_too_many_connections(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Connections beyond the limit are closed at once with an event, and there is room again when one ends (W1)."""
    network, server = await serve(nursery, limits=Limits(max_connections=2))
    recorder = record(server)
    channels = [await connect(network, server, Purpose.CONTROL) for _ in range(2)]
    with pytest.raises(ChannelBroken):
        await connect(network, server, Purpose.CONTROL)
    [event] = recorder.of(BadInput)
    assert "2 connections" in event.reason
    await channels[0].drop()
    await trio.sleep(WAY)
    again = await connect(network, server, Purpose.CONTROL)
    assert isinstance(await again.request(Heartbeat(Term(1), N2, 0)), HeartbeatReply)


async def test_serve_a_broken_safety_property_is_not_the_peers_fault(autojump_clock: MockClock) -> None:
    """Where safety is broken the node ends, however politely the peer asked (paper 5.2)."""
    network = MemoryNetwork()
    server = await make_server(term=1, network=network)
    service = PeerService(server, SnapshotService(server).answer, LeaderLoss(server).look)
    [listener] = await server.transport.listen(server.config.listen_address)
    server.answer_heartbeat(Heartbeat(Term(1), N3, 0))

    async def serve_one() -> None:
        await service.serve(await listener.accept())

    with pytest.RaisesGroup(AssertionError, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_one)
            channel = await connect(network, server, Purpose.CONTROL)
            await channel.send(Heartbeat(Term(1), N2, 0), request_id=1)
            await trio.sleep(10)
    assert service._connections == 0
    await listener.aclose()


async def test_serve_peer_that_leaves_is_no_event(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A peer that closes, resets or looks in and leaves is nothing to report here."""
    network, server = await serve(nursery)
    recorder = record(server)
    channel = await connect(network, server, Purpose.REPLICATION)
    await channel.send(one_entry(1), request_id=1)
    await trio.sleep(WAY)
    await channel.drop()
    await (await network.transport(N3).dial(server.config.listen_address)).aclose()
    await connect(network, server, Purpose.CONTROL)
    network.reset(N1, N2)
    await trio.sleep(3 * DISK)
    assert recorder.of(BadInput) == []
    # What the request brought stays, whether or not anybody waits for the reply.
    assert len(store_of(server).on_disk) == 1


async def test_reply_that_is_ready_before_its_task_begins(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A write that ends between a request's arrival and the replier's first step leaves no answer behind (S1)."""
    server = await make_server(term=1)
    service = PeerService(server, SnapshotService(server).answer, LeaderLoss(server).look)
    channel, replies = StuffedChannel([]), _Replies()
    reply, position = server.answer_append(one_entry(1))
    assert position > server.journal.durable_position
    replies.put(_QueuedReply(position, 1, reply, 0))
    nursery.start_soon(server.journal.run)
    await server.journal.wait_durable(position)
    nursery.start_soon(service._reply, cast("Channel", channel), replies)
    await trio.testing.wait_all_tasks_blocked()
    assert channel.sent_frames == encode_frame(reply, request_id=1)
    nursery.cancel_scope.cancel()
