"""Elections of one server, watched: terms, votes, leaderships.

House rule: every check is of one step: what a call was given, what it changed, what it answered.
"""

from collections.abc import Callable

from trio_raft._messages import RequestVote, RequestVoteReply
from trio_raft._rules.state import Role
from trio_raft.testing._past import Leadership
from trio_raft.testing._watch import Watch


class ElectionChecks:
    """Terms never fall; one vote and one leader in each; a majority behind each."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._server = watch.server
        self._state = watch.server.state
        self._past = watch.past
        self._id = watch.id
        self._fail = watch.fail
        self._note = watch.note

    def around_transition(self, original: Callable[..., None]) -> Callable[..., None]:
        def transition(term: int, role: Role, reason: str) -> None:
            before = f"{self._state.role.value} of term {self._state.current_term}"
            term_before, role_before = self._state.current_term, self._state.role
            if not self._watch.over:
                self._note(f"{before} -> {role.value} of term {term}: {reason}")
            if role is Role.LEADER:
                # Before the call, which appends the first entry of the term.
                self._watch.run(self._before_leading, term)
            original(term, role, reason)
            self._watch.run(self._after_transition, term_before, role_before)

        return transition

    def _before_leading(self, term: int) -> None:
        past, log = self._past, self._state.log
        before = past.leaders.get(term)
        now = Leadership(self._id, self._watch.life, self._server.environment.clock.now())
        if before is not None:
            self._fail(
                "Election Safety (paper 5.2, E1, E2)",
                expected=f"term {term} is led once, as it was: by {before.node_id} in its life {before.life}",
                seen=f"{self._id} leads it in its life {self._watch.life}",
            )
        past.leaders[term] = now
        supporters = past.support.get((term, self._id, False), {})
        if not self._state.configuration.is_quorum([self._id, *supporters]):
            self._fail(
                "A leader has the votes of a majority (paper 5.2, E4)",
                expected=f"votes in term {term} from a majority of {self._watch.names()}",
                seen=f"its own and those of {', '.join(supporters) or 'nobody'}",
            )
        self._watch.image.refresh()
        if self._watch.image.votes.get(term) != self._id:
            self._fail(
                "A leadership begins after its own vote is durable (E2)",
                expected=f"on its disk: the vote for {self._id} in term {term}",
                seen=f"on its disk: {self._durable_vote()}",
            )
        needed = past.committed_before(term)
        if not self._watch.holds(needed):
            held = self._watch.slots[min(needed.index, len(self._watch.slots) - 1)]
            self._fail(
                "Leader Completeness (paper 5.4.3, E3)",
                expected=f"entry {needed}, which was committed in an earlier term, in the log of every later leader",
                seen=f"a log that ends at {log.last_index} of term {log.last_term}, with entry {held} there",
            )

    def _after_transition(self, term_before: int, role_before: Role) -> None:
        state = self._state
        if state.current_term < term_before:
            self._fail(
                "The term never falls (paper 5.1)", expected=f"at least {term_before}", seen=f"{state.current_term}"
            )
        if state.role is Role.CANDIDATE and state.current_term > term_before:
            supporters = self._past.support.get((state.current_term, self._id, True), {})
            if not state.configuration.is_quorum([self._id, *supporters]):
                self._fail(
                    "No term rises without a majority of pre-votes (E8)",
                    expected=f"pre-votes for term {state.current_term} from a majority of {self._watch.names()}",
                    seen=f"its own and those of {', '.join(supporters) or 'nobody'}",
                )
        stood = role_before is Role.CANDIDATE and state.current_term == term_before
        if state.role is Role.LEADER and not stood:
            self._fail(
                "Only a candidate of the same term becomes leader (paper Figure 4)",
                expected=f"a candidate of term {state.current_term} before",
                seen=f"{role_before.value} of term {term_before}",
            )
        self._watch.check_configuration()

    def after_save_vote(self, position: int, term: int, voted_for: str | None) -> None:
        """(term, vote) was queued for the disk."""
        watch, earlier = self._watch, self._vote_in(term)
        self._note(f"queues its vote in term {term}: {voted_for or 'for nobody yet'}")
        if term < watch.term or (earlier is not None and voted_for != earlier):
            self._fail(
                "One vote in each term, and the term never falls (E1)",
                expected=f"a term from {watch.term} on"
                + (f", and the vote for {earlier} in {term}" if earlier else ""),
                seen=f"the vote for {voted_for or 'nobody'} in term {term}, queued at {position}",
            )
        watch.term = max(watch.term, term)
        if voted_for is not None:
            watch.decided[term] = voted_for

    def _vote_in(self, term: int) -> str | None:
        """The vote that this directory gave in the term, as far as this life knows."""
        return self._watch.decided.get(term) or self._watch.image.votes.get(term)

    def around_answer_vote(
        self, original: Callable[[RequestVote], tuple[RequestVoteReply, int]]
    ) -> Callable[[RequestVote], tuple[RequestVoteReply, int]]:
        def answer_vote(request: RequestVote) -> tuple[RequestVoteReply, int]:
            before, sticky = self._election_state(), self._hears_a_leader()
            answer = original(request)
            self._watch.run(self._after_answer_vote, request, answer[0], before, sticky)
            return answer

        return answer_vote

    def after_accept_leader(self, _: None, term: int, leader: str) -> None:
        """A leader was heard."""
        if not self._server.is_sticky():
            self._fail(
                "Whoever has heard a leader stands by him (E5, E11)",
                expected=f"loyalty to {leader}, who leads term {term}",
                seen=f"none: {self._server.patience.gone}",
            )

    def _hears_a_leader(self) -> bool:
        """Does it lead, or has it heard a leader lately of whom it does not know that he is gone?"""
        contact = self._server.patience.last_contact
        silence = self._server.environment.clock.now() - contact
        heard = silence < self._server.config.timeouts.heartbeat_timeout and contact != self._watch.gave_up
        return heard or self._state.role is Role.LEADER

    def _election_state(self) -> tuple[int, str | None, float, float]:
        """All that a pre-vote, or a request that is refused for stickiness, must leave alone."""
        server, state = self._server, self._state
        return state.current_term, state.voted_for, server.patience.election_deadline, server.patience.last_contact

    def _after_answer_vote(
        self,
        request: RequestVote,
        reply: RequestVoteReply,
        before: tuple[int, str | None, float, float],
        sticky: bool,
    ) -> None:
        if (request.pre_vote or sticky) and self._election_state() != before:
            what = "a pre-vote" if request.pre_vote else "a request while a leader is heard"
            self._fail(
                "A pre-vote changes nothing at the voter, nor does a request refused for stickiness (E6, E8)",
                expected=f"after {what}: (term, vote, election deadline, contact with a leader) {before}",
                seen=f"{self._election_state()}",
            )
        if not reply.granted:
            return
        if sticky:
            self._fail(
                "Whoever hears a leader supports nobody else, whatever others claim (E8, E11)",
                expected=f"a refusal: it heard {self._state.leader} at {self._server.patience.last_contact}",
                seen=f"{'a pre-vote' if request.pre_vote else 'its vote'} granted to {request.candidate}",
            )
        last = self._watch.slots[-1]
        if (request.last_log_term, request.last_log_index) < (last.term, last.index):
            self._fail(
                "A vote goes only to a log that is at least as up to date (paper 5.4.1, E3)",
                expected=f"a refusal: the own log ends at {last}",
                seen=f"granted to {request.candidate}, whose log ends at "
                f"{request.last_log_index}:{request.last_log_term}",
            )
        earlier = self._vote_in(request.term)
        if not request.pre_vote:
            if earlier is not None and earlier != request.candidate:
                self._fail(
                    "One vote in each term (E1)",
                    expected=f"the vote in term {request.term} stays with {earlier}",
                    seen=f"granted to {request.candidate}",
                )
            self._watch.decided[request.term] = request.candidate
        self._past.support.setdefault((request.term, request.candidate, request.pre_vote), {})[self._id] = None

    def _durable_vote(self) -> str:
        return f"term {self._watch.image.term}, vote for {self._watch.image.voted_for or 'nobody'}"
