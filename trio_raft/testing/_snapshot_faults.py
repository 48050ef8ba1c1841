"""What goes wrong with snapshots: while one is taken, sent, received, restored; and with a server that needs one.

Left to chance, most faults would find no snapshot under way; so these look for one.

House rule: legal ones only: see ``_nemesis``.
"""

import errno
from collections.abc import Callable

import trio

from trio_raft._environment import Lane
from trio_raft._records import LogIndex
from trio_raft._rules.state import Role
from trio_raft._server import Server
from trio_raft._storage.snapshot_files import is_partial, newest_first, snapshot_path
from trio_raft.testing._determinism import Latency
from trio_raft.testing._disk_faults import choose_ruin, is_settled_without
from trio_raft.testing._member import DIRECTORY
from trio_raft.testing._nemesis import Nemesis, Strike

Stage = Callable[[Nemesis, str, Server], bool]
"""Is the member at it?"""

LANES = (Lane.SNAPSHOT, Lane.TRANSFER, Lane.RESTORE)

LOOK_SECONDS = 0.02
"""Between two looks whether it is time."""

PATIENCE_SECONDS = 4.0
"""For so long an occasion is waited for."""

CUT_OFF_SHARE = 0.5
"""How often a member that is left behind is cut off, and not down."""

BEHIND_SECONDS = 10.0
"""For so long a member is down at most until the others have cut their logs."""

HESITATION = 0.3
"""Of ``disk_stall_timeout``: a call may take so long without anybody noticing."""

AGAIN_SHARE = 0.5


async def left_behind(nemesis: Nemesis) -> None:
    """A member is down, or cut off, until the log of the others begins behind what it has for certain."""
    victim = nemesis.victim()
    server = None if victim is None else _server(nemesis, victim)
    if victim is None or server is None:
        return
    with nemesis.claim(victim):
        nemesis.begin("left behind", victim)
        committed = server.state.commit_index
        if nemesis.random.random() < CUT_OFF_SHARE:
            # A leader takes commands that come to nothing: its log grows, and goes another way than that of the others.
            async with trio.open_nursery() as nursery:
                nursery.start_soon(nemesis.rest_cut, nemesis.around(victim), BEHIND_SECONDS)
                nemesis.rush()
                await _wait_until_cut(nemesis, committed, but=victim)
                nursery.cancel_scope.cancel()
            return
        await nemesis.random.choice((nemesis.cluster.crash, nemesis.cluster.kill))(victim)
        await _wait_until_cut(nemesis, committed, but=victim)
        nemesis.note(f"{victim} may start again; {committed} was committed there")
        await nemesis.cluster.start(victim)


async def _wait_until_cut(nemesis: Nemesis, committed: LogIndex, *, but: str) -> None:
    for _ in range(int(BEHIND_SECONDS / LOOK_SECONDS)):
        await nemesis.rest(LOOK_SECONDS)
        servers = [server for server in nemesis.cluster.servers() if server.node_id != but]
        if nemesis.over or any(
            server.state.role is Role.LEADER and server.state.log.base_index > committed for server in servers
        ):
            return


async def snapshot_crash(nemesis: Nemesis) -> None:
    """The power of a member fails, or its process dies, while it takes, receives, installs or restores a snapshot."""
    stage = nemesis.random.choice((_writes, _publishes, _receives, _installs, _restores))
    victim = await _find(nemesis, _receives if stage is _installs else stage)
    if victim is None:
        return
    with nemesis.claim(victim):
        if stage is _installs and not await _wait_for_install(nemesis, victim):
            return
        nemesis.begin("snapshot crash", f"{victim}, which {stage.__name__.lstrip('_')}")
        down = nemesis.random.choice((nemesis.cluster.crash, nemesis.cluster.crash, nemesis.cluster.kill))
        await down(victim)
        await nemesis.rest(nemesis.draw_rest() / 4)
        await nemesis.cluster.start(victim)
        while nemesis.random.random() < AGAIN_SHARE:
            # What this start has put right, or has not, shows in the next one.
            await nemesis.rest(nemesis.random.uniform(0, 4 * LOOK_SECONDS))
            nemesis.note(f"snapshot crash again: {victim}")
            await down(victim)
            await nemesis.cluster.start(victim)


async def _find(nemesis: Nemesis, stage: Stage) -> str | None:
    """A member that does this now.  Meanwhile all disks are slow, so that it is easier to meet."""
    latency = Latency(HESITATION * nemesis.random.random() * nemesis.plan.settings.timeouts.disk_stall_timeout)
    slowed = [nemesis.cluster.lanes[member] for member in nemesis.free()]
    for lanes in slowed:
        lanes.latency = latency
    try:
        for _ in range(int(PATIENCE_SECONDS / LOOK_SECONDS)):
            await nemesis.rest(LOOK_SECONDS)
            for member in nemesis.pick(nemesis.free()):
                server = _server(nemesis, member)
                if server is not None and stage(nemesis, member, server):
                    return member
        return None
    finally:
        for lanes in slowed:
            lanes.latency = nemesis.plan.settings.disk


def _writes(nemesis: Nemesis, member: str, _: Server) -> bool:
    return any(is_partial(name) for name in nemesis.member(member).disk.list_directory(DIRECTORY))


def _publishes(nemesis: Nemesis, member: str, _: Server) -> bool:
    disk = nemesis.member(member).disk
    durable = disk.durable_names(DIRECTORY)
    return any(name.endswith(".snapshot") and name not in durable for name in disk.list_directory(DIRECTORY))


def _receives(_: Nemesis, __: str, server: Server) -> bool:
    return server.snapshots.receiving is not None


def _installs(_: Nemesis, __: str, server: Server) -> bool:
    return server.journal.durable_position < server.snapshots.marker_position


async def _wait_for_install(nemesis: Nemesis, victim: str) -> bool:
    """Its journal hangs until the snapshot is there, and the log on disk does not know that yet."""
    lanes = nemesis.cluster.lanes[victim]
    lanes.stall(PATIENCE_SECONDS, Lane.JOURNAL)
    for _ in range(int(PATIENCE_SECONDS / LOOK_SECONDS)):
        await nemesis.rest(LOOK_SECONDS)
        server = _server(nemesis, victim)
        if server is None or nemesis.over:
            break
        if _installs(nemesis, victim, server):
            return True
    lanes.mend()
    return False


def _restores(_: Nemesis, __: str, server: Server) -> bool:
    return server.snapshots.restore_due


async def slow_snapshots(nemesis: Nemesis) -> None:
    """Whatever has to do with snapshots hangs: writing them, reading them for others, restoring them."""
    victim = nemesis.victim()
    if victim is not None:
        lanes, rest = nemesis.random.choice((LANES, LANES[:1], LANES[1:2], LANES[2:], LANES[2:])), nemesis.draw_rest()
        nemesis.begin("slow snapshots", f"{victim} for {rest:.2f} s: {', '.join(lane.value for lane in lanes)}")
        nemesis.cluster.lanes[victim].stall(rest, *lanes)


async def snapshot_error(nemesis: Nemesis) -> None:
    """An operation on a snapshot's file fails, or there is no room for it: none is taken or received then."""
    victim = nemesis.victim()
    if victim is None:
        return
    operation = nemesis.random.choice(("create", "write", "write", "sync", "rename", "remove", "read"))
    number = errno.ENOSPC if operation in ("create", "write") and nemesis.random.random() < 0.5 else errno.EIO
    times = nemesis.random.choice((1, 2, None))
    member, rest = nemesis.member(victim), nemesis.draw_rest()
    with nemesis.claim(victim):
        nemesis.begin("snapshot error", f"{operation} of {victim}, {'for ever' if times is None else f'{times} times'}")
        member.disk.fail(operation, number, times=times, part=nemesis.random.random(), prefix="snapshot")
        await nemesis.rest(rest)
        member.disk.mend()
        await nemesis.cluster.start(victim)


async def transfer_cut(nemesis: Nemesis) -> None:
    """The link breaks on which a snapshot travels."""
    for _ in range(int(PATIENCE_SECONDS / LOOK_SECONDS)):
        await nemesis.rest(LOOK_SECONDS)
        # In the middle, where there is something to go on with.
        pairs = [
            (server.node_id, to)
            for server in nemesis.cluster.servers()
            for to, transfer in server.snapshots.sending.items()
            if 0 < transfer.done < transfer.total
        ]
        if pairs:
            source, target = nemesis.random.choice(pairs)
            rest = nemesis.random.choice((0.0, nemesis.draw_rest()))
            nemesis.begin("transfer cut", f"{source} to {target}, for {rest:.2f} s")
            nemesis.cluster.network.reset(source, target)
            if rest:
                await nemesis.rest_cut([(source, target), (target, source)], rest)
            return


async def snapshot_flip(nemesis: Nemesis) -> None:
    """A bit of a member's newest snapshot flips while it is down: it goes back to an older one, or refuses to start."""
    victim = choose_ruin(nemesis)
    if victim is None or not is_settled_without(nemesis, victim):
        return
    member = nemesis.member(victim)
    with nemesis.claim(victim):
        await nemesis.cluster.crash(victim)
        points = newest_first(member.disk.list_directory(DIRECTORY))
        if points:
            member.excuse = "a bit of its newest snapshot was flipped"
            path = snapshot_path(DIRECTORY, points[0])
            position = nemesis.random.randrange(len(member.disk.contents(path)))
            nemesis.begin("snapshot flip", f"{victim}, {path.name} at {position}")
            member.disk.flip_bit(path, position=position, bit=nemesis.random.randrange(8))
        await nemesis.rest(nemesis.draw_rest())
        await nemesis.cluster.start(victim)


def _server(nemesis: Nemesis, member: str) -> Server | None:
    life = nemesis.member(member).life
    return life.server if life is not None else None


SNAPSHOT_FAULTS: dict[str, Strike] = {
    "left behind": left_behind,
    "snapshot crash": snapshot_crash,
    "slow snapshots": slow_snapshots,
    "snapshot error": snapshot_error,
    "transfer cut": transfer_cut,
    "snapshot flip": snapshot_flip,
}
