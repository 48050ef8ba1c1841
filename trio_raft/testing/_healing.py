"""The end of a run: repair everything, and demand that the cluster works and has lost nothing.

In this order: links, disks and paused members are repaired, and whoever is down is started; one leader is found, and
all members follow it and have applied what it has; a write and a read are served; the term stands still; and every
member's *durable* bytes, as a power cut in this moment would leave them, hold the same committed log, with every write
of which a client was told (``_scan``).

A member whose disk was wiped, damaged or exchanged for an old copy may refuse to take part; any other must.  If too
few are left for a majority, that is said, and not mistaken for a fault of the cluster.

House rule: only what was injected excuses anything.
"""

from typing import Any

from trio_raft._messages import ServerId
from trio_raft._node import Node
from trio_raft._records import EntryKind
from trio_raft._server import Server
from trio_raft.testing._cluster import POLL_SECONDS, Cluster
from trio_raft.testing._failures import InvariantViolation, SimulationFailed
from trio_raft.testing._member import Member
from trio_raft.testing._scan import scan

CONVERGE_SECONDS = 120.0
"""Virtual seconds within which a repaired cluster has a leader whom all follow, and all have applied the same."""

SERVE_SECONDS = 30.0
"""Virtual seconds within which it serves a write and a read after that."""

AFTERMATH_HEARTBEAT_TIMEOUTS = 2.0
"""Heartbeat timeouts after which nothing that happened before the repair can depose a leader."""

CALM_ELECTION_TIMEOUTS = 4.0
"""Election timeouts for which the term must stand still."""

SERVES = "A repaired cluster serves"

AnyCluster = Cluster[Any, Any]
AnyMember = Member[Any, Any]


async def heal_and_prove(cluster: AnyCluster) -> None:
    """Repair the cluster and prove that it works.  Raises SimulationFailed."""
    cluster.repair()
    refused = [member.id for member in cluster.members.values() if member.failure is not None and member.excuse]
    for node_id in cluster.ids:
        if node_id not in refused:
            await cluster.start(node_id)
    # A leader that the trouble cut off leads until its patience ends, and nothing that is mended saves it.
    await cluster.clock.sleep(AFTERMATH_HEARTBEAT_TIMEOUTS * cluster.settings.timeouts.heartbeat_timeout)
    leader = await _converge(cluster)
    await _serve(cluster, leader)
    await _stand_still(cluster)
    scan(cluster, obliged(cluster))


async def _converge(cluster: AnyCluster) -> Node[Any, Any]:
    """Wait until all members that have no excuse follow one leader and have applied its whole log."""

    def converged() -> bool:
        leader = cluster.leader()
        participants = _participants(cluster)
        return (
            leader is not None
            and len(participants) == len(obliged(cluster))
            and all(_agrees(server, leader) for server in participants)
        )

    end = cluster.clock.now() + CONVERGE_SECONDS
    while not (_lost_majority(cluster) or converged()):
        if cluster.clock.now() >= end:
            raise cluster.too_slow(
                f"the repaired cluster agrees: not within {CONVERGE_SECONDS:g} virtual seconds",
                check="A repaired cluster agrees",
            )
        # An error of the disk may come to light only now: it happened in a call that took its time.
        down = [node_id for node_id in obliged(cluster) if cluster.members[node_id].life is None]
        if down:
            await cluster.start(*down)
        await cluster.clock.sleep(POLL_SECONDS)
    if _lost_majority(cluster):
        excuses = ", ".join(f"{member.id}: {member.excuse}" for member in cluster.members.values() if member.excuse)
        failure = SimulationFailed(
            cluster.seed, f"the injected faults leave no majority for ever ({excuses}), so nothing can be proved"
        )
        failure.judged = False
        raise failure
    return await cluster.wait_leader()


def _participants(cluster: AnyCluster) -> list[Server]:
    """Servers that must agree: all that have no excuse.  One that is down is missing here, and has not converged."""
    servers = {server.node_id: server for server in cluster.servers()}
    return [servers[ServerId(node_id)] for node_id in obliged(cluster) if node_id in servers]


def obliged(cluster: AnyCluster) -> list[str]:
    """All members but those that refuse to take part, or are not trusted any more, for a reason that was injected."""
    distrusted = [
        follower.id
        for server in cluster.servers()
        for follower in server.followers.values()
        if follower.progress.lost_data
    ]
    return [
        node_id
        for node_id, member in cluster.members.items()
        if not (member.excuse and (_refuses(member) or node_id in distrusted))
    ]


def _refuses(member: AnyMember) -> bool:
    """Is it down, or does it neither vote nor acknowledge?"""
    server = member.life.server if member.life else None
    return server is None or not server.ready


def _lost_majority(cluster: AnyCluster) -> bool:
    return 2 * len(obliged(cluster)) <= len(cluster.ids)


def _agrees(server: Server, leader: Node[Any, Any]) -> bool:
    state = server.state
    return (
        (state.leader, state.current_term) == (leader.node_id, leader.term)
        and state.last_applied == state.log.last_index == leader.last_applied
        and server.journal.durable_index == state.log.last_index
        and not server.snapshots.restore_due
    )


async def _serve(cluster: AnyCluster, leader: Node[Any, Any]) -> None:
    """A write reaches every member, and a linearizable read comes back.

    The write is an empty entry as it opens every term: no state machine sees it, so it suits every one.
    """
    server = next(server for server in cluster.servers() if server.node_id == leader.node_id)
    entry = server._append(EntryKind.NO_OP, b"")  # noqa: SLF001  # no public call writes without a command
    await cluster.until(
        lambda: all(server.state.last_applied >= entry.index for server in _participants(cluster)),
        f"a write at {entry.index} reaches every member",
        within=SERVE_SECONDS,
        check=SERVES,
    )
    with cluster.clock.move_on_after(SERVE_SECONDS):
        await leader.barrier()
        return
    problem = f"{leader.node_id} leads, but a read was not answered within {SERVE_SECONDS:g} s"
    raise cluster.too_slow(problem, check=SERVES)


async def _stand_still(cluster: AnyCluster) -> None:
    """Nobody campaigns against a leader who reaches everybody."""
    before = {server.node_id: (server.state.leader, server.state.current_term) for server in _participants(cluster)}
    await cluster.clock.sleep(CALM_ELECTION_TIMEOUTS * cluster.settings.timeouts.election_timeout)
    after = {server.node_id: (server.state.leader, server.state.current_term) for server in _participants(cluster)}
    if after != before:
        raise InvariantViolation(
            cluster.seed,
            f"the repaired cluster does not come to rest: (leader, term) were {before} and became {after}",
            check="A repaired cluster comes to rest (E5)",
        )
