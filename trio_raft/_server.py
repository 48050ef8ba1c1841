"""One Raft server from inside: its state, its journal, and the answer to every inbound RPC.

Everything here is synchronous.  Between two awaits a Trio program is atomic, so there is no lock; a rule decides,
``Server`` changes memory and queues what must survive on the journal, and the tasks on the floors above wait, send and
receive.

House rules:

* **All changes of term or role pass** ``transition``.  In one step it changes the state, fails every waiting
  proposal, cancels the running role and wakes whoever waits for a change.  Failing the waiters anywhere later, for
  example when the leader's nursery ends, gives a client another client's result: by then the next leader may have
  put another command at the same index.
* What depends on durability leaves with the journal position to wait for, as the second half of an answer.
* Every entry point that changes state carries ``enable_ki_protection``: Ctrl-C may arrive between any two bytecodes
  and would leave a rule half done.

Reading order: ``Server`` and ``transition``; then the leader's side (``submit_nowait``, ``advance_commit``), the
follower's side (``answer_…``), and what both share.
"""

from typing import Any

import trio

from trio_raft._config import Config
from trio_raft._environment import Environment
from trio_raft._errors import IncarnationRefused, NotLeader, StorageFull, error_text
from trio_raft._event_hub import EventHub
from trio_raft._events import BootstrapDone, LeaderChanged, LeaderGone, RoleChanged
from trio_raft._first_start import FirstStart
from trio_raft._follower import Follower, begin_following
from trio_raft._handshake import Handshake
from trio_raft._journal import Journal
from trio_raft._messages import (
    AppendEntries,
    AppendEntriesReply,
    Heartbeat,
    HeartbeatReply,
    Rejection,
    RequestVote,
    RequestVoteReply,
    ServerId,
)
from trio_raft._patience import Patience
from trio_raft._records import Entry, EntryKind, LogIndex, Term, make_entry
from trio_raft._rules import append_entries, request_vote
from trio_raft._rules.reads import ReadRounds
from trio_raft._rules.state import Role, State
from trio_raft._snapshots import ServerSnapshots
from trio_raft._tickets import Ticket, fail_all
from trio_raft.abc import Transport

_LEADER, _COMMAND = Role.LEADER, EntryKind.COMMAND  # Used once per command: an enum's members are found slowly.


class Server:
    """State, journal and wake-ups of one server."""

    def __init__(
        self,
        config: Config,
        state: State,
        first_start: FirstStart,
        *,
        environment: Environment,
        journal: Journal,
        transport: Transport,
        handshake: Handshake,
        events: EventHub,
        snapshots: ServerSnapshots,
    ) -> None:
        self.config = config
        self.node_id: ServerId = config.node_id
        self.state = state
        self.environment = environment
        self.journal = journal
        self.transport = transport
        self.handshake = handshake
        self.events = events
        journal.on_durable = self._note_durable
        journal.on_trouble = self.step_down
        self.snapshots = snapshots
        snapshots.on_installed = self._note_installed

        self.first_start = first_start
        self.ready = first_start.done
        """May this server vote and acknowledge?  Not before the first configuration is settled."""
        self.vote_position = 0
        """Journal position of the (term, vote) in force."""
        self.candidacy_term: Term | None = None
        """The term for which a pre-vote quorum was found: only then does ``campaign`` ask for real votes.  Every
        transition voids it."""
        self.campaign_report = ""
        """For a person: how the last campaign went."""
        self.patience = Patience(environment, config.timeouts)

        self.role_scope: trio.CancelScope | None = None
        self.followers: dict[ServerId, Follower] = {}
        self.matches: dict[ServerId, LogIndex] = {}
        self.reads = ReadRounds()
        self.term_start_index = LogIndex(0)
        """Where this leadership's no-op stands: nothing is committed, and nothing read, before it is (R2, Q3)."""
        self.tickets: dict[LogIndex, Ticket[Any]] = {}
        self.pending_bytes = 0
        """Bytes of this leadership's proposals that are not applied yet."""
        self._most_pending_bytes = config.limits.pending_bytes

        self.replication_lot = trio.lowlevel.ParkingLot()
        """Replicate tasks with nothing to send."""
        self.replication_waits = False
        """Does one of them wait there?  Asked once per command, so it is an attribute."""
        self.heartbeat_lot = trio.lowlevel.ParkingLot()
        """Heartbeat tasks between two heartbeats; a read wakes them."""
        self.apply_lot = trio.lowlevel.ParkingLot()
        self.read_lot = trio.lowlevel.ParkingLot()
        """Reads that wait for a confirmation round or for their index to be applied."""
        self.room_lot = trio.lowlevel.ParkingLot()
        """Proposers at the byte bound."""
        self.change_lot = trio.lowlevel.ParkingLot()
        """Public waits: anything that a caller can see has changed."""
        self.closed = False
        self.crash: BaseException | None = None

    # ------------------------------------------------------------------------------------ the one gate

    @trio.lowlevel.enable_ki_protection
    def transition(self, term: Term, role: Role, reason: str) -> None:
        """Enter ``term`` as ``role``: the only way in which either ever changes."""
        state = self.state
        term_before, vote_before = state.current_term, state.voted_for
        role_before, leader_before = state.role, state.leader
        state.enter(term, role)
        if (state.current_term, state.voted_for) != (term_before, vote_before):
            self.vote_position = self.journal.save_vote(state.current_term, state.voted_for)
        fail_all(self.tickets, term_before, reason, cause=self.crash)
        self.pending_bytes = 0
        # Pre-votes speak for the candidacy that they began, and for no later one in the same term.
        self.candidacy_term = None
        self.followers = {}
        self.matches = {}
        if role is Role.LEADER:
            self._begin_leadership()
        elif role_before is not Role.FOLLOWER:
            # The deadline is from before it led: it would campaign against its successor at once.
            self.patience.restart() if term == term_before else self.patience.overtaken()
        if self.role_scope is not None:
            self.role_scope.cancel()
        self.events.publish(RoleChanged(role.value, term, reason))
        if state.leader != leader_before:
            self.events.publish(LeaderChanged(state.leader, term))
        for lot in (self.read_lot, self.room_lot, self.change_lot):
            lot.unpark_all()

    def step_down(self, reason: str) -> None:
        """Give up leading or campaigning, if so, without a new term."""
        if self.state.role is not Role.FOLLOWER:
            self.transition(self.state.current_term, Role.FOLLOWER, reason)

    def _begin_leadership(self) -> None:
        self.followers = begin_following(self.state, now=self.environment.clock.now())
        self.reads = ReadRounds()
        self.patience.won()
        # In the same step, so that no command and no read can come before it (paper section 8).
        self.term_start_index = self._append(EntryKind.NO_OP, b"").index

    def leads(self, term: Term) -> bool:
        """Is this still the leadership of ``term``?  Every task of a leader asks after every await."""
        state = self.state
        return state.current_term == term and state.role is Role.LEADER

    # ------------------------------------------------------------------------------------ the leader's side

    @trio.lowlevel.enable_ki_protection
    def submit_nowait(self, data: bytes) -> Ticket[Any]:
        """Append an encoded command and return the ticket on which its outcome will be.

        Raises NotLeader, StorageFull, ``trio.ClosedResourceError``, or ``trio.WouldBlock`` at the byte bound.
        """
        ticket = self.submit_if_possible(data)
        if ticket is not None:
            return ticket
        if self.state.role is Role.LEADER:
            raise trio.WouldBlock
        self.check_open()
        raise self.not_leader()

    @trio.lowlevel.enable_ki_protection
    def submit_if_possible(self, data: bytes) -> Ticket[Any] | None:
        """The same, but None if this server does not lead, or at the byte bound.  Raises StorageFull."""
        if self.state.role is not _LEADER or self.pending_bytes >= self._most_pending_bytes:
            return None
        if self.journal.full is not None:
            raise StorageFull(self.journal.full.path, self.journal.full.needed)
        entry = self._append(_COMMAND, data)
        self.pending_bytes += len(entry.record)
        ticket: Ticket[Any] = Ticket(entry.index, entry.term)
        self.tickets[entry.index] = ticket
        return ticket

    def _append(self, kind: EntryKind, data: bytes) -> Entry:
        log = self.state.log
        entry = make_entry(index=LogIndex(log.last_index + 1), term=self.state.current_term, kind=kind, data=data)
        log.append(entry)
        self.journal.append(entry)
        if self.replication_waits:
            self.wake_replication()
        return entry

    @trio.lowlevel.enable_ki_protection
    def wake_replication(self) -> None:
        """There is something to send."""
        self.replication_waits = False
        self.replication_lot.unpark_all()

    @trio.lowlevel.enable_ki_protection
    def advance_commit(self) -> None:
        """Recount: a follower's match index or the own disk moved (paper 5.3, 5.4.2)."""
        state = self.state
        self.matches[self.node_id] = self.journal.durable_index
        index = append_entries.committable(state, self.matches)
        if index > state.commit_index:
            state.raise_commit(index)
            self._commit_or_disk_moved()

    @trio.lowlevel.enable_ki_protection
    def acknowledge_round(self, follower: ServerId, number: int) -> None:
        """A follower answered a heartbeat of that confirmation round."""
        self.reads.acknowledge(follower, number)
        if self.read_lot:
            self.read_lot.unpark_all()

    # ------------------------------------------------------------------------------------ the follower's side

    @trio.lowlevel.enable_ki_protection
    def answer_append(self, request: AppendEntries) -> tuple[AppendEntriesReply, int]:
        """The reply to an AppendEntries, and the journal position that it must wait for."""
        state = self.state
        if not self.ready:
            return AppendEntriesReply(
                term=state.current_term, success=False, rejection=Rejection.NOT_READY
            ), self.vote_position
        if request.term < state.current_term:
            return append_entries.stale(state), self.vote_position
        self.accept_leader(request.term, request.leader)
        commit_before = state.commit_index
        answer = append_entries.answer(state, request)
        if answer.new_entries:
            self.journal.supersede(answer.new_entries)
        if state.commit_index != commit_before:
            self._commit_or_disk_moved()
        reply = answer.reply
        # The reply vouches for everything up to match_index, whether or not this very request wrote it (S1).
        if reply.success and reply.match_index > self.journal.durable_index:
            return reply, self.journal.position
        return reply, self.vote_position

    def _note_installed(self) -> None:
        self.apply_lot.unpark_all()
        self.change_lot.unpark_all()

    @trio.lowlevel.enable_ki_protection
    def note_restored(self, index: LogIndex) -> None:
        """The state machine was restored from a snapshot up to ``index``."""
        self.state.restored(index)
        self.note_applied(index)

    @trio.lowlevel.enable_ki_protection
    def answer_heartbeat(self, request: Heartbeat) -> HeartbeatReply:
        """The reply to a heartbeat.  It never waits: it promises nothing that must survive a crash."""
        if self.ready and request.term >= self.state.current_term:
            self.accept_leader(request.term, request.leader)
        return HeartbeatReply(term=self.state.current_term, round=request.round, ready=self.ready)

    @trio.lowlevel.enable_ki_protection
    def answer_vote(self, request: RequestVote) -> tuple[RequestVoteReply, int]:
        """The reply to a RequestVote, and the journal position that it must wait for; 0 for a pre-vote."""
        state = self.state
        decision = request_vote.answer(state, request, sticky=self.is_sticky(), ready=self.ready)
        if decision.adopt_term is not None:
            self.transition(decision.adopt_term, Role.FOLLOWER, f"{request.candidate} campaigns in a later term")
        if decision.granted and not request.pre_vote:
            self._record_vote(request.candidate)
        reply = request_vote.reply(state, request, decision)
        return reply, 0 if request.pre_vote else self.vote_position

    def _record_vote(self, candidate: ServerId) -> None:
        if self.state.voted_for is None:
            self.state.record_vote(candidate)
            self.vote_position = self.journal.save_vote(self.state.current_term, candidate)
        # Having supported another, give it the time to win (paper 5.2).
        self.patience.supported()

    @trio.lowlevel.enable_ki_protection
    def accept_leader(self, term: Term, leader: ServerId) -> None:
        """The sender leads ``term``, which is not behind ours."""
        state = self.state
        if term > state.current_term or state.role is Role.CANDIDATE:
            self.transition(term, Role.FOLLOWER, f"{leader} leads")
        self.patience.heard()
        if state.leader != leader:
            state.follow(leader)
            self.events.publish(LeaderChanged(leader, term))
            self.change_lot.unpark_all()

    def follows(self, leader: ServerId, term: Term) -> bool:
        """Is this the leader that this server follows, in that term?"""
        state = self.state
        return (state.role, state.leader, state.current_term) == (Role.FOLLOWER, leader, term)

    @trio.lowlevel.enable_ki_protection
    def note_leader_gone(self, leader: ServerId, reason: str, *, took: float) -> None:
        """The leader that this server follows leads no more: ``_leader_loss.py`` has made sure, in so many seconds."""
        self.patience.lost(f"{leader} is gone: {reason}", took=took)
        self.events.publish(LeaderGone(leader, self.state.current_term, reason))
        if self.role_scope is not None:
            # ``follow`` sleeps until the deadline that was; the role loop begins it anew.
            self.role_scope.cancel()

    def is_sticky(self) -> bool:
        """Does this server lead, or is it loyal to a leader that it hears?  Then it supports no other."""
        return self.state.role is Role.LEADER or self.patience.is_loyal()

    # ------------------------------------------------------------------------------------ what both share

    @trio.lowlevel.enable_ki_protection
    def become_ready(self) -> None:
        """The settled first configuration is durable: from now on this server votes and acknowledges."""
        self.ready = True
        self.patience.restart()
        self.events.publish(BootstrapDone(self.first_start.members))
        self.change_lot.unpark_all()

    @trio.lowlevel.enable_ki_protection
    def adopt_term(self, term: Term, source: ServerId) -> None:
        """A reply named a later term: enter it as a follower (paper 5.1)."""
        if term > self.state.current_term:
            self.transition(term, Role.FOLLOWER, f"{source} is in a later term")

    def may_campaign(self) -> bool:
        """A voter of its own configuration whose disk takes writes."""
        return (
            self.ready
            and self.state.may_campaign
            and self.journal.full is None
            and not self.journal.overdue(self.environment.clock.now())
        )

    @property
    def applicable_index(self) -> LogIndex:
        """How far the state machine may go: committed, and durable on this very server (S11)."""
        return min(self.state.commit_index, self.journal.durable_index)

    def _note_durable(self) -> None:
        if self.state.role is Role.LEADER:
            self.advance_commit()
        # What is on disk may leave memory, applied or not: whoever comes late reads it back.
        self.state.log.release(self.journal.durable_index)
        self._commit_or_disk_moved()

    def _commit_or_disk_moved(self) -> None:
        if self.applicable_index > self.state.last_applied:
            self.apply_lot.unpark_all()
        if self.change_lot:
            self.change_lot.unpark_all()

    @trio.lowlevel.enable_ki_protection
    def note_applied(self, index: LogIndex) -> None:
        """The state machine went through ``index``."""
        self.state.last_applied = index
        for lot in (self.read_lot, self.room_lot, self.change_lot):
            if lot:
                lot.unpark_all()

    def not_leader(self) -> NotLeader:
        """The error for a call that only a leader can serve, with the hint."""
        leader = self.state.leader
        return NotLeader(self.node_id, leader, self.config.members.get(leader) if leader else None)

    def check_open(self) -> None:
        """Raises ``trio.ClosedResourceError``, from the crash if there was one, once the node is closed.

        Raises IncarnationRefused if this directory is not the one that the cluster knows: nothing but exchanging it
        will help.
        """
        if self.closed:
            raise trio.ClosedResourceError(f"{self.node_id} is closed") from self.crash
        known = self.first_start.replaced_for
        if known is not None:
            raise IncarnationRefused(self.node_id, known=known, found=self.first_start.own_incarnation)

    @trio.lowlevel.enable_ki_protection
    def close(self, crash: BaseException | None) -> None:
        """Refuse everything from now on; end every wait."""
        if self.closed:
            return
        self.closed = True
        self.crash = crash
        self.step_down("the node is closing" if crash is None else f"the node failed: {error_text(crash)}")
        for lot in (self.read_lot, self.room_lot, self.change_lot):
            lot.unpark_all()
