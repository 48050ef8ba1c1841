"""Servers on a stage: real ones whose tasks do not run, moved step by step, with disks that do what the test says.

House rule: every step that a test does not make on purpose is one that a real node could have made.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from tests.tasks.parts import N1, N2, N3, THREE, incarnation, make_config, make_server, store_of
from trio_raft._config import Limits
from trio_raft._events import Event
from trio_raft._messages import AppendEntries, Incarnation, RequestVote, ServerId
from trio_raft._records import Entry, LogIndex, Term
from trio_raft._rules.state import Role
from trio_raft._server import Server
from trio_raft.abc import Append, Committed, Compact, JournalItem, SnapshotPoint, StateMachine
from trio_raft.testing._durable import DurableItem
from trio_raft.testing._invariants import Invariants

__all__ = ["N1", "N2", "N3", "FakeDisk", "Stage", "Words", "request_of", "set_stage"]


@attrs.define
class FakeDisk:
    """The truth about one server's durable log, as the test tells it."""

    incarnation: Incarnation | None
    history: list[int] = attrs.field(factory=list)
    first_write: int = 1
    snapshot: SnapshotPoint | None = None
    damaged_snapshots: list[str] = attrs.field(factory=list)
    cut_up_to: int = 0
    _news: list[DurableItem] = attrs.field(factory=list)

    def write(self, *items: JournalItem) -> None:
        """These are durable now."""
        for item in items:
            match item:
                case Append(entries):
                    self._news += entries
                case Compact(up_to):
                    self.cut_up_to = up_to
                case _:
                    self._news.append(item)
        self.history.append(len(self.history) + 100)

    def base(self) -> int:
        return self.cut_up_to

    def news(self) -> list[DurableItem]:
        news, self._news = self._news, []
        return news


class Words(StateMachine[bytes, int]):
    """A state machine that is the list of its commands."""

    def __init__(self) -> None:
        self.words: list[bytes] = []

    def apply(self, entry: Committed[bytes]) -> int:
        self.words.append(entry.command)
        return len(self.words)


@attrs.define(eq=False)
class Stage:
    """Servers, their disks, and the invariants that watch them."""

    invariants: Invariants
    servers: dict[ServerId, Server]
    disks: dict[ServerId, FakeDisk]
    machines: dict[ServerId, Words]

    def __getitem__(self, name: ServerId) -> Server:
        return self.servers[name]

    @property
    def past(self) -> Any:
        """What the invariants remember of all servers."""
        return self.invariants._scene.past

    def sync(self, name: ServerId, *, truly: bool = True) -> None:
        """The journal's queue is written, all of it; ``truly``: and not only in the journal's opinion."""
        journal = self[name].journal
        batch = journal._take()
        if truly:
            self.disks[name].write(*batch)
        journal._note_durable(batch)

    def ask(self, candidate: ServerId, *voters: ServerId, pre_vote: bool) -> None:
        """The candidate's request is answered by these voters, whose answers are sent."""
        state = self[candidate].state
        request = RequestVote(
            Term(state.current_term + 1 if pre_vote else state.current_term),
            candidate,
            state.log.last_index,
            state.log.last_term,
            pre_vote,
        )
        for voter in voters:
            # Long enough ago.
            self[voter].patience.last_contact = -math.inf
            reply, _ = self[voter].answer_vote(request)
            assert reply.granted, reply.reason
            self.sync(voter)
            self.invariants.watch_send(voter, reply)

    def stand(self, candidate: ServerId, *voters: ServerId) -> None:
        """Up to the moment in which the candidate has its votes."""
        server = self[candidate]
        server.transition(server.state.current_term, Role.CANDIDATE, "the test says so")
        self.ask(candidate, *voters, pre_vote=True)
        server.transition(Term(server.state.current_term + 1), Role.CANDIDATE, "the test says so")
        self.sync(candidate)
        self.ask(candidate, *voters, pre_vote=False)

    def elect(self, candidate: ServerId, *voters: ServerId) -> None:
        """A whole election, and the first entry of the term is durable at the leader."""
        self.stand(candidate, *voters)
        self[candidate].transition(self[candidate].state.current_term, Role.LEADER, "the test says so")
        self.sync(candidate)

    def replicate(self, leader: ServerId, *followers: ServerId) -> None:
        """These followers take the leader's whole log, acknowledge it, and the leader counts that."""
        for follower in followers:
            self.bring(leader, follower)
            self.sync(follower)
            self[leader].matches[follower] = self[follower].state.log.last_index
            self[leader].advance_commit()

    def bring(self, leader: ServerId, follower: ServerId) -> None:
        """The follower answers a request with the leader's whole log."""
        self[follower].answer_append(request_of(self[leader]))

    def settle_in(self) -> None:
        """n1 is elected in term 1 by n2, and its no-op is committed there and with n2."""
        self.elect(N1, N2)
        self.replicate(N1, N2)

    def give(self, name: ServerId, entry: Entry) -> None:
        """The state machine is given this entry."""
        self.machines[name].apply(Committed(entry.index, entry.term, entry.data))

    def entry(self, name: ServerId, index: int) -> Entry:
        """From the server's memory."""
        entry = self[name].state.log.entry(LogIndex(index))
        assert entry is not None
        return entry

    @property
    def violation(self) -> str:
        """What was found, as a person would read it; empty if nothing was."""
        return str(self.invariants.violation or "")


def request_of(server: Server, *, commit: int | None = None) -> AppendEntries:
    """Its whole log."""
    state = server.state
    entries = state.log.slice(LogIndex(1), max_entries=1000, max_bytes=1 << 20) or []
    commit_index = state.commit_index if commit is None else LogIndex(commit)
    return AppendEntries(state.current_term, server.node_id, LogIndex(0), Term(0), commit_index, entries)


async def set_stage(
    *,
    terms: Sequence[int] = (),
    term: int = 0,
    limits: Limits | None = None,
    prepare: Callable[[Server], None] | None = None,
    explains: Callable[[str, Event], bool] | None = None,
) -> Stage:
    """Three servers with the same log; ``prepare`` tampers with each before it is watched."""
    stage = Stage(Invariants(77, now=lambda: 1.5, fault_explains=explains), {}, {}, {})
    for name in THREE:
        server = await make_server(config=make_config(name, limits=limits), terms=terms, term=term)
        disk = FakeDisk(incarnation(name))
        inner = store_of(server).inner
        assert inner._bootstrap is not None
        disk.write(inner._bootstrap, inner._vote)
        if inner._entries:
            disk.write(Append(list(inner._entries), LogIndex(len(inner._entries)), 0))
        stage.servers[name], stage.disks[name], stage.machines[name] = server, disk, Words()
        if prepare is not None:
            prepare(server)
        stage.invariants.watch_machine(name, stage.machines[name])
        stage.invariants.observe(name, disk)(server)
    return stage
