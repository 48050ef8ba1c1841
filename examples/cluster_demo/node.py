"""The program of one child: a node with a key-value machine, driven over standard input and output.

Requests, one JSON object per line, each with an ``id`` that its answer repeats; answers may overtake each
other::

    {"id": 1, "do": "write", "key": "k1", "value": "v1"}   {"id": 1, "outcome": "acknowledged", "index": 7}
                                                           {"id": 1, "outcome": "refused", "why": "…"}
                                                           {"id": 1, "outcome": "unknown", "why": "…"}
    {"id": 2, "do": "barrier"}                             {"id": 2, "applied": 7}     only a leader can
    {"id": 3, "do": "wait_applied", "index": 7}            {"id": 3, "applied": 9}
    {"id": 4, "do": "dump"}                                {"id": 4, "part": [["k1", "v1", [7]], …]} …
                                                           {"id": 4, "applied": 9, …}  the last line
    {"id": 5, "do": "snapshot"}                            {"id": 5, "index": 7, "bytes": 512}

Without being asked: ``{"ready": true}`` once the node listens, ``{"status": {…}}`` four times a second, at
every change of role, and after every snapshot, ``{"event": "…"}`` for what a person should see.

The end of standard input ends the node, so that a controller that was killed leaves no child behind. The
log goes to standard error.
"""

import argparse
import gc
import logging
import os
import sys
from functools import partial
from operator import attrgetter
from pathlib import Path

import attrs
import trio

import trio_raft

from .lines import Message, MessageSender, each_message
from .machine import KeyValue, Put, each_part

STATUS_INTERVAL = 0.25
"""Seconds between two statuses that nothing prompted."""

KeyValueNode = trio_raft.Node[Put, int]


async def serve(config: trio_raft.Config) -> None:
    """Run the node until standard input ends."""
    # Duplicates: the streams close what they own, and the interpreter wants its own descriptors until the
    # end.
    requests = trio.lowlevel.FdStream(os.dup(sys.stdin.fileno()))
    sender = MessageSender(trio.lowlevel.FdStream(os.dup(sys.stdout.fileno())))
    machine = KeyValue()
    async with trio_raft.open_node(config, machine) as node:
        # Before anything else has its turn, so that no event is missed.
        with node.events() as events:
            try:
                async with trio.open_nursery() as nursery:
                    await sender.send({"ready": True})
                    nursery.start_soon(report_status, node, machine, sender)
                    nursery.start_soon(report_events, events, node, machine, sender)
                    async for request in each_message(requests):
                        nursery.start_soon(answer, node, request, sender)
                    nursery.cancel_scope.cancel()
            except* trio.BrokenResourceError:
                pass  # the controller is gone; its end of standard input says the same


async def answer(node: KeyValueNode, request: Message, sender: MessageSender) -> None:
    """Answer one request; what the library raises becomes part of the answer."""
    try:
        match request["do"]:
            case "write":
                reply = await write(node, request["key"], request["value"])
            case "barrier":
                await node.barrier()
                reply = {"applied": node.last_applied}
            case "wait_applied":
                await node.wait_applied(request["index"])
                count = await node.read(attrgetter("entries_applied"), consistency="stale")
                reply = {"applied": node.last_applied, "entries_applied": count}
            case "dump":
                reply = await dump(node, request["id"], sender)
            case "snapshot":
                taken = await node.snapshot()
                reply = {"index": taken.point.index, "bytes": taken.size}
            case unknown:
                reply = {"error": f"{unknown!r} is nothing that a node does"}
    except (trio_raft.RaftError, trio.ClosedResourceError) as error:
        reply = {"error": str(error)}
    await sender.send({"id": request["id"], **reply})


async def write(node: KeyValueNode, key: str, value: str) -> Message:
    """Propose, and say what came of it: acknowledged, known not committed, or nobody knows."""
    try:
        index = await node.propose(Put(key=key, value=value))
    except (
        trio_raft.NotLeader,
        trio_raft.NoLeader,
        trio_raft.ProposalDropped,
        trio_raft.StorageFull,
    ) as error:
        return {"outcome": "refused", "why": str(error)}
    except (trio_raft.LeadershipLost, trio.ClosedResourceError) as error:
        return {"outcome": "unknown", "why": str(error)}
    return {"outcome": "acknowledged", "index": index}


async def dump(node: KeyValueNode, request_id: int, sender: MessageSender) -> Message:
    """Send everything that the machine holds at this instant, in parts; the result closes the dump."""
    # Copying a dictionary is many times quicker than listing its items, and nothing else runs meanwhile.
    applied, entries = await node.read(lambda machine: (node.last_applied, machine.entries.copy()), consistency="stale")
    first_index = node.statistics().first_index
    for part in each_part(entries):
        await sender.send({"id": request_id, "part": part})
    return {"applied": applied, "first_index": first_index}


async def report_status(node: KeyValueNode, machine: KeyValue, sender: MessageSender) -> None:
    """Send the node's status at every change of role or leader, and now and then."""
    while True:
        seen = standing(node)
        await sender.send({"status": status(node, machine)})
        with trio.move_on_after(STATUS_INTERVAL):
            await node.wait_for(partial(stands_otherwise, seen))


def standing(node: KeyValueNode) -> tuple[str, int, str | None]:
    """What makes a status urgent when it changes."""
    return node.role, node.term, node.leader


def stands_otherwise(seen: tuple[str, int, str | None], node: KeyValueNode) -> bool:
    """Whether the node's standing is no longer what was seen."""
    return standing(node) != seen


def status(node: KeyValueNode, machine: KeyValue) -> Message:
    """What the controller shows and acts on."""
    statistics = node.statistics()
    snapshots = statistics.snapshots
    return {
        "role": statistics.role,
        "term": statistics.term,
        "leader": statistics.leader,
        "commit_index": statistics.commit_index,
        "last_applied": statistics.last_applied,
        "entries_applied": machine.entries_applied,
        "why_no_leader": statistics.why_no_leader,
        "lags": {peer: statistics.last_index - found.match_index for peer, found in statistics.peers.items()},
        "contact_ages": {peer: found.last_contact_age for peer, found in statistics.peers.items()},
        "first_index": statistics.first_index,
        "last_index": statistics.last_index,
        "snapshot_index": snapshots.index,
        "snapshots_taken": snapshots.taken,
        "snapshots_installed": snapshots.installed,
        "receiving": attrs.asdict(snapshots.receiving) if snapshots.receiving else None,
        "restoring": snapshots.restoring,
    }


async def report_events(
    events: trio_raft.EventReceiver, node: KeyValueNode, machine: KeyValue, sender: MessageSender
) -> None:
    """Pass on what a person should see."""
    async for event in events:
        if isinstance(event, trio_raft.SnapshotTaken | trio_raft.SnapshotInstalled):
            # They are counted from the status, and a process that is killed says nothing any more.
            await sender.send({"status": status(node, machine)})
        text = describe(node.node_id, event)
        if text:
            await sender.send({"event": text})


def describe(name: str, event: trio_raft.Event) -> str:
    """An event in words; empty for what the controller reads from the status, and for what happens all the time."""
    match event:
        case trio_raft.RoleChanged() | trio_raft.LeaderChanged() | trio_raft.BootstrapDone():
            return ""
        case trio_raft.SnapshotTaken() | trio_raft.LogCompacted() | trio_raft.SnapshotSending():
            return ""  # the last of them tells of what its receiver tells too
        case trio_raft.SnapshotReceiving(index=index, received=received, total=total):
            return f"{name} is being brought up by snapshot {index}: {100 * received // total} %"
        case trio_raft.SnapshotInstalled(index=index, size=size):
            return f"{name} installed snapshot {index}: {size:,} bytes"
        case _:
            return f"{name}: {event}"


def calm_garbage_collector() -> None:
    """Let it pass through what lives for long only once, and look for garbage less often.

    A library does not decide this for a program.  With a thousand writes in flight it saves a third of the processor
    time, and the longest pause.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)


def main() -> None:
    """Read the arguments and run the node; an error at start ends with one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("node_id")
    parser.add_argument("members", nargs="+", metavar="ID=HOST:PORT", help="every member, this one included")
    parser.add_argument("--directory", type=Path, required=True, help="where this node keeps its log and its snapshots")
    parser.add_argument("--heartbeat-timeout", type=float, required=True, metavar="SECONDS")
    parser.add_argument("--snapshot-threshold", type=int, required=True, metavar="ENTRIES")
    parser.add_argument("--trailing", type=int, required=True, metavar="ENTRIES")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        config = trio_raft.Config(
            node_id=arguments.node_id,
            cluster_id="example-cluster",
            members=dict(member.split("=", 1) for member in arguments.members),
            data_directory=arguments.directory,
            timeouts=trio_raft.Timeouts(
                heartbeat_timeout=arguments.heartbeat_timeout,
                election_timeout=arguments.heartbeat_timeout,
                leader_lease_timeout=arguments.heartbeat_timeout / 2,
            ),
            snapshots=trio_raft.Snapshots(
                threshold_entries=arguments.snapshot_threshold, trailing_entries=arguments.trailing
            ),
        )
        calm_garbage_collector()
        trio.run(serve, config)
    except (trio_raft.RaftError, OSError) as error:
        sys.exit(f"{arguments.node_id}: {error}")


if __name__ == "__main__":
    main()
