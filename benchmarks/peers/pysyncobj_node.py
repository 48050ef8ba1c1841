"""One server of PySyncObj in the comparison, driven over standard input and output as all fronts are.

With its journal, which is written but never synced, and without snapshots, which nobody takes here. A caller is a
command in flight: the callback of one submits the next. That is the fastest way to drive this library; its blocking
calls need a thread for each caller.
"""

import argparse
import itertools
import json
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

from pysyncobj import (  # pyright: ignore[reportMissingModuleSource]  # in an environment of its own
    FAIL_REASON,
    SyncObj,
    SyncObjConf,
    replicated,
)

KEY_BYTES = 8
DISTINCT_KEYS = 4096
LOOK_AGAIN_SECONDS = 0.005
ATTEMPT_SECONDS = 0.02
"""Between two attempts at a write while there may be no leader; they overlap, a default write taking 0.1 s."""
LAST_ANSWERS_SECONDS = 15.0
NEVER = 10**9

Request = dict[str, Any]
Answer = dict[str, Any]


class Failed(Exception):
    """What was asked for did not happen."""


class Table(SyncObj):
    """A key-value table."""

    def __init__(self, own_address: str, other_addresses: list[str], conf: SyncObjConf) -> None:
        super().__init__(own_address, other_addresses, conf)
        self.values: dict[str, str] = {}

    @replicated
    def put(self, key: str, value: str) -> None:
        """Remember a value under a key."""
        self.values[key] = value


class Loop:
    """So many callers, each with its next command when the last was applied, for so long."""

    def __init__(self, table: Table, callers: int, seconds: float, command_bytes: int) -> None:
        self._table = table
        self._value = "v" * (command_bytes - KEY_BYTES)
        self._numbers = itertools.count()
        self._latencies: list[float] = []
        self._failures = 0
        self._running = callers
        # Callbacks run in the library's thread; the first commands are submitted from this one.
        self._lock = threading.Lock()
        self._all_done = threading.Event()
        self._callers = callers
        self._seconds = seconds
        self._end = 0.0

    def run(self) -> Answer:
        """Write; raises Failed."""
        began = time.perf_counter()
        self._end = began + self._seconds
        for _ in range(self._callers):
            self._submit()
        if not self._all_done.wait(self._seconds + LAST_ANSWERS_SECONDS):
            raise Failed("not every command came back")
        elapsed = time.perf_counter() - began
        if self._failures:
            raise Failed(f"{self._failures} writes failed")
        latencies = sorted(self._latencies)
        return {
            "writes": len(latencies),
            "seconds": elapsed,
            "p50_ms": 1000 * latencies[len(latencies) // 2],
            "p99_ms": 1000 * latencies[len(latencies) * 99 // 100],
            "max_ms": 1000 * latencies[-1],
        }

    def _submit(self) -> None:
        key = f"{next(self._numbers) % DISTINCT_KEYS:08d}"
        self._table.put(key, self._value, callback=partial(self._done, time.perf_counter()))

    def _done(self, sent_at: float, _result: object, failure: int) -> None:
        now = time.perf_counter()
        with self._lock:
            self._latencies.append(now - sent_at)
            self._failures += failure != FAIL_REASON.SUCCESS
            goes_on = now < self._end and not self._failures
            self._running -= not goes_on
            if not self._running:
                self._all_done.set()
        if goes_on:
            self._submit()


def write_when_possible(table: Table, seconds: float) -> Answer:
    """Attempt after attempt until one succeeds; raises Failed."""
    accepted = threading.Event()

    def note(_result: object, failure: int) -> None:
        if failure == FAIL_REASON.SUCCESS:
            accepted.set()

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        table.put("failover", "v", callback=note)
        if accepted.wait(ATTEMPT_SECONDS):
            return {}
    raise Failed("no write was accepted in time")


def obey(table: Table, names: dict[str, str], request: Request) -> Answer:
    """Carry out one request; raises Failed."""
    match request["do"]:
        case "leader":
            while not (table.isReady() and table.getStatus()["leader"]):
                time.sleep(LOOK_AGAIN_SECONDS)
            return {"leader": names[str(table.getStatus()["leader"])]}
        case "usage":
            return {"term": table.getStatus()["raft_term"]}
        case "propose":
            return Loop(table, request["callers"], request["seconds"], request["command_bytes"]).run()
        case "write":
            return write_when_possible(table, request["seconds"])
        case unknown:
            raise Failed(f"{unknown!r} is nothing that a server does")


def main() -> None:
    """Read the arguments, run the server and obey until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("members", nargs="+", metavar="NAME=HOST:PORT", help="every member, this one included")
    parser.add_argument("--directory", type=Path, required=True, help="where this server keeps its journal")
    parser.add_argument("--batch", action="store_true", help="its default: commands wait to travel together")
    arguments = parser.parse_args()
    addresses = dict(member.split("=", 1) for member in arguments.members)
    own = addresses[arguments.name]
    arguments.directory.mkdir()
    conf = SyncObjConf(
        appendEntriesUseBatch=arguments.batch,
        journalFile=str(arguments.directory / "journal"),
        fullDumpFile=str(arguments.directory / "dump"),
        logCompactionMinEntries=NEVER,
        logCompactionMinTime=NEVER,
    )
    table = Table(own, [address for address in addresses.values() if address != own], conf)
    names = {address: name for name, address in addresses.items()}
    for line in sys.stdin:
        try:
            answer = obey(table, names, json.loads(line))
        except Failed as problem:
            answer = {"error": str(problem)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
