"""Three whole nodes under faults for some virtual seconds, as one line: run it in two processes and compare.

Usage: python scripted_run.py SEED
"""

import hashlib
import sys
from functools import partial

import trio

import trio_raft
from trio_raft._environment import Environment
from trio_raft._storage.wal import FileLogStore
from trio_raft.testing._determinism import Latency, divide, run
from trio_raft.testing._disk import SimDisk
from trio_raft.testing._environment import SimulatedClock, SimulatedLanes
from trio_raft.testing._network import MemoryNetwork

MEMBERS = {name: f"{name}:1" for name in ("alpha", "beta", "gamma")}
LIMITS = trio_raft.Limits(
    max_command_bytes=1024,
    max_batch_bytes=8192,
    max_frame_body=65536,
    journal_batch_bytes=8192,
    segment_bytes=262144,
)
SECONDS = 6.0


class Count(trio_raft.StateMachine[bytes, int]):
    """Counts its commands."""

    def __init__(self) -> None:
        self.applied = 0

    def apply(self, entry: trio_raft.Committed[bytes]) -> int:
        self.applied = entry.index
        return entry.index


Member = trio_raft.Node[bytes, int]


async def story(seed: int) -> str:
    """A digest of everything that was seen."""
    seen: list[str] = []
    network = MemoryNetwork(latency=Latency(0.0005, 0.5, 0.02, 0.3), generator=divide(seed, "network"))

    async def listen(name: str, node: Member) -> None:
        with node.events() as events:
            async for event in events:
                seen.append(f"{trio.current_time()!r} {name} {event}")

    async with trio.open_nursery() as nursery:
        nodes: dict[str, Member] = {}
        for name in MEMBERS:
            config = trio_raft.Config(
                node_id=name, cluster_id="scripted", members=MEMBERS, data_directory="/nowhere", limits=LIMITS
            )
            disk, chance = SimDisk(), divide(seed, "clock", name)
            environment = Environment(
                clock=SimulatedClock(rate=0.98 + 0.04 * chance.random(), offset=1000 * chance.random()),
                random=divide(seed, "node", name),
                run_blocking=SimulatedLanes(
                    disk, generator=divide(seed, "disk", name), latency=Latency(0.0005, 0.5, 0.02, 0.3)
                ),
            )
            store = FileLogStore(
                "/log", segment_bytes=LIMITS.segment_bytes, longest_batch=LIMITS.largest_journal_batch, files=disk
            )
            serve = partial(
                trio_raft.serve_node,
                config,
                Count(),
                log_store=store,
                transport=network.transport(name),
                environment=environment,
            )
            nodes[name] = node = await nursery.start(serve)
            nursery.start_soon(listen, name, node)
        nursery.start_soon(disturb, network, seed)
        with trio.move_on_after(SECONDS):
            await write(nodes, seen)
        nursery.cancel_scope.cancel()
    seen += [f"{name} {node.term} {node.last_applied}" for name, node in nodes.items()]
    seen.append(str(network.injected))
    return f"{len(seen)} {hashlib.sha256(chr(10).join(seen).encode()).hexdigest()}"


async def write(nodes: dict[str, Member], seen: list[str]) -> None:
    """Write to whoever leads."""
    while True:
        await trio.sleep(0.02)
        for node in [node for node in nodes.values() if node.role == "leader"]:
            try:
                seen.append(f"{trio.current_time()!r} {await node.propose(b'x')}")
            except trio_raft.RaftError as error:
                seen.append(f"{trio.current_time()!r} {error!r}")


async def disturb(network: MemoryNetwork, seed: int) -> None:
    """One fault after the other, drawn from the seed."""
    chance = divide(seed, "faults")
    while True:
        await trio.sleep(chance.random())
        one, other = chance.sample(list(MEMBERS), 2)
        fault = chance.choice((network.cut, network.reset, network.half_open, network.tear))
        fault(one, other)
        await trio.sleep(chance.random())
        network.heal()


if __name__ == "__main__":
    number = int(sys.argv[1])
    sys.stdout.write(run(story, number, seed=number))
