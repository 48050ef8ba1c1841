"""One server's state (paper Figure 2), and the table of the transitions that are legal.

::

    from \\ to     FOLLOWER              CANDIDATE                          LEADER

    FOLLOWER      same or any higher    same term: asks for pre-votes      never
                  term                  next term: told to campaign
                                        (leadership transfer)
    CANDIDATE     same or any higher    same term: asks again              same term, if it stands in
                  term                  next term: stands, and votes       this very term, has its own
                                        for itself                         vote, and never led it
    LEADER        same or any higher    never                              never
                  term

    term          Never falls.
    voted_for     Cleared when the term grows, and only then: one vote per term (E1).
    leader        Who leads this term, as far as is known.  Cleared when the term grows, and whenever the
                  server enters CANDIDATE or leaves it or LEADER: a candidate knows no leader.
    standing      True from the moment a candidate enters a new term until it wins or stops being a candidate.
                  A server that only asks for pre-votes does not stand, so a restarted one can never lead a
                  second time the term in which it once voted for itself.

Only a voter of its own latest configuration may become a candidate (E7).  The term of a candidacy grows by
one, after a majority of pre-votes (E8, dissertation 9.6); any higher term that a message shows makes a server
its follower.

One more thing is remembered that Figure 2 does not have: who led the current term, even after he fell
silent.  Two leaders in one term is the one thing that must never happen (Election Safety, paper 5.2), so
``follow`` compares.

House rule: whoever changes term or role calls ``enter``; nobody assigns these fields.  An illegal transition
is a bug of this package, raises ``IllegalTransition``, changes nothing, and stops the node.
"""

import enum

import attrs

from trio_raft._messages import ServerId
from trio_raft._records import LogIndex, Term
from trio_raft._rules.configuration import Configuration
from trio_raft._rules.log import Log


class Role(enum.Enum):
    """What a server is in its term (paper Figure 4)."""

    FOLLOWER = "follower"
    CANDIDATE = "candidate"
    LEADER = "leader"


class IllegalTransition(AssertionError):
    """A transition that the table at the top of this module does not have."""


class _Step(enum.Enum):
    """How far a transition moves the term."""

    BACK = enum.auto()
    SAME = enum.auto()
    NEXT = enum.auto()
    BEYOND = enum.auto()

    @classmethod
    def between(cls, current: Term, new: Term) -> "_Step":
        if new < current:
            return cls.BACK
        return (cls.SAME, cls.NEXT)[new - current] if new - current < 2 else cls.BEYOND


_NOT_BACK = frozenset({_Step.SAME, _Step.NEXT, _Step.BEYOND})

_TRANSITIONS: dict[tuple[Role, Role], frozenset[_Step]] = {
    (Role.FOLLOWER, Role.FOLLOWER): _NOT_BACK,
    (Role.FOLLOWER, Role.CANDIDATE): frozenset({_Step.SAME, _Step.NEXT}),
    (Role.CANDIDATE, Role.FOLLOWER): _NOT_BACK,
    (Role.CANDIDATE, Role.CANDIDATE): frozenset({_Step.SAME, _Step.NEXT}),
    (Role.CANDIDATE, Role.LEADER): frozenset({_Step.SAME}),
    (Role.LEADER, Role.FOLLOWER): _NOT_BACK,
}


@attrs.define(eq=False, kw_only=True)
class State:
    """Everything that the rules know of this server.  Read freely; change through the methods."""

    node_id: ServerId
    log: Log
    configuration: Configuration
    """The latest in the log, committed or not: in force as soon as it is appended (paper section 6)."""
    current_term: Term = Term(0)
    voted_for: ServerId | None = None
    """Whom this server gave its vote in ``current_term``."""
    role: Role = Role.FOLLOWER
    leader: ServerId | None = None
    commit_index: LogIndex = LogIndex(0)
    """Known to be committed, never below the log's base.  A server that has a newer snapshot raises it to that."""
    last_applied: LogIndex = LogIndex(0)
    """What the state machine reflects.  Below the log's base: it has to be restored from a snapshot first."""
    last_led_term: Term = Term(0)
    standing: bool = attrs.field(init=False, default=False)
    _term_leader: ServerId | None = attrs.field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        # Only what is committed is ever compacted (S7).
        self.commit_index = max(self.commit_index, self.log.base_index)

    def enter(self, term: Term, role: Role) -> None:
        """Move to this term and role.  Raises IllegalTransition, and changes nothing, outside the table."""
        self._check(term, role)
        if term > self.current_term:
            self.current_term = term
            self.voted_for = self.leader = self._term_leader = None
            self.standing = role is Role.CANDIDATE
            if self.standing:
                self.voted_for = self.node_id
        if role is not Role.FOLLOWER or self.role is not Role.FOLLOWER:
            self.leader = None
        if role is Role.LEADER:
            self.last_led_term = term
            self.leader = self._term_leader = self.node_id
        if role is not Role.CANDIDATE:
            self.standing = False
        self.role = role

    def _check(self, term: Term, role: Role) -> None:
        step = _Step.between(self.current_term, term)
        if step not in _TRANSITIONS.get((self.role, role), frozenset()):
            raise self._illegal(term, role, "the table has no such transition")
        if role is Role.CANDIDATE and not self.may_campaign:
            raise self._illegal(term, role, "it is no voter of its latest configuration")
        if role is Role.LEADER:
            if not self.standing or self.voted_for != self.node_id:
                raise self._illegal(term, role, f"it does not stand in this term; its vote is {self.voted_for}")
            if term <= self.last_led_term or self._term_leader is not None:
                raise self._illegal(term, role, f"the term was led by {self._term_leader or self.node_id} already")

    def _illegal(self, term: Term, role: Role, why: str) -> IllegalTransition:
        return IllegalTransition(
            f"{self.node_id}: {self.role.value} of term {self.current_term} -> {role.value} of term {term}: {why}"
        )

    @property
    def may_campaign(self) -> bool:
        """Is it a voter of its own latest configuration (E7)?"""
        return self.configuration.is_voter(self.node_id)

    def record_vote(self, candidate: ServerId) -> None:
        """Give this term's vote; the same one again is fine.  Raises AssertionError for a second one (E1)."""
        if self.role is not Role.FOLLOWER or self.voted_for not in (None, candidate):
            raise AssertionError(
                f"{self.node_id}, {self.role.value} of term {self.current_term}, gave its vote to "
                f"{self.voted_for} and cannot give it to {candidate}"
            )
        self.voted_for = candidate

    def follow(self, leader: ServerId) -> None:
        """A message of ``current_term`` shows who leads it.

        Raises AssertionError if somebody else is known to have led this term: Election Safety (paper 5.2) is
        broken.
        """
        if self.role is not Role.FOLLOWER or leader == self.node_id:
            raise AssertionError(
                f"{self.node_id}, {self.role.value} of term {self.current_term}, cannot follow {leader}"
            )
        if self._term_leader not in (None, leader):
            raise AssertionError(
                f"two leaders in term {self.current_term}: {self._term_leader} and {leader}, as seen by {self.node_id}"
            )
        self.leader = self._term_leader = leader

    def raise_commit(self, index: LogIndex) -> None:
        """Entries up to there are committed.  Raises AssertionError below the present one or past the log."""
        if not self.commit_index <= index <= self.log.last_index:
            raise AssertionError(
                f"{self.node_id}: the commit index cannot go from {self.commit_index} to {index}; the log "
                f"ends at {self.log.last_index}"
            )
        self.commit_index = index

    def restored(self, index: LogIndex) -> None:
        """The state machine now reflects a snapshot up to ``index``.

        Raises AssertionError below what it had applied, and above what is committed (N3).
        """
        if not self.last_applied <= index <= self.commit_index:
            raise AssertionError(
                f"{self.node_id}: a state machine that applied {self.last_applied} cannot be restored to {index}; "
                f"the commit index is {self.commit_index}"
            )
        self.last_applied = index
