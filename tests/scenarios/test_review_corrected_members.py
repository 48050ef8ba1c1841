"""A member list that is changed before the first start is over."""

import pytest

from tests.support.cluster import running_cluster
from trio_raft import BootstrapDone, ConfigurationError, open_node


async def test_member_taken_off_the_list_during_first_start(autojump_clock: object) -> None:
    """Who was met cannot be taken off the list before the first start is over, since he may be done with it: the node
    says so at start instead of waiting for ever, and goes on with the old list (O1).
    """
    async with running_cluster(3, start=False) as cluster:
        await cluster.start("n1", "n3")
        await cluster.settle(2)
        await cluster.crash("n1")
        with pytest.raises(ConfigurationError, match="has met n3, whom the list does not name") as caught:
            async with open_node(
                cluster.config("n1", ["n1", "n2", "n4"]),
                cluster.machine(),
                log_store=cluster.servers["n1"].store,
                transport=cluster.transport("n1"),
                environment=cluster.environment("n1", 1),
            ):
                pass
        assert caught.value.key == "members"
        await cluster.start("n1", "n2")
        await cluster.write(await cluster.elected(), b"a")
        assert [event.members for event in cluster.seen("n1", BootstrapDone)] == [("n1", "n2", "n3")]
