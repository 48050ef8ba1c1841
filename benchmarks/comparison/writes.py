"""Writes per second, latency and processor time for each number of callers."""

from collections.abc import Mapping

from .children import Answer, BenchmarkFailed
from .interleaving import Plan, Results, Visit, each_visit, warm_up
from .machine import Meter, Spent
from .systems import Cluster
from .tables import Row, add_ratios

COLUMNS = {
    "callers": "{:d}",
    "system": "{}",
    "writes_per_second": "{:,.0f}",
    "ratio": "{:.2f}",
    "p50_ms": "{:.2f}",
    "p99_ms": "{:.2f}",
    "entries_per_sync": "{:.1f}",
    "leader_cpu_us_per_command": "{:.1f}",
    "cpu_us_per_command": "{:.1f}",
    "others_percent": "{:.0f}",
    "rounds": "{:d}",
}
KEYS = ("callers", "system")


async def measure(plan: Plan, results: Results) -> None:
    """One row for each round, system and number of callers."""

    async def visit_all(visit: Visit) -> None:
        await warm_up(visit.cluster, visit.leader, plan.command_bytes)
        for callers in plan.callers:
            figures = await measure_load(
                visit.cluster, visit.leader, callers=callers, seconds=plan.seconds, command_bytes=plan.command_bytes
            )
            visit.note(figures, callers=callers)
            visit.say(f"{callers} callers, {figures['writes_per_second']:,.0f} writes/s")

    await each_visit(plan, results, visit_all)


def finish(rows: list[Row], subject: str) -> list[Row]:
    """Ratios, and the order of the table: all systems side by side for each number of callers."""
    add_ratios(rows, "writes_per_second", subject=subject, keys=("callers",))
    return sorted(rows, key=lambda row: int(row["callers"] or 0))


async def measure_load(cluster: Cluster, leader: str, *, callers: int, seconds: float, command_bytes: int) -> Row:
    """Load the leader, and compare what every process had used before and after. Raises BenchmarkFailed."""
    before = await cluster.usage(leader)
    meter = Meter(cluster.processes().values())
    done = await cluster.load(leader, callers=callers, seconds=seconds, command_bytes=command_bytes)
    spent = meter.read()
    after = await cluster.usage(leader)
    if before["term"] != after["term"]:
        raise BenchmarkFailed(f"the leader changed while {callers} callers were measured")
    return {
        "writes_per_second": round(done["writes"] / done["seconds"], 1),
        "p50_ms": round(done["p50_ms"], 3),
        "p99_ms": round(done["p99_ms"], 3),
        "max_ms": round(done["max_ms"], 3),
        "entries_per_sync": _entries_per_sync(before, after),
        **processor_figures(spent, cluster.processes()[leader], done["writes"]),
        "writes": done["writes"],
        "seconds": round(done["seconds"], 3),
        "command_bytes": command_bytes,
    }


def processor_figures(spent: Spent, leader: int, commands: int) -> dict[str, float]:
    """Processor time per command, and what others took."""
    return {
        "leader_cpu_us_per_command": round(spent.by_process[leader] * 1e6 / commands, 2),
        "cpu_us_per_command": round(sum(spent.by_process.values()) * 1e6 / commands, 2),
        "others_percent": round(100 * spent.others_share, 1),
    }


def _entries_per_sync(before: Mapping[str, float], after: Answer) -> float | None:
    if "batches" not in after:
        return None
    batches = after["batches"] - before["batches"]
    return round((after["entries"] - before["entries"]) / batches, 2) if batches else None
