"""Mistakes about terms, votes and leaderships."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import attrs

from trio_raft import _leadership, _services
from trio_raft._election import _Round, campaign  # pyright: ignore[reportPrivateUsage]
from trio_raft._leader_loss import LeaderLoss
from trio_raft._messages import RequestVote, ServerId
from trio_raft._patience import Patience
from trio_raft._records import Term
from trio_raft._rules import request_vote
from trio_raft._rules.configuration import Configuration
from trio_raft._rules.request_vote import Tally
from trio_raft._rules.state import Role, State
from trio_raft._server import Server
from trio_raft._storage.wal import FileLogStore
from trio_raft._transport import ChannelBroken
from trio_raft.testing._mutants._mutant import Mutant, mutant, replaced


def _answer_vote_at_once(sound: Any) -> Any:
    def answer_vote(self: Server, request: RequestVote) -> Any:
        return sound(self, request)[0], 0

    return answer_vote


def _forget_vote(sound: Any) -> Any:
    def open_store(self: FileLogStore, *arguments: Any, **options: Any) -> Any:
        return attrs.evolve(sound(self, *arguments, **options), voted_for=None)

    return open_store


def _clear_vote(sound: Any) -> Any:
    def enter(self: State, term: Term, role: Role) -> None:
        sound(self, term, role)
        if role is Role.FOLLOWER:
            self.voted_for = None

    return enter


async def _campaign_before_the_vote_is_durable(server: Server) -> None:
    if not server.may_campaign():
        server.step_down("this server may not campaign now")
        return
    pre_vote = server.candidacy_term != server.state.current_term
    server.candidacy_term = None
    await _Round(server, pre_vote=pre_vote).run()


async def _campaign_again_in_a_term_with_own_vote(server: Server) -> None:
    state = server.state
    if state.voted_for == server.node_id and server.may_campaign():
        state.standing, state.last_led_term, state._term_leader = True, Term(0), None  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        await server.journal.wait_durable(server.vote_position)
        if state.role is Role.CANDIDATE and state.voted_for == server.node_id:
            await _Round(server, pre_vote=False).run()
    else:
        await campaign(server)


def _lead_on_pre_votes(sound: Any) -> Any:
    def decide(self: Any) -> bool:
        if not sound(self):
            return False
        server: Server = self._server
        if server.state.role is Role.CANDIDATE:
            server.transition(server.state.current_term, Role.LEADER, "pre-votes taken for votes")
        return True

    return decide


def _count_refusals(sound: Any) -> Any:
    def count(self: Tally, voter: ServerId, reply: Any) -> None:
        sound(self, voter, attrs.evolve(reply, granted=True))

    return count


def _pre_vote_restarts_timer(sound: Any) -> Any:
    def answer_vote(self: Server, request: RequestVote) -> Any:
        if request.pre_vote:
            self.patience.restart()
        return sound(self, request)

    return answer_vote


def _compare_indexes_only(state: State, request: RequestVote) -> str:
    return "" if request.last_log_index >= state.log.last_index else "its log is shorter"


def _ignore_log(_state: State, _request: RequestVote) -> str:
    return ""


def _adopt_term_though_sticky(sound: Any) -> Any:
    def answer(state: State, request: RequestVote, *, sticky: bool, ready: bool) -> Any:
        decision = sound(state, request, sticky=sticky, ready=ready)
        if sticky and not request.pre_vote and request.term > state.current_term:
            return attrs.evolve(decision, adopt_term=request.term)
        return decision

    return answer


def _smaller_quorum(self: Configuration, values: Mapping[ServerId, Any]) -> Any:
    reached = sorted((values[voter] for voter in self.voters if voter in values), reverse=True)
    needed = max(1, len(self.voters) // 2)
    return reached[needed - 1] if len(reached) >= needed else None


async def _never_doubt_contact(server: Server, term: Term) -> None:
    while server.leads(term):
        await server.environment.clock.sleep(server.config.timeouts.heartbeat_timeout)


async def _take_any_loss_for_a_death(self: LeaderLoss, peer: ServerId, *_: object) -> None:
    server: Server = self._server  # pyright: ignore[reportPrivateUsage]
    if server.follows(peer, server.state.current_term):
        server.note_leader_gone(peer, "its connections ended", took=0.0)


def _take_silence_for_death(sound: Any) -> Any:
    async def why_gone(self: LeaderLoss, leader: ServerId, boot_id: str) -> str:
        try:
            return cast("str", await sound(self, leader, boot_id))
        except ChannelBroken as error:
            return error.reason

    return why_gone


def _believe_a_claim(sound: Any) -> Any:
    def answer(state: State, request: RequestVote, *, sticky: bool, ready: bool) -> Any:
        return sound(state, request, sticky=sticky and not request.pre_vote, ready=ready)

    return answer


def _never_loyal_again(sound: Any) -> Any:
    def heard(self: Patience) -> None:
        gone = self.gone
        sound(self)
        self.gone = gone

    return heard


@contextmanager
def _roles(campaign: Any) -> Iterator[None]:
    sound = _services._ROLES[Role.CANDIDATE]  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    _services._ROLES[Role.CANDIDATE] = campaign  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    try:
        yield
    finally:
        _services._ROLES[Role.CANDIDATE] = sound  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


ELECTIONS = (
    mutant(
        "vote-before-durable",
        "E2",
        "a vote is answered before it is durable",
        Server,
        "answer_vote",
        _answer_vote_at_once,
    ),
    mutant(
        "vote-forgotten",
        "E1",
        "a restart forgets whom the vote of the term went to",
        FileLogStore,
        "open",
        _forget_vote,
    ),
    mutant(
        "vote-cleared",
        "E2",
        "becoming a follower clears the vote though the term stays",
        State,
        "enter",
        _clear_vote,
        also={
            "One vote in each term, and the term never falls": "a vote that was cleared is given a second time",
        },
    ),
    Mutant(
        "asks-before-own-vote",
        "E2",
        "RequestVote leaves before the candidate's own vote is durable",
        lambda: _roles(_campaign_before_the_vote_is_durable),
    ),
    Mutant(
        "term-led-twice",
        "E2",
        "a server that finds its own vote in the term campaigns in it again",
        lambda: _roles(_campaign_again_in_a_term_with_own_vote),
    ),
    mutant("pre-votes-elect", "E4", "a majority of pre-votes makes a leader", _Round, "_decide", _lead_on_pre_votes),
    mutant("refusals-count", "E4", "a reply is a vote, whatever it says", Tally, "count", _count_refusals),
    mutant(
        "pre-vote-resets-timer",
        "E6",
        "a pre-vote restarts the voter's election timer",
        Server,
        "answer_vote",
        _pre_vote_restarts_timer,
    ),
    mutant(
        "freshness-by-length",
        "E3",
        "a longer log is a fresher one",
        request_vote,
        "_log_objection",
        replaced(_compare_indexes_only),
    ),
    mutant("freshness-ignored", "E3", "anybody gets the vote", request_vote, "_log_objection", replaced(_ignore_log)),
    mutant(
        "sticky-adopts-term",
        "E8",
        "a request refused for stickiness still raises the term",
        request_vote,
        "answer",
        _adopt_term_though_sticky,
    ),
    mutant(
        "loss-is-death",
        "E11",
        "a leader whose connections ended is given up unasked",
        LeaderLoss,
        "look",
        replaced(_take_any_loss_for_a_death),
    ),
    mutant(
        "silence-is-death",
        "E11",
        "a leader whose connections ended is given up because it does not answer",
        LeaderLoss,
        "_why_gone",
        _take_silence_for_death,
    ),
    mutant(
        "claims-are-believed",
        "E8",
        "whoever asks for a pre-vote is believed that the leader is gone",
        request_vote,
        "answer",
        _believe_a_claim,
    ),
    mutant(
        "never-loyal-again",
        "E11",
        "after one leader was gone, the next one is not stood by either",
        Patience,
        "heard",
        _never_loyal_again,
    ),
    mutant(
        "half-is-a-majority",
        "R7",
        "a majority is rounded down",
        Configuration,
        "quorum_value",
        replaced(_smaller_quorum),
        also={
            "What is committed is durable on a majority": "half of the members commit what no majority holds",
            "A leader has the votes of a majority": "half of the members elect a leader",
        },
    ),
    mutant(
        "leads-for-ever",
        "E9",
        "a leader without a majority goes on leading",
        _leadership,
        "_watch_contact",
        replaced(_never_doubt_contact),
    ),
)
