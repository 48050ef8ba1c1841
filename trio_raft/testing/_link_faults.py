"""What goes wrong between two machines, or between two halves of a cluster."""

from collections.abc import Iterable
from itertools import permutations

from trio_raft.testing._determinism import Latency
from trio_raft.testing._nemesis import LEADER_SHARE, Nemesis, Strike

LOST_AGAIN = 0.1
"""Seconds within which connections that were just made are lost again."""


async def isolate(nemesis: Nemesis) -> None:
    """One member is cut off, both ways."""
    await _isolate(nemesis, "isolate", nemesis.random.choice(nemesis.cluster.ids))


async def isolate_leader(nemesis: Nemesis) -> None:
    """The leader is cut off, both ways."""
    leader = nemesis.leader()
    if leader is not None:
        await _isolate(nemesis, "isolate leader", leader)


async def _isolate(nemesis: Nemesis, fault: str, member: str) -> None:
    links, rest = nemesis.around(member), nemesis.draw_rest()
    if links:
        nemesis.begin(fault, f"{member} for {rest:.2f} s")
        await nemesis.rest_cut(links, rest)


async def halves(nemesis: Nemesis) -> None:
    """Two groups, the smaller of any size, do not hear each other."""
    shuffled = nemesis.pick(nemesis.cluster.ids)
    size = nemesis.random.randint(1, max(1, len(shuffled) // 2))
    await _separate(nemesis, "halves", shuffled[:size], shuffled[size:])


async def bridge(nemesis: Nemesis) -> None:
    """Two groups hear each other only through one member, who hears all."""
    shuffled = nemesis.pick(nemesis.cluster.ids)
    middle = len(shuffled) // 2
    await _separate(nemesis, "bridge", shuffled[:middle], shuffled[middle + 1 :])


async def _separate(nemesis: Nemesis, fault: str, one: list[str], other: list[str]) -> None:
    rest = nemesis.draw_rest()
    if one and other:
        nemesis.begin(fault, f"{' '.join(one)} from {' '.join(other)} for {rest:.2f} s")
        links = [(source, target) for source in one for target in other]
        await nemesis.rest_cut(links + [(target, source) for source, target in links], rest)


async def ring(nemesis: Nemesis) -> None:
    """Everybody hears two neighbours only."""
    around = nemesis.pick(nemesis.cluster.ids)
    size, rest = len(around), nemesis.draw_rest()
    links = [
        (around[one], around[other])
        for one, other in permutations(range(size), 2)
        if (one - other) % size not in (1, size - 1)
    ]
    if links:
        nemesis.begin("ring", f"{' '.join(around)} for {rest:.2f} s")
        await nemesis.rest_cut(links, rest)


async def one_way(nemesis: Nemesis) -> None:
    """One member hears nothing, or is not heard, or not by one other."""
    leader, ids = nemesis.leader(), nemesis.cluster.ids
    to_leader = leader is not None and nemesis.random.random() < LEADER_SHARE
    member = leader if leader is not None and to_leader else nemesis.random.choice(ids)
    links, rest = nemesis.around(member), nemesis.draw_rest()
    outgoing, incoming = links[: len(links) // 2], links[len(links) // 2 :]
    shape = nemesis.random.choice(("deaf", "mute", "one link"))
    cut = {"deaf": incoming, "mute": outgoing, "one link": nemesis.pick(links, 1)}[shape]
    if cut:
        nemesis.begin("one way", f"{member}, {shape}, for {rest:.2f} s: {_arrows(cut)}")
        await nemesis.rest_cut(cut, rest)


def _arrows(links: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{source}->{target}" for source, target in links)


# ------------------------------------------------------------------------------------ one link


async def half_open(nemesis: Nemesis) -> None:
    """One side forgets its connections, and the other does not hear of it."""
    pair = nemesis.pair()
    if pair is not None:
        nemesis.begin("half open", f"{pair[1]} forgets {pair[0]}")
        nemesis.cluster.network.half_open(*pair)


async def reset(nemesis: Nemesis) -> None:
    """All connections between two members break."""
    pair = nemesis.pair()
    if pair is not None:
        nemesis.begin("reset", f"between {pair[0]} and {pair[1]}")
        nemesis.cluster.network.reset(*pair)


async def lost_connections(nemesis: Nemesis) -> None:
    """All connections of the leader with one follower or with several break, while everybody lives; perhaps again."""
    leader, again = nemesis.leader(), nemesis.random.choice((0, 0, 2))
    others = [member for member in nemesis.cluster.ids if member != leader]
    if leader is None or not others:
        return
    followers = nemesis.pick(others, nemesis.random.randint(1, len(others)))
    nemesis.begin("lost connections", f"{leader} with {' '.join(followers)}, and {again} times again")
    for turn in range(1 + again):
        if turn:
            await nemesis.rest(nemesis.random.uniform(0.0, LOST_AGAIN))
        for follower in followers:
            nemesis.cluster.network.reset(leader, follower)


async def torn_frame(nemesis: Nemesis) -> None:
    """A frame arrives in part, and then its connection breaks."""
    pair = nemesis.pair()
    if pair is not None:
        times = nemesis.random.choice((1, 1, 5))
        nemesis.begin("torn frame", f"the next {times} from {pair[0]} to {pair[1]}")
        nemesis.cluster.network.tear(*pair, times=times)


async def clog(nemesis: Nemesis) -> None:
    """Nothing moves on a link for a while; then everything does."""
    pair = nemesis.pair()
    if pair is not None:
        seconds = nemesis.draw_rest()
        nemesis.begin("clog", f"{pair[0]} to {pair[1]} for {seconds:.2f} s")
        nemesis.cluster.network.clog(*pair, seconds)


async def slow_link(nemesis: Nemesis) -> None:
    """A link takes far longer than usual, and not always the same time."""
    pair = nemesis.pair()
    if pair is not None:
        latency = Latency(nemesis.random.choice((0.05, 0.2, 0.8)), jitter=0.9, tail=0.05, longest=3.0)
        rest = nemesis.draw_rest()
        nemesis.begin("slow link", f"{pair[0]} to {pair[1]}: {latency.typical} s, for {rest:.2f} s")
        nemesis.cluster.network.set_latency(*pair, latency)
        await nemesis.rest(rest)
        nemesis.cluster.network.set_latency(*pair, nemesis.plan.settings.link)


async def narrow_link(nemesis: Nemesis) -> None:
    """A link carries little."""
    pair = nemesis.pair()
    if pair is not None:
        bandwidth = nemesis.random.choice((500.0, 5_000.0, 50_000.0))
        rest = nemesis.draw_rest()
        nemesis.begin("narrow link", f"{pair[0]} to {pair[1]}: {bandwidth:g} bytes per second, for {rest:.2f} s")
        nemesis.cluster.network.set_bandwidth(*pair, bandwidth)
        await nemesis.rest(rest)
        nemesis.cluster.network.set_bandwidth(*pair, float("inf"))


LINK_FAULTS: dict[str, Strike] = {
    "isolate": isolate,
    "isolate leader": isolate_leader,
    "halves": halves,
    "bridge": bridge,
    "ring": ring,
    "one way": one_way,
    "half open": half_open,
    "reset": reset,
    "lost connections": lost_connections,
    "torn frame": torn_frame,
    "clog": clog,
    "slow link": slow_link,
    "narrow link": narrow_link,
}
