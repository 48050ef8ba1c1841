"""What the node programs of the benchmarks share: requests as JSON lines, in lock step, and the closed loop of callers.

The callers live in the node's process and do nothing but propose and note the time: what is measured is the library.
"""

import gc
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import trio

KEY_BYTES = 8
DISTINCT_KEYS = 4096

Request = dict[str, Any]
Answer = dict[str, Any]


class Refused(Exception):
    """The answer to a request is an error, in these words."""


def calm_garbage_collector() -> None:
    """Let it pass through what lives for long only once, and look for garbage less often.

    A library does not decide this for a program.  With a thousand writes in flight it saves a third of the processor
    time, and the longest pause.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)


async def serve_requests(obey: Callable[[Request], Awaitable[Answer]]) -> None:
    """Answer one request after the other until standard input ends."""
    # Duplicates: the streams close what they own, and the interpreter wants its own descriptors to the end.
    requests = trio.lowlevel.FdStream(os.dup(sys.stdin.fileno()))
    answers = trio.lowlevel.FdStream(os.dup(sys.stdout.fileno()))
    unfinished = b""
    async for chunk in requests:
        *lines, unfinished = (unfinished + chunk).split(b"\n")
        for line in lines:
            try:
                answer = await obey(json.loads(line))
            except Refused as problem:
                answer = {"error": str(problem)}
            await answers.send_all(json.dumps(answer).encode() + b"\n")


def distinct_commands(command_bytes: int) -> list[bytes]:
    """Commands of this size, each with a key of its own in its first eight bytes; they share no memory."""
    padding = b"v" * (command_bytes - KEY_BYTES)
    # Large ones are few: four thousand of a megabyte would be a benchmark of the machine's memory.
    count = min(DISTINCT_KEYS, max(16, (1 << 24) // command_bytes))
    return [b"%08d" % number + padding for number in range(count)]


async def propose_in_loops(
    propose: Callable[[bytes], Awaitable[object]], *, callers: int, seconds: float, command_bytes: int
) -> Answer:
    """So many callers, each proposing its next command when the last was applied, for so long."""
    commands = distinct_commands(command_bytes)
    latencies: list[float] = []
    began = time.perf_counter()
    end = began + seconds

    async def caller(number: int) -> None:
        # Names in local scope: this loop should cost next to nothing beside what it measures.
        now, note, count = time.perf_counter, latencies.append, len(commands)
        sent_at = now()
        while sent_at < end:
            await propose(commands[number % count])
            done_at = now()
            note(done_at - sent_at)
            sent_at = done_at
            number += callers

    async with trio.open_nursery() as nursery:
        for number in range(callers):
            nursery.start_soon(caller, number)
    return summary(latencies, time.perf_counter() - began)


def summary(latencies: list[float], elapsed: float) -> Answer:
    """What the callers saw, in the words of the benchmark."""
    latencies.sort()
    return {
        "writes": len(latencies),
        "seconds": elapsed,
        "p50_ms": 1000 * latencies[len(latencies) // 2],
        "p99_ms": 1000 * latencies[len(latencies) * 99 // 100],
        "max_ms": 1000 * latencies[-1],
    }
