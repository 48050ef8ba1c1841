"""A child process of these tests: one node, or all nodes of a cluster, under write load, saying what happens.

    python member.py IDS PORTS DIRECTORY [--writes N]

runs the nodes of IDS (``n2``, or ``n1,n2,n3``) out of as many as there are PORTS. Each line of its output is a fact:
``ready``, ``role ID ROLE TERM``, ``lost PEER``, ``resumed PEER``, ``ack COMMAND``, ``applied ID COUNT``; ``wrote
BATCHES`` once N writes are done; ``interrupted`` when Ctrl-C ended it. It ends with its standard input, so that it
never outlives the test.
"""

import itertools
import os
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import trio

import trio_raft
from trio_raft import Committed, Config, Node, Timeouts

WRITERS = 8

TIMEOUTS = Timeouts(
    heartbeat_timeout=0.3,
    election_timeout=0.3,
    leader_lease_timeout=0.3,
    commit_timeout=0.02,
    retry_backoff_cap=0.1,
)


class Machine(trio_raft.StateMachine[bytes, int]):
    """The list of its commands."""

    def __init__(self) -> None:
        self.commands: list[bytes] = []

    def apply(self, entry: Committed[bytes]) -> int:
        self.commands.append(entry.command)
        return len(self.commands)


def make_config(node_id: str, ports: list[int], directory: Path) -> Config:
    members = {f"n{number}": f"127.0.0.1:{port}" for number, port in enumerate(ports, start=1)}
    return Config(
        node_id=node_id,
        cluster_id="processes",
        members=members,
        data_directory=directory / node_id,
        timeouts=TIMEOUTS,
    )


def say(*words: object) -> None:
    # One system call for the whole line: Ctrl-C may land between the pieces that print writes.
    os.write(sys.stdout.fileno(), (" ".join(map(str, words)) + "\n").encode())


async def report(node: Node[bytes, int]) -> None:
    with node.events() as events:
        async for event in events:
            match event:
                case trio_raft.RoleChanged():
                    say("role", node.node_id, event.role, event.term)
                case trio_raft.ContactLost():
                    say("lost", event.peer)
                case trio_raft.ContactResumed():
                    say("resumed", event.peer)
                case _:
                    pass


async def report_applied(node: Node[bytes, int], machine: Machine) -> None:
    while True:
        seen = node.last_applied
        say("applied", node.node_id, len(machine.commands))
        await node.wait_for(lambda node: node.last_applied > seen)  # noqa: B023  # awaited before the next turn
        await trio.sleep(0.02)


async def write(node: Node[bytes, int], numbers: "itertools.count[int]") -> None:
    """Write while this node leads; a fresh command each time, and never the same again."""
    while True:
        await node.wait_for(lambda node: node.role == "leader")
        command = f"{node.node_id}-{os.getpid()}-{next(numbers)}"
        try:
            await node.propose(command.encode())
        except (trio_raft.NotLeader, trio_raft.NoLeader, trio_raft.LeadershipLost):
            continue
        say("ack", command)


async def write_some(node: Node[bytes, int], count: int) -> None:
    """One write after the other, and then the number of batches."""
    await node.wait_leader()
    # The first write may or may not join the batch of the leader's own first entry.
    await node.barrier()
    for number in range(count):
        await node.propose(b"%d" % number)
    say("wrote", node.statistics().journal.batches)


async def until_input_ends() -> None:
    async with trio.lowlevel.FdStream(os.dup(0)) as stream:
        while await stream.receive_some():
            pass


async def main(ids: list[str], ports: list[int], directory: Path, writes: int) -> None:
    async with AsyncExitStack() as nodes:
        opened: list[tuple[Node[bytes, int], Machine]] = []
        for node_id in ids:
            machine = Machine()
            config = make_config(node_id, ports, directory)
            opened.append((await nodes.enter_async_context(trio_raft.open_node(config, machine)), machine))
        async with trio.open_nursery() as nursery:
            for node, machine in opened:
                nursery.start_soon(report, node)
                numbers = itertools.count()
                if writes:
                    nursery.start_soon(write_some, node, writes)
                    continue
                nursery.start_soon(report_applied, node, machine)
                for _ in range(WRITERS):
                    nursery.start_soon(write, node, numbers)
            say("ready")
            await until_input_ends()
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    writes = int(sys.argv[5]) if sys.argv[4:5] == ["--writes"] else 0
    arguments = (sys.argv[1].split(","), [int(port) for port in sys.argv[2].split(",")], Path(sys.argv[3]), writes)
    try:
        trio.run(main, *arguments)
    except* KeyboardInterrupt:
        say("interrupted")
