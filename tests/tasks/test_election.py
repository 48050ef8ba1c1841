"""Waiting for a leader and gathering votes, against voters that follow a script."""

import contextlib
import itertools
from collections.abc import Awaitable, Callable

import trio
from trio.testing import MockClock

from tests.tasks.parts import (
    N1,
    N2,
    N3,
    ScriptedPeer,
    lanes,
    make_config,
    make_server,
    record,
    run_roles,
    settle,
    store_of,
    until,
)
from trio_raft._election import follow
from trio_raft._environment import Lane
from trio_raft._events import RoleChanged
from trio_raft._messages import Heartbeat, Purpose, RequestVote, RequestVoteReply, ServerId
from trio_raft._records import Term
from trio_raft._rules.state import Role
from trio_raft._server import Server
from trio_raft._transport import Channel, ChannelBroken
from trio_raft.testing._network import MemoryNetwork

Answer = Callable[[Channel, int, RequestVote], Awaitable[None]]
"""What a voter does with a request."""


class Voter:
    """A peer that hands every RequestVote to its script, and remembers it."""

    def __init__(self, voter: ServerId, answer: Answer) -> None:
        self.peer = ScriptedPeer(make_config(voter), answers_heartbeats=False)
        self.asked: list[RequestVote] = []
        self._answer = answer

    async def run(self, network: MemoryNetwork, nursery: trio.Nursery) -> None:
        await self.peer.listen(network, nursery)
        nursery.start_soon(self._accept, nursery)

    async def _accept(self, nursery: trio.Nursery) -> None:
        while True:
            nursery.start_soon(self._serve, await self.peer.channel(Purpose.CONTROL))

    async def _serve(self, channel: Channel) -> None:
        try:
            while True:
                frame = await channel.receive()
                assert isinstance(frame.message, RequestVote)
                self.asked.append(frame.message)
                await self._answer(channel, frame.request_id, frame.message)
        except ChannelBroken:
            pass

    @property
    def asked_pre_vote(self) -> list[RequestVote]:
        return [request for request in self.asked if request.pre_vote]

    @property
    def asked_vote(self) -> list[RequestVote]:
        return [request for request in self.asked if not request.pre_vote]


def voting(granted: bool, *, term: int | None = None) -> Answer:
    async def answer(channel: Channel, request_id: int, request: RequestVote) -> None:
        own = request.term - (1 if request.pre_vote else 0) if term is None else term
        reply = RequestVoteReply(Term(own), granted, request.pre_vote, request.term, "" if granted else "no")
        await channel.send(reply, request_id=request_id)

    return answer


async def silent(channel: Channel, request_id: int, request: RequestVote) -> None:
    """Never answer."""


async def start(
    nursery: trio.Nursery, second: Answer | None, third: Answer | None, *, latency: float = 0.0002
) -> tuple[Server, list[Voter]]:
    """Server n1 with two voters; None is one that is down."""
    network = MemoryNetwork()
    server = await make_server(terms=[1], term=1, network=network, latency=latency)
    voters = [Voter(voter, answer) for voter, answer in ((N2, second), (N3, third)) if answer is not None]
    for voter in voters:
        await voter.run(network, nursery)
    nursery.start_soon(server.journal.run)
    return server, voters


# ------------------------------------------------------------------------------------------- follow


async def test_follow_waits_as_long_as_a_leader_is_heard(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A follower becomes a candidate when it heard nobody for the drawn time, and not before (E9)."""
    server, _ = await start(nursery, None, None)
    nursery.start_soon(follow, server)
    for _ in range(50):
        await trio.sleep(0.9 * server.config.timeouts.heartbeat_timeout)
        server.answer_heartbeat(Heartbeat(Term(1), N2, 0))
        assert server.state.role is Role.FOLLOWER
    silent_since = trio.current_time()
    await until(lambda: server.state.role is not Role.FOLLOWER)
    patience = server.config.timeouts.heartbeat_timeout
    assert patience <= trio.current_time() - silent_since <= 2 * patience + 0.01
    assert server.state.current_term == 1


async def test_follow_does_not_campaign_on_a_stalled_disk(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """While a write is overdue there is neither a pre-vote nor a candidacy; afterwards there is (E10)."""
    server, voters = await start(nursery, voting(True), voting(True))
    lanes(server.environment).stall(Lane.JOURNAL)
    server.journal.save_vote(Term(1), None)
    await trio.sleep(server.config.timeouts.disk_stall_timeout + 0.1)
    nursery.start_soon(run_roles, server)
    await trio.sleep(30)
    assert (server.state.role, server.state.current_term) == (Role.FOLLOWER, 1)
    assert [voter.asked for voter in voters] == [[], []]
    lanes(server.environment).resume()
    await trio.sleep(5)
    assert server.state.role is Role.LEADER


# ------------------------------------------------------------------------------------------- campaign


async def test_campaign_pre_votes_then_votes(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """First a majority says that it would vote, in the old term; then the term rises, and it votes (E5, E8)."""
    server, voters = await start(nursery, voting(True), None)
    recorder = record(server)
    await run_roles(server)
    [voter] = voters
    assert [(request.pre_vote, request.term) for request in voter.asked] == [(True, 2), (False, 2)]
    assert [(request.last_log_index, request.last_log_term) for request in voter.asked] == [(1, 1)] * 2
    assert [(event.role, event.term) for event in recorder.of(RoleChanged)] == [
        ("candidate", 1),
        ("candidate", 2),
        ("leader", 2),
    ]


async def test_campaign_no_term_without_a_pre_vote_quorum(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A server that nobody would vote for asks again and again, and its term never rises (E8)."""
    server, voters = await start(nursery, voting(False), voting(False))
    nursery.start_soon(run_roles, server)
    await trio.sleep(100)
    assert server.state.current_term == 1
    assert all(len(voter.asked_pre_vote) > 50 and not voter.asked_vote for voter in voters)
    assert "1 of 2 pre-votes needed for term 2" in server.campaign_report
    assert "n2 refused: no" in server.campaign_report


async def test_campaign_report_names_who_cannot_be_reached(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """The report says votes needed and got, and who could not be asked, with the reason (X3)."""
    server, _ = await start(nursery, None, None)
    nursery.start_soon(run_roles, server)
    await trio.sleep(10)
    assert "n2 not reached" in server.campaign_report
    assert "n3 not reached" in server.campaign_report


async def test_campaign_alone(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A single voter elects itself, once its vote is durable (E2)."""
    server = await make_server(config=make_config(members=(N1,)), latency=0.5)
    nursery.start_soon(server.journal.run)
    server.transition(Term(0), Role.CANDIDATE, "the test says so")
    began = trio.current_time()
    await run_roles(server)
    assert trio.current_time() - began >= 0.5
    assert (store_of(server).vote_on_disk.term, store_of(server).vote_on_disk.voted_for) == (1, N1)


async def test_campaign_asks_only_with_a_durable_vote(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """No real vote is asked for before the own one is on disk (E2)."""
    server, voters = await start(nursery, voting(True), voting(True), latency=0.5)
    with trio.CancelScope() as scope:

        async def look() -> None:
            while True:
                if any(voter.asked_vote for voter in voters):
                    assert store_of(server).vote_on_disk.voted_for == N1
                    assert store_of(server).vote_on_disk.term == 2
                    scope.cancel()
                await trio.sleep(0.01)

        nursery.start_soon(run_roles, server)
        await look()
    assert scope.cancelled_caught


async def test_campaign_nobody_is_asked_twice_for_a_vote(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A refused vote stays refused in its term: the next question is a pre-vote again (E4, E8)."""
    answers: dict[bool, Answer] = {True: voting(True), False: voting(False)}

    async def answer(channel: Channel, request_id: int, request: RequestVote) -> None:
        await answers[request.pre_vote](channel, request_id, request)

    server, voters = await start(nursery, answer, answer)
    nursery.start_soon(run_roles, server)
    await trio.sleep(60)
    assert server.state.role is not Role.LEADER
    for voter in voters:
        terms = [request.term for request in voter.asked_vote]
        assert len(terms) == len(set(terms)) > 5
        # Each term was found by a pre-vote first.
        assert set(terms) <= {request.term for request in voter.asked_pre_vote}


async def test_campaign_votes_of_one_voter_count_once(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """However often one voter says yes, it is one vote; three of five need two others (E4)."""
    network, five = MemoryNetwork(), (N1, N2, N3, ServerId("n4"), ServerId("n5"))
    server = await make_server(config=make_config(members=five), network=network)
    nursery.start_soon(server.journal.run)

    async def twice(channel: Channel, request_id: int, request: RequestVote) -> None:
        if request.pre_vote:
            await voting(True)(channel, request_id, request)
        # The connection breaks after each answer, so that the same voter is asked over and over.
        await trio.sleep(0.01)
        await channel.drop()

    voter = Voter(N2, twice)
    voter.peer = ScriptedPeer(make_config(N2, members=five), answers_heartbeats=False)
    await voter.run(network, nursery)
    nursery.start_soon(run_roles, server)
    await trio.sleep(30)
    assert (server.state.current_term, server.state.role) == (0, Role.CANDIDATE)


async def test_campaign_later_term_in_a_refusal(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A refusal with a higher term is adopted, so that a long log with a low term gets through in the end (E5)."""
    heard: list[int] = []

    async def answer(channel: Channel, request_id: int, request: RequestVote) -> None:
        heard.append(request.term)
        reply = RequestVoteReply(Term(7), request.term > 7, request.pre_vote, request.term)
        await channel.send(reply, request_id=request_id)

    server, _ = await start(nursery, answer, None)
    await run_roles(server)
    assert (server.state.current_term, heard) == (8, [2, 8, 8])


async def test_campaign_late_reply_of_an_old_round(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A yes that comes after its round has ended counts for nothing (E4, E6)."""
    kept: list[tuple[Channel, int, RequestVote]] = []

    async def keep(channel: Channel, request_id: int, request: RequestVote) -> None:
        kept.append((channel, request_id, request))

    server, _ = await start(nursery, keep, None)
    nursery.start_soon(run_roles, server)
    await until(lambda: kept)
    server.answer_heartbeat(Heartbeat(Term(1), N3, 0))
    assert server.state.role is Role.FOLLOWER
    channel, request_id, request = kept[0]
    # The asker may have closed the connection of a round that is over: as good as not counting.
    with contextlib.suppress(ChannelBroken):
        await voting(True)(channel, request_id, request)
    await settle()
    await trio.sleep(0.1)
    assert (server.state.role, server.state.current_term) == (Role.FOLLOWER, 1)


async def test_campaign_reply_for_another_term_or_kind(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Replies count for exactly the term and the kind that was asked for (E4)."""

    async def confused(channel: Channel, request_id: int, request: RequestVote) -> None:
        reply = RequestVoteReply(Term(1), True, not request.pre_vote, request.term)
        if len(confusions) % 2:
            reply = RequestVoteReply(Term(1), True, request.pre_vote, Term(request.term + 1))
        confusions.append(request)
        await channel.send(reply, request_id=request_id)

    confusions: list[RequestVote] = []
    server, _ = await start(nursery, confused, confused)
    nursery.start_soon(run_roles, server)
    await trio.sleep(30)
    assert len(confusions) > 5
    assert (server.state.current_term, server.state.role) == (1, Role.CANDIDATE)


async def test_campaign_one_silent_voter_delays_nobody(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """Voters are asked side by side: a half-open one does not hold up an election (W3)."""
    server, _ = await start(nursery, silent, voting(True))
    server.transition(Term(1), Role.CANDIDATE, "the test says so")
    began = trio.current_time()
    await run_roles(server)
    assert trio.current_time() - began < 0.1


async def test_campaign_ends_with_its_round(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A candidate without a majority tries again after a time drawn from [t, 2t) (E9)."""
    server, [voter] = await start(nursery, silent, None)
    server.transition(Term(1), Role.CANDIDATE, "the test says so")
    nursery.start_soon(run_roles, server)
    await trio.sleep(100)
    rounds = len(voter.asked_pre_vote)
    patience = server.config.timeouts.election_timeout
    assert 100 / (2 * patience) <= rounds <= 100 / patience + 1


async def test_campaign_stops_when_the_disk_stalls(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A candidate whose disk stalls gives up, and a majority that it finds meanwhile is worth nothing (E10, S9)."""
    server, [voter] = await start(nursery, silent, None)
    nursery.start_soon(server.journal.watch)
    nursery.start_soon(run_roles, server)
    await until(lambda: voter.asked)
    lanes(server.environment).stall(Lane.JOURNAL)
    server.journal.save_vote(Term(1), None)
    await trio.sleep(server.config.timeouts.disk_stall_timeout + 0.1)
    assert server.state.role is Role.FOLLOWER
    asked = len(voter.asked)
    await trio.sleep(30)
    assert len(voter.asked) == asked
    lanes(server.environment).resume()


# ------------------------------------------------------------------------------------------- in haste


async def start_in_haste(nursery: trio.Nursery, second: Answer | None, third: Answer | None) -> tuple[Server, float]:
    """Server n1, which knows that its leader is gone, since when it has known it, and two voters."""
    server, _ = await start(nursery, second, third)
    server.answer_heartbeat(Heartbeat(Term(1), N2, 0))
    server.note_leader_gone(N2, "the test says so", took=0.0)
    return server, trio.current_time()


async def test_follow_not_a_leader_that_is_gone(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A follower that is asleep until its leader would be missed wakes when he is known to be gone (E11)."""
    server, _ = await start(nursery, voting(True), None)
    server.answer_heartbeat(Heartbeat(Term(1), N2, 0))
    nursery.start_soon(run_roles, server)
    await trio.sleep(0.5)
    began = trio.current_time()
    server.note_leader_gone(N2, "the test says so", took=0.0)
    await until(lambda: server.state.role is Role.LEADER)
    assert trio.current_time() - began < server.config.timeouts.failover_delay + 0.02


async def test_haste_refused_pre_vote_is_asked_again_soon(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A voter that has yet to notice the loss is asked again after moments, drawn anew each time (E11)."""
    asked: list[float] = []

    async def notices_late(channel: Channel, request_id: int, request: RequestVote) -> None:
        asked.append(trio.current_time())
        await voting(len(asked) > 4)(channel, request_id, request)

    server, began = await start_in_haste(nursery, None, notices_late)
    await run_roles(server)
    delay = server.config.timeouts.failover_delay
    pauses = [later - earlier for earlier, later in itertools.pairwise(asked)]
    assert all(pause < delay + 0.01 for pause in pauses)
    assert len({round(pause, 4) for pause in pauses}) > 1
    assert trio.current_time() - began < 5 * (delay + 0.01)
    assert server.state.current_term == 2


async def test_haste_split_votes_draw_again(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """When no vote can come any more, the next round comes in a moment, drawn anew, and from twice as much, with a
    pre-vote first (E8, E11).
    """
    asked: list[float] = []

    async def splits(channel: Channel, request_id: int, request: RequestVote) -> None:
        if not request.pre_vote:
            asked.append(trio.current_time())
        await voting(request.pre_vote or len(asked) > 4)(channel, request_id, request)

    server, began = await start_in_haste(nursery, None, splits)
    await run_roles(server)
    delay = server.config.timeouts.failover_delay
    pauses = [later - earlier for earlier, later in itertools.pairwise(asked)]
    assert all(pause < delay * 2**turn + 0.02 for turn, pause in enumerate(pauses, 1))
    assert len({round(pause, 4) for pause in pauses}) > 1
    assert trio.current_time() - began < server.config.timeouts.heartbeat_timeout
    assert server.state.current_term == 6


async def test_haste_waits_for_an_answer(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """While a vote may still come a round lasts its time, in haste too: the voter's disk may be slow (E9)."""
    asked: list[float] = []

    async def slow(channel: Channel, request_id: int, request: RequestVote) -> None:
        if not request.pre_vote:
            asked.append(trio.current_time())
            await trio.sleep(0.5)
        await voting(True)(channel, request_id, request)

    server, _ = await start_in_haste(nursery, None, slow)
    await run_roles(server)
    assert (len(asked), server.state.current_term) == (1, 2)


async def test_haste_ends(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A server that finds no majority hurries for the heartbeat timeout, and is as patient as any after that (E9)."""
    asked: list[float] = []

    async def splits(channel: Channel, request_id: int, request: RequestVote) -> None:
        if not request.pre_vote:
            asked.append(trio.current_time())
        await voting(request.pre_vote)(channel, request_id, request)

    server, began = await start_in_haste(nursery, None, splits)
    nursery.start_soon(run_roles, server)
    await trio.sleep(60)
    patience = server.config.timeouts
    later = [when for when in asked if when > began + patience.heartbeat_timeout + patience.failover_delay + 0.02]
    assert 4 < len(asked) - len(later) < 20
    pauses = [after - before for before, after in itertools.pairwise(later)]
    assert min(pauses) >= patience.election_timeout


async def test_haste_after_a_later_term(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A candidate that learns of a later term leaves its candidate an interval, and tries again in that term (E5)."""

    async def further(channel: Channel, request_id: int, request: RequestVote) -> None:
        await voting(request.term > 7, term=7)(channel, request_id, request)

    server, began = await start_in_haste(nursery, None, further)
    await run_roles(server)
    assert server.state.current_term == 8
    timeouts = server.config.timeouts
    waited = trio.current_time() - began
    assert timeouts.heartbeat_interval <= waited < timeouts.failover_delay + 2 * timeouts.heartbeat_interval + 0.05


async def test_haste_of_one_that_may_not_campaign(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """A hung disk keeps a server from campaigning, whoever is gone (E10)."""
    server, [voter] = await start(nursery, voting(True), None)
    lanes(server.environment).stall(Lane.JOURNAL)
    server.journal.save_vote(Term(1), None)
    await trio.sleep(server.config.timeouts.disk_stall_timeout + 0.1)
    server.answer_heartbeat(Heartbeat(Term(1), N2, 0))
    server.note_leader_gone(N2, "the test says so", took=0.0)
    nursery.start_soon(run_roles, server)
    await trio.sleep(5)
    assert (server.state.role, voter.asked) == (Role.FOLLOWER, [])
