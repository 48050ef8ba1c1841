"""What goes wrong with a disk.

A disk that goes back to an older state is legal only if nothing was promised on the newer one.  A disk that is wiped
or damaged costs its member for good, so only a minority of the members may lose theirs.
"""

import errno

from trio_raft._environment import Lane
from trio_raft._rules.state import Role
from trio_raft.testing._determinism import Latency
from trio_raft.testing._nemesis import Nemesis, Strike

QUIET_SECONDS = 0.5
"""For so long a follower is cut off before its disk is copied: nothing is under way to it any more."""

_RESTART_WITH_IT, _RESTART_BEFORE = "with it", "before"
"""The error is there when the node starts, or comes when it has."""


async def disk_error(nemesis: Nemesis) -> None:
    """A read, a write or a sync fails, once or from now on; the node ends, and starts on the mended disk."""
    await _fail_disk(nemesis, "disk error", nemesis.random.choice(("write", "sync", "sync", "read")))


async def short_write(nemesis: Nemesis) -> None:
    """A part of a write reaches the file, the rest does not."""
    await _fail_disk(nemesis, "short write", "write", part=nemesis.random.random())


async def directory_error(nemesis: Nemesis) -> None:
    """A file cannot be created, opened or removed, or its directory not be synced: as a node starts, or just after."""
    operation = nemesis.random.choice(("create", "sync_directory", "sync_directory", "remove", "open"))
    # The way in syncs the directory before anything else does; segments are prepared behind it.
    when = nemesis.random.choice((_RESTART_WITH_IT, _RESTART_BEFORE))
    await _fail_disk(nemesis, "directory error", operation, restart=when)


async def _fail_disk(
    nemesis: Nemesis, fault: str, operation: str, *, part: float | None = None, restart: str = ""
) -> None:
    """``part`` of one write only; ``restart``: a node has little to do with its directory but when it starts, and as
    soon as it has."""
    victim = nemesis.victim()
    if victim is None:
        return
    member, rest = nemesis.member(victim), nemesis.draw_rest()
    times = nemesis.random.choice((1, 1, None)) if part is None else 1
    with nemesis.claim(victim):
        nemesis.begin(fault, f"{operation} of {victim}, {'for ever' if times is None else f'{times} time'}")
        if restart:
            await nemesis.cluster.kill(victim)
        if restart == _RESTART_BEFORE:
            await nemesis.cluster.start(victim)
        member.disk.fail(operation, errno.EIO, times=times, part=part or 0.0)
        if restart == _RESTART_WITH_IT:
            await nemesis.cluster.start(victim)
        await nemesis.rest(rest)
        member.disk.mend()
        if member.life is None and nemesis.random.random() < 0.5:
            nemesis.note(f"{victim} is switched off, too")
            member.disk = member.disk.crash(nemesis.random)
        await nemesis.cluster.start(victim)


async def disk_full(nemesis: Nemesis) -> None:
    """No file can grow; later there is room again."""
    victim = nemesis.victim()
    if victim is None:
        return
    with nemesis.claim(victim):
        room, rest = nemesis.random.choice((0, 600, 70_000)), nemesis.draw_rest()
        nemesis.begin("disk full", f"{victim} has room for {room} more bytes, for {rest:.2f} s")
        disk = nemesis.member(victim).disk
        disk.capacity = disk.used + room
        await nemesis.rest(rest)
        disk.capacity = None


async def short_stall(nemesis: Nemesis) -> None:
    """Disk calls hang, but not for as long as ``disk_stall_timeout``."""
    await _stall(nemesis, "short stall", nemesis.random.uniform(0.1, 0.9))


async def long_stall(nemesis: Nemesis) -> None:
    """Disk calls hang for longer than ``disk_stall_timeout``."""
    await _stall(nemesis, "long stall", nemesis.random.uniform(1.1, 5.0))


async def _stall(nemesis: Nemesis, fault: str, disk_stall_timeouts: float) -> None:
    victim = nemesis.victim()
    if victim is not None:
        seconds = disk_stall_timeouts * nemesis.plan.settings.timeouts.disk_stall_timeout
        lanes = nemesis.random.choice(((), (Lane.JOURNAL,), (Lane.READ,), (Lane.PREPARE,)))
        nemesis.begin(fault, f"{victim} for {seconds:.2f} s: {', '.join(lane.value for lane in lanes) or 'all'}")
        nemesis.cluster.lanes[victim].stall(seconds, *lanes)


async def slow_disk(nemesis: Nemesis) -> None:
    """Every disk call takes far longer than usual."""
    victim = nemesis.victim()
    if victim is None:
        return
    lanes, rest = nemesis.cluster.lanes[victim], nemesis.draw_rest()
    lanes.latency = Latency(nemesis.random.choice((0.02, 0.1, 0.4)), jitter=0.9, tail=0.05, longest=2.0)
    nemesis.begin("slow disk", f"{victim}: {lanes.latency.typical} s a call, for {rest:.2f} s")
    await nemesis.rest(rest)
    lanes.latency = nemesis.plan.settings.disk


# ------------------------------------------------------------------------------------ other disks


async def old_copy(nemesis: Nemesis) -> None:
    """A follower that was cut off gets back an older state of its disk; it promised nothing since."""
    victim = nemesis.victim()
    if victim is None or len(nemesis.cluster.ids) == 1:
        return
    with nemesis.claim(victim):
        links = nemesis.around(victim)
        nemesis.note(f"old copy: {victim} is cut off")
        await nemesis.rest_cut(links, QUIET_SECONDS + nemesis.draw_rest())
        before = _promises(nemesis, victim)
        nemesis.cluster.copy_disk(victim)
        await nemesis.rest_cut(links, nemesis.draw_rest())
        if before is not None and _promises(nemesis, victim) == before:
            nemesis.begin("old copy", victim)
            member = nemesis.member(victim)
            injected = member.disk.injected
            await nemesis.cluster.restart(victim, disk="old copy")
            # Nothing is missing on it that anybody was told of: it has no excuse.
            member.excuse = ""
            member.disk.injected = injected


def _promises(nemesis: Nemesis, victim: str) -> tuple[int, int] | None:
    """Its life, and how far its journal is durable; None while something is under way, or if it leads."""
    member = nemesis.member(victim)
    server = member.life.server if member.life else None
    if server is None or server.state.role is Role.LEADER:
        return None
    if server.journal.position != server.journal.durable_position:
        return None
    return member.lives, server.journal.position


async def bit_flip(nemesis: Nemesis) -> None:
    """A bit of a member's disk flips; it must notice when it starts, or when it reads it."""
    victim = choose_ruin(nemesis)
    # The first start needs every member: one that refuses its disk for ever would hold it up for ever.
    if victim is None or not is_settled_without(nemesis, victim):
        return
    member = nemesis.member(victim)
    with nemesis.claim(victim):
        member.excuse = "a bit of its disk was flipped"
        if nemesis.random.random() < 0.5:
            await nemesis.cluster.crash(victim)
        found = member.disk.flip_any_bit(nemesis.random)
        nemesis.begin("bit flip", f"{victim}, {f'{found[0].name} at {found[1]}' if found else 'which is empty'}")
        await nemesis.rest(nemesis.draw_rest())
        await nemesis.cluster.restart(victim)


async def wiped_disk(nemesis: Nemesis) -> None:
    """A member comes back with an empty directory."""
    victim = choose_ruin(nemesis)
    if victim is not None:
        with nemesis.claim(victim):
            nemesis.begin("wiped disk", victim)
            await nemesis.cluster.restart(victim, disk="wiped")


def choose_ruin(nemesis: Nemesis) -> str | None:
    """A free member, if one more may be lost for good."""
    ruined = [member for member in nemesis.cluster.members.values() if member.excuse]
    return nemesis.victim() if len(ruined) < nemesis.plan.ruined else None


def is_settled_without(nemesis: Nemesis, victim: str) -> bool:
    """Is the first configuration settled on a majority of members, this one not counted?"""
    settled = [server for server in nemesis.cluster.servers() if server.ready and server.node_id != victim]
    return 2 * len(settled) > len(nemesis.cluster.ids)


DISK_FAULTS: dict[str, Strike] = {
    "disk error": disk_error,
    "directory error": directory_error,
    "disk full": disk_full,
    "short write": short_write,
    "short stall": short_stall,
    "long stall": long_stall,
    "slow disk": slow_disk,
    "old copy": old_copy,
    "bit flip": bit_flip,
    "wiped disk": wiped_disk,
}
