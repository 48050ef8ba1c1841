"""Messages, watched as they leave: what each one implies must be durable at its sender, on the disk itself.

==========================  ===========================================================================================
vote, and RequestVote       the vote in that very term, and the log that the candidacy stands on (E1, E2)
refused vote, append reply  the term (E1, S1)
acknowledgement             the entry that it vouches for, or the one that replaced it since (S1)
snapshot installed          all that the snapshot covers, in the log or by the marker that took its place there (N8)
AppendEntries, Heartbeat    the leadership: this very server, in this life, won this term, by its own vote too (R1, E2)
bootstrap statement         the map (O1)
Hello                       the incarnation (O1)
==========================  ===========================================================================================

A pre-vote, the answer to a heartbeat and the one to a piece of a snapshot promise nothing (W6).

House rule: a message is judged in the moment in which it is handed to the transport; what is already on the wire cannot
be taken back.
"""

from trio_raft._messages import (
    AppendEntries,
    AppendEntriesReply,
    BootstrapReply,
    BootstrapStatement,
    Heartbeat,
    Hello,
    HelloReply,
    InstallSnapshot,
    InstallSnapshotReply,
    Message,
    RequestVote,
    RequestVoteReply,
    SnapshotStatus,
)
from trio_raft.testing._trace import describe
from trio_raft.testing._watch import Watch, Watched

DURABLE_FIRST = "Nothing leaves before what it implies is durable"


def check_sent(watched: Watched, watch: Watch, message: Message) -> None:
    """Does the sender's disk hold what this message implies?"""
    watch.image.refresh()
    match message:
        case RequestVote(pre_vote=False):
            _check_candidacy(watched, watch, message)
        case RequestVoteReply(pre_vote=False):
            _check_term(watch, message, message.term, "E1, E2")
            if message.granted:
                _check_vote(watched, watch, message)
        case AppendEntriesReply():
            _check_term(watch, message, message.term, "S1")
            if message.success:
                _check_acknowledgement(watch, message)
        case AppendEntries():
            _check_leadership(watch, message)
            _check_entries(watch, message)
        case Heartbeat():
            _check_leadership(watch, message)
        case InstallSnapshot() | InstallSnapshotReply():
            _check_transfer(watched, watch, message)
        case BootstrapStatement() | BootstrapReply():
            _check_map(watch, message)
        case Hello() | HelloReply():
            if message.incarnation and message.incarnation != watch.image.incarnation:
                _fail(watch, "O1", message, f"the incarnation {message.incarnation}", f"{watch.image.incarnation}")
        case _:
            pass


def _fail(watch: Watch, rules: str, message: Message, implied: str, durable: str) -> None:
    watch.fail(
        f"{DURABLE_FIRST} ({rules})",
        expected=f"on its disk: {implied}, for it sends {describe(message)}",
        seen=f"there: {durable}",
    )


def _durable_vote(watch: Watch) -> str:
    return f"term {watch.image.term}, vote for {watch.image.voted_for or 'nobody'}"


def _check_term(watch: Watch, message: Message, term: int, rules: str) -> None:
    if watch.image.term < term:
        _fail(watch, rules, message, f"term {term}", _durable_vote(watch))


def _check_candidacy(watched: Watched, watch: Watch, message: RequestVote) -> None:
    image, state = watch.image, watch.server.state
    if message.candidate != watched.id or image.votes.get(message.term) != watched.id:
        _fail(watch, "E2", message, f"its own vote in term {message.term}", _durable_vote(watch))
    _bind_vote(watched, watch, message.term, watched.id)
    if state.current_term == message.term:
        slot = watch.past.find(message.last_log_index, message.last_log_term)
        if slot is None or not image.held(slot):
            _fail(watch, "E2", message, f"entry {slot or 'that it names'}", f"a log that ends at {image.slots[-1]}")


def _check_vote(watched: Watched, watch: Watch, message: RequestVoteReply) -> None:
    term = message.requested_term
    decided = watch.decided.get(term) or watch.image.votes.get(term)
    if decided is None or watch.image.votes.get(term) != decided:
        _fail(watch, "E1, E2", message, f"the vote for {decided} in term {term}", _durable_vote(watch))
    _check_may_count(watch, message)
    if decided is not None:
        _bind_vote(watched, watch, term, decided)


def _bind_vote(watched: Watched, watch: Watch, term: int, candidate: str) -> None:
    """A vote that was told binds all later lives on this directory."""
    earlier = watched.sent_votes.setdefault((str(watch.image.incarnation), term), candidate)
    if earlier != candidate:
        watch.fail(
            "One vote in each term, across restarts too (E1)",
            expected=f"the vote in term {term} stays with {earlier}, as was told before",
            seen=f"it goes to {candidate}",
        )


def _check_acknowledgement(watch: Watch, message: AppendEntriesReply) -> None:
    _check_may_count(watch, message)
    slot = watch.promised.get((message.term, message.match_index))
    if slot is None:
        watch.fail(
            "An acknowledgement answers a request (S1)",
            expected="a match index that an answer to an AppendEntries of this term gave",
            seen=f"{message}",
        )
    elif not watch.image.held(slot):
        _fail(watch, "S1", message, f"entry {slot}", f"a log that ends at {watch.image.slots[-1]}")


def note_offer(watched: Watched, message: InstallSnapshot) -> None:
    """A snapshot is offered to this server: what it answers is about that."""
    offered = watched.offered.get(message.total, message.last_included_index)
    watched.offered[message.total] = min(offered, message.last_included_index)


def _check_transfer(watched: Watched, watch: Watch, message: InstallSnapshot | InstallSnapshotReply) -> None:
    if isinstance(message, InstallSnapshot):
        _check_leadership(watch, message)
        watch.past.covered(watch.id, message.last_included_index, message.last_included_term)
    elif message.status is SnapshotStatus.INSTALLED:
        _check_term(watch, message, message.term, "S1")
        _check_installed(watched, watch, message)


def _check_installed(watched: Watched, watch: Watch, message: InstallSnapshotReply) -> None:
    _check_may_count(watch, message)
    index = watched.offered.get(message.offset)
    slot = watch.past.committed[index] if index is not None and index < len(watch.past.committed) else None
    if slot is None:
        watch.fail(
            "INSTALLED answers an offer (N5)",
            expected=f"the size of a snapshot that was offered to {watch.id}: {list(watched.offered)}",
            seen=f"{message}",
        )
    elif not watch.image.log_holds(slot):
        _fail(watch, "N8", message, f"a log that holds {slot}, or the marker of its snapshot", watch.image.describe())


def _check_may_count(watch: Watch, message: Message) -> None:
    """Nobody votes or acknowledges before the first configuration is durable, and names this very directory."""
    image = watch.image
    known = image.bootstrap.incarnations.get(watch.server.node_id) if image.bootstrap else None
    if image.bootstrap is None or not image.bootstrap.done or known != image.incarnation:
        implied = f"a settled map of members with incarnation {image.incarnation} for {watch.id}"
        _fail(watch, "O1", message, implied, f"{image.bootstrap}")


def _check_leadership(watch: Watch, message: AppendEntries | Heartbeat | InstallSnapshot) -> None:
    leader = watch.past.leaders.get(message.term)
    if leader is None or (leader.node_id, leader.life) != (watch.id, watch.life) or message.leader != watch.id:
        watch.fail(
            "A leader stamps the term that it won (R1)",
            expected=f"a term that {watch.id} began to lead in its life {watch.life}; {message.term} was won by "
            f"{leader.node_id + f', life {leader.life}' if leader else 'nobody'}",
            seen=f"{type(message).__name__} of term {message.term} from {message.leader}",
        )
    if watch.image.votes.get(message.term) != watch.id:
        _fail(watch, "E2", message, f"its own vote in term {message.term}", _durable_vote(watch))


def _check_entries(watch: Watch, message: AppendEntries) -> None:
    """They are what was made, in the order in which it was made; a follower could not tell."""
    past = watch.past
    before = past.find(message.prev_log_index, message.prev_log_term)
    for entry in message.entries:
        slot = past.find(entry.index, entry.term)
        if slot is None or slot.previous is not before or slot.record != entry.record:
            watch.fail(
                "A leader sends what it holds (paper 5.3, R9)",
                expected=f"entries as they were made, behind {message.prev_log_index}:{message.prev_log_term}",
                seen=f"{entry} behind {before or 'an entry that was never made'}",
            )
            return
        before = slot
    if before is None:
        watch.fail(
            "A leader sends what it holds (paper 5.3, R9)",
            expected="a previous entry that was made",
            seen=f"{message.prev_log_index}:{message.prev_log_term}, which was never made",
        )


def _check_map(watch: Watch, message: BootstrapStatement | BootstrapReply) -> None:
    image = watch.image
    stated = (dict(message.incarnations), message.done)
    # A new directory has recorded nothing but its own incarnation, which its first bytes say.
    if stated != ({watch.server.node_id: image.incarnation}, False) and stated not in image.maps:
        _fail(watch, "O1", message, f"the map {stated}", f"{image.maps[-1] if image.maps else 'no map'}")
