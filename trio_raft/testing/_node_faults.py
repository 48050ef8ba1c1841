"""What goes wrong with a machine, a process or a clock."""

from collections.abc import Awaitable, Callable

from trio_raft.testing._determinism import Latency
from trio_raft.testing._nemesis import Nemesis, Strike

MID_WRITE_SHARE = 0.8
"""How often a crash is made to hit disks at work: left to chance, it would find nearly all of them idle."""

LOOKS = 20
"""So often it is looked whether a disk is at work, before the crash comes anyway."""

HESITATION = 0.7
"""Of ``disk_stall_timeout``: a call may take so long without anybody noticing."""


async def crash(nemesis: Nemesis) -> None:
    """The power of one member fails."""
    await _take_down(nemesis, "crash", 1, nemesis.cluster.crash)


async def crash_many(nemesis: Nemesis) -> None:
    """The power of several members fails in one instant, perhaps of all."""
    count = nemesis.random.randint(2, max(2, len(nemesis.cluster.ids)))
    await _take_down(nemesis, "crash many", count, nemesis.cluster.crash)


async def kill(nemesis: Nemesis) -> None:
    """One member's process dies; its machine goes on."""
    await _take_down(nemesis, "kill", 1, nemesis.cluster.kill)


async def _take_down(nemesis: Nemesis, fault: str, count: int, down: Callable[..., Awaitable[None]]) -> None:
    first = nemesis.victim()
    if first is None:
        return
    others = [free for free in nemesis.free() if free != first]
    victims = [first, *nemesis.pick(others, count - 1)]
    if len(victims) < min(count, 2):
        return
    with nemesis.claim(*victims):
        rest = nemesis.draw_rest()
        nemesis.begin(fault, f"{', '.join(victims)} for {rest:.2f} s")
        if nemesis.random.random() < MID_WRITE_SHARE:
            await _catch_writes(nemesis, victims)
        await down(*victims)
        await nemesis.rest(rest)
        nemesis.note(f"{', '.join(victims)} may start again")
        await nemesis.cluster.start(*victims)


async def _catch_writes(nemesis: Nemesis, victims: list[str]) -> None:
    """Let their disks take long for every call, so that a crash finds them in the middle of one: there it hurts."""
    longest = HESITATION * nemesis.plan.settings.timeouts.disk_stall_timeout
    for victim in victims:
        nemesis.cluster.lanes[victim].latency = Latency(longest)
    await _wait_for_writes(nemesis, victims, longest)
    if nemesis.random.random() < 0.5:
        # In the next call: what has waited for this one makes it a long write.
        await nemesis.rest(nemesis.random.uniform(0.5, 1.5) * longest)
        await _wait_for_writes(nemesis, victims, longest)


async def _wait_for_writes(nemesis: Nemesis, victims: list[str], longest: float) -> None:
    for _ in range(LOOKS):
        await nemesis.rest(2 * longest / LOOKS)
        if any(_is_writing(nemesis, victim) for victim in victims):
            return


def _is_writing(nemesis: Nemesis, victim: str) -> bool:
    life = nemesis.member(victim).life
    if life is None or life.server is None:
        return False
    journal = life.server.journal
    return journal.position != journal.durable_position


async def pause(nemesis: Nemesis) -> None:
    """One member's process stands still, and finds itself in the future."""
    victim = nemesis.victim()
    if victim is None:
        return
    with nemesis.claim(victim):
        rest = nemesis.draw_rest()
        nemesis.begin("pause", f"{victim} for {rest:.2f} s")
        nemesis.cluster.pause(victim)
        await nemesis.rest(rest)
        nemesis.note(f"{victim} goes on")
        nemesis.cluster.resume(victim)


async def clock_jump(nemesis: Nemesis) -> None:
    """One member's clock is set ahead, as by a suspend during which it runs on."""
    victim = nemesis.victim()
    if victim is not None:
        seconds = nemesis.draw_rest()
        nemesis.begin("clock jump", f"{victim} by {seconds:.2f} s")
        nemesis.cluster.clocks[victim].jump(seconds)


NODE_FAULTS: dict[str, Strike] = {
    "crash": crash,
    "crash many": crash_many,
    "kill": kill,
    "pause": pause,
    "clock jump": clock_jump,
}
