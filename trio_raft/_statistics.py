"""What ``Node.statistics()`` shows: one frozen picture of a server, taken without waiting."""

from collections.abc import Mapping

import attrs

from trio_raft._errors import NO_INCARNATION
from trio_raft._follower import Follower
from trio_raft._journal import JournalStatistics
from trio_raft._messages import ServerId
from trio_raft._records import LogIndex, Term
from trio_raft._rules.state import Role
from trio_raft._server import Server
from trio_raft._snapshots import ServerSnapshots, Transfer


@attrs.frozen
class TransferStatistics:
    """A snapshot on its way."""

    index: LogIndex
    done: int
    """Bytes that the receiver holds."""
    total: int
    """Bytes."""
    bytes_per_second: float
    seconds_left: float | None
    """Estimated; None while nothing is known."""


@attrs.frozen
class PeerStatistics:
    """One follower as its leader sees it; durations in seconds."""

    mode: str
    """``probe``, ``pipeline`` or ``snapshot``."""
    match_index: LogIndex
    next_index: LogIndex
    in_flight: int
    """Requests."""
    in_flight_bytes: int
    last_contact_age: float
    """Since the newest answered heartbeat was sent."""
    round_trip: float | None
    """Moving average over heartbeats."""
    append_round_trip: float | None
    """Moving average over AppendEntries, the follower's disk included."""
    entries_sent: int
    bytes_sent: int
    failures: int
    """Of its replication connection, in this leadership."""
    snapshot: TransferStatistics | None
    """The snapshot that is on its way to it."""
    lost_data: bool
    """It denied what it had acknowledged and is not counted."""


@attrs.frozen
class SnapshotStatistics:
    """This server's snapshots."""

    index: LogIndex
    """Of the newest durable one; 0 if there is none."""
    size: int
    """Bytes of it."""
    taken: int
    """In this life of the process; so is ``installed``."""
    installed: int
    """Those that came from a leader."""
    receiving: TransferStatistics | None
    """What is arriving now."""
    restoring: bool
    """Is the state machine behind a snapshot that is being restored?"""


@attrs.frozen
class Statistics:
    """One server, now."""

    node_id: ServerId
    role: str
    term: Term
    leader: ServerId | None
    commit_index: LogIndex
    last_applied: LogIndex
    first_index: LogIndex
    """Of the log: what comes before it only the snapshot holds."""
    last_index: LogIndex
    durable_index: LogIndex
    pending_proposals: int
    pending_bytes: int
    leader_contact_age: float | None
    """Seconds since this server heard a leader; None if it never did, or has led since."""
    why_no_leader: str
    """For a person: what stands in the way of a leader; empty if one is known."""
    bootstrap_missing: tuple[ServerId, ...]
    """Members that have not confirmed the first configuration; empty once it is settled."""
    journal: JournalStatistics
    """A copy."""
    snapshots: SnapshotStatistics
    peers: Mapping[ServerId, PeerStatistics]
    """Empty unless this server leads."""


def take_statistics(server: Server) -> Statistics:
    """The picture of a server at this moment."""
    state, now = server.state, server.environment.clock.now()
    silence = now - server.patience.last_contact
    return Statistics(
        node_id=server.node_id,
        role=state.role.value,
        term=state.current_term,
        leader=state.leader,
        commit_index=state.commit_index,
        last_applied=state.last_applied,
        first_index=state.log.first_index,
        last_index=state.log.last_index,
        durable_index=server.journal.durable_index,
        pending_proposals=len(server.tickets),
        pending_bytes=server.pending_bytes,
        leader_contact_age=None if silence == float("inf") else silence,
        why_no_leader=why_no_leader(server),
        bootstrap_missing=server.first_start.missing,
        journal=attrs.evolve(server.journal.statistics),
        snapshots=_snapshot_statistics(server.snapshots, now),
        peers={follower.id: _peer_statistics(server, follower, now) for follower in server.followers.values()},
    )


def _snapshot_statistics(snapshots: ServerSnapshots, now: float) -> SnapshotStatistics:
    newest = snapshots.newest
    return SnapshotStatistics(
        index=newest.point.index if newest else LogIndex(0),
        size=newest.size if newest else 0,
        taken=snapshots.taken,
        installed=snapshots.installed,
        receiving=_transfer_statistics(snapshots.receiving, now),
        restoring=snapshots.restore_due,
    )


def _transfer_statistics(transfer: Transfer | None, now: float) -> TransferStatistics | None:
    if transfer is None:
        return None
    rate, left = transfer.bytes_per_second(now), transfer.seconds_left(now)
    return TransferStatistics(transfer.index, transfer.done, transfer.total, rate, left)


def _peer_statistics(server: Server, follower: Follower, now: float) -> PeerStatistics:
    progress = follower.progress
    return PeerStatistics(
        mode=progress.mode.value,
        match_index=progress.match_index,
        next_index=progress.next_index,
        in_flight=len(progress.in_flight),
        in_flight_bytes=progress.in_flight_bytes,
        last_contact_age=now - progress.last_contact,
        round_trip=follower.round_trip,
        append_round_trip=follower.append_round_trip,
        entries_sent=follower.entries_sent,
        bytes_sent=follower.bytes_sent,
        failures=follower.failures,
        snapshot=_transfer_statistics(server.snapshots.sending.get(follower.id), now),
        lost_data=progress.lost_data,
    )


def why_no_leader(server: Server) -> str:
    """What stands in the way of a leader, in words; empty if one is known."""
    state, journal = server.state, server.journal
    if state.leader is not None:
        return ""
    replaced_for = server.first_start.replaced_for
    if replaced_for == NO_INCARNATION:
        return "the cluster settled its members without this server"
    if replaced_for is not None:
        return f"the cluster knows this server by another data directory (incarnation {replaced_for})"
    if not server.ready:
        missing = ", ".join(server.first_start.missing) or "nobody"
        trouble = server.first_start.trouble()
        return f"the first start waits for {missing}" + (f" ({trouble})" if trouble else "")
    if journal.full is not None:
        return f"this server may not campaign: {journal.full.problem}; free some space"
    if journal.overdue(server.environment.clock.now()):
        return "this server may not campaign: the disk of its log is stalled"
    if state.role is Role.CANDIDATE:
        return server.campaign_report
    return "no leader was heard, and the time to campaign has not come" + (
        f"; last campaign: {server.campaign_report}" if server.campaign_report else ""
    )
