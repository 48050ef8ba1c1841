"""What goes wrong with a machine, a process or a clock."""

from collections.abc import Awaitable, Callable

from trio_raft.testing._nemesis import Nemesis, Strike

MID_WRITE_SHARE = 0.6
"""How often a crash is made to hit disks at work: left to chance, it would find nearly all of them idle."""

HESITATION = 0.9
"""Of ``disk_stall_timeout``: a disk may hesitate for so long without anybody noticing."""


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
    """Let their disks hesitate, and wait until something is under way: it is then that a crash hurts."""
    longest = HESITATION * nemesis.plan.settings.timeouts.disk_stall_timeout
    for victim in victims:
        nemesis.cluster.lanes[victim].stall(longest)
    await nemesis.rest(nemesis.random.uniform(0.0, longest))


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
