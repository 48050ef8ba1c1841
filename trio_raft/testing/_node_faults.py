"""What goes wrong with a machine, a process or a clock."""

from collections.abc import Awaitable, Callable

from trio_raft.testing._determinism import Latency
from trio_raft.testing._nemesis import Nemesis, Strike

MID_WRITE_SHARE = 0.8
"""How often a crash is made to hit disks at work: left to chance, it would find nearly all of them idle."""

AGAIN_SHARE = 0.7
"""How often a crash is followed by another one of the same members."""

FEW_WRITES = (1, 1, 1, 2, 3)
"""So many writes after the restart, or one of the others."""

SECTORS_AT_STAKE = (1, 4, 8)
"""A crash waits until a disk is writing so many of them, or one of the others."""

CALLS_AWAITED = 8
"""So many calls of a slow disk may pass before the crash comes anyway."""

LOOKS = 6
"""At a slow disk, during each of its calls."""

HESITATION = 0.2
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
        await _catch_writes(nemesis, victims)
        await down(*victims)
        await nemesis.rest(rest)
        nemesis.note(f"{', '.join(victims)} may start again")
        await nemesis.cluster.start(*victims)
        while not nemesis.over and nemesis.random.random() < AGAIN_SHARE:
            # What a recovery has overlooked shows in the next one, unless much was written over it meanwhile.
            await nemesis.random.choice((_catch_writes, _catch_beginning))(nemesis, victims)
            nemesis.note(f"{fault} again: {', '.join(victims)}")
            await down(*victims)
            await nemesis.cluster.start(*victims)


async def _catch_writes(nemesis: Nemesis, victims: list[str]) -> None:
    """Nearly always wait until a crash finds one of these disks in the middle of a write: there it hurts.

    What all clients ask for during one slow call makes the next one a long write, which a power cut can tear.
    """
    if nemesis.random.random() >= MID_WRITE_SHARE:
        return
    wanted = nemesis.random.choice(SECTORS_AT_STAKE)

    def hurts(calls: float) -> bool:
        at_stake = max(len(nemesis.member(victim).disk.unsynced()) for victim in victims)
        # The longer it takes, the less is enough.
        if at_stake >= max(1.0, wanted * (1 - calls / CALLS_AWAITED)):
            return True
        if calls.is_integer():
            nemesis.rush()
        return False

    await _slow_disks(nemesis, victims, until=hurts)


async def _catch_beginning(nemesis: Nemesis, victims: list[str]) -> None:
    """Wait until one of these members has written a little since it was started."""
    writes = nemesis.random.choice(FEW_WRITES)

    def has_begun(_: float) -> bool:
        lives = [nemesis.member(victim).life for victim in victims]
        return any(life and life.server and life.server.journal.statistics.batches >= writes for life in lives)

    await _slow_disks(nemesis, victims, until=has_begun)


async def _slow_disks(nemesis: Nemesis, victims: list[str], *, until: Callable[[float], bool]) -> None:
    """From now on every call of these disks takes long; ``until`` is told how many of them may have passed."""
    longest = HESITATION * nemesis.plan.settings.timeouts.disk_stall_timeout
    for victim in victims:
        nemesis.cluster.lanes[victim].latency = Latency(longest)
    for look in range(1, CALLS_AWAITED * LOOKS + 1):
        await nemesis.rest(longest / LOOKS)
        if until(look / LOOKS):
            return


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
