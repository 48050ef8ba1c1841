"""Receiving a snapshot: piece by piece, over connections and leaders that come and go, until it is installed."""

from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from tests.tasks.parts import (
    N1,
    N2,
    N3,
    Recorder,
    commands,
    connect,
    lanes,
    listen_for,
    make_config,
    make_server,
    record,
    settle,
    store_of,
    until,
)
from tests.tasks.saving import Made, Saving, SnapshotsUnderControl, make_snapshot, opened_store
from trio_raft._apply import Applier
from trio_raft._codec import Frame, FrameDecoder, UnknownFrame
from trio_raft._config import Snapshots
from trio_raft._environment import Lane
from trio_raft._errors import StorageError, StorageFull
from trio_raft._messages import InstallSnapshot, InstallSnapshotReply, Purpose, SnapshotStatus
from trio_raft._peers import CONNECTIONS_PER_PURPOSE, PIECES_READ_AHEAD
from trio_raft._receiving import SnapshotService
from trio_raft._records import Entry, LogIndex, Term
from trio_raft._rules.install_snapshot import BadRequest
from trio_raft._rules.state import Role
from trio_raft._server import Server
from trio_raft._snapshot_events import SnapshotFailed, SnapshotInstalled, SnapshotReceiving
from trio_raft._startup import MachineAbilities
from trio_raft._values import ValueCodec
from trio_raft.abc import Append, SaveSnapshot
from trio_raft.testing._network import MemoryNetwork

WANTED, FINISHING, INSTALLED, REFUSED = (
    SnapshotStatus.WANTED,
    SnapshotStatus.FINISHING,
    SnapshotStatus.INSTALLED,
    SnapshotStatus.REFUSED,
)


class Scene:
    """A follower, n2, in term 3, whose leader is n1."""

    def __init__(self, server: Server, store: SnapshotsUnderControl) -> None:
        self.server = server
        self.store = store
        self.service = SnapshotService(server)
        self.recorder: Recorder = record(server)

    async def ask(self, made: Made, **fields: object) -> InstallSnapshotReply:
        return await self.service.answer(made.message(**fields))  # type: ignore[arg-type]

    async def send(self, made: Made, start: int, end: int, **fields: object) -> InstallSnapshotReply:
        return await self.service.answer(made.message(start, made.data[start:end], **fields))  # type: ignore[arg-type]

    async def send_all(self, made: Made, **fields: object) -> InstallSnapshotReply:
        """Ask, send everything in two pieces, and ask until it is installed or refused."""
        reply = await self.ask(made, **fields)
        half = len(made.data) // 2
        for start, end in ((0, half), (half, len(made.data))):
            if reply.status is WANTED and reply.offset <= start:
                reply = await self.send(made, start, end, **fields)
        while reply.status is FINISHING:
            await trio.sleep(0.1)
            reply = await self.ask(made, **fields)
        return reply

    @property
    def failures(self) -> list[str]:
        return [event.reason for event in self.recorder.of(SnapshotFailed)]


async def play(
    nursery: trio.Nursery, *, terms: tuple[int, ...] = (1, 1, 2), journal: bool = True, runs: bool = True, keep: int = 2
) -> Scene:
    store = opened_store()
    config = make_config(N2, snapshots=Snapshots(keep=keep))
    scene = Scene(await make_server(terms=terms, term=3, config=config, snapshots=store), store)
    if journal:
        nursery.start_soon(scene.server.journal.run)
    if runs:
        nursery.start_soon(scene.service.run)
    return scene


MADE = make_snapshot(40, 3, b"a\n", b"b\n")


# ------------------------------------------------------------------------------------------- from first to last


async def test_answer_a_whole_transfer(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Asked, it says from where; each piece is acknowledged by the next offset; at the end it is installed (N3, N8)."""
    scene = await play(nursery)
    size = len(MADE.data)
    replies = [await scene.ask(MADE), await scene.send(MADE, 0, 10), await scene.send(MADE, 10, size)]
    assert [(reply.status, reply.offset) for reply in replies] == [(WANTED, 0), (WANTED, 10), (FINISHING, size)]
    await until(lambda: scene.recorder.of(SnapshotInstalled))
    reply = await scene.ask(MADE)
    assert (reply.status, reply.offset, reply.term) == (INSTALLED, size, 3)
    state = scene.server.state
    assert (state.log.base_index, state.log.last_index, state.commit_index, state.leader) == (40, 40, 40, N1)
    assert scene.store.points == [(40, 3)]
    assert scene.server.snapshots.receiving is None
    assert [event.received for event in scene.recorder.of(SnapshotReceiving)] == [0, size]


async def test_answer_installed_only_when_the_marker_is_durable(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """INSTALLED vouches for everything up to the snapshot: it waits for the disk (S1, N8)."""
    scene = await play(nursery, journal=False)
    size = len(MADE.data)
    await scene.ask(MADE)
    await scene.send(MADE, 0, size)
    await until(lambda: scene.recorder.of(SnapshotInstalled))
    replies: list[InstallSnapshotReply] = []

    async def ask() -> None:
        replies.append(await scene.ask(MADE))

    nursery.start_soon(ask)
    await trio.sleep(60)
    assert replies == []
    nursery.start_soon(scene.server.journal.run)
    await until(lambda: replies)
    assert replies[0].status is INSTALLED
    items = [item for batch in store_of(scene.server).batches for item in batch]
    assert SaveSnapshot(MADE.snapshot.point, keep=False) in items


async def test_answer_of_what_is_here_already(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """At or below the commit index there is nothing to take; the log's own entries must be durable then (N2, S1)."""
    scene = await play(nursery, journal=False)
    scene.server.journal.supersede(_entries(4, 41))
    scene.server.state.log.extend(_entries(4, 41))
    scene.server.state.raise_commit(LogIndex(41))
    replies: list[InstallSnapshotReply] = []

    async def ask() -> None:
        replies.append(await scene.ask(MADE))

    nursery.start_soon(ask)
    await trio.sleep(60)
    assert replies == []
    nursery.start_soon(scene.server.journal.run)
    await until(lambda: replies)
    assert (replies[0].status, scene.store.points, scene.store.unfinished) == (INSTALLED, [], [])
    assert [Append] == [type(item) for batch in store_of(scene.server).batches for item in batch]


def _entries(first: int, last: int) -> list[Entry]:
    return commands(first, [3] * (last - first + 1))


async def test_restored_after_the_install(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """The machine is restored from what was installed, before anything else is applied to it (N3)."""
    scene = await play(nursery)
    machine = Saving()
    scene.server.state.raise_commit(LogIndex(3))
    nursery.start_soon(Applier(scene.server, machine, ValueCodec[bytes](bytes)).run)
    await until(lambda: machine.commands == [b"x"] * 3)
    await scene.send_all(MADE)
    await until(lambda: scene.server.state.last_applied == 40)
    assert (machine.commands, machine.restored) == ([b"a", b"b"], [(40, 3)])


# ------------------------------------------------------------------------------------------- who may send


async def test_answer_before_it_may(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Before the first configuration is settled nothing is acknowledged, and no term learnt (O1)."""
    server = await make_server(config=make_config(N2), settled=False)
    reply = await SnapshotService(server).answer(MADE.message())
    assert (reply.status, reply.term) == (REFUSED, 0)


async def test_answer_without_a_restore(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A machine that defines no restore can take no snapshot, and says so."""
    server = await make_server(config=make_config(N2), machine=MachineAbilities(snapshots=False, applied_index=None))
    reply = await SnapshotService(server).answer(MADE.message())
    assert reply == InstallSnapshotReply(Term(0), REFUSED, 0, "n2 defines no restore in its state machine")


async def test_answer_an_older_term(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Whoever led an earlier term is told so, and changes nothing (R1)."""
    scene = await play(nursery)
    reply = await scene.ask(MADE, term=2)
    assert (reply.status, reply.term, scene.server.state.leader) == (REFUSED, 3, None)
    assert scene.store.unfinished == []


async def test_answer_a_later_term(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A later leader is followed, and heard: no election while its snapshot arrives."""
    scene = await play(nursery)
    began = trio.current_time()
    reply = await scene.ask(MADE, term=4, leader=N3)
    assert (reply.status, reply.term) == (WANTED, 4)
    assert (scene.server.state.leader, scene.server.state.current_term) == (N3, 4)
    assert scene.server.patience.last_contact == began


@pytest.mark.parametrize(
    "wrong", [{"last_included_index": 0}, {"last_included_term": 0}, {"last_included_term": 4}, {"total": 0}]
)
async def test_answer_what_no_leader_sends(
    wrong: dict[str, Any], autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """A malformed request closes the connection that it came on (W1)."""
    scene = await play(nursery)
    with pytest.raises(BadRequest):
        await scene.service.answer(attrs.evolve(MADE.message(), **wrong))


async def test_answer_an_offset_that_is_not_due(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Bytes from another place are not written; the answer says which are due (N5)."""
    scene = await play(nursery)
    await scene.ask(MADE)
    await scene.send(MADE, 0, 10)
    for start in (0, 5, 20):
        reply = await scene.send(MADE, start, start + 5)
        assert (reply.status, reply.offset) == (WANTED, 10)


async def test_answer_data_without_a_question(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A transfer begins with a question: bytes of one that never asked are not taken (N5)."""
    scene = await play(nursery)
    reply = await scene.send(MADE, 0, 10, transfer="unknown")
    assert (reply.status, reply.reason) == (REFUSED, "another transfer has begun since")
    assert scene.store.unfinished == []


# ------------------------------------------------------------------------------------------- going on


async def test_answer_resumes_for_a_later_leader(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A later leader that offers the same bytes goes on where the last one stopped; what is under way of the old
    transfer is refused (N3, N5).
    """
    scene = await play(nursery)
    await scene.ask(MADE)
    await scene.send(MADE, 0, 30)
    reply = await scene.ask(MADE, term=4, leader=N3, transfer="t2")
    assert (reply.status, reply.offset) == (WANTED, 30)
    late = await scene.send(MADE, 30, 40, term=4, leader=N3, transfer="t1")
    assert late.status is REFUSED
    reply = await scene.send(MADE, 30, len(MADE.data), term=4, leader=N3, transfer="t2")
    assert reply.status is FINISHING
    await until(lambda: scene.recorder.of(SnapshotInstalled))
    assert scene.store.points == [(40, 3)]


async def test_answer_another_snapshot(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Other bytes, be they of the same point, are another snapshot: what had arrived of the first is removed (N3)."""
    scene = await play(nursery)
    other = make_snapshot(40, 3, b"written otherwise")
    assert other.snapshot.point == MADE.snapshot.point
    await scene.ask(MADE)
    await scene.send(MADE, 0, 30)
    reply = await scene.ask(other, transfer="t2")
    assert (reply.status, reply.offset, len(scene.store.unfinished)) == (WANTED, 0, 1)
    assert (await scene.send_all(other, transfer="t2")).status is INSTALLED
    assert scene.server.snapshots.newest is not None
    assert scene.server.snapshots.newest.digest == other.snapshot.digest


async def test_answer_while_a_write_hangs(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A term that ends while a piece is written is told with the answer, and the piece counts (N3)."""
    scene = await play(nursery)
    await scene.ask(MADE)
    lanes(scene.server.environment).stall(Lane.SNAPSHOT)
    replies: list[InstallSnapshotReply] = []

    async def send() -> None:
        replies.append(await scene.send(MADE, 0, 30))

    nursery.start_soon(send)
    await settle()
    scene.server.adopt_term(Term(4), N3)
    lanes(scene.server.environment).resume()
    await until(lambda: replies)
    assert (replies[0].status, replies[0].offset, replies[0].term) == (WANTED, 30, 4)


async def test_run_removes_what_the_log_has_overtaken(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Parts of a snapshot that nobody will ever finish are removed, once the log covers it."""
    scene = await play(nursery)
    await scene.ask(MADE)
    await scene.send(MADE, 0, 30)
    await trio.sleep(100)
    assert len(scene.store.unfinished) == 1
    scene.server.state.log.extend(_entries(4, 41))
    scene.server.state.raise_commit(LogIndex(41))
    await trio.sleep(20)
    assert scene.store.unfinished == []
    assert scene.server.snapshots.receiving is None


# ------------------------------------------------------------------------------------------- finishing


async def test_finishing_is_a_sign_of_life_for_a_while(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """While a whole snapshot is made durable that is the answer, but no longer than a dead log may be hidden (R14)."""
    scene = await play(nursery)
    await scene.ask(MADE)
    lanes(scene.server.environment).latency = 0.0
    await scene.send(MADE, 0, len(MADE.data))
    lanes(scene.server.environment).stall(Lane.SNAPSHOT)
    patience = scene.server.config.timeouts.replication_stall_timeout
    await trio.sleep(patience - 1)
    assert (await scene.ask(MADE)).status is FINISHING
    other = make_snapshot(41, 3)
    assert (await scene.ask(other)).reason == "another snapshot is being installed"
    await trio.sleep(1)
    reply = await scene.ask(MADE)
    assert (reply.status, reply.reason) == (REFUSED, "making the snapshot durable takes too long")
    lanes(scene.server.environment).resume()
    await until(lambda: scene.recorder.of(SnapshotInstalled))
    assert (await scene.ask(MADE)).status is INSTALLED


async def test_finish_not_under_a_candidate(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A candidate's log does not change under it; when it follows again the snapshot is installed (N8)."""
    scene = await play(nursery)
    await scene.ask(MADE)
    scene.store.hooks["check"] = lambda: scene.server.transition(Term(4), Role.CANDIDATE, "the test says so")
    await scene.send(MADE, 0, len(MADE.data))
    await trio.sleep(30)
    assert scene.recorder.of(SnapshotInstalled) == []
    assert scene.server.state.log.last_index == 3
    assert (await scene.ask(MADE, term=5, leader=N3)).status is not INSTALLED
    await until(lambda: scene.recorder.of(SnapshotInstalled))
    assert scene.server.state.log.last_index == 40


async def test_finish_what_the_log_has_overtaken(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """If the commit index came as far before the last byte was checked, nothing is installed, nor left (N2)."""
    scene = await play(nursery, runs=False)
    await scene.ask(MADE)
    await scene.send(MADE, 0, len(MADE.data))
    scene.server.state.log.extend(_entries(4, 41))
    scene.server.state.raise_commit(LogIndex(41))
    nursery.start_soon(scene.service.run)
    await trio.sleep(1)
    assert (scene.store.points, scene.store.unfinished, scene.recorder.of(SnapshotInstalled)) == ([], [], [])


async def test_finish_contradiction_ends_the_node(autojump_clock: MockClock) -> None:
    """A snapshot that contradicts what is committed here breaks State Machine Safety: the node stops (paper 5.4.3)."""
    with pytest.raises(BaseExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            scene = await play(nursery, terms=(1, 1, 3))
            low = make_snapshot(40, 2)
            await scene.ask(low)
            scene.server.state.raise_commit(LogIndex(3))
            await scene.send(low, 0, len(low.data))
    assert caught.group_contains(AssertionError, match="contradicts what is committed")


async def test_finish_damaged_bytes(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Bytes that are not those that were announced are refused with the reason, told once; then it may begin anew, and
    nothing of them can be parsed as a part of the next (N5).
    """
    scene = await play(nursery)
    damaged = attrs.evolve(MADE, data=MADE.data[:-1] + bytes([MADE.data[-1] ^ 1]))
    reply = await scene.send_all(damaged)
    assert reply.status is REFUSED
    assert reply.reason == scene.failures[0]
    assert "damaged" in reply.reason
    assert scene.store.unfinished == []
    assert (await scene.send_all(MADE, transfer="t2")).status is INSTALLED


@pytest.mark.parametrize("step", ["receive", "take", "check"])
@pytest.mark.parametrize(
    "failure",
    [StorageFull(Path("/data"), 7), StorageError(Path("/data"), "writing", "broken"), ZeroDivisionError("theirs")],
)
async def test_answer_the_store_fails(
    step: str, failure: Exception, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """A full or failing disk, or a user's store, refuses that transfer: the node goes on, and no text says that it has
    stopped.
    """
    scene = await play(nursery)
    scene.store.failures[step] = failure
    reply = await scene.send_all(MADE)
    assert reply.status is REFUSED
    assert reply.reason == scene.failures[0]
    assert "node stopped" not in reply.reason
    assert scene.store.unfinished == []
    scene.store.failures.clear()
    for number in range(3):
        reply = await scene.send_all(MADE, transfer=f"again {number}")
    assert reply.status is INSTALLED


async def test_finish_removing_old_ones_fails(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """That older snapshots cannot be removed is told, and spoils no install."""
    scene = await play(nursery)
    scene.store.failures["retain"] = StorageError(Path("/data"), "removing", "read-only")
    assert (await scene.send_all(MADE)).status is INSTALLED
    assert scene.failures == ["removing of /data failed: read-only"]


# ------------------------------------------------------------------------------------------- cancel and close


@pytest.mark.parametrize("asks", [True, False])
async def test_answer_cancelled_at_each_moment(asks: bool, autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A connection that is cut off at any moment leaves nothing that cannot be gone on with, or is not removed (X2)."""
    for delay in range(25):
        scene = await play(nursery)
        lanes(scene.server.environment).latency = 0.01
        with trio.move_on_after(delay / 1000):
            await scene.ask(MADE)
            if not asks:
                await trio.sleep_forever()
        with trio.move_on_after(delay / 1000):
            await scene.send(MADE, 0, 30)
        reply = await scene.send_all(MADE, transfer="t2")
        if reply.status is WANTED:
            reply = await scene.send(MADE, reply.offset, len(MADE.data), transfer="t2")
        await until(lambda scene=scene: scene.recorder.of(SnapshotInstalled))  # type: ignore[misc]
        scene.service.give_up()
        await scene.server.snapshots.work.clean_up()
        assert scene.store.unfinished == []
        assert scene.failures == []


async def test_give_up_removes_what_has_arrived(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """When the node closes, what has arrived of a snapshot goes; the next life could not go on with it (X2)."""
    scene = await play(nursery)
    await scene.ask(MADE)
    await scene.send(MADE, 0, 30)
    scene.service.give_up()
    await scene.server.snapshots.work.clean_up()
    assert scene.store.unfinished == []


async def test_connections_to_a_hung_disk_do_not_pile_up(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A leader that dials again and again, since the disk does not answer, holds two connections and no more: else the
    limit for all peers would be reached, and heartbeats refused (W3).
    """
    network = MemoryNetwork()
    server = await make_server(term=3, config=make_config(N2), network=network)
    service = await listen_for(server, nursery)
    lanes(server.environment).stall(Lane.SNAPSHOT)
    for _ in range(10):
        channel = await connect(network, server, Purpose.SNAPSHOT, sender=N1)
        await channel.send(MADE.message(), request_id=1)
        await trio.sleep(1)
    assert service._connections == CONNECTIONS_PER_PURPOSE


async def test_the_next_piece_is_read_while_one_is_written(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A slow disk does not keep the next piece in the network, and answers come in order; but no more than a few are
    read ahead of it (K1, W1).
    """
    network = MemoryNetwork()
    server = await make_server(term=3, config=make_config(N2), network=network)
    await listen_for(server, nursery)
    channel = await connect(network, server, Purpose.SNAPSHOT, sender=N1)
    assert isinstance(await channel.request(MADE.message()), InstallSnapshotReply)
    lanes(server.environment).stall(Lane.SNAPSHOT)
    read: list[int] = []
    decode = FrameDecoder.next_frame

    def count(self: FrameDecoder) -> Frame | UnknownFrame | None:
        frame = decode(self)
        if isinstance(frame, Frame) and isinstance(frame.message, InstallSnapshot):
            read.append(frame.message.offset)
        return frame

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(FrameDecoder, "next_frame", count)
        for number in range(6):
            await channel.send(MADE.message(number, MADE.data[number : number + 1]), request_id=10 + number)
            await trio.sleep(0.1)
    # One is written, one waits for that, and one for room behind it.
    assert read == list(range(PIECES_READ_AHEAD + 2))
    lanes(server.environment).resume()
    answers = [await channel.receive() for _ in range(6)]
    assert [answer.request_id for answer in answers] == list(range(10, 16))
    replies = [answer.message for answer in answers if isinstance(answer.message, InstallSnapshotReply)]
    assert [reply.offset for reply in replies] == list(range(1, 7))


async def test_a_peer_that_leaves_cancels_no_write(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A connection that ends while a piece is written: the piece counts, and the next connection goes on there (N3)."""
    network = MemoryNetwork()
    server = await make_server(term=3, config=make_config(N2), network=network)
    await listen_for(server, nursery)
    channel = await connect(network, server, Purpose.SNAPSHOT, sender=N1)
    await channel.request(MADE.message())
    lanes(server.environment).stall(Lane.SNAPSHOT)
    await channel.send(MADE.message(0, MADE.data[:30]), request_id=2)
    await trio.sleep(0.1)
    await channel.drop()
    await trio.sleep(0.1)
    lanes(server.environment).resume()
    await trio.sleep(0.1)
    channel = await connect(network, server, Purpose.SNAPSHOT, sender=N1)
    reply = await channel.request(MADE.message())
    assert isinstance(reply, InstallSnapshotReply)
    assert (reply.status, reply.offset) == (WANTED, 30)
