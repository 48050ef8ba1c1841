"""Figures 7 and 8 of the paper, played by whole nodes on prepared stores."""

import trio_raft
from tests.support.cluster import Cluster, running_cluster
from tests.support.stores import commands, prepared_stores
from trio_raft._messages import AppendEntries, AppendEntriesReply, Message

FIGURE_7 = {
    "n1": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6],
    "n2": [1, 1, 1, 4, 4, 5, 5, 6, 6],
    "n3": [1, 1, 1, 4],
    "n4": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
    "n5": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
    "n6": [1, 1, 1, 4, 4, 4, 4],
    "n7": [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
}
"""The leader of term 8, then the followers (a) to (f)."""


async def test_figure_7(autojump_clock: object) -> None:
    """The leader brings every follower of Figure 7 to its own log, extra entries overwritten (paper 5.3)."""
    stores = prepared_stores(FIGURE_7, current_terms=dict.fromkeys(FIGURE_7, 7))
    async with running_cluster(7, start=False, stores=stores) as cluster:
        cluster.favoured = "n1"
        # (c) and (d) have fresher logs than the leader and did not vote for it: they come later.
        await cluster.start("n1", "n2", "n3", "n6", "n7")
        leader = await cluster.elected()
        assert (leader.node_id, leader.term) == ("n1", 8)
        await cluster.start("n4", "n5")
        await cluster.converged()
        assert leader.term == 8
        for name in cluster.ids:
            assert [data for _, data in cluster.stored(name)] == commands(FIGURE_7["n1"])
            assert cluster.commands(name) == commands(FIGURE_7["n1"])


async def test_figure_7_round_trips(autojump_clock: object) -> None:
    """Repairing a follower of Figure 7 takes at most one refusal per term in which the logs differ, and one (R8)."""
    stores = prepared_stores(FIGURE_7, current_terms=dict.fromkeys(FIGURE_7, 7))
    async with running_cluster(7, start=False, stores=stores) as cluster:
        refusals = dict.fromkeys(cluster.ids, 0)

        def count(sender: str, receiver: str, message: Message) -> None:
            if isinstance(message, AppendEntriesReply) and not message.success:
                refusals[sender] += 1

        cluster.observers.append(count)
        cluster.favoured = "n1"
        await cluster.start("n1", "n2", "n3", "n6", "n7")
        await cluster.elected()
        await cluster.start("n4", "n5")
        await cluster.converged()
        # A shorter log costs the first refusal, which tells its length. (e) also differs in term 4, (f) in 2 and 3,
        # of which one hint skips both; (c) and (d) hold the leader's last entry.
        assert refusals == {"n1": 0, "n2": 1, "n3": 1, "n4": 0, "n5": 0, "n6": 2, "n7": 1}


async def test_figure_7_any_leader(autojump_clock: object) -> None:
    """Whoever of Figure 7 wins, everybody ends with the winner's log, and it is as fresh as a majority's (E3)."""
    winners = set()
    for seed in range(8):
        stores = prepared_stores(FIGURE_7, current_terms=dict.fromkeys(FIGURE_7, 7))
        async with running_cluster(7, seed=seed, stores=stores) as cluster:
            leader = await cluster.elected()
            winners.add(leader.node_id)
            await cluster.converged()
            for name in cluster.ids:
                assert cluster.commands(name) == commands(FIGURE_7[leader.node_id])
    assert winners <= {"n1", "n2", "n4", "n5"}
    assert len(winners) > 1


FIGURE_8 = {"n1": [1, 2], "n2": [1], "n3": [1], "n4": [1], "n5": [1, 3]}
"""Before (c): n1 wrote index 2 in term 2, n5 in term 3."""


async def _figure_8_c(cluster: Cluster) -> trio_raft.Node[bytes, int]:
    """n1 leads term 4 and has brought the entry of term 2 to n2 and n3, a majority, but nothing of its own term."""

    def stop_after_index_2(sender: str, receiver: str, message: Message) -> None:
        if isinstance(message, AppendEntries) and sender == "n1":
            cluster.network.cut("n1", "n4")
        if isinstance(message, AppendEntriesReply) and message.match_index == 2:
            cluster.network.cut("n1", sender)

    cluster.observers.append(stop_after_index_2)
    cluster.favoured = "n1"
    await cluster.start("n1", "n2", "n3", "n4")
    n1 = cluster.node("n1")
    await cluster.until(lambda: [peer.match_index for peer in n1.statistics().peers.values()] == [2, 2, 0, 0])
    cluster.observers.remove(stop_after_index_2)
    assert (n1.role, n1.term, n1.statistics().last_index) == ("leader", 4, 3)
    assert [len(cluster.servers[name].store._entries) for name in cluster.ids] == [3, 2, 2, 1, 2]
    return n1


def _figure_8_cluster() -> dict[str, trio_raft.MemoryLogStore]:
    return prepared_stores(FIGURE_8, current_terms=dict.fromkeys(FIGURE_8, 3))


async def test_figure_8_overwritten(autojump_clock: object) -> None:
    """An entry of an older term on a majority is not committed, and the next leader may overwrite it (R2)."""
    async with running_cluster(5, start=False, stores=_figure_8_cluster()) as cluster:
        n1 = await _figure_8_c(cluster)
        assert n1.commit_index == 0
        # (d): n1 crashes, with what was on its way; n5 wins with its entry of term 3 and brings it to everybody.
        for name in cluster.others(n1):
            cluster.network.reset("n1", name)
        await cluster.crash("n1")
        cluster.network.heal()
        await cluster.crash("n2", "n3", "n4")
        await cluster.start("n2", "n4", "n5")
        assert (await cluster.elected()).node_id == "n5"
        await cluster.start("n1", "n3")
        await cluster.converged()
        assert {tuple(cluster.commands(name)) for name in cluster.ids} == {tuple(commands([1, 3]))}


async def test_figure_8_committed(autojump_clock: object) -> None:
    """With an entry of the leader's own term the older one is committed too, and n5 cannot win any more (R2)."""
    async with running_cluster(5, start=False, stores=_figure_8_cluster()) as cluster:
        n1 = await _figure_8_c(cluster)
        # Stage (e) of the figure.
        cluster.network.heal()
        await cluster.until(lambda: n1.commit_index == 3)
        await cluster.crash("n1")
        cluster.favoured = "n5"
        await cluster.start("n5")
        leader = await cluster.elected()
        assert leader.node_id != "n5"
        await cluster.start("n1")
        await cluster.converged()
        assert {tuple(cluster.commands(name)) for name in cluster.ids} == {tuple(commands([1, 2]))}
