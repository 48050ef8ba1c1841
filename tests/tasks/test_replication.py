"""What a leader does for one follower, against a follower that follows a script."""

import errno
import itertools

import pytest
import trio
from trio.testing import MockClock

from tests.tasks.parts import (
    N1,
    N2,
    ScriptedPeer,
    accept_append,
    follow_script,
    lead_term,
    make_config,
    make_server,
    receive_append,
    record,
    settle,
    store_of,
    until,
)
from trio_raft._config import Limits
from trio_raft._errors import StorageError
from trio_raft._events import ContactLost, ContactResumed, PeerLostData, ReplicationRestarted
from trio_raft._messages import (
    AppendEntriesReply,
    Heartbeat,
    HeartbeatReply,
    Message,
    Purpose,
    Rejection,
)
from trio_raft._records import LogIndex, Term
from trio_raft._replication import replicate_to
from trio_raft._rules import append_entries
from trio_raft._rules.progress import Mode, Progress
from trio_raft._rules.state import Role
from trio_raft._server import Server
from trio_raft._transport import Channel
from trio_raft.testing._network import MemoryNetwork

TWO = (N1, N2)
TERM = Term(5)


class Scene:
    """A leader of term 5 and its one follower, which the test plays."""

    def __init__(self, server: Server, peer: ScriptedPeer, network: MemoryNetwork) -> None:
        self.server = server
        self.peer = peer
        self.network = network
        self.replicating = trio.CancelScope()

    @property
    def progress(self) -> Progress:
        return self.server.followers[N2].progress

    async def replicate(self) -> None:
        with self.replicating:
            await replicate_to(self.server, self.server.followers[N2])

    async def dialled(self) -> Channel:
        return await self.peer.channel(Purpose.REPLICATION)

    async def pipeline(self) -> Channel:
        """A connection on which the first probe has succeeded."""
        channel = await self.dialled()
        await accept_append(channel, *await receive_append(channel))
        await until(lambda: self.progress.mode is Mode.PIPELINE)
        return channel


async def play(
    nursery: trio.Nursery,
    *,
    terms: tuple[int, ...] = (),
    limits: Limits | None = None,
    answers_heartbeats: bool = True,
    listens: bool = True,
) -> Scene:
    network = MemoryNetwork()
    config = make_config(members=TWO, limits=limits)
    server = await make_server(terms=terms, term=TERM - 1, config=config, network=network)
    peer = ScriptedPeer(make_config(N2, members=TWO, limits=limits), answers_heartbeats=answers_heartbeats)
    if listens:
        await peer.listen(network, nursery)
    nursery.start_soon(server.journal.run)
    lead_term(server, TERM)
    scene = Scene(server, peer, network)
    nursery.start_soon(scene.replicate)
    return scene


async def reject(channel: Channel, request_id: int, *, index: int, term: int) -> None:
    reply = AppendEntriesReply(
        TERM, False, rejection=Rejection.LOG_MISMATCH, conflict_index=LogIndex(index), conflict_term=Term(term)
    )
    await channel.send(reply, request_id=request_id)


# ------------------------------------------------------------------------------------------- probe


async def test_probe_one_request_at_a_time(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Until a request has succeeded one is in flight, with one entry: enough to find out where the logs agree."""
    scene = await play(nursery, terms=(1, 1))
    for index in range(4, 10):
        scene.server.submit_nowait(b"%d" % index)
    channel = await scene.dialled()
    request_id, request = await receive_append(channel)
    assert (request.term, request.leader, request.leader_commit) == (TERM, N1, 0)
    assert (request.prev_log_index, request.prev_log_term, len(request.entries)) == (2, 1, 1)
    with trio.move_on_after(1) as scope:
        await channel.receive()
    assert scope.cancelled_caught
    assert request_id == 2  # the handshake was the first


async def test_probe_repairs_by_the_hint(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Each rejection skips the follower's whole divergent term, on the same connection and without a pause (R8)."""
    scene = await play(nursery, terms=(1, 1, 1, 4, 4, 4))
    channel = await scene.dialled()
    began = trio.current_time()
    request_id, request = await receive_append(channel)
    assert request.prev_log_index == 6
    # The follower has terms 1 1 1 2 2 3.
    await reject(channel, request_id, index=6, term=3)
    request_id, request = await receive_append(channel)
    assert (request.prev_log_index, request.prev_log_term) == (3, 1)
    await accept_append(channel, request_id, request)
    await until(lambda: scene.progress.mode is Mode.PIPELINE)
    assert trio.current_time() - began < 0.01
    assert [purpose for _, purpose in scene.peer.dials].count(Purpose.REPLICATION) == 1


async def test_probe_follower_that_lost_data(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A follower that denies what it had acknowledged is reported once and not counted any more (R6)."""
    scene = await play(nursery, terms=(1,))
    recorder = record(scene.server)
    channel = await scene.pipeline()
    assert scene.server.matches[N2] == 2
    await channel.drop()
    for _ in range(5):
        channel = await scene.dialled()
        request_id, request = await receive_append(channel)
        assert request.prev_log_index == 2
        await reject(channel, request_id, index=1, term=0)
    await settle()
    assert recorder.of(PeerLostData) == [PeerLostData(N2, LogIndex(2))]
    assert N2 not in scene.server.matches
    assert scene.progress.lost_data
    # It is asked again, but ever more slowly.
    times = [at for at, purpose in scene.peer.dials if purpose is Purpose.REPLICATION]
    pauses = [later - earlier for earlier, later in itertools.pairwise(times[1:])]
    assert pauses == sorted(pauses)


async def test_probe_not_ready_follower_is_asked_again(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A follower in its first start is asked again after pauses, and its refusals are no contact (O1, R11)."""
    scene = await play(nursery)
    for _ in range(3):
        channel = await scene.dialled()
        request_id, _ = await receive_append(channel)
        refusal = AppendEntriesReply(Term(0), False, rejection=Rejection.NOT_READY)
        await channel.send(refusal, request_id=request_id)
    await trio.sleep(1)
    assert scene.progress.last_append_contact == 0
    assert scene.server.state.role is Role.LEADER


async def test_probe_later_term_ends_the_leadership(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A later term in any reply ends the leadership, and its replication (R1)."""
    scene = await play(nursery)
    channel = await scene.dialled()
    request_id, _ = await receive_append(channel)
    await channel.send(AppendEntriesReply(Term(9), False, rejection=Rejection.STALE_TERM), request_id=request_id)
    await until(lambda: scene.server.state.role is Role.FOLLOWER)
    assert scene.server.state.current_term == 9


async def test_probe_unanswered_is_dialled_anew(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A probe without an answer is given up after ``request_timeout``; a failure is no contact (R11, W3)."""
    scene = await play(nursery)
    channel = await scene.dialled()
    await receive_append(channel)
    began = trio.current_time()
    await scene.dialled()
    assert trio.current_time() - began == pytest.approx(scene.server.config.timeouts.request_timeout, abs=0.1)
    assert scene.progress.last_append_contact == 0
    assert scene.server.followers[N2].failures == 1


async def test_dial_backs_off(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A follower that is down is dialled after pauses that double up to their cap, and served again when it is back."""
    scene = await play(nursery, listens=False)
    await trio.sleep(20)
    failures = scene.server.followers[N2].failures
    timeouts = scene.server.config.timeouts
    assert 20 / timeouts.retry_backoff_cap <= failures <= 20 / timeouts.retry_backoff_cap + 10
    await scene.peer.listen(scene.network, nursery)
    with trio.fail_after(timeouts.retry_backoff_cap + 0.1):
        await scene.pipeline()


# ------------------------------------------------------------------------------------------- pipeline


async def test_pipeline_window_in_requests(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Several requests are in flight without an answer, as many as the window allows and no more (R10, R12)."""
    scene = await play(nursery, limits=Limits(pipeline_requests=3))
    channel = await scene.pipeline()
    for _ in range(10):
        scene.server.submit_nowait(b"x")
        await trio.sleep(0.01)
    requests = [await receive_append(channel) for _ in range(3)]
    assert [len(request.entries) for _, request in requests] == [1, 1, 1]
    await trio.sleep(1)
    assert (len(scene.progress.in_flight), scene.progress.next_index) == (3, 5)
    # One answer makes room for one request, and that drains the whole backlog.
    await accept_append(channel, *requests[0])
    request_id, request = await receive_append(channel)
    assert (request.prev_log_index, len(request.entries)) == (4, 7)
    for sent in (*requests[1:], (request_id, request)):
        await accept_append(channel, *sent)
    await until(lambda: scene.progress.match_index == 11)


async def test_pipeline_window_in_bytes(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """The bytes in flight are bounded, but for one request beyond the bound (R10)."""
    scene = await play(nursery, limits=Limits(pipeline_requests=100, pipeline_bytes=3000))
    channel = await scene.pipeline()
    for _ in range(10):
        scene.server.submit_nowait(bytes(1000))
        await trio.sleep(0.01)
    assert len(scene.progress.in_flight) == 3
    assert 3000 <= scene.progress.in_flight_bytes < 4500
    assert channel.peer == N1


async def test_pipeline_batches_are_bounded_and_drain(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A backlog leaves in batches of bounded size, as fast as the window allows and not one per wake-up (R12)."""
    scene = await play(nursery, limits=Limits(max_batch_entries=10, pipeline_requests=4))
    channel = await scene.pipeline()
    for _ in range(95):
        scene.server.submit_nowait(b"x")
    began = trio.current_time()
    sizes: list[int] = []
    while sum(sizes) < 95:
        request_id, request = await receive_append(channel)
        sizes.append(len(request.entries))
        await accept_append(channel, request_id, request)
    assert sizes == [10] * 9 + [5]
    # Ten requests in a window of four take about three round trips.
    assert trio.current_time() - began < 5 * 2 * 0.0005
    await until(lambda: scene.server.state.commit_index == 96)


async def test_pipeline_silent_when_there_is_nothing_to_tell(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """When writes stop the follower is told the commit index once, and then nothing more (R12)."""
    scene = await play(nursery)
    channel = await scene.pipeline()
    scene.server.submit_nowait(b"x")
    await accept_append(channel, *await receive_append(channel))
    began = trio.current_time()
    request_id, request = await receive_append(channel)
    timeout = scene.server.config.timeouts.commit_timeout
    assert (len(request.entries), request.leader_commit, request.prev_log_index) == (0, 2, 2)
    assert timeout <= trio.current_time() - began <= 2 * timeout + 0.01
    await accept_append(channel, request_id, request)
    with trio.move_on_after(100) as scope:
        await channel.receive()
    assert scope.cancelled_caught


DOUBTS: dict[str, Message] = {
    "a rejection": AppendEntriesReply(
        TERM, False, rejection=Rejection.LOG_MISMATCH, conflict_index=LogIndex(1), conflict_term=Term(0)
    ),
    "a match that was not sent": AppendEntriesReply(TERM, True, match_index=LogIndex(77)),
    "a success of an older term": AppendEntriesReply(Term(3), True, match_index=LogIndex(2)),
    "a heartbeat's reply": HeartbeatReply(TERM, 0),
    "not ready": AppendEntriesReply(TERM, False, rejection=Rejection.NOT_READY),
}


@pytest.mark.parametrize("doubt", DOUBTS)
async def test_pipeline_any_doubt_drops_the_connection(
    doubt: str, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """Whatever looks wrong ends the pipeline, drops the connection, and the probe starts from match + 1 (R10, R6)."""
    scene = await play(nursery)
    channel = await scene.pipeline()
    match = scene.progress.match_index
    scene.server.submit_nowait(b"a")
    request_id, _ = await receive_append(channel)
    await channel.send(DOUBTS[doubt], request_id=request_id)
    again = await scene.dialled()
    request_id, request = await receive_append(again)
    assert request.prev_log_index == match
    assert scene.server.state.role is Role.LEADER
    assert scene.progress.match_index == match


async def test_pipeline_answer_to_another_request(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A reply that is not to the oldest request in flight proves nothing, and ends the pipeline (R10)."""
    scene = await play(nursery)
    channel = await scene.pipeline()
    requests = []
    for _ in range(2):
        scene.server.submit_nowait(b"a")
        requests.append(await receive_append(channel))
    await accept_append(channel, *requests[1])
    again = await scene.dialled()
    _, request = await receive_append(again)
    assert (request.prev_log_index, scene.progress.match_index) == (1, 1)


async def test_pipeline_deadline_of_the_oldest_request(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """The oldest request in flight has a deadline of its own; later answers and requests do not move it (R10, W3)."""
    scene = await play(nursery)
    channel = await scene.pipeline()
    patience = scene.server.config.timeouts.request_timeout
    scene.server.submit_nowait(b"a")
    first = await receive_append(channel)
    await trio.sleep(0.8 * patience)
    scene.server.submit_nowait(b"b")
    await receive_append(channel)
    await accept_append(channel, *first)
    # The second is the oldest now: it was sent at 0.8.
    began = trio.current_time()
    await scene.dialled()
    assert trio.current_time() - began == pytest.approx(patience, abs=0.05)


async def test_pipeline_idle_has_no_deadline(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """With nothing in flight a connection may stay silent as long as it likes."""
    scene = await play(nursery)
    channel = await scene.pipeline()
    nursery.start_soon(follow_script, channel)
    await trio.sleep(20 * scene.server.config.timeouts.request_timeout)
    scene.server.submit_nowait(b"a")
    await until(lambda: scene.progress.match_index == 2)
    assert [purpose for _, purpose in scene.peer.dials].count(Purpose.REPLICATION) == 1


async def test_append_contact_is_dated_by_the_sending(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Contact is as old as the request that was answered, not as its answer (R11)."""
    scene = await play(nursery)
    channel = await scene.pipeline()
    scene.server.submit_nowait(b"a")
    request = await receive_append(channel)
    received = trio.current_time()
    await trio.sleep(3)
    await accept_append(channel, *request)
    await until(lambda: scene.progress.match_index == 2)
    assert scene.progress.last_append_contact < received


# ------------------------------------------------------------------------------------------- old entries, own disk


async def test_entries_that_left_memory_are_read_back(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Entries that left memory are read back from the store, in batches, and sent as they were written."""
    terms = tuple([1] * 40)
    limits = Limits(log_memory_bytes=400, max_batch_entries=10)
    scene = await play(nursery, terms=terms, limits=limits)
    channel = await scene.dialled()
    request_id, request = await receive_append(channel)
    await reject(channel, request_id, index=1, term=0)
    received: list[int] = []
    while len(received) < 41:
        request_id, request = await receive_append(channel)
        received += [entry.index for entry in request.entries]
        assert all(entry == store_of(scene.server).on_disk[entry.index - 1] for entry in request.entries)
        await accept_append(channel, request_id, request)
    assert received == list(range(1, 42))
    assert store_of(scene.server).reads


async def test_own_read_error_ends_the_node_not_the_follower(autojump_clock: MockClock) -> None:
    """A read error of this node's own log ends it, and is not taken for the follower's fault (R9, R13)."""
    caught: list[BaseException] = []
    async with trio.open_nursery() as nursery:
        network = MemoryNetwork()
        config = make_config(members=TWO, limits=Limits(log_memory_bytes=1))
        server = await make_server(terms=[1] * 20, term=4, config=config, network=network)
        peer = ScriptedPeer(make_config(N2, members=TWO))
        await peer.listen(network, nursery)
        recorder = record(server)
        nursery.start_soon(server.journal.run)
        lead_term(server, TERM)
        store_of(server).read_failure = OSError(errno.EIO, "Input/output error")

        async def replicate() -> None:
            try:
                await replicate_to(server, server.followers[N2])
            except* StorageError as group:
                caught.append(group)

        nursery.start_soon(replicate)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert len(caught) == 1
    assert recorder.of(ReplicationRestarted) == []


async def test_supervise_restarts_after_a_bug(
    autojump_clock: MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unexpected error restarts that follower's replication with an event, and the heartbeats never fall silent
    (R13).
    """
    failures = iter(range(3))
    real = append_entries.make

    def make(*arguments: object, **settings: object) -> object:
        if next(failures, None) is not None:
            raise LookupError("a bug")
        return real(*arguments, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(append_entries, "make", make)
    scene = await play(nursery)
    recorder = record(scene.server)
    for _ in range(3):
        await scene.dialled()
    await scene.pipeline()
    events = recorder.of(ReplicationRestarted)
    assert [(event.peer, event.task, event.problem) for event in events] == [
        (N2, "replicate", "LookupError: a bug")
    ] * 3
    assert scene.server.state.role is Role.LEADER
    assert scene.peer.heartbeats


async def test_supervise_lets_a_broken_invariant_through(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken invariant of this node is not restarted: it ends the node (R13)."""

    def make(*arguments: object, **settings: object) -> object:
        raise AssertionError("broken")

    monkeypatch.setattr(append_entries, "make", make)
    with pytest.RaisesGroup(AssertionError, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            network = MemoryNetwork()
            server = await make_server(config=make_config(members=TWO), network=network)
            await ScriptedPeer(make_config(N2, members=TWO)).listen(network, nursery)
            lead_term(server, 1)
            nursery.start_soon(replicate_to, server, server.followers[N2])
            await trio.sleep(10)


async def test_replication_ends_with_its_scope(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """One cancel ends everything that a leader does for a follower: both its connections are closed (R13)."""
    scene = await play(nursery)
    await scene.pipeline()
    await until(lambda: scene.peer.heartbeats)
    scene.replicating.cancel()
    await trio.sleep(0.1)
    before = len(scene.peer.heartbeats)
    scene.server.submit_nowait(b"a")
    await trio.sleep(10)
    assert len(scene.peer.heartbeats) == before
    assert len(scene.peer.dials) == 2
    assert scene.progress.mode is Mode.PROBE


# ------------------------------------------------------------------------------------------- heartbeat


async def test_heartbeats_go_out_every_drawn_interval(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A heartbeat leaves at once and then after a time drawn from [t, 2t), a stuck log notwithstanding (K1, W3)."""
    scene = await play(nursery)
    channel = await scene.dialled()
    await receive_append(channel)
    await trio.sleep(4)
    times = [at for at, _ in scene.peer.heartbeats]
    interval = scene.server.config.timeouts.heartbeat_interval
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert times[0] < 0.01
    assert all(interval <= gap <= 2 * interval + 0.01 for gap in gaps)
    assert len(set(gaps)) > 10
    assert {(beat.term, beat.leader, beat.round) for _, beat in scene.peer.heartbeats} == {(TERM, N1, 0)}


async def test_heartbeat_leaves_at_once_when_a_read_asks(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A read does not wait for the next heartbeat: one leaves now, with the new round (Q4)."""
    scene = await play(nursery)
    await until(lambda: scene.peer.heartbeats)
    await trio.sleep(0.05)
    began, before = trio.current_time(), len(scene.peer.heartbeats)
    assert scene.server.reads.join() == 1
    scene.server.heartbeat_lot.unpark_all()
    await until(lambda: len(scene.peer.heartbeats) > before)
    assert trio.current_time() - began < 0.005
    assert scene.peer.heartbeats[before][1].round == 1


async def test_heartbeat_contact_lost_and_resumed(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Losing contact is one event and finding it again another, however many attempts lie between."""
    scene = await play(nursery)
    recorder = record(scene.server)
    await until(lambda: scene.peer.heartbeats)
    scene.network.refuse(N2)
    scene.network.reset(N1, N2)
    await trio.sleep(20)
    [lost] = recorder.of(ContactLost)
    assert lost.peer == N2
    scene.network.heal()
    await trio.sleep(1)
    [resumed] = recorder.of(ContactResumed)
    assert 20 <= resumed.silence <= 21
    assert len(recorder.of(ContactLost)) == 1


async def test_heartbeat_half_open_peer(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A peer that takes heartbeats and never answers is noticed by deadline, and is no contact (R11, W3)."""
    scene = await play(nursery, answers_heartbeats=False)
    recorder = record(scene.server)
    channel = await scene.peer.channel(Purpose.CONTROL)
    frame = await channel.receive()
    assert isinstance(frame.message, Heartbeat)
    await trio.sleep(scene.server.config.timeouts.heartbeat_timeout)
    [lost] = recorder.of(ContactLost)
    assert "no answer" in lost.problem
    assert scene.progress.last_contact == 0


async def test_heartbeat_backoff_is_capped_at_half_the_timeout(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """However long a peer was gone, it is found again within half a heartbeat timeout."""
    scene = await play(nursery, listens=False)
    await trio.sleep(100)
    await scene.peer.listen(scene.network, nursery)
    began = trio.current_time()
    await until(lambda: scene.peer.heartbeats)
    assert trio.current_time() - began <= scene.server.config.timeouts.heartbeat_timeout / 2 + 0.01


async def test_heartbeat_later_term_ends_the_leadership(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A later term in a heartbeat's answer ends the leadership too (R1)."""
    scene = await play(nursery, answers_heartbeats=False)
    channel = await scene.peer.channel(Purpose.CONTROL)
    frame = await channel.receive()
    await channel.send(HeartbeatReply(Term(11), 0), request_id=frame.request_id)
    await until(lambda: scene.server.state.role is Role.FOLLOWER)
    assert scene.server.state.current_term == 11


async def test_heartbeat_answer_in_first_start_is_no_support(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """An answer of a server that may not acknowledge yet counts neither as contact nor for a read (O1, Q1)."""
    scene = await play(nursery, answers_heartbeats=False)
    scene.server.reads.join()
    channel = await scene.peer.channel(Purpose.CONTROL)
    for _ in range(5):
        frame = await channel.receive()
        assert isinstance(frame.message, Heartbeat)
        await channel.send(HeartbeatReply(TERM, frame.message.round, ready=False), request_id=frame.request_id)
    await trio.sleep(0.01)
    assert scene.progress.last_contact == 0
    assert scene.server.reads.confirmed(scene.server.state.configuration, N1) == 0
