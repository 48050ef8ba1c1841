"""A cluster that consists of rules alone: many servers in one process, and a network that a test decides.

Messages lie in a bag until the test delivers, repeats or drops them, in any order.  Durability is instantaneous: what
a server answers with is on its disk, and a crash loses everything else.  The state of a server is the list of its
committed entries, so that a snapshot's bytes are those entries, and ``disk`` is always complete, whatever the rules'
log has left.  ``Watch`` looks on, and raises ``Violation`` in the step in which one of the five properties of Figure
3 of the paper is broken.
"""

from collections.abc import Callable
from random import Random
from typing import TypeAlias

import attrs

from tests.rules.building import PLENTY
from trio_raft._messages import (
    AppendEntries,
    AppendEntriesReply,
    InstallSnapshot,
    InstallSnapshotReply,
    RequestVote,
    RequestVoteReply,
    ServerId,
    SnapshotStatus,
)
from trio_raft._records import Entry, EntryKind, LogIndex, Term, decode_entries, join_records, make_entry
from trio_raft._rules import append_entries, install_snapshot, request_vote
from trio_raft._rules.append_entries import Outcome, ReadFirst
from trio_raft._rules.configuration import Configuration
from trio_raft._rules.install_snapshot import Verdict
from trio_raft._rules.log import Log, NotInLog
from trio_raft._rules.progress import InFlight, Mode, Progress, ReplyMismatch
from trio_raft._rules.request_vote import Tally
from trio_raft._rules.state import Role, State

CHANCES = {
    "deliver": 50,
    "replicate": 30,
    "propose": 8,
    "repeat": 4,
    "drop": 4,
    "snapshot": 3,
    "offer": 2,
    "doubt": 1,
    "restart": 1,
    "time_out": 0.5,
    "crash": 0.3,
    "depose": 0.2,
}
"""How often each thing happens, per hundred or so."""

Request: TypeAlias = AppendEntries | InstallSnapshot
Content: TypeAlias = RequestVote | RequestVoteReply | Request | AppendEntriesReply | InstallSnapshotReply


class Violation(Exception):
    """One of the properties that Raft promises does not hold."""


@attrs.frozen(eq=False)
class Message:
    source: ServerId
    target: ServerId
    content: Content
    request_id: int = 0
    channel: int = 0

    def lane(self) -> object:
        """Messages of one lane keep their order; one that belongs to no channel is a lane of its own."""
        return (self.source, self.target, self.channel) if self.channel else self


class Watch:
    """The properties of Figure 3, checked as they could break."""

    def __init__(self) -> None:
        self.leaders: dict[Term, ServerId] = {}
        self.committed: list[bytes] = []

    def elected(self, node: "Node") -> None:
        """Election Safety, and Leader Completeness."""
        term = node.state.current_term
        if self.leaders.setdefault(term, node.name) != node.name:
            raise Violation(f"{self.leaders[term]} and {node.name} both led term {term}")
        if [each.record for each in node.disk[: len(self.committed)]] != self.committed:
            raise Violation(f"{node.name} leads term {term} without all committed entries")

    def commit(self, node: "Node") -> None:
        """State Machine Safety: what is committed at an index is so for ever, on every server."""
        for index in range(node.checked_commit, node.state.commit_index):
            record = node.disk[index].record
            if index == len(self.committed):
                self.committed.append(record)
            elif self.committed[index] != record:
                raise Violation(f"{node.name} committed another entry at index {index + 1}")
        node.checked_commit = node.state.commit_index

    def logs(self, nodes: list["Node"]) -> None:
        """Log Matching: an equal entry has an equal past; and the rules' log is what is on disk."""
        for node in nodes:
            log = node.state.log
            known = node.disk[max(log.base_index - 1, 0) :]
            held = [log.term_at(each.index) for each in known]
            if log.last_index != len(node.disk) or held != [each.term for each in known]:
                raise Violation(f"{node.name}: the log in memory is not the one on disk")
        for one in nodes:
            for other in nodes:
                same = [a.record == b.record for a, b in zip(one.disk, other.disk, strict=False)]
                terms = [a.term == b.term for a, b in zip(one.disk, other.disk, strict=False)]
                agreed = max((at + 1 for at, equal in enumerate(terms) if equal), default=0)
                if not all(same[:agreed]):
                    raise Violation(f"{one.name} and {other.name} agree at {agreed} but not before")


class Node:
    """One server: the rules' state, and a disk that survives a crash."""

    def __init__(self, cluster: "Cluster", name: ServerId, *, memory_bytes: int) -> None:
        self.cluster = cluster
        self.name = name
        self.memory_bytes = memory_bytes
        self.disk: list[Entry] = []
        self.snapshot: list[Entry] = []
        """What the newest snapshot covers; its bytes are these."""
        self.base = LogIndex(0)
        """Below the log's first entry, durably."""
        self.durable_vote: tuple[Term, ServerId | None] = (Term(0), None)
        self.running = False
        self.restart()

    def restart(self) -> None:
        """Come back with what is on disk, and nothing else."""
        runs: list[tuple[LogIndex, Term]] = []
        for each in self.disk[self.base :]:
            if not runs or runs[-1][1] != each.term:
                runs.append((each.index, each.term))
        log = Log.recovered(
            base_index=self.base,
            base_term=self.disk[self.base - 1].term if self.base else Term(0),
            term_runs=runs,
            last_index=LogIndex(len(self.disk)),
            tail=self.disk[max(self.base, len(self.disk) - 2) :],
            memory_bytes=self.memory_bytes,
        )
        term, voted_for = self.durable_vote
        configuration = self.cluster.configuration
        self.state = State(
            node_id=self.name, log=log, configuration=configuration, current_term=term, voted_for=voted_for
        )
        self.state.raise_commit(LogIndex(len(self.snapshot)))
        self.tally: Tally | None = None
        self.followers: dict[ServerId, Progress] = {}
        self.channels: dict[ServerId, int] = {}
        self.transfers: dict[ServerId, int] = {}
        """Followers to whom a snapshot is on its way, and the number of that request."""
        self.checked_commit = 0
        self.running = True

    def crash(self) -> None:
        self.running = False

    # ------------------------------------------------------------------------------------------ what it does

    def enter(self, term: Term, role: Role) -> None:
        self.state.enter(term, role)
        self.tally = None
        self.durable_vote = (self.state.current_term, self.state.voted_for)
        if role is Role.LEADER:
            self._lead()

    def time_out(self) -> None:
        """The election timer fires: ask for pre-votes."""
        if self.state.role is not Role.LEADER and self.state.may_campaign:
            self.enter(self.state.current_term, Role.CANDIDATE)
            self._ask(pre_vote=True)

    def _ask(self, *, pre_vote: bool) -> None:
        request = request_vote.make(self.state, pre_vote=pre_vote)
        self.tally = Tally(self.state.configuration, term=request.term, pre_vote=pre_vote, own=self.name)
        for peer in self.cluster.configuration.members:
            if peer != self.name:
                self.cluster.send(Message(self.name, peer, request))
        self._count()

    def _count(self) -> None:
        if self.tally is None or not self.tally.won:
            return
        if self.tally.pre_vote:
            self.enter(Term(self.state.current_term + 1), Role.CANDIDATE)
            self._ask(pre_vote=False)
        else:
            self.enter(self.state.current_term, Role.LEADER)

    def _lead(self) -> None:
        self.cluster.watch.elected(self)
        self.followers = {
            peer: Progress(next_index=LogIndex(self.state.log.last_index + 1))
            for peer in self.cluster.configuration.members
            if peer != self.name
        }
        for peer in self.followers:
            self.new_channel(peer)
        self.propose(kind=EntryKind.NO_OP)

    def propose(self, data: bytes = b"", *, kind: EntryKind = EntryKind.COMMAND) -> None:
        index = LogIndex(self.state.log.last_index + 1)
        entry = make_entry(index=index, term=self.state.current_term, kind=kind, data=data)
        self.state.log.append(entry)
        self.disk.append(entry)
        self._commit()

    def new_channel(self, peer: ServerId) -> None:
        self.channels[peer] = self.cluster.next_number()
        self.transfers.pop(peer, None)
        self.followers[peer].become_probe()

    def take_snapshot(self, *, trailing: int) -> None:
        """Take a snapshot of everything that is committed, and cut the log."""
        self.snapshot = self.disk[: self.state.commit_index]
        pins = [each.snapshot_index for each in self.followers.values() if each.mode is Mode.SNAPSHOT]
        up_to = install_snapshot.compactable(
            self.state.commit_index, trailing=trailing, pins=pins, base_index=self.state.log.base_index
        )
        if up_to is not None:
            self.state.log.compact(up_to)
            self.base = up_to

    def replicate(self, peer: ServerId, *, max_entries: int = 3, bare: bool = False) -> None:
        """Send a request, if the window is open; a bare one has no entries, only the place and the commit index."""
        progress = self.followers[peer]
        if not progress.window_open(requests=3, size=PLENTY):
            return
        try:
            self._send_entries(peer, progress, max_entries=max_entries, bare=bare)
        except NotInLog:
            self.send_snapshot(peer)

    def send_snapshot(self, peer: ServerId) -> None:
        """Send the newest snapshot, needed or not, unless the follower is known to have all of it."""
        if len(self.snapshot) <= self.followers[peer].match_index:
            return
        self.new_channel(peer)
        last, data = self.snapshot[-1], join_records(self.snapshot)
        self.followers[peer].become_snapshot(last.index)
        self.transfers[peer] = request_id = self.cluster.next_number()
        request = InstallSnapshot(
            term=self.state.current_term,
            leader=self.name,
            transfer=str(request_id),
            last_included_index=last.index,
            last_included_term=last.term,
            digest="",
            total=len(data),
            offset=0,
            data=data,
        )
        self.cluster.send(Message(self.name, peer, request, request_id, self.channels[peer]))

    def _send_entries(self, peer: ServerId, progress: Progress, *, max_entries: int, bare: bool) -> None:
        term = self.state.current_term
        made = append_entries.make(self.state, progress, term=term, max_entries=max_entries, max_bytes=PLENTY)
        if isinstance(made, ReadFirst):
            read = self.disk[made.first - 1 : made.last]
            made = append_entries.make(
                self.state, progress, term=term, max_entries=max_entries, max_bytes=PLENTY, entries=read
            )
            assert isinstance(made, AppendEntries)
        if bare:
            made = attrs.evolve(made, entries=[])
        request_id = self.cluster.next_number()
        last = LogIndex(made.prev_log_index + len(made.entries))
        in_flight = InFlight(
            request_id=request_id, prev_log_index=made.prev_log_index, last_index=last, size=0, sent_at=0.0
        )
        progress.sent(in_flight, leader_commit=made.leader_commit)
        self.cluster.send(Message(self.name, peer, made, request_id, self.channels[peer]))

    def _commit(self) -> None:
        matches = {name: each.match_index for name, each in self.followers.items() if each.counts_for_quorum}
        matches[self.name] = LogIndex(len(self.disk))
        self.state.raise_commit(append_entries.committable(self.state, matches))
        self.noted()

    def noted(self) -> None:
        self.cluster.watch.commit(self)
        if self.state.last_applied < self.state.log.base_index:
            self.state.restored(LogIndex(len(self.snapshot)))
        self.state.last_applied = self.state.commit_index
        self.state.log.release(self.state.commit_index)

    # ------------------------------------------------------------------------------------------ what it hears

    def receive(self, message: Message, *, sticky: bool = False) -> None:
        content = message.content
        if isinstance(content, RequestVote):
            self._answer(message, self._vote(content, sticky=sticky or self.state.role is Role.LEADER))
        elif isinstance(content, AppendEntries | InstallSnapshot):
            self._answer(message, self._follow(content))
        elif content.term > self.state.current_term:
            self.enter(content.term, Role.FOLLOWER)
        elif isinstance(content, RequestVoteReply):
            if self.tally is not None:
                self.tally.count(message.source, content)
                self._count()
        elif self.state.role is Role.LEADER and message.channel == self.channels[message.source]:
            if isinstance(content, AppendEntriesReply):
                self._digest(message, content)
            else:
                self._digest_snapshot(message, content)

    def _answer(self, message: Message, reply: Content) -> None:
        self.cluster.send(Message(self.name, message.source, reply, message.request_id, message.channel))

    def _vote(self, request: RequestVote, *, sticky: bool) -> RequestVoteReply:
        decision = request_vote.answer(self.state, request, sticky=sticky, ready=True)
        if decision.adopt_term is not None:
            self.enter(decision.adopt_term, Role.FOLLOWER)
        if decision.granted and not request.pre_vote:
            self.state.record_vote(request.candidate)
            self.durable_vote = (self.state.current_term, self.state.voted_for)
        return request_vote.reply(self.state, request, decision)

    def _follow(self, request: Request) -> AppendEntriesReply | InstallSnapshotReply:
        if request.term < self.state.current_term:
            return append_entries.stale(self.state)
        if request.term > self.state.current_term or self.state.role is not Role.FOLLOWER:
            self.enter(request.term, Role.FOLLOWER)
        self.state.follow(request.leader)
        return self._append(request) if isinstance(request, AppendEntries) else self._install(request)

    def _install(self, request: InstallSnapshot) -> InstallSnapshotReply:
        index, term = request.last_included_index, request.last_included_term
        reply = InstallSnapshotReply(
            term=self.state.current_term, status=SnapshotStatus.INSTALLED, offset=request.total
        )
        if install_snapshot.accept(self.state, request) is Verdict.ALREADY:
            return reply
        installed = install_snapshot.install(
            self.state, index=index, term=term, configuration=self.cluster.configuration
        )
        assert installed is not None
        self.cluster.installs.append(installed.kept)
        self.snapshot = decode_entries(request.data)
        self.disk = self.snapshot + (self.disk[index:] if installed.kept else [])
        self.base = index
        self.noted()
        return reply

    def _append(self, request: AppendEntries) -> AppendEntriesReply:
        answered = append_entries.answer(self.state, request)
        if answered.truncated_from is not None:
            del self.disk[answered.truncated_from - 1 :]
        self.disk += answered.new_entries
        self.noted()
        return answered.reply

    def _digest(self, message: Message, reply: AppendEntriesReply) -> None:
        progress = self.followers[message.source]
        was_pipeline = progress.mode is Mode.PIPELINE
        try:
            request = progress.answered(message.request_id)
        except ReplyMismatch:
            self.new_channel(message.source)
            return
        outcome = append_entries.digest(
            self.state,
            progress,
            prev_log_index=request.prev_log_index,
            last_index=request.last_index,
            reply=reply,
        )
        if outcome is Outcome.ADVANCED:
            if not was_pipeline:
                progress.become_pipeline()
            self._commit()
        elif outcome is Outcome.REPAIRED:
            self.cluster.rejections += 1
            if was_pipeline:
                self.new_channel(message.source)
        else:
            raise Violation(f"{message.source} is said to have lost data, which no server here does")

    def _digest_snapshot(self, message: Message, reply: InstallSnapshotReply) -> None:
        progress = self.followers[message.source]
        if self.transfers.get(message.source) != message.request_id:
            self.new_channel(message.source)
            return
        del self.transfers[message.source]
        install_snapshot.digest(self.state, progress, index=progress.snapshot_index, total=reply.offset, reply=reply)
        self._commit()


class Cluster:
    """Servers and the bag of messages between them."""

    def __init__(self, configuration: Configuration, *, memory_bytes: int = PLENTY) -> None:
        self.configuration = configuration
        self.watch = Watch()
        self.bag: list[Message] = []
        self.rejections = 0
        self.installs: list[bool] = []
        """Of each snapshot that was installed, whether entries behind it were kept."""
        self._number = 0
        self.nodes = {name: Node(self, name, memory_bytes=memory_bytes) for name in configuration.members}

    def next_number(self) -> int:
        self._number += 1
        return self._number

    def send(self, message: Message) -> None:
        self.bag.append(message)

    def running(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.running]

    def leaders(self) -> list[Node]:
        return [node for node in self.running() if node.state.role is Role.LEADER]

    def check(self) -> None:
        self.watch.logs(list(self.nodes.values()))

    # ------------------------------------------------------------------------------------------ told what to do

    def deliver(self, wanted: Callable[[Message], bool] = lambda _: True) -> None:
        """Deliver, oldest first, all messages that are wanted, and those that follow from them; drop the others."""
        for _ in range(10_000):
            if not self.bag:
                return
            message = self.bag.pop(0)
            node = self.nodes[message.target]
            if node.running and wanted(message):
                node.receive(message)
        raise Violation("the cluster never comes to rest")

    def among(self, *names: ServerId) -> Callable[[Message], bool]:
        """Only messages between these servers."""
        return lambda message: message.source in names and message.target in names

    def elect(self, name: ServerId, *others: ServerId) -> Node:
        """Let a server campaign among some others.  Did it win?  See its role."""
        self.nodes[name].time_out()
        self.deliver(self.among(name, *others))
        return self.nodes[name]

    def replicate_all(self, leader: Node, *others: ServerId, max_entries: int = 3) -> None:
        """Let a leader replicate to these servers until they have everything and know the commit index."""
        for _ in range(200):
            before = [(each.match_index, each.next_index, each.told_commit) for each in leader.followers.values()]
            for peer in others:
                leader.replicate(peer, max_entries=max_entries)
            self.deliver(self.among(leader.name, *others))
            after = [(each.match_index, each.next_index, each.told_commit) for each in leader.followers.values()]
            if before == after:
                return
        raise Violation("replication never ends")

    # ------------------------------------------------------------------------------------------ left to chance

    def episode(self, random: Random) -> None:
        """Some servers can hear each other, and one of them campaigns; then anything happens for a while.

        Left to steps alone, few candidates would ever get their votes.
        """
        late, self.bag = self.bag, []
        connected = random.sample(list(self.nodes), random.randint(1, len(self.nodes)))
        if self.nodes[connected[0]].running:
            self.elect(connected[0], *connected[1:])
        self.bag = late
        for _ in range(random.choice([5, 20, 100])):
            self.step(random)
        for leader in self.leaders():
            if random.random() < 0.5:
                leader.crash()
        for node in self.nodes.values():
            if not node.running and random.random() < 0.5:
                node.restart()

    def step(self, random: Random) -> None:
        """One thing happens, whatever it may be."""
        kind = random.choices(list(CHANCES), list(CHANCES.values()))[0]
        running, leaders = self.running(), self.leaders()
        stopped = [node for node in self.nodes.values() if not node.running]
        if kind in ("deliver", "repeat", "drop"):
            if self.bag:
                self._network(kind, random)
        elif kind == "restart" and stopped:
            random.choice(stopped).restart()
        elif kind == "crash" and running:
            random.choice(running).crash()
        elif kind == "time_out" and running:
            random.choice(running).time_out()
        elif kind == "snapshot" and running:
            random.choice(running).take_snapshot(trailing=random.randint(0, 3))
        elif leaders:
            self._leader_does(kind, random.choice(leaders), random)

    def _network(self, kind: str, random: Random) -> None:
        # Mostly the oldest message, so that the cluster gets somewhere; sometimes any.
        at = random.randrange(len(self.bag)) if random.random() < 0.3 else 0
        message = self.bag[at]
        if kind == "repeat":
            # A request that is repeated comes by another connection, whose reply nobody waits for.
            if isinstance(message.content, Request):
                message = attrs.evolve(message, channel=0)
        else:
            # What is sent on one connection arrives in the order in which it was sent.
            message = next(each for each in self.bag if each.lane() == message.lane())
            self.bag.remove(message)
        node = self.nodes[message.target]
        if kind != "drop" and node.running:
            node.receive(message, sticky=node.state.leader is not None and random.random() < 0.3)

    def _leader_does(self, kind: str, node: Node, random: Random) -> None:
        if kind == "propose":
            node.propose(random.randbytes(4))
        elif kind == "replicate":
            peer = random.choice(list(node.followers))
            node.replicate(peer, max_entries=random.randint(1, 4), bare=random.random() < 0.2)
        elif kind == "offer":
            node.send_snapshot(random.choice(list(node.followers)))
        elif kind == "doubt":
            node.new_channel(random.choice(list(node.followers)))
        elif kind == "depose":
            node.enter(node.state.current_term, Role.FOLLOWER)

    def heal(self, random: Random) -> Node:
        """All servers run and all messages arrive; let elections happen until one leads, and replicate."""
        for node in self.nodes.values():
            if not node.running:
                node.restart()
        for _ in range(20):
            self.deliver()
            node = self.nodes[random.choice(self.configuration.voters)]
            for deposed in self.leaders():
                deposed.enter(deposed.state.current_term, Role.FOLLOWER)
            node.time_out()
            self.deliver()
            if node.state.role is Role.LEADER:
                self.replicate_all(node, *node.followers)
                return node
        raise Violation("no leader in twenty elections without any fault")
