"""A node whose store fails while it is given up."""

import pytest
import trio
from trio.testing import MockClock

import trio_raft
from tests.tasks.parts import N1, make_config
from trio_raft._storage.memory import MemoryLogStore
from trio_raft.abc import Committed, StateMachine
from trio_raft.testing._environment import test_environment
from trio_raft.testing._network import MemoryNetwork


class Nothing(StateMachine[bytes, None]):
    """A machine that forgets."""

    def apply(self, entry: Committed[bytes]) -> None:
        """Forget it."""


class Reluctant(MemoryLogStore):
    """A store of the user's own, whose close has a bug."""

    def close(self) -> None:
        super().close()
        raise RuntimeError("the store's own bug")


async def test_store_that_cannot_be_closed(autojump_clock: MockClock) -> None:
    """A store that raises when it is closed is the node's failure; the block still ends, and so does every wait
    (X2).
    """
    async with trio.open_nursery() as nursery:
        ended = trio.Event()

        async def wait(node: trio_raft.Node[bytes, None]) -> None:
            await node.wait_closed()
            ended.set()

        with pytest.raises(trio_raft.RaftInternalError, match="the store's own bug"):
            async with trio_raft.open_node(
                make_config(members=(N1,)),
                Nothing(),
                log_store=Reluctant(),
                transport=MemoryNetwork().transport(N1),
                environment=test_environment(1),
            ) as node:
                nursery.start_soon(wait, node)
                await node.wait_leader()
        await ended.wait()
