"""The program of one node in the throughput benchmark, driven over standard input and output.

One JSON object per line in, one out, in lock step. The end of standard input ends the node. The callers live in this
process, beside the node, and do nothing but propose and note the time: what is measured is the library.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import trio

import trio_raft

KEY_BYTES = 8
DISTINCT_KEYS = 4096


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
    # Duplicates: the streams close what they own, and the interpreter wants its own descriptors to the end.
    requests = trio.lowlevel.FdStream(os.dup(sys.stdin.fileno()))
    answers = trio.lowlevel.FdStream(os.dup(sys.stdout.fileno()))
    unfinished = b""
    async with trio_raft.open_node(config, Table()) as node:
        async for chunk in requests:
            *lines, unfinished = (unfinished + chunk).split(b"\n")
            for line in lines:
                answer = await obey(node, json.loads(line))
                await answers.send_all(json.dumps(answer).encode() + b"\n")


async def obey(node: BenchmarkNode, request: dict[str, Any]) -> dict[str, Any]:
    """Carry out one request."""
    match request["do"]:
        case "leader":
            return {"leader": await node.wait_leader()}
        case "usage":
            journal = node.statistics().journal
            return {
                "cpu_seconds": time.process_time(),
                "entries": journal.entries,
                "batches": journal.batches,
                "term": node.term,
            }
        case "propose":
            try:
                return await propose_in_loops(node, request["callers"], request["seconds"], request["command_bytes"])
            except* trio_raft.RaftError as errors:
                problem = errors
            return {"error": str(problem.exceptions[0])}
        case unknown:
            raise ValueError(f"{unknown!r} is nothing that a node does")


async def propose_in_loops(node: BenchmarkNode, callers: int, seconds: float, command_bytes: int) -> dict[str, Any]:
    """So many callers, each proposing its next command when the last was applied, for so long."""
    padding = b"v" * (command_bytes - KEY_BYTES)
    commands = [b"%08d" % number + padding for number in range(DISTINCT_KEYS)]
    latencies: list[float] = []
    began = time.perf_counter()
    end = began + seconds

    async def caller(number: int) -> None:
        # Names in local scope: this loop should cost next to nothing beside what it measures.
        now, propose, note = time.perf_counter, node.propose, latencies.append
        sent_at = now()
        while sent_at < end:
            await propose(commands[number % DISTINCT_KEYS])
            done_at = now()
            note(done_at - sent_at)
            sent_at = done_at
            number += callers

    async with trio.open_nursery() as nursery:
        for number in range(callers):
            nursery.start_soon(caller, number)
    elapsed = time.perf_counter() - began
    latencies.sort()
    return {
        "writes": len(latencies),
        "seconds": elapsed,
        "p50_ms": 1000 * latencies[len(latencies) // 2],
        "p99_ms": 1000 * latencies[len(latencies) * 99 // 100],
        "max_ms": 1000 * latencies[-1],
    }


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
        trio.run(serve, config)
    except (trio_raft.RaftError, OSError, trio.BrokenResourceError) as error:
        sys.exit(f"{arguments.node_id}: {error}")


if __name__ == "__main__":
    main()
