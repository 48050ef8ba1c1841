"""What the benchmark of snapshots and recovery measures, one function for each section.

Files that were just written are in the system's memory when they are read again: what is measured is the library, and
the disk's writes and syncs, not its reads.
"""

import contextlib
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import attrs
import trio
from comparison.children import Child
from plain_copy import copy_rate, held_memory, make_file, synced_rate
from snapshots_crew import (
    DEFAULT_HEARTBEATS,
    NO_TRIGGERS,
    PATIENT,
    QUICK_ELECTION,
    Crew,
    Figure,
    Plan,
    ask,
    check_term,
    crew,
    fill,
    follower_of,
    show,
    wait_until_installed,
)

MEGABYTE = 1_000_000
DISK_PIECE_BYTES = 4 << 20
"""``journal_batch_bytes``: what the log writes and syncs at once when it is in a hurry."""
WATCH_SECONDS = 0.005
LONGEST_HEARTBEAT_GAP = 0.2
"""With the default settings heartbeats are drawn from 0.1 to 0.2 s apart."""
WRITERS = {"callers": 8, "command_bytes": 100, "pause": 0.02}
"""A steady load that a cluster carries easily, a few hundred writes a second: what is measured is how long a write
waits for a transfer, not who gets the processor."""

Figures = AsyncIterator[Figure]


# ------------------------------------------------------------------------------------------- restart


async def restart(plan: Plan) -> Figures:
    """How long a start takes, with everything in the log, and with a snapshot."""
    figure = partial(Figure, section="restart")
    settings = {"snapshots": NO_TRIGGERS, "timeouts": QUICK_ELECTION}
    state_bytes = plan.entries * plan.command_bytes
    async with crew(plan, "restart", members=1, settings=settings, state_bytes=state_bytes) as cluster:
        leader = await cluster.start_all()
        await fill(leader, plan.entries, plan.command_bytes, "restart: filling the log")
        starts = await _starts(plan, cluster, "from the log")
        count = f"{plan.entries:,} entries of {plan.command_bytes} bytes in the log"
        opening, applied = _middle(starts, "open_seconds"), _middle(starts, "applied_seconds")
        peak = max(start["peak"] for start in starts) / MEGABYTE
        note = f"{_middle(starts, 'cpu'):.2f} s of processor time; an election of 0.1 to 0.2 s is part of it"
        yield figure(name=f"{count}: until open_node is there", value=opening, unit="s")
        yield figure(name="until all is applied", value=applied, unit="s", goal="< 2.5", met=applied < 2.5, note=note)
        yield figure(name="most memory", value=peak, unit="MB", goal="< 400", met=peak < 400)
        await ask(await cluster.leader(), do="snapshot")
        await _wait_until_cut(cluster)
        starts = await _starts(plan, cluster, "from a snapshot")
        restoring = _middle(starts, "restore_seconds")
        rest = median(start["applied_seconds"] - start["restore_seconds"] for start in starts)
        note = f"{_middle(starts, 'cpu'):.2f} s of processor time"
        name = f"with a snapshot of {state_bytes / MEGABYTE:,.1f} MB: until all is applied, without the restore"
        yield figure(name=name, value=rest, unit="s", goal="< 1", met=rest < 1, note=note)
        yield figure(name="the machine's restore, and reading its pieces", value=restoring, unit="s")


async def _starts(plan: Plan, cluster: Crew, what: str) -> list[dict[str, Any]]:
    starts: list[dict[str, Any]] = []
    for _ in range(plan.repeat):
        await cluster.kill("n1")
        starts.append(await ask(await cluster.start("n1"), do="restarted"))
        show(f"restart: starting {what}", len(starts), plan.repeat)
    return starts


async def _wait_until_cut(cluster: Crew) -> None:
    """Until the log's files that the snapshot made superfluous are gone: they go one by one, beside everything else."""
    before = 0
    while before != (found := len(list((cluster.directory / "n1").glob("log-*")))):
        before = found
        await trio.sleep(0.5)


def _middle(answers: list[dict[str, Any]], key: str) -> float:
    return float(median(answer[key] for answer in answers))


# ------------------------------------------------------------------------------------------- memory


async def memory(plan: Plan) -> Figures:
    """Does memory stay where it is while a long log is written on, and cut behind?"""
    figure = partial(Figure, section="memory")
    snapshots = {"threshold_entries": max(plan.entries // 10, 1), "trailing_entries": plan.entries}
    settings = {"snapshots": snapshots, "timeouts": QUICK_ELECTION, "limits": {"log_memory_bytes": 64 << 20}}
    async with crew(plan, "memory", members=1, settings=settings, state_bytes=1 << 20) as cluster:
        leader = await cluster.start_all()
        await fill(leader, plan.entries, plan.command_bytes, "memory: filling the log")
        step = max(plan.entries // 100, 1)
        began, sizes = trio.current_time(), [float((await ask(leader, do="state"))["resident"])]
        while (elapsed := trio.current_time() - began) < plan.seconds or len(sizes) < 6:
            await ask(leader, do="fill", entries=step, command_bytes=plan.command_bytes)
            sizes.append((await ask(leader, do="state"))["resident"])
            show("memory: steady writes", min(elapsed, plan.seconds), plan.seconds)
        state = await ask(leader, do="state")
        third = len(sizes) // 3
        growth = 100 * (max(sizes[-third:]) / max(sizes[:third]) - 1)
        held = state["last_index"] - state["first_index"] + 1
        written = f"{step * (len(sizes) - 1):,} more entries, {len(sizes)} looks"
        tenths = " ".join(f"{sizes[len(sizes) * tenth // 10] / MEGABYTE:.0f}" for tenth in range(10))
        name = f"{held:,} entries in the log, 64 MiB of them in memory: resident at the end"
        yield figure(name=name, value=sizes[-1] / MEGABYTE, unit="MB", note=f"by tenths of the time: {tenths}")
        yield figure(
            name="growth from the first third of the writes to the last",
            value=growth,
            unit="%",
            goal="flat: < 5",
            met=growth < 5,
            note=written,
        )


# ------------------------------------------------------------------------------------------- catching up


async def catch_up(plan: Plan) -> Figures:
    """How fast a follower that was away is brought up from the log."""
    figure = partial(Figure, section="catch-up")
    small = await _catch_up(plan, "small", plan.entries, plan.command_bytes)
    rate = median(each.entries_per_second for each in small)
    yield figure(
        name=f"{plan.entries:,} entries of {plan.command_bytes} bytes behind",
        value=rate,
        unit="entries/s",
        goal="≥ 150,000",
        met=rate >= 150_000,
        note=f"processor time: leader {_middle_cpu(small, 'leader'):.1f} µs an entry, "
        f"follower {_middle_cpu(small, 'follower'):.1f} µs",
    )
    large = await _catch_up(plan, "large", plan.large_commands, plan.large_command_bytes, disk=True)
    rate = median(each.entries_per_second for each in large) * plan.large_command_bytes / MEGABYTE
    disk = median(each.disk_rate for each in large) / MEGABYTE
    yield figure(
        name=f"{plan.large_commands:,} of {plan.large_command_bytes // 1024} KiB",
        value=rate,
        unit="MB/s",
        goal=f"≥ half of the disk's {disk:.0f}",
        met=rate >= disk / 2,
        note=f"{rate / disk:.2f} of it",
    )


@attrs.frozen
class _CaughtUp:
    entries_per_second: float
    cpu: dict[str, float]
    """Seconds an entry."""
    disk_rate: float


def _middle_cpu(found: list[_CaughtUp], whose: str) -> float:
    return 1e6 * median(each.cpu[whose] for each in found)


async def _catch_up(plan: Plan, name: str, entries: int, command_bytes: int, *, disk: bool = False) -> list[_CaughtUp]:
    found: list[_CaughtUp] = []
    settings = {"snapshots": NO_TRIGGERS, "timeouts": PATIENT}
    async with crew(plan, name, members=3, settings=settings) as cluster:
        leader = await cluster.start_all()
        follower = follower_of(cluster, leader)
        for _ in range(plan.repeat):
            await cluster.kill(follower)
            what = f"catch-up: {entries:,} of {command_bytes} bytes without {follower}"
            last_index = await fill(leader, entries, command_bytes, what)
            rates = [await _disk_rate(cluster, entries * command_bytes)] if disk else []
            caught_up = await _bring_up(cluster, leader, follower, last_index)
            rates += [await _disk_rate(cluster, entries * command_bytes)] if disk else []
            found.append(attrs.evolve(caught_up, disk_rate=sum(rates) / len(rates) if rates else 0.0))
    return found


async def _disk_rate(cluster: Crew, size: int) -> float:
    path = cluster.directory / "synced"
    return await trio.to_thread.run_sync(
        partial(synced_rate, path, min(size, 1 << 30), piece_bytes=DISK_PIECE_BYTES), abandon_on_cancel=True
    )


async def _bring_up(cluster: Crew, leader: Child, follower: str, last_index: int) -> _CaughtUp:
    answer: dict[str, Any] = {}

    async def ask_leader() -> None:
        answer.update(await ask(leader, do="caught_up", peer=follower, index=last_index))

    before = await ask(leader, do="state")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask_leader)
        node = await cluster.start(follower)
        state = await ask(node, do="state")
        began = state
        while not answer:
            show(f"catch-up: {follower} is behind", state["last_index"] - began["last_index"], last_index)
            await trio.sleep(0.1)
            state = await ask(node, do="state")
    # A few may have come with the first answer already.
    after, entries = await ask(leader, do="state"), max(answer["entries"], 1)
    check_term(before, after)
    show(f"catch-up: {follower} is behind", 1, 1)
    cpu = {
        "leader": (after["cpu"] - before["cpu"]) / entries,
        "follower": (state["cpu"] - began["cpu"]) / entries,
    }
    return _CaughtUp(entries / (answer["ended"] - answer["began"]), cpu, 0.0)


# ------------------------------------------------------------------------------------------- installing


async def install(plan: Plan) -> Figures:
    """How fast a snapshot is brought to a follower, and who has to wait for that."""
    figure = partial(Figure, section="install")
    size = f"{plan.state_bytes / (1 << 20):,.0f} MiB"
    rates, copies, late = await _install_at_full_rate(plan)
    rate, copy = median(rates) / MEGABYTE, median(copies) / MEGABYTE
    yield figure(
        name=f"a snapshot of {size}, not throttled",
        value=rate,
        unit="MB/s",
        goal=f"≥ half of the plain copy's {copy:.0f}",
        met=rate >= copy / 2,
        note=f"{rate / copy:.2f} of it; each: {_each(rates)} against {_each(copies)}",
    )
    # Nothing of ours runs in it: what it missed, the machine did not give to anybody.
    watcher = (
        f"a process that only watched was late by {late.watcher:.0f} ms, and by {late.quiet_watcher:.0f} ms before"
    )
    quiet = f"without a transfer {late.quiet_heartbeat:.0f} ms; {watcher}"
    worst = late.heartbeat
    yield figure(
        name="heartbeats arrive at most so late meanwhile",
        value=worst,
        unit="ms",
        goal="≤ 50",
        met=worst <= 50,
        note=quiet,
    )
    note = f"without a transfer {late.quiet_loop:.0f} ms"
    yield figure(name="an event loop runs a task at most so late", value=late.loop, unit="ms", note=note)
    async for line in _writes_meanwhile(plan):
        yield attrs.evolve(line, section="install")


def _each(rates: list[float]) -> str:
    return ", ".join(f"{rate / MEGABYTE:.0f}" for rate in rates)


@attrs.define
class _Late:
    """Milliseconds, at worst."""

    heartbeat: float = 0.0
    loop: float = 0.0
    quiet_heartbeat: float = 0.0
    quiet_loop: float = 0.0
    watcher: float = 0.0
    """This process, which does nothing meanwhile but wait: how late the machine let it go on."""
    quiet_watcher: float = 0.0

    async def watch(self) -> None:
        """Look for how long this process stood still, for ever."""
        while True:
            due = trio.current_time() + WATCH_SECONDS
            await trio.sleep_until(due)
            self.watcher = max(self.watcher, 1000 * (trio.current_time() - due))

    def take_watcher(self) -> float:
        """At worst since the last time."""
        worst, self.watcher = self.watcher, 0.0
        return worst


async def _install_at_full_rate(plan: Plan) -> tuple[list[float], list[float], _Late]:
    late = _Late()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(late.watch)
        rates, copies = await _install_and_copy(plan, late)
        nursery.cancel_scope.cancel()
    return rates, copies, late


async def _install_and_copy(plan: Plan, late: _Late) -> tuple[list[float], list[float]]:
    rates: list[float] = []
    copies: list[float] = []
    while_installing = 0.0
    snapshots = {**NO_TRIGGERS, "trailing_entries": 10, "keep": 1, "bytes_per_second": 0}
    settings = {"snapshots": snapshots, "timeouts": DEFAULT_HEARTBEATS}
    async with crew(plan, "install", members=3, settings=settings, state_bytes=plan.state_bytes) as cluster:
        source = cluster.directory / "plain"
        await trio.to_thread.run_sync(make_file, source, plan.state_bytes, abandon_on_cancel=True)
        leader = await cluster.start_all()
        follower = follower_of(cluster, leader)
        for number in range(1, plan.repeat + 1):
            await _fall_behind(cluster, leader, follower, f"install: round {number} of {plan.repeat}")
            async with _held_memory(plan):
                pass
            copies.append(await _plain_copy(source))
            await _look(cluster)
            late.take_watcher()
            await trio.sleep(min(plan.seconds, 5.0))
            late.quiet_heartbeat, late.quiet_loop = _worse(late.quiet_heartbeat, late.quiet_loop, await _look(cluster))
            late.quiet_watcher = max(late.quiet_watcher, late.take_watcher())
            async with _held_memory(plan):
                node = await cluster.start(follower)
            await wait_until_installed(node, plan.state_bytes, "install: not throttled")
            while_installing = max(while_installing, late.take_watcher())
            seen = await _look(cluster)
            late.heartbeat, late.loop = _worse(late.heartbeat, late.loop, seen)
            events = seen[follower]["events"]
            rates.append(plan.state_bytes / (events["SnapshotInstalled"][0] - events["SnapshotReceiving"][0]))
    late.watcher = while_installing
    return rates, copies


async def _fall_behind(cluster: Crew, leader: Child, follower: str, what: str) -> int:
    """Kill it, go on without it, and take a snapshot of what it missed; returns the last index."""
    await cluster.kill(follower)
    last_index = await fill(leader, 1000, 100, f"{what}: without {follower}")
    await ask(leader, do="snapshot")
    return last_index


@contextlib.asynccontextmanager
async def _held_memory(plan: Plan) -> AsyncIterator[None]:
    with contextlib.ExitStack() as stack:
        held = held_memory(plan.state_bytes * 5 // 4)
        await trio.to_thread.run_sync(stack.enter_context, held, abandon_on_cancel=True)
        yield


async def _plain_copy(source: Path) -> float:
    target = source.with_suffix(".copy")
    return await trio.to_thread.run_sync(copy_rate, source, target, abandon_on_cancel=True)


async def _look(cluster: Crew) -> dict[str, Any]:
    return {name: await ask(node, do="watch") for name, node in cluster.nodes.items()}


def _worse(heartbeat: float, loop: float, seen: dict[str, Any]) -> tuple[float, float]:
    gap = max(each["heartbeat_gap"] for each in seen.values())
    late = max(each["loop_late"] for each in seen.values())
    return max(heartbeat, 1000 * (gap - LONGEST_HEARTBEAT_GAP)), max(loop, 1000 * late)


async def _writes_meanwhile(plan: Plan) -> Figures:
    """With the default throttle: how long writes take, without a transfer and during one, in turns."""
    quiet: list[float] = []
    during: list[float] = []
    snapshots = {**NO_TRIGGERS, "trailing_entries": 10, "keep": 1}
    settings = {"snapshots": snapshots, "timeouts": DEFAULT_HEARTBEATS}
    async with crew(plan, "throttled", members=3, settings=settings, state_bytes=plan.state_bytes) as cluster:
        leader = await cluster.start_all()
        follower = follower_of(cluster, leader)
        for number in range(1, plan.repeat + 1):
            last_index = await _fall_behind(cluster, leader, follower, f"install: throttled, round {number}")
            before = await ask(leader, do="state")
            quiet.append((await _write(leader, seconds=plan.seconds))["p99"])
            await cluster.start(follower)
            during.append((await _write(leader, peer=follower, index=last_index))["p99"])
            quiet.append((await _write(leader, seconds=plan.seconds))["p99"])
            check_term(before, await ask(leader, do="state"))
            show("install: throttled", number, plan.repeat)
    p99, calm = 1000 * median(during), 1000 * median(quiet)
    yield Figure(
        section="",
        name="with the default throttle: a write's p99 meanwhile",
        value=p99,
        unit="ms",
        goal=f"≤ 2 × {calm:.1f} without a transfer",
        met=p99 <= 2 * calm,
        note=f"each: {_milliseconds(during)} against {_milliseconds(quiet)}",
    )


async def _write(leader: Child, **until: object) -> dict[str, Any]:
    return await ask(leader, do="propose", how={**WRITERS, **until})


def _milliseconds(seconds: list[float]) -> str:
    return ", ".join(f"{1000 * each:.1f}" for each in seconds)
