"""A long log: latency and memory, minute by minute, at a fixed rate of commands.

An open loop: commands come when they are due, and a command that comes late has waited since then. Neither latency nor
memory should know how long the log is.
"""

from .interleaving import Plan, Results, Visit, each_visit, warm_up
from .machine import Meter, resident_bytes
from .systems import EXTRA_SECONDS
from .tables import Row

SLICE_SECONDS = 60.0
MEBIBYTE = 1 << 20

COLUMNS = {
    "system": "{}",
    "minutes": "{:.1f}",
    "entries": "{:,d}",
    "commands_per_second": "{:,.0f}",
    "p50_ms": "{:.2f}",
    "p99_ms": "{:.2f}",
    "max_ms": "{:,.0f}",
    "leader_memory_mib": "{:,.1f}",
    "largest_follower_memory_mib": "{:,.1f}",
    "growth_bytes_per_entry": "{:.1f}",
    "others_percent": "{:.0f}",
}


async def measure(plan: Plan, results: Results) -> None:
    """One row for each minute of each round."""

    async def visit_all(visit: Visit) -> None:
        await warm_up(visit.cluster, visit.leader, plan.command_bytes)
        remaining = plan.minutes * 60
        while remaining > 0:
            figures = await _slice(visit, min(SLICE_SECONDS, remaining), plan.rate, plan.command_bytes)
            remaining -= SLICE_SECONDS
            visit.note({"minutes": round(plan.minutes - max(0.0, remaining) / 60, 2), **figures})
            visit.say(f"{figures['entries']:,d} entries, p99 {figures['p99_ms']:.2f} ms")

    await each_visit(plan, results, visit_all)


async def _slice(visit: Visit, seconds: float, rate: int, command_bytes: int) -> Row:
    processes = {name: child.process.pid for name, child in visit.cluster.servers.items()}
    front = visit.cluster.front_of(visit.leader)
    meter = Meter(processes.values())
    done = await front.ask(
        do="steady", rate=rate, seconds=seconds, command_bytes=command_bytes, within=seconds + EXTRA_SECONDS
    )
    spent = meter.read()
    memory = {name: resident_bytes(process) / MEBIBYTE for name, process in processes.items()}
    leader = memory.pop(visit.leader)
    return {
        "entries": (await visit.cluster.usage(visit.leader))["entries"],
        "commands_per_second": round(done["writes"] / done["seconds"], 1),
        "p50_ms": round(done["p50_ms"], 3),
        "p99_ms": round(done["p99_ms"], 3),
        "max_ms": round(done["max_ms"], 1),
        "leader_memory_mib": round(leader, 2),
        "largest_follower_memory_mib": round(max(memory.values()), 2),
        "others_percent": round(100 * spent.others_share, 1),
    }


def finish(rows: list[Row], _subject: str) -> list[Row]:
    """How the leader's memory grew since the first minute of the same round, for each entry since then."""
    first: dict[object, Row] = {}
    for row in rows:
        start = first.setdefault((row["system"], row["round"]), row)
        entries = _number(row["entries"]) - _number(start["entries"])
        grown = (_number(row["leader_memory_mib"]) - _number(start["leader_memory_mib"])) * MEBIBYTE
        row["growth_bytes_per_entry"] = round(grown / entries, 2) if entries else None
    return rows


def _number(value: object) -> float:
    if not isinstance(value, int | float):
        raise AssertionError("every minute has its figures")
    return value
