"""How a cluster stands at one moment: who can serve, and a line on each member for whoever reads a failure.

House rule: this only looks.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from trio_raft._rules.state import Role
from trio_raft._server import Server
from trio_raft.testing._member import Member
from trio_raft.testing._network import MemoryNetwork

Members = Mapping[str, Member[Any, Any]]


def running_servers(members: Members) -> Iterator[Server]:
    """The servers of all members that are up and have recovered their logs."""
    for member in members.values():
        life = member.life
        if life is not None and life.node is not None and life.server is not None:
            yield life.server


def serving_leader(members: Members, network: MemoryNetwork) -> Server | None:
    """The server that leads, has committed in its term, and is followed by a majority that it reaches both ways."""
    for leader in running_servers(members):
        if leader.state.role is Role.LEADER and leader.state.commit_index >= leader.term_start_index:
            following = [server for server in running_servers(members) if _follows(server, leader, members, network)]
            if 2 * len(following) > len(members) and not members[leader.node_id].paused:
                return leader
    return None


def _follows(server: Server, leader: Server, members: Members, network: MemoryNetwork) -> bool:
    follower, led_by = server.node_id, leader.node_id
    return (
        not members[follower].paused
        and (server.state.leader, server.state.current_term) == (led_by, leader.state.current_term)
        and not network.is_cut(led_by, follower)
        and not network.is_cut(follower, led_by)
    )


def describe(members: Members, network: MemoryNetwork) -> str:
    """One line for each member."""
    return "\n".join(_line(member, members, network) for member in members.values())


def _line(member: Member[Any, Any], members: Members, network: MemoryNetwork) -> str:
    server = member.life.server if member.life else None
    if server is None:
        return f"  {member.id}: down" + (f", since: {member.failure}" if member.failure else "")
    state, journal = server.state, server.journal
    unheard = [other for other in members if network.is_cut(other, member.id)]
    facts = (
        f"{state.role.value} of term {state.current_term}, leader {state.leader}",
        f"log {state.log.last_index}, durable {journal.durable_index}",
        f"committed {state.commit_index}, applied {state.last_applied}",
        "paused" if member.paused else "",
        "" if server.ready else "not ready",
        f"hears nothing from {' '.join(unheard)}" if unheard else "",
        member.excuse,
    )
    return f"  {member.id}: " + "; ".join(fact for fact in facts if fact)
