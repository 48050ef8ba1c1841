"""Elections: wait until a leader is missed (``follow``), then gather votes (``campaign``) (paper 5.2).

A campaign has two stages, and each is one run of ``campaign`` in the role CANDIDATE:

1. *Pre-vote* (dissertation 9.6), in the unchanged term: would a majority vote for us?  It changes nothing anywhere, so
   whoever refused is asked again until the round's time is up.  Only a majority of yes lets the term rise.
2. *Vote*, in the next term: the own vote is made durable first, with everything queued before it, the entries that the
   candidacy stands on included.  Otherwise a server whose disk stalls could win, crash, come back without its vote, and
   lead the same term a second time.

House rule: after every await ask whether this is still the same candidacy; ``transition`` cancels the role's scope,
but a task that was already woken runs on until its next await.
"""

import trio

from trio_raft._environment import draw_interval, sleep_until_due
from trio_raft._errors import ProtocolError
from trio_raft._messages import Purpose, RequestVoteReply, ServerId
from trio_raft._peers import dial_peer
from trio_raft._records import Term
from trio_raft._rules import request_vote
from trio_raft._rules.request_vote import Tally
from trio_raft._rules.state import Role
from trio_raft._server import Server
from trio_raft._transport import ChannelBroken


async def follow(server: Server) -> None:
    """Wait until no leader was heard for the drawn time, then become a candidate."""
    clock = server.environment.clock
    while True:
        await sleep_until_due(
            clock, lambda: server.patience.election_deadline, interval=server.config.timeouts.heartbeat_interval
        )
        if server.may_campaign():
            break
        server.patience.restart()
    server.transition(server.state.current_term, Role.CANDIDATE, _why_campaign(server))


def _why_campaign(server: Server) -> str:
    silence = server.environment.clock.now() - server.patience.last_contact
    if server.patience.gone:
        return server.patience.gone
    return "no leader was heard yet" if silence == float("inf") else f"no leader was heard for {silence:.2f} s"


async def campaign(server: Server) -> None:
    """One stage of a candidacy; ends with a transition, or without one when its time is up."""
    state = server.state
    if not server.may_campaign():
        server.step_down("this server may not campaign now")
    elif server.candidacy_term != state.current_term:
        await _Round(server, pre_vote=True).run()
    else:
        # A term is tried once: when this round fails, the next one starts with a pre-vote again.
        server.candidacy_term, term = None, state.current_term
        await server.journal.wait_durable(server.vote_position)
        # A transition may have come in the very turn in which the disk was done.
        if state.role is Role.CANDIDATE and state.current_term == term:
            await _Round(server, pre_vote=False).run()


class _Round:
    """One stage: ask every other voter at once, count, and act on a majority."""

    def __init__(self, server: Server, *, pre_vote: bool) -> None:
        self._server = server
        self._pre_vote = pre_vote
        self._term = server.state.current_term
        self._request = request_vote.make(server.state, pre_vote=pre_vote)
        self._tally = Tally(server.state.configuration, term=self._request.term, pre_vote=pre_vote, own=server.node_id)
        self._unreachable: dict[ServerId, str] = {}
        timeout = draw_interval(server.environment, server.config.timeouts.election_timeout)
        self._ends = server.environment.clock.now() + timeout
        self._all_answered = trio.Event()
        """No voter is left whose answer is not known."""

    async def run(self) -> None:
        server = self._server
        self._report()
        if self._decide():
            return
        async with trio.open_nursery() as nursery:
            for voter in server.state.configuration.members:
                if voter != server.node_id and server.state.configuration.is_voter(voter):
                    nursery.start_soon(self._ask, voter, name=f"ask[{voter}]")
            await self._wait_for_end()
            nursery.cancel_scope.cancel()
        self._report()

    async def _wait_for_end(self) -> None:
        """The whole time, even if everybody has refused: a new round at once would only split votes again.

        But those who know that the leader is gone have waited for nobody, and draw small differences: when no vote can
        come any more, one of these is enough.  A pre-vote still can.
        """
        clock, patience = self._server.environment.clock, self._server.patience
        if self._pre_vote or not patience.in_haste():
            await clock.sleep_until(self._ends)
        else:
            with clock.move_on_at(self._ends):
                await self._all_answered.wait()
                patience.split()
                await clock.sleep(patience.draw_pause())

    async def _ask(self, voter: ServerId) -> None:
        """Ask until there is an answer that counts; a refused pre-vote is asked again, since it may change."""
        server = self._server
        pause = server.config.timeouts.retry_backoff
        while self._stands():
            try:
                channel = await dial_peer(server, voter, Purpose.CONTROL)
                try:
                    while self._stands():
                        reply = await channel.request(self._request)
                        if self._digest(voter, reply) or not self._pre_vote:
                            return
                        await server.environment.clock.sleep(self._ask_again_interval())
                finally:
                    await channel.drop()
            except (ChannelBroken, ProtocolError) as error:
                self._unreachable[voter] = error.reason
                self._note_answer()
            self._report()
            await server.environment.clock.sleep(pause)
            pause = min(2 * pause, server.config.timeouts.retry_backoff_cap)

    def _ask_again_interval(self) -> float:
        if self._server.patience.in_haste():
            # The voter is about to notice what this server noticed a moment before.
            return self._server.patience.draw_pause()
        return draw_interval(self._server.environment, self._server.config.timeouts.heartbeat_interval)

    def _digest(self, voter: ServerId, reply: object) -> bool:
        """Count a reply; True once this voter need not be asked again."""
        if not self._stands():
            return True
        if not isinstance(reply, RequestVoteReply):
            raise ProtocolError(voter, f"answered a RequestVote with {type(reply).__name__}")
        self._unreachable.pop(voter, None)
        if reply.term > self._server.state.current_term:
            self._server.adopt_term(reply.term, voter)
            return True
        self._tally.count(voter, reply)
        self._note_answer()
        self._report()
        return self._decide() or reply.granted

    def _note_answer(self) -> None:
        known = {*self._tally.votes, *self._tally.refusals, *self._unreachable}
        configuration = self._tally.configuration
        if all(member in known for member in configuration.members if configuration.is_voter(member)):
            self._all_answered.set()

    def _decide(self) -> bool:
        """Act on a majority, if there is one."""
        server, state = self._server, self._server.state
        # After a pause of the process, answers from before it may be read first; pre-votes tell how things stood then.
        late = self._pre_vote and server.environment.clock.now() >= self._ends
        if late or not self._tally.won or not server.may_campaign():
            return False
        supporters = ", ".join(sorted(self._tally.votes))
        if self._pre_vote:
            next_term = Term(self._term + 1)
            server.transition(next_term, Role.CANDIDATE, f"{supporters} would vote for it")
            server.candidacy_term = next_term
        else:
            server.transition(state.current_term, Role.LEADER, f"elected by {supporters}")
        return True

    def _stands(self) -> bool:
        state = self._server.state
        return state.role is Role.CANDIDATE and state.current_term == self._term

    def _report(self) -> None:
        """What ``statistics()`` and NoLeader say: votes needed and got, who could not be asked, who refused."""
        needed = len(self._server.state.configuration.voters) // 2 + 1
        kind = "pre-votes" if self._pre_vote else "votes"
        parts = [f"{len(self._tally.votes)} of {needed} {kind} needed for term {self._request.term}"]
        parts += [f"{voter} refused: {reason}" for voter, reason in sorted(self._tally.refusals.items())]
        parts += [f"{voter} not reached: {reason}" for voter, reason in sorted(self._unreachable.items())]
        self._server.campaign_report = "; ".join(parts)
