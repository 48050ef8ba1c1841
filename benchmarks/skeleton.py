"""One node of the lean skeleton: what no durable, replicated log in pure Python on Trio can avoid, and nothing else.

Not Raft: the first member leads, for ever; there are no terms, no elections, no recovery, and a connection that breaks
is the end. But what a command costs is real: it is encoded once, with a checksum, appended to a segment that was filled
with zeros before, synced in a worker thread, sent over TCP to each follower, which checks, appends and syncs it too; it
is committed by a majority and applied on every node, and its caller is woken, by one direct reschedule. Entries are
tuples. So this is the bound for a library that does all the rest too.

Two routes. The leader: ``Leader.propose`` → ``_append`` (encode, to both senders and the disk) → ``_note_durable`` or
``_receive`` (a majority has it) → ``_advance`` (apply, wake). A follower: ``follow``.
"""

import argparse
import os
import socket
import struct
import sys
import zlib
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import trio
from driven import KEY_BYTES, Answer, Refused, Request, propose_in_loops, serve_requests

RECORD = struct.Struct("<QQBII")
"""Term, index, kind, length, checksum: what a record of Raft's log needs too."""
FRAME = struct.Struct("<IQQ")
"""Bytes of records that follow, index of the last one, commit index."""
ACKNOWLEDGEMENT = struct.Struct("<Q")
TERM, KIND = 1, 0

BATCH_ENTRIES = 1024
SEGMENT_BYTES = 16 << 20
RECEIVE_BYTES = 256 << 10
DIAL_AGAIN_SECONDS = 0.02

Entry = tuple[int, int, int, bytes]
"""Term, index, kind, command."""


class Segments:
    """The log's file: overwrites zeros that are on the disk already, so that a sync writes data and no metadata."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ahead = ThreadPoolExecutor(max_workers=1)
        self._count = 0
        self._next = self._ahead.submit(self._prepare)
        self._file = -1
        self._end = SEGMENT_BYTES

    def append(self, records: bytes) -> None:
        """Write and sync; in a worker thread."""
        if self._end + len(records) > SEGMENT_BYTES:
            if self._file >= 0:
                os.close(self._file)
            self._file, self._end = self._next.result(), 0
            self._next = self._ahead.submit(self._prepare)
        written = 0
        while written < len(records):
            written += os.pwrite(self._file, records[written:], self._end + written)
        os.fdatasync(self._file)
        self._end += len(records)

    def close(self) -> None:
        """Wait for the thread that prepares the next segment."""
        self._ahead.shutdown()

    def _prepare(self) -> int:
        file = os.open(self._directory / f"{self._count}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        self._count += 1
        os.write(file, bytes(SEGMENT_BYTES))
        os.fsync(file)
        return file


class Slot:
    """Where one task sleeps until it is woken; a wake-up without a sleeper is forgotten, the sleeper having looked."""

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None

    async def sleep(self) -> None:
        """Until ``wake``."""
        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._forget)

    def wake(self) -> None:
        """Wake the sleeper, if there is one."""
        task, self._task = self._task, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    def _forget(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED


def _never(_: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED


class Leader:
    """The node that appends, sends, counts and applies."""

    def __init__(self, segments: Segments, followers: list[trio.SocketStream]) -> None:
        self.log: list[Entry] = []
        self.batches = 0
        self._segments = segments
        self._followers = followers
        self._queue: list[tuple[bytes, trio.lowlevel.Task]] = []
        self._waiting: list[trio.lowlevel.Task] = []
        """The callers of the entries that are not applied, in order."""
        self._match = [0] * (1 + len(followers))
        """How far each node's log is durable, this one's first."""
        self._commit = 0
        self._table: dict[bytes, bytes] = {}
        self._outboxes: list[list[bytes]] = [[] for _ in followers]
        self._appender = Slot()
        self._senders = [Slot() for _ in followers]

    async def propose(self, command: bytes) -> None:
        """Returns when the command is durable on a majority and applied here."""
        self._queue.append((command, trio.lowlevel.current_task()))
        self._appender.wake()
        await trio.lowlevel.wait_task_rescheduled(_never)

    async def run(self) -> None:
        """Everything that the leader does, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._append)
            for number in range(len(self._followers)):
                nursery.start_soon(self._send, number)
                nursery.start_soon(self._receive, number)

    async def _append(self) -> None:
        while True:
            if not self._queue:
                await self._appender.sleep()
            # Callers that were woken together propose again in this turn of the loop, and join the batch.
            await trio.lowlevel.checkpoint()
            batch = self._queue[:BATCH_ENTRIES]
            del self._queue[:BATCH_ENTRIES]
            records = self._encode(batch)
            last = len(self.log)
            frame = FRAME.pack(len(records), last, self._commit) + records
            for outbox, sender in zip(self._outboxes, self._senders, strict=True):
                outbox.append(frame)
                sender.wake()
            self.batches += 1
            # The senders' turn comes while the disk works.
            await trio.to_thread.run_sync(self._segments.append, records)
            self._match[0] = last
            self._advance()

    def _encode(self, batch: list[tuple[bytes, trio.lowlevel.Task]]) -> bytes:
        pack, checksum = RECORD.pack, zlib.crc32
        parts: list[bytes] = []
        index = len(self.log)
        for command, caller in batch:
            index += 1
            self.log.append((TERM, index, KIND, command))
            self._waiting.append(caller)
            parts.append(pack(TERM, index, KIND, len(command), checksum(command)))
            parts.append(command)
        return b"".join(parts)

    async def _send(self, number: int) -> None:
        stream, outbox, slot = self._followers[number], self._outboxes[number], self._senders[number]
        while True:
            if not outbox:
                await slot.sleep()
            frames = b"".join(outbox)
            outbox.clear()
            await stream.send_all(frames)

    async def _receive(self, number: int) -> None:
        stream = self._followers[number]
        unread = b""
        while received := await stream.receive_some(RECEIVE_BYTES):
            unread += received
            whole = len(unread) // ACKNOWLEDGEMENT.size * ACKNOWLEDGEMENT.size
            if whole:
                (self._match[1 + number],) = ACKNOWLEDGEMENT.unpack_from(unread, whole - ACKNOWLEDGEMENT.size)
                unread = unread[whole:]
                self._advance()
        raise AssertionError("a follower ended")

    def _advance(self) -> None:
        majority = len(self._match) // 2 + 1
        commit = sorted(self._match)[-majority]
        if commit <= self._commit:
            return
        wake, table = trio.lowlevel.reschedule, self._table
        for _, _, _, command in self.log[self._commit : commit]:
            table[command[:KEY_BYTES]] = command[KEY_BYTES:]
        count = commit - self._commit
        self._commit = commit
        for caller in self._waiting[:count]:
            wake(caller)
        del self._waiting[:count]


async def follow(segments: Segments, leader: trio.SocketStream) -> None:
    """Everything that a follower does, until the leader ends."""
    log: list[Entry] = []
    table: dict[bytes, bytes] = {}
    applied = commit = last = 0
    unread = bytearray()
    try:
        while received := await leader.receive_some(RECEIVE_BYTES):
            unread += received
            position, records = 0, bytearray()
            while len(unread) >= position + FRAME.size:
                length, frame_last, frame_commit = FRAME.unpack_from(unread, position)
                end = position + FRAME.size + length
                if len(unread) < end:
                    break
                records += unread[position + FRAME.size : end]
                last, commit, position = frame_last, frame_commit, end
            del unread[:position]
            if records:
                whole = bytes(records)
                decode_into(log, whole)
                await trio.to_thread.run_sync(segments.append, whole)
                await leader.send_all(ACKNOWLEDGEMENT.pack(last))
            for _, _, _, command in log[applied:commit]:
                table[command[:KEY_BYTES]] = command[KEY_BYTES:]
            applied = commit
    except trio.BrokenResourceError:
        return  # it ended with bytes still on their way


def decode_into(log: list[Entry], records: bytes) -> None:
    """Append the records to the log, each checked."""
    unpack, checksum, header = RECORD.unpack_from, zlib.crc32, RECORD.size
    position, size = 0, len(records)
    while position < size:
        term, index, kind, length, expected = unpack(records, position)
        position += header
        command = records[position : position + length]
        if checksum(command) != expected:
            raise AssertionError(f"the record of index {index} is damaged")
        log.append((term, index, kind, command))
        position += length


async def connect(addresses: list[str]) -> list[trio.SocketStream]:
    """A stream to each follower, as soon as it listens."""
    streams = []
    for address in addresses:
        host, port = address.rsplit(":", 1)
        while True:
            try:
                streams.append(await trio.open_tcp_stream(host, int(port)))
                break
            except OSError:
                await trio.sleep(DIAL_AGAIN_SECONDS)
    return streams


async def accept(address: str) -> trio.SocketStream:
    """The leader's stream."""
    host, port = address.rsplit(":", 1)
    [listener] = await trio.open_tcp_listeners(int(port), host=host)
    async with listener:
        stream = await listener.accept()
    stream.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return stream


async def serve(name: str, members: dict[str, str], segments: Segments) -> None:
    """Run the node and obey until standard input ends."""
    leads, *others = members
    async with trio.open_nursery() as nursery:
        leader = None
        if name == leads:
            leader = Leader(segments, await connect([members[other] for other in others]))
            nursery.start_soon(leader.run)
        else:
            nursery.start_soon(follow, segments, await accept(members[name]))
        await serve_requests(obedient(leads, leader))
        nursery.cancel_scope.cancel()


def obedient(leads: str, leader: Leader | None) -> Callable[[Request], Awaitable[Answer]]:
    """What carries out one request."""

    async def obey(request: Request) -> Answer:
        match request["do"], leader:
            case "leader", _:
                return {"leader": leads}
            case "usage", Leader():
                return {"entries": len(leader.log), "batches": leader.batches, "term": TERM}
            case "propose", Leader():
                return await propose_in_loops(
                    leader.propose,
                    callers=request["callers"],
                    seconds=request["seconds"],
                    command_bytes=request["command_bytes"],
                )
            case unknown, _:
                raise Refused(f"{unknown!r} is nothing that this node does")

    return obey


def main() -> None:
    """Read the arguments and run the node."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("members", nargs="+", metavar="NAME=HOST:PORT", help="every member; the first one leads")
    parser.add_argument("--directory", type=Path, required=True, help="where this node keeps its log")
    arguments = parser.parse_args()
    arguments.directory.mkdir()
    segments = Segments(arguments.directory)
    try:
        trio.run(serve, arguments.name, dict(member.split("=", 1) for member in arguments.members), segments)
    except* OSError as errors:
        sys.exit(f"{arguments.name}: {errors.exceptions[0]}")
    finally:
        segments.close()


if __name__ == "__main__":
    main()
