"""The program of one node in the benchmark of snapshots and recovery, driven over standard input and output.

One JSON object per line in, one out, in lock step; the end of standard input ends the node.  The state machine is as
cheap as can be: it notes where it is, and its state is so many bytes that are made when they are asked for.  So
what is measured is the library.

Instants are seconds on the system's monotonic clock, which all processes of a machine share.
"""

import argparse
import json
import os
import resource
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import trio
from driven import calm_garbage_collector

import trio_raft

BLOCK = os.urandom(1 << 20)
"""Of a state.  Random, since zeros would be cheaper than what they stand for."""
WINDOW = 4096
"""Commands in flight while a log is filled, if they are small."""
WINDOW_BYTES = 32 << 20
LOOP_PROBE_SECONDS = 0.005


class Ballast(trio_raft.StateMachine[bytes, None]):
    """A state of a given size."""

    def __init__(self, state_bytes: int) -> None:
        self.state_bytes = state_bytes
        self.applied = 0
        self.restore_seconds = 0.0

    def apply(self, entry: trio_raft.Committed[bytes]) -> None:
        self.applied = entry.index

    def snapshot(self) -> Iterator[bytes]:
        blocks, rest = divmod(self.state_bytes, len(BLOCK))
        return iter([BLOCK] * blocks + [BLOCK[:rest]] * (rest > 0))

    def restore(self, state: trio_raft.SavedState) -> None:
        began = time.monotonic()
        self.state_bytes = sum(map(len, state))
        self.restore_seconds = time.monotonic() - began


# ------------------------------------------------------------------------------------------- what is watched


@attrs.define
class Watch:
    """What goes on beside the requests; asking for it starts it anew."""

    events: dict[str, list[float]] = attrs.Factory(dict)
    """Instants, by the name of the event."""
    heartbeat_gap: float = 0.0
    """Longest, in seconds, between two heartbeats that arrived on one connection."""
    loop_late: float = 0.0
    """How much later than due the event loop ran a task at worst, in seconds."""

    def note_event(self, name: str) -> None:
        self.events.setdefault(name, []).append(time.monotonic())

    def take(self) -> dict[str, Any]:
        """What was seen since the last time."""
        seen = attrs.asdict(self)
        self.events, self.heartbeat_gap, self.loop_late = {}, 0.0, 0.0
        return seen

    async def follow_events(self, receiver: trio_raft.EventReceiver) -> None:
        async for event in receiver:
            self.note_event(type(event).__name__)

    async def probe_loop(self) -> None:
        while True:
            due = trio.current_time() + LOOP_PROBE_SECONDS
            await trio.sleep_until(due)
            self.loop_late = max(self.loop_late, trio.current_time() - due)


class HeardStream(trio.abc.Stream):
    """A connection that a peer opened; notes when something arrives, if it is one for heartbeats."""

    def __init__(self, stream: trio.abc.Stream, watch: Watch) -> None:
        self._stream = stream
        self._watch = watch
        self._hello_seen = False
        self._heard_at: float | None = None
        self._is_for_heartbeats = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self._stream.receive_some(max_bytes)
        if self._is_for_heartbeats:
            now = time.monotonic()
            if self._heard_at is not None:
                self._watch.heartbeat_gap = max(self._watch.heartbeat_gap, now - self._heard_at)
            self._heard_at = now
        elif not self._hello_seen:
            # The first message says what the connection is for.
            self._hello_seen, self._is_for_heartbeats = True, b"control" in data
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


@attrs.frozen
class HeardListener(trio.abc.Listener[trio.abc.Stream]):
    """Wraps what a listener accepts."""

    listener: trio.abc.Listener[trio.abc.Stream]
    watch: Watch

    async def accept(self) -> trio.abc.Stream:
        return HeardStream(await self.listener.accept(), self.watch)

    async def aclose(self) -> None:
        await self.listener.aclose()


class HeardTransport(trio_raft.TCPTransport):
    """TCP, listened to."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    async def listen(self, address: str) -> Sequence[trio.abc.Listener[trio.abc.Stream]]:
        return [HeardListener(listener, self._watch) for listener in await super().listen(address)]


# ------------------------------------------------------------------------------------------- the node


class Session:
    """One node and whoever asks it."""

    def __init__(self, node: "trio_raft.Node[bytes, None]", machine: Ballast, watch: Watch, began: float) -> None:
        self.node = node
        self.machine = machine
        self.watch = watch
        self.began = began
        self.opened = time.monotonic()
        self.last_index_at_start = node.statistics().last_index

    async def obey(self, request: dict[str, Any]) -> dict[str, Any]:
        """Carry out one request."""
        match request["do"]:
            case "leader":
                return {"leader": await self.node.wait_leader()}
            case "state":
                return self.state()
            case "watch":
                return self.watch.take()
            case "restarted":
                return await self.restarted()
            case "fill":
                return await self.fill(request["entries"], request["command_bytes"])
            case "apply":
                await self.node.wait_applied(request["index"])
                return {"at": time.monotonic()}
            case "snapshot":
                stored = await self.node.snapshot()
                return {"size": stored.size, "index": stored.point.index}
            case "propose":
                return await self.propose(**request["how"])
            case "caught_up":
                return await self.caught_up(request["peer"], request["index"])
            case unknown:
                raise ValueError(f"{unknown!r} is nothing that a node does")

    def state(self) -> dict[str, Any]:
        """This moment."""
        now = self.node.statistics()
        receiving = now.snapshots.receiving
        return {
            "term": now.term,
            "last_index": now.last_index,
            "first_index": now.first_index,
            "applied": now.last_applied,
            "received": receiving.done if receiving else None,
            "installed": now.snapshots.installed,
            "match": {peer: found.match_index for peer, found in now.peers.items()},
            "resident": resident_bytes("VmRSS"),
            "peak": resident_bytes("VmHWM"),
            "cpu": time.process_time(),
        }

    async def restarted(self) -> dict[str, Any]:
        """How long the start took, up to here."""
        await self.node.wait_applied(self.last_index_at_start)
        applied = time.monotonic()
        return {
            "open_seconds": self.opened - self.began,
            "applied_seconds": applied - self.began,
            "restore_seconds": self.machine.restore_seconds,
            "entries": self.last_index_at_start,
            **self.state(),
        }

    async def fill(self, entries: int, command_bytes: int) -> dict[str, Any]:
        """Write so many commands, many at a time."""
        mark = max(1, min(WINDOW, WINDOW_BYTES // command_bytes) // 4)
        marks: deque[trio_raft.Ticket[None]] = deque()
        command = os.urandom(command_bytes)
        for number in range(entries):
            ticket = await self.node.submit(command)
            # What was proposed before a command has been applied before it: one in many is enough to wait for.
            if number % mark == 0 or number == entries - 1:
                marks.append(ticket)
                if len(marks) > 4:
                    await marks.popleft().wait()
        for ticket in marks:
            await ticket.wait()
        return {"last_index": self.node.statistics().last_index}

    async def propose(
        self,
        *,
        callers: int,
        command_bytes: int,
        pause: float,
        seconds: float | None = None,
        peer: str = "",
        index: int = 0,
    ) -> dict[str, Any]:
        """Callers that propose, and pause after each answer: for so long, or until a peer's log matches up to there."""
        command = os.urandom(command_bytes)
        latencies: list[float] = []
        done = False

        async def caller(number: int) -> None:
            await trio.sleep(pause * number / callers)
            while True:
                began = time.monotonic()
                await self.node.propose(command)
                latencies.append(time.monotonic() - began)
                if done:
                    # One at least, however soon it is over.
                    return
                await trio.sleep(pause)

        async with trio.open_nursery() as nursery:
            for number in range(callers):
                nursery.start_soon(caller, number)
            if seconds is None:
                await self._wait_for_match(peer, lambda match: match >= index)
            else:
                await trio.sleep(seconds)
            done = True
        latencies.sort()
        at = [latencies[len(latencies) * part // 1000] for part in (500, 990)]
        return {"writes": len(latencies), "p50": at[0], "p99": at[1], "longest": latencies[-1]}

    async def caught_up(self, peer: str, index: int) -> dict[str, Any]:
        """From the first entry that the peer acknowledges from now on, to this one."""
        before = self._match(peer)
        first = await self._wait_for_match(peer, lambda match: match != before)
        began = time.monotonic()
        last = await self._wait_for_match(peer, lambda match: match >= index)
        return {"entries": last - first, "began": began, "ended": time.monotonic()}

    def _match(self, peer: str) -> int:
        return self.node.statistics().peers[trio_raft.ServerId(peer)].match_index

    async def _wait_for_match(self, peer: str, satisfied: Callable[[int], bool]) -> int:
        """Until the peer's log matches so far.  Raises NotLeader when the leadership is over."""
        while self.node.role == "leader":
            match = self._match(peer)
            if satisfied(match):
                return match
            await trio.sleep(LOOP_PROBE_SECONDS)
        raise trio_raft.NotLeader(self.node.node_id, self.node.leader, self.node.leader_address)


def resident_bytes(name: str) -> int:
    """Bytes of memory now (VmRSS), or at most since this program began (VmHWM)."""
    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields[name].split()[0]) * 1024
    # Elsewhere the peak is all there is, in bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


async def serve(config: trio_raft.Config, machine: Ballast) -> None:
    """Run the node and obey until standard input ends."""
    # Duplicates: the streams close what they own, and the interpreter wants its own descriptors to the end.
    requests = trio.lowlevel.FdStream(os.dup(sys.stdin.fileno()))
    answers = trio.lowlevel.FdStream(os.dup(sys.stdout.fileno()))
    unfinished = b""
    watch = Watch()
    began = time.monotonic()
    async with (
        trio_raft.open_node(config, machine, transport=HeardTransport(watch)) as node,
        trio.open_nursery() as nursery,
    ):
        session = Session(node, machine, watch, began)
        with node.events() as events:
            nursery.start_soon(watch.follow_events, events)
            nursery.start_soon(watch.probe_loop)
            async for chunk in requests:
                *lines, unfinished = (unfinished + chunk).split(b"\n")
                for line in lines:
                    try:
                        answer = await session.obey(json.loads(line))
                    except* trio_raft.RaftError as errors:
                        answer = {"error": str(errors.exceptions[0])}
                    await answers.send_all(json.dumps(answer).encode() + b"\n")
            nursery.cancel_scope.cancel()


def main() -> None:
    """Read the arguments and run the node; an error at start ends with one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("settings", help="those of the node, as JSON")
    parser.add_argument("--state-bytes", type=int, required=True, help="how large the machine's state is")
    arguments = parser.parse_args()
    config = trio_raft.Config.from_mapping(json.loads(arguments.settings))
    try:
        calm_garbage_collector()
        trio.run(serve, config, Ballast(arguments.state_bytes))
    except (trio_raft.RaftError, OSError, trio.BrokenResourceError) as error:
        sys.exit(f"{config.node_id}: {error}")


if __name__ == "__main__":
    main()
