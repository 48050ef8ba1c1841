"""A counter that three processes agree on: the smallest whole program.

Run it in three terminals::

    python examples/counter.py n1
    python examples/counter.py n2
    python examples/counter.py n3

Whichever node leads adds one every second; all of them print what they see. End one with Ctrl-C, even the
leader: the other two go on. Start it again: it returns with what it had, and catches up. Nothing that was
printed as added is ever lost, since ``propose`` returns only once a majority has the command on disk.
"""

import argparse
import signal
import sys
import tempfile
from pathlib import Path

try:
    import attrs
    import trio

    import trio_raft
except (ImportError, AttributeError) as error:  # missing, or too old
    print(f"{sys.argv[0]}: {error}; run `make demo` once, then .venv/bin/python {sys.argv[0]} …", file=sys.stderr)
    sys.exit(2)

NODES = ("n1", "n2", "n3")


@attrs.frozen
class Add:
    """The one command: it is what the log holds."""

    amount: int


class Counter(trio_raft.StateMachine[Add, int]):
    """Every node applies the same commands in the same order, so every node counts the same."""

    def __init__(self) -> None:
        self.value = 0

    def apply(self, entry: trio_raft.Committed[Add]) -> int:
        self.value += entry.command.amount
        return self.value

    # With these two the log is cut now and then: a node that starts reads the state, and what came after it.
    def snapshot(self) -> list[bytes]:
        return [str(self.value).encode()]

    def restore(self, state: trio_raft.SavedState) -> None:
        self.value = int(b"".join(state))


async def count(config: trio_raft.Config) -> None:
    """Run one node until it is cancelled; add one a second whenever it leads."""
    async with trio_raft.open_node(config, Counter()) as node:
        print(f"{node.node_id} listens on {config.listen_address} and waits for a leader", flush=True)
        while True:
            leader = await node.wait_leader()
            try:
                total = await node.propose(Add(1))
                print(f"{node.node_id} leads term {node.term} and added 1: the counter is {total}", flush=True)
            except trio_raft.NotLeader:
                seen = await node.read(lambda counter: counter.value, consistency="stale")
                print(f"{node.node_id} follows {leader}: the counter is {seen} here", flush=True)
            except trio_raft.RaftError as error:
                print(f"{node.node_id}: {error}", flush=True)
            await trio.sleep(1)


async def run_until_signal(config: trio_raft.Config) -> None:
    """Ctrl-C ends the node in good order."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(count, config)
            await anext(signals)
            nursery.cancel_scope.cancel()


def main() -> None:
    """Read the arguments; what goes wrong at the start ends with one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("node_id", metavar="NODE", choices=NODES, help=f"one of {', '.join(NODES)}")
    parser.add_argument("--port", type=int, default=7101, help="of n1; n2 and n3 take the next two (default: 7101)")
    parser.add_argument(
        "--directory",
        type=Path,
        default=Path(tempfile.gettempdir()) / "trio_raft-counter",
        help="where the nodes keep their data (default: %(default)s); remove it to count from 0 again",
    )
    arguments = parser.parse_args()
    problem: BaseException | None = None
    try:
        arguments.directory.mkdir(parents=True, exist_ok=True)
        config = trio_raft.Config(
            node_id=arguments.node_id,
            cluster_id="counter",
            members={node: f"127.0.0.1:{arguments.port + place}" for place, node in enumerate(NODES)},
            data_directory=arguments.directory / arguments.node_id,
        )
        trio.run(run_until_signal, config)
    except* (trio_raft.RaftError, OSError) as errors:
        # Not the place to exit: before Python 3.11.4 what an except* block raises comes out in a group.
        problem = errors.exceptions[0]
    if problem is not None:
        sys.exit(f"{arguments.node_id}: {problem}")


if __name__ == "__main__":
    main()
