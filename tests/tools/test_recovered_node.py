"""A recovered directory is a node's: it starts on it, alone, with the survivor's state, and takes commands."""

from collections.abc import Iterable
from pathlib import Path

import trio

from tests.storage.support import commands
from tests.tools.support import add_snapshot, make_directory, start_of
from trio_raft import Committed, Config, SavedState, StateMachine, Timeouts, open_node, recovery
from trio_raft.testing._network import MemoryNetwork

QUICK = Timeouts(heartbeat_timeout=0.05, election_timeout=0.05, leader_lease_timeout=0.05, commit_timeout=0.01)


class Words(StateMachine[bytes, int]):
    """All commands, one after the other."""

    state_version = 3

    def __init__(self) -> None:
        self.words: list[bytes] = []

    def apply(self, entry: Committed[bytes]) -> int:
        self.words.append(entry.command)
        return len(self.words)

    def snapshot(self) -> Iterable[bytes]:
        return [b" ".join(self.words)]

    def restore(self, state: SavedState) -> None:
        self.words = b"".join(state).split()


async def test_node_starts_on_a_recovered_directory(tmp_path: Path) -> None:
    """What the snapshot holds and what follows it in the log is there, and commands go on from it."""
    entries = [commands(1, 6, term=1), commands(7, 8, term=2, data=b"later")]
    survivor = make_directory(tmp_path / "old", start_of(4), entries)
    add_snapshot(survivor, 6, 1, b"state at ", b"six")
    created = recovery.recover(
        [survivor], to=tmp_path / "new", node_id="n9", cluster_id="new", accept_data_loss=True
    ).created
    config = Config(
        node_id="n9", cluster_id="new", members={"n9": "n9:1"}, data_directory=tmp_path / "new", timeouts=QUICK
    )
    with trio.fail_after(20):
        async with open_node(config, Words(), transport=MemoryNetwork().transport("n9")) as node:
            assert await node.wait_leader() == "n9"
            assert await node.propose(b"new") == 6
            words = await node.read(lambda machine: machine.words)
            term = node.term
    assert words == [b"state", b"at", b"six", b"later", b"later", b"new"]
    assert term > created.term
