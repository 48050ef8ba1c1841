"""Sending a snapshot to a follower: from where it wants it, at the rate that is allowed, until it says it is there."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import MockClock

from tests.tasks.parts import (
    N1,
    N2,
    Recorder,
    ScriptedPeer,
    lanes,
    lead_term,
    make_config,
    make_server,
    receive_append,
    record,
    until,
)
from tests.tasks.saving import SnapshotsUnderControl, opened_store, save
from trio_raft import _sending
from trio_raft._codec import Frame
from trio_raft._config import Snapshots
from trio_raft._environment import Lane
from trio_raft._errors import SnapshotCorrupt, StorageError
from trio_raft._follower import LONGEST_PAUSE, Follower, Offer
from trio_raft._messages import (
    AppendEntriesReply,
    InstallSnapshot,
    InstallSnapshotReply,
    Purpose,
    ServerId,
    SnapshotStatus,
)
from trio_raft._peers import dial_peer
from trio_raft._records import LogIndex, Term
from trio_raft._replication import replicate_to
from trio_raft._rules.progress import Mode
from trio_raft._rules.state import Role
from trio_raft._server import Server
from trio_raft._snapshot_events import SnapshotFailed, SnapshotSending
from trio_raft._transport import Channel, ChannelBroken
from trio_raft.abc import SnapshotPoint, StoredSnapshot
from trio_raft.testing._network import MemoryNetwork

WANTED, FINISHING, INSTALLED, REFUSED = (
    SnapshotStatus.WANTED,
    SnapshotStatus.FINISHING,
    SnapshotStatus.INSTALLED,
    SnapshotStatus.REFUSED,
)

PIECE = 100
SETTINGS = Snapshots(chunk_bytes=PIECE, bytes_per_second=0, trailing_entries=0, threshold_entries=0)


@attrs.define
class Scene:
    """n1 leads term 2 with a log that begins behind its snapshot of entry 20; n2 follows a script and lacks all."""

    server: Server
    store: SnapshotsUnderControl
    snapshot: StoredSnapshot
    peer: ScriptedPeer
    recorder: Recorder

    @property
    def follower(self) -> Follower:
        return self.server.followers[N2]

    async def asked(self) -> "Script":
        """The next transfer, whose question was read."""
        channel = await self.peer.channel(Purpose.SNAPSHOT)
        script = Script(channel)
        await script.next()
        assert (script.last.data, script.last.offset) == (b"", 0)
        return script


@attrs.define
class Script:
    """The follower's end of one transfer."""

    channel: Channel
    request_id: int = 0
    received: list[InstallSnapshot] = attrs.field(factory=list)

    @property
    def last(self) -> InstallSnapshot:
        return self.received[-1]

    async def next(self) -> InstallSnapshot:
        frame: Frame = await self.channel.receive()
        assert isinstance(frame.message, InstallSnapshot)
        self.request_id = frame.request_id
        self.received.append(frame.message)
        return frame.message

    async def answer(self, status: SnapshotStatus, offset: int = 0, *, term: int = 2, reason: str = "") -> None:
        reply = InstallSnapshotReply(Term(term), status, offset, reason)
        await self.channel.send(reply, request_id=self.request_id)

    async def take(self, total: int) -> list[int]:
        """Acknowledge pieces until all is there; their offsets."""
        offsets: list[int] = []
        while not offsets or offsets[-1] + len(self.last.data) < total:
            piece = await self.next()
            offsets.append(piece.offset)
            end = piece.offset + len(piece.data)
            await self.answer(FINISHING if end == total else WANTED, end)
        return offsets


async def play(
    nursery: trio.Nursery, *, settings: Snapshots = SETTINGS, size: int = 1000, log: Sequence[int] = (1,) * 25
) -> Scene:
    network, store = MemoryNetwork(), opened_store()
    config = make_config(N1, snapshots=settings)
    server = await make_server(terms=log, term=1, config=config, network=network, snapshots=store)
    snapshot = save(store, 20, 1, bytes(size))
    server.state.raise_commit(LogIndex(22))
    server.state.last_applied = LogIndex(22)
    server.snapshots.note_taken(snapshot, 0.1)
    peer = ScriptedPeer(make_config(N2))
    await peer.listen(network, nursery)
    nursery.start_soon(server.journal.run)
    recorder = record(server)
    lead_term(server, 2)
    server.followers[N2].progress.next_index = LogIndex(5)
    nursery.start_soon(replicate_to, server, server.followers[N2])
    return Scene(server, store, snapshot, peer, recorder)


# ------------------------------------------------------------------------------------------- from first to last


async def test_send_a_whole_snapshot(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """It asks, sends everything in pieces, asks until it is installed, and goes on from the log behind it (R9, N7)."""
    scene = await play(nursery)
    total = scene.snapshot.size
    script = await scene.asked()
    assert scene.follower.progress.mode is Mode.SNAPSHOT
    assert (script.last.digest, script.last.total) == (scene.snapshot.digest, total)
    assert SnapshotPoint(script.last.last_included_index, script.last.last_included_term) == scene.snapshot.point
    assert scene.server.snapshots.pins == {N2: 20}
    await script.answer(WANTED, 0)
    assert await script.take(total) == list(range(0, total, PIECE))
    assert b"".join(request.data for request in script.received) == scene.store._kept[scene.snapshot.point].data
    await script.next()
    await script.answer(FINISHING, total)
    await script.next()
    await script.answer(INSTALLED, total)
    _, request = await receive_append(await scene.peer.channel(Purpose.REPLICATION))
    assert (request.prev_log_index, request.prev_log_term) == (20, 1)
    assert scene.server.matches[N2] == 20
    assert scene.store.reading == []
    assert scene.server.snapshots.sending == {}


async def test_send_from_where_it_is_wanted(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A receiver that has a part is sent the rest (N3)."""
    scene = await play(nursery)
    script = await scene.asked()
    await script.answer(WANTED, 450)
    assert (await script.take(scene.snapshot.size))[:3] == [450, 550, 650]


async def test_send_several_pieces_at_a_time(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Four pieces leave before the first is answered, and no fifth (R10)."""
    scene = await play(nursery)
    script = await scene.asked()
    await script.answer(WANTED, 0)
    for _ in range(4):
        await script.next()
    with trio.move_on_after(1) as scope:
        await script.next()
    assert scope.cancelled_caught


async def test_send_what_is_installed_already(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A follower that has all of it answers so at once, and nothing is sent (N2)."""
    scene = await play(nursery)
    script = await scene.asked()
    await script.answer(INSTALLED, scene.snapshot.size)
    await receive_append(await scene.peer.channel(Purpose.REPLICATION))
    assert scene.follower.progress.match_index == 20


async def test_send_installed_in_the_middle(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Pieces that are answered INSTALLED, each of them, end the transfer and nothing else: it was the leader's end."""
    scene = await play(nursery)
    script = await scene.asked()
    await script.answer(WANTED, 0)
    numbers = []
    for _ in range(4):
        await script.next()
        numbers.append(script.request_id)
    for number in numbers:
        script.request_id = number
        try:
            await script.answer(INSTALLED, scene.snapshot.size)
        except ChannelBroken:
            break
    await receive_append(await scene.peer.channel(Purpose.REPLICATION))
    assert scene.follower.progress.match_index == 20


async def test_send_keeps_the_log_until_it_has_caught_up(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """What follows the snapshot stays in the log until the follower has it, whatever is taken meanwhile (N7)."""
    scene = await play(nursery)
    script = await scene.asked()
    await script.answer(INSTALLED, scene.snapshot.size)
    channel = await scene.peer.channel(Purpose.REPLICATION)
    request_id, request = await receive_append(channel)
    state = scene.server.state
    state.raise_commit(LogIndex(25))
    state.last_applied = LogIndex(25)
    scene.server.snapshots.note_taken(save(scene.store, 25, 1), 0.1)
    assert state.log.base_index == 20
    while True:
        last = LogIndex(request.prev_log_index + len(request.entries))
        reply = AppendEntriesReply(term=request.term, success=True, match_index=last)
        await channel.send(reply, request_id=request_id)
        if last == state.log.last_index:
            break
        request_id, request = await receive_append(channel)
    await until(lambda: scene.server.snapshots.pins == {})
    assert state.log.base_index == 25


# ------------------------------------------------------------------------------------------- trouble


async def test_send_goes_on_after_a_broken_connection(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A transfer that broke is taken up again with the same snapshot, though a newer one was taken meanwhile (N3)."""
    scene = await play(nursery)
    script = await scene.asked()
    await script.answer(WANTED, 0)
    await script.next()
    scene.server.state.last_applied = LogIndex(22)
    scene.server.snapshots.note_taken(save(scene.store, 22, 1), 0.1)
    await script.channel.drop()
    again = await scene.asked()
    assert again.last.digest == scene.snapshot.digest
    assert again.last.transfer != script.last.transfer
    assert len(scene.store.reading) == 1


async def test_send_the_newest_if_the_offered_one_is_gone(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """If what was offered made room for newer ones, the newest is offered."""
    scene = await play(nursery)
    script = await scene.asked()
    newer = save(scene.store, 22, 1)
    scene.server.snapshots.note_taken(newer, 0.1)
    scene.store.retain(1)
    await script.channel.drop()
    assert (await scene.asked()).last.digest == newer.digest


async def test_send_replaced_while_it_is_opened(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """If the newest made room for a newer one in the moment in which it was to be read, that is no broken disk."""
    scene = await play(nursery)
    script = await scene.asked()
    scene.follower.offer = None
    newer: list[StoredSnapshot] = []

    def replace() -> None:
        if not newer:
            newer.append(save(scene.store, 22, 1))
            scene.store.retain(1)
            scene.server.snapshots.newest = newer[0]

    # In the thread, as it were: another lane took a newer one and removed the old one.
    scene.store.hooks["read"] = replace
    await script.channel.drop()
    assert (await scene.asked()).last.digest == newer[0].digest


@pytest.mark.parametrize("failure", [StorageError(Path("/data"), "opening", "broken"), OSError(5, "broken")])
async def test_send_own_disk_fails(failure: Exception, autojump_clock: MockClock) -> None:
    """That its own snapshot cannot be read is this node's trouble: it stops (R9, R13)."""
    with pytest.raises(BaseExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            scene = await play(nursery)
            script = await scene.asked()
            scene.store.failures["read"] = failure
            await script.channel.drop()
    assert caught.group_contains(StorageError, match="broken")


async def test_send_refused_is_told_once(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Why a follower refuses is an event, once for each reason; the next attempts come after pauses."""
    scene = await play(nursery)
    for reason in ("its disk is full", "its disk is full", "something else"):
        script = await scene.asked()
        await script.answer(REFUSED, reason=reason)
    await scene.asked()
    assert [event.reason for event in scene.recorder.of(SnapshotFailed)] == [
        "n2 refused it: its disk is full",
        "n2 refused it: something else",
    ]
    assert scene.server.state.role is Role.LEADER


async def test_send_refused_again_and_again(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A follower that keeps refusing, as its disk is full, say, is offered a snapshot ever more rarely, up to a bound,
    and nothing is pinned for it meanwhile; a new connection to it makes an end of that.
    """
    scene = await play(nursery)
    asked_at: list[float] = []
    for number in range(9):
        script = await scene.asked()
        asked_at.append(trio.current_time())
        await script.answer(REFUSED, reason=f"there is no room for {number} bytes")
    gaps = [after - before for before, after in itertools.pairwise(asked_at)]
    assert all(gap <= 1.1 for gap in gaps[:2]), gaps
    assert gaps[2:] == sorted(gaps[2:])
    assert gaps[2] >= 2
    assert LONGEST_PAUSE <= gaps[-1] <= LONGEST_PAUSE + 1.1
    await until(lambda: not scene.store.reading)
    await until(lambda: scene.server.snapshots.pins == {})
    began = trio.current_time()
    scene.follower.forgive()
    await scene.asked()
    assert trio.current_time() - began <= 2.2


async def test_send_damaged_here(autojump_clock: MockClock) -> None:
    """If all of it was refused it is examined: damaged here it ends the node, instead of being sent for ever."""
    with pytest.raises(BaseExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            scene = await play(nursery)
            script = await scene.asked()
            kept = scene.store._kept[scene.snapshot.point]
            damaged = bytearray(kept.data)
            damaged[len(damaged) // 2] ^= 1
            scene.store._kept[scene.snapshot.point] = attrs.evolve(kept, data=bytes(damaged))
            await script.channel.drop()
            script = await scene.asked()
            await script.answer(WANTED, 0)
            await script.take(scene.snapshot.size)
            await script.next()
            await script.answer(REFUSED, reason="a wrong checksum")
    assert caught.group_contains(SnapshotCorrupt)


async def test_send_sound_and_refused(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """If all of it was refused and it is sound here, it is sent again: it was damaged on its way, or over there."""
    scene = await play(nursery)
    script = await scene.asked()
    await script.answer(WANTED, scene.snapshot.size)
    await script.next()
    await script.answer(REFUSED, reason="a wrong checksum")
    await scene.asked()
    assert scene.server.state.role is Role.LEADER


@pytest.mark.parametrize("to", ["a question", "a piece"])
async def test_send_later_term_ends_the_leadership(to: str, autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A later term in an answer stops the leadership; nothing is pinned or read any more (R1, paper 5.1)."""
    scene = await play(nursery)
    script = await scene.asked()
    if to == "a piece":
        await script.answer(WANTED, 0)
        await script.next()
    await script.answer(REFUSED, term=7, reason="over")
    await until(lambda: scene.server.state.current_term == 7)
    assert scene.server.state.role is Role.FOLLOWER
    await until(lambda: not scene.store.reading)
    await until(lambda: scene.server.snapshots.pins == {})


async def test_send_silence(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A piece that is not answered in time ends the transfer; it lasts as long as it makes progress."""
    scene = await play(nursery)
    script = await scene.asked()
    await script.answer(WANTED, 0)
    began, patience = trio.current_time(), scene.server.config.timeouts.request_timeout
    await scene.asked()
    assert patience <= trio.current_time() - began < patience + 1


# ------------------------------------------------------------------------------------------- side effects


async def test_send_throttled(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """No faster than the rate that is set; at a low one in small pieces, a sign of life four times a second (R14)."""
    rate = 80
    scene = await play(nursery, settings=attrs.evolve(SETTINGS, bytes_per_second=rate))
    script = await scene.asked()
    await script.answer(WANTED, 0)
    began = trio.current_time()
    times: list[float] = []
    while len(times) < 40:
        piece = await script.next()
        times.append(trio.current_time())
        await script.answer(WANTED, piece.offset + len(piece.data))
    assert len(script.last.data) == rate // 4
    assert times[-1] - began >= (39 * rate // 4) / rate - 0.01
    assert max(later - earlier for earlier, later in itertools.pairwise(times)) < 0.3
    assert scene.follower.progress.last_append_contact > began + 9


@pytest.mark.parametrize(
    ("rate", "chunk", "frame", "unanswered"),
    [
        (0, 100, 1 << 20, 4 * 100),
        (0, 1000, 100, 4 * 100),
        (8 << 20, 200 << 10, 1 << 20, 4 * (200 << 10)),
        (8 << 20, 200 << 10, 30 << 10, 4 * (30 << 10)),
        (400 << 10, 200 << 10, 1 << 20, 4 * (64 << 10)),
        (400, 1000, 1 << 20, 4 * 100),
    ],
)
async def test_send_keeps_so_much_unanswered(
    rate: int,
    chunk: int,
    frame: int,
    unanswered: int,
    autojump_clock: MockClock,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Four pieces, or as many bytes in small ones where a rate is set; large settings beside small frames of the peer
    do not make it more: answers must not grow old in a row behind them (R14).
    """
    settings = attrs.evolve(SETTINGS, bytes_per_second=rate, chunk_bytes=chunk)

    async def dial_peer_that_takes_little(server: Server, peer: ServerId, purpose: Purpose) -> Channel:
        channel = await dial_peer(server, peer, purpose)
        channel.max_frame_body = min(channel.max_frame_body, frame)
        return channel

    monkeypatch.setattr(_sending, "dial_peer", dial_peer_that_takes_little)
    scene = await play(nursery, settings=settings, size=2 << 20)
    script = await scene.asked()
    await script.answer(WANTED, 0)
    received = 0
    # So that the next piece would have come long ago, and no answer is overdue yet.
    with trio.move_on_after(4):
        while True:
            received += len((await script.next()).data)
    assert unanswered <= received < unanswered + max(frame, 64 << 10) if rate else received == unanswered


async def test_send_heartbeats_go_on(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Whatever happens to a transfer, heartbeats keep their interval (W4, K1)."""
    scene = await play(nursery)
    script = await scene.asked()
    await script.answer(WANTED, 0)
    lanes(scene.server.environment).stall(Lane.TRANSFER)
    await trio.sleep(20)
    times = [time for time, _ in scene.peer.heartbeats]
    interval = scene.server.config.timeouts.heartbeat_interval
    assert max(later - earlier for earlier, later in itertools.pairwise(times)) < 2 * interval + 0.05


async def test_send_shows_how_far_it_is(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Statistics say at each moment how far a transfer is, events when it begins and about every second."""
    scene = await play(nursery)
    script = await scene.asked()
    await script.answer(WANTED, 500)
    await script.next()
    await trio.sleep(2)
    await script.answer(WANTED, 600)
    await until(lambda: scene.server.snapshots.sending[N2].done == 600)
    assert [(event.peer, event.sent) for event in scene.recorder.of(SnapshotSending)] == [(N2, 500), (N2, 600)]


async def test_cancelled_while_it_is_opened(autojump_clock: MockClock) -> None:
    """A file that a thread opens for a leadership that has ended meanwhile is closed (X2)."""
    store = opened_store()
    snapshot = save(store, 20, 1, b"x")
    server = await make_server(snapshots=store, latency=0.01)
    for delay in range(12):
        with trio.move_on_after(delay / 1000):
            (await server.snapshots.work.read(snapshot)).close()
        await trio.sleep(1)
        assert store.reading == []


# ------------------------------------------------------------------------------------------- what counts as contact


def offer() -> Offer:
    snapshot = save(opened_store(), 20, 1, b"x")
    return Offer(snapshot)


def reply(status: SnapshotStatus, offset: int = 0) -> InstallSnapshotReply:
    return InstallSnapshotReply(Term(2), status, offset)


def test_is_progress_only_what_is_new() -> None:
    """An acknowledged piece counts as an append reply once; sent again after a failure it does not: a transfer that
    always fails at the end would hide a dead log for ever (R14).
    """
    offered = offer()
    offsets = [0, 10, 20, 0, 10, 20, 30]
    seen = [offered.is_progress(reply(WANTED, offset), 1.0, patience=10) for offset in offsets]
    assert seen == [False, True, True, False, False, False, True]
    assert offered.is_progress(reply(INSTALLED, 40), 1.0, patience=10)


def test_is_progress_finishing_for_a_while() -> None:
    """That it makes durable what it has counts for so long, over all attempts, and not for ever (R14)."""
    offered = offer()
    times = [100.0, 105.0, 109.9, 110.0, 500.0]
    seen = [offered.is_progress(reply(FINISHING, 40), now, patience=10) for now in times]
    assert seen == [True, True, True, False, False]
    assert not offered.is_progress(reply(REFUSED), 500.0, patience=10)
