"""The program of one trio_raft node in the benchmarks, driven over standard input and output."""

import argparse
import sys
import time
from collections import deque
from pathlib import Path

import trio
from driven import (
    KEY_BYTES,
    Answer,
    Refused,
    Request,
    calm_garbage_collector,
    distinct_commands,
    propose_in_loops,
    serve_requests,
    summary,
)

import trio_raft

BURST = 256
"""Commands that one task submits between two looks at what came back."""

PULSES_PER_SECOND = 100
"""Of a steady load."""

LOOK_AGAIN_SECONDS = 0.001


class Table(trio_raft.StateMachine[bytes, None]):
    """A key-value table of bytes: the first eight are the key."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}

    def apply(self, entry: trio_raft.Committed[bytes]) -> None:
        command = entry.command
        self.values[command[:KEY_BYTES]] = command[KEY_BYTES:]


BenchmarkNode = trio_raft.Node[bytes, None]


async def serve(config: trio_raft.Config) -> None:
    """Run the node and obey until standard input ends."""
    async with trio_raft.open_node(config, Table()) as node:

        async def obey_or_refuse(request: Request) -> Answer:
            try:
                return await obey(node, request)
            except* trio_raft.RaftError as errors:
                problem = errors
            raise Refused(str(problem.exceptions[0]))

        await serve_requests(obey_or_refuse)


async def obey(node: BenchmarkNode, request: Request) -> Answer:
    """Carry out one request."""
    match request["do"]:
        case "leader":
            return {"leader": await node.wait_leader()}
        case "usage":
            journal = node.statistics().journal
            return {"entries": journal.entries, "batches": journal.batches, "term": node.term}
        case "propose":
            return await propose_in_loops(
                node.propose,
                callers=request["callers"],
                seconds=request["seconds"],
                command_bytes=request["command_bytes"],
            )
        case "submit":
            return await submit_from_one_task(node, request["in_flight"], request["seconds"], request["command_bytes"])
        case "steady":
            return await submit_steadily(node, request["rate"], request["seconds"], request["command_bytes"])
        case "write":
            return await write_when_possible(node, request["seconds"])
        case unknown:
            raise Refused(f"{unknown!r} is nothing that a node does")


async def submit_from_one_task(node: BenchmarkNode, in_flight: int, seconds: float, command_bytes: int) -> Answer:
    """One task that keeps so many commands in flight: it submits them in bursts, and waits for the oldest burst.

    Commands are applied in order: when the last one of a burst is there, all are, and looking at each is enough.
    """
    commands = distinct_commands(command_bytes)
    bursts: deque[list[trio_raft.Ticket[None]]] = deque()
    submit, count, number = node.submit_nowait, len(commands), 0
    began = time.perf_counter()
    end = began + seconds
    while time.perf_counter() < end:
        bursts.append([submit(commands[(number + offset) % count]) for offset in range(BURST)])
        number += BURST
        while len(bursts) * BURST >= in_flight:
            await check(bursts.popleft())
    for burst in bursts:
        await check(burst)
    return {"writes": number, "seconds": time.perf_counter() - began}


async def submit_steadily(node: BenchmarkNode, rate: int, seconds: float, command_bytes: int) -> Answer:
    """An open loop: a small burst at each pulse, whatever became of the last one.

    The latency is that of a burst, from the moment it was due to the last of its commands.
    """
    commands = distinct_commands(command_bytes)
    latencies: list[float] = []
    began, number = trio.current_time(), 0

    async def note(due: float, last: trio_raft.Ticket[None]) -> None:
        await last.wait()
        latencies.append(trio.current_time() - due)

    async with trio.open_nursery() as nursery:
        for pulse in range(int(seconds * PULSES_PER_SECOND)):
            due = began + pulse / PULSES_PER_SECOND
            await trio.sleep_until(due)
            ticket = None
            while number * PULSES_PER_SECOND < (pulse + 1) * rate:
                ticket = node.submit_nowait(commands[number % len(commands)])
                number += 1
            if ticket is not None:
                nursery.start_soon(note, due, ticket)
    return {**summary(latencies, trio.current_time() - began), "writes": number}


async def check(burst: list[trio_raft.Ticket[None]]) -> None:
    """Wait until the whole burst was applied."""
    await burst[-1].wait()
    if not all(ticket.settled for ticket in burst):
        raise AssertionError("a command was applied before an older one")


async def write_when_possible(node: BenchmarkNode, seconds: float) -> Answer:
    """Returns when this node accepted a write, as soon as it leads. Raises Refused if that takes too long."""
    with trio.move_on_after(seconds):
        while True:
            try:
                await node.propose(b"failover")
            except trio_raft.RaftError:
                await trio.sleep(LOOK_AGAIN_SECONDS)
            else:
                return {}
    raise Refused("no write was accepted in time")


def main() -> None:
    """Read the arguments and run the node; an error at start ends with one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("node_id")
    parser.add_argument("members", nargs="+", metavar="ID=HOST:PORT", help="every member, this one included")
    parser.add_argument("--directory", type=Path, required=True, help="where this node keeps its log")
    arguments = parser.parse_args()
    config = trio_raft.Config(
        node_id=arguments.node_id,
        cluster_id="throughput",
        members=dict(member.split("=", 1) for member in arguments.members),
        data_directory=arguments.directory,
    )
    try:
        calm_garbage_collector()
        trio.run(serve, config)
    except (trio_raft.RaftError, OSError, trio.BrokenResourceError) as error:
        sys.exit(f"{arguments.node_id}: {error}")


if __name__ == "__main__":
    main()
