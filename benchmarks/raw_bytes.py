"""One of three processes that write and send the same bytes without Raft: what large commands are compared with.

The first member takes batches of bytes, each to its own file and, over TCP, to every other member, which writes them
too. Files grow; whatever waits for the disk is written and synced together. A batch is done when a majority has synced
it. No encoding, no checksums, no log, no state machine; plain threads, since nothing here is more than a system call.

The callers of a closed loop are imitated by what they keep in flight: so many commands, in batches of a mebibyte.
"""

import argparse
import os
import queue
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import trio
from driven import Answer, Refused, Request, distinct_commands, serve_requests, summary

BATCH_BYTES = 1 << 20
HEADER = struct.Struct("<Q")
"""Bytes of the batch that follows; also an acknowledgement: how many batches are synced."""

DIAL_AGAIN_SECONDS = 0.02
PATIENCE_SECONDS = 30.0


class Disk:
    """A thread that writes and syncs whatever waits, and tells how many batches are on the disk."""

    def __init__(self, path: Path, on_synced: Callable[[int], None]) -> None:
        self._waiting: queue.SimpleQueue[bytes | bytearray] = queue.SimpleQueue()
        self._file = path.open("wb", buffering=0)
        self._on_synced = on_synced
        threading.Thread(target=self._run, daemon=True).start()

    def write(self, batch: bytes | bytearray) -> None:
        """Queue a batch."""
        self._waiting.put(batch)

    def _run(self) -> None:
        synced = 0
        while True:
            batches = [self._waiting.get()]
            while not self._waiting.empty():
                batches.append(self._waiting.get())
            for batch in batches:
                written = 0
                while written < len(batch):
                    written += self._file.write(memoryview(batch)[written:])
            os.fdatasync(self._file.fileno())
            synced += len(batches)
            self._on_synced(synced)


class Leader:
    """The member that hands out batches and counts who has synced them."""

    def __init__(self, path: Path, followers: list[socket.socket]) -> None:
        self._synced = [0] * (1 + len(followers))
        self._changed = threading.Condition()
        self._disk = Disk(path, partial(self._note, 0))
        self._outboxes: list[queue.SimpleQueue[bytes]] = []
        self._begun = 0
        for number, follower in enumerate(followers, start=1):
            outbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
            self._outboxes.append(outbox)
            threading.Thread(target=self._send, args=(follower, outbox), daemon=True).start()
            threading.Thread(target=self._receive, args=(follower, number), daemon=True).start()

    def load(self, *, callers: int, seconds: float, command_bytes: int) -> Answer:
        """Keep as many bytes in flight as so many callers would."""
        commands = max(1, min(callers, BATCH_BYTES // command_bytes))
        batch = b"".join([distinct_commands(command_bytes)[0]] * commands)
        in_flight = max(1, callers // commands)
        latencies: list[float] = []
        began_at: list[float] = []
        first = self._begun
        began = time.perf_counter()
        while time.perf_counter() < began + seconds:
            began_at.append(time.perf_counter())
            self._begin(batch)
            self._wait(first + len(began_at) - in_flight, first, began_at, latencies)
        self._wait(self._begun, first, began_at, latencies)
        answer = summary(latencies, time.perf_counter() - began)
        return {**answer, "writes": answer["writes"] * commands}

    def _begin(self, batch: bytes) -> None:
        self._begun += 1
        self._disk.write(batch)
        for outbox in self._outboxes:
            outbox.put(batch)

    def _wait(self, wanted: int, first: int, began_at: list[float], latencies: list[float]) -> None:
        """Until a majority has synced so many batches; notes how long those that are done took."""
        majority = len(self._synced) // 2 + 1
        with self._changed:
            if not self._changed.wait_for(lambda: sorted(self._synced)[-majority] >= wanted, PATIENCE_SECONDS):
                raise Refused("a batch was not synced in time")
            done = sorted(self._synced)[-majority]
        now = time.perf_counter()
        while len(latencies) < done - first:
            latencies.append(now - began_at[len(latencies)])

    def _note(self, number: int, synced: int) -> None:
        with self._changed:
            self._synced[number] = synced
            self._changed.notify_all()

    def _send(self, follower: socket.socket, outbox: "queue.SimpleQueue[bytes]") -> None:
        while True:
            batch = outbox.get()
            follower.sendall(HEADER.pack(len(batch)))
            follower.sendall(batch)

    def _receive(self, follower: socket.socket, number: int) -> None:
        while header := receive(follower, HEADER.size):
            self._note(number, HEADER.unpack(header)[0])


def follow(path: Path, leader: socket.socket) -> None:
    """Write whatever comes, and say what is synced, until the leader ends."""
    disk = Disk(path, lambda synced: leader.sendall(HEADER.pack(synced)))
    while header := receive(leader, HEADER.size):
        disk.write(receive(leader, HEADER.unpack(header)[0]))


def receive(stream: socket.socket, size: int) -> bytearray:
    """So many bytes; none if the other end has closed."""
    received = bytearray(size)
    view, filled = memoryview(received), 0
    while filled < size:
        count = stream.recv_into(view[filled:])
        if not count:
            return bytearray()
        filled += count
    return received


def connect(address: str) -> socket.socket:
    """A stream to a follower, as soon as it listens."""
    host, port = address.rsplit(":", 1)
    while True:
        try:
            stream = socket.create_connection((host, int(port)))
        except OSError:
            time.sleep(DIAL_AGAIN_SECONDS)
        else:
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return stream


def accept(address: str) -> socket.socket:
    """The leader's stream."""
    host, port = address.rsplit(":", 1)
    with socket.create_server((host, int(port))) as listener:
        return listener.accept()[0]


async def serve(leads: str, leader: Leader | None) -> None:
    """Obey until standard input ends."""

    async def obey(request: Request) -> Answer:
        match request["do"], leader:
            case "leader", _:
                return {"leader": leads}
            case "usage", _:
                return {"term": 1}
            case "propose", Leader():
                # Nothing else is to be done meanwhile.
                return leader.load(
                    callers=request["callers"], seconds=request["seconds"], command_bytes=request["command_bytes"]
                )
            case unknown, _:
                raise Refused(f"{unknown!r} is nothing that this process does")

    await serve_requests(obey)


def main() -> None:
    """Read the arguments and run the process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("members", nargs="+", metavar="NAME=HOST:PORT", help="every member; the first one leads")
    parser.add_argument("--directory", type=Path, required=True, help="where this process keeps its file")
    arguments = parser.parse_args()
    arguments.directory.mkdir()
    members = dict(member.split("=", 1) for member in arguments.members)
    leads, *others = members
    path, leader = arguments.directory / "bytes", None
    try:
        if arguments.name == leads:
            leader = Leader(path, [connect(members[other]) for other in others])
        else:
            threading.Thread(target=follow, args=(path, accept(members[arguments.name])), daemon=True).start()
    except OSError as error:
        sys.exit(f"{arguments.name}: {error}")
    trio.run(serve, leads, leader)


if __name__ == "__main__":
    main()
