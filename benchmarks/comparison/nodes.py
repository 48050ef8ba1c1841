"""Cluster size: what a command costs the leader with 3, 5 and 7 nodes."""

from .interleaving import Plan, Results, Visit, each_visit, warm_up
from .tables import Row
from .writes import measure_load

SIZES = (3, 5, 7)

COLUMNS = {
    "callers": "{:d}",
    "system": "{}",
    "nodes": "{:d}",
    "writes_per_second": "{:,.0f}",
    "p50_ms": "{:.2f}",
    "p99_ms": "{:.2f}",
    "leader_cpu_us_per_command": "{:.1f}",
    "growth_percent": "{:+.0f}",
    "others_percent": "{:.0f}",
    "rounds": "{:d}",
}
KEYS = ("callers", "system", "nodes")


async def measure(plan: Plan, results: Results) -> None:
    """One row for each round, size, system and number of callers."""
    for size in SIZES:

        async def visit_all(visit: Visit, *, size: int = size) -> None:
            await warm_up(visit.cluster, visit.leader, plan.command_bytes)
            for callers in plan.callers:
                figures = await measure_load(
                    visit.cluster, visit.leader, callers=callers, seconds=plan.seconds, command_bytes=plan.command_bytes
                )
                visit.note(figures, callers=callers, nodes=size)
                visit.say(f"{size} nodes, {figures['leader_cpu_us_per_command']} µs per command on the leader")

        await each_visit(plan, results, visit_all, size=size)


def finish(rows: list[Row], _subject: str) -> list[Row]:
    """How much the leader's cost grew over the next smaller cluster of the same round."""
    costs = {_place(row, row["nodes"]): row["leader_cpu_us_per_command"] for row in rows}
    for row in rows:
        smaller, own = costs.get(_place(row, int(row["nodes"] or 0) - 2)), row["leader_cpu_us_per_command"]
        known = isinstance(smaller, int | float) and isinstance(own, int | float) and smaller
        row["growth_percent"] = round(100 * (float(own or 0) / float(smaller or 1) - 1), 1) if known else None
    return sorted(rows, key=lambda row: (int(row["callers"] or 0), str(row["system"]), int(row["nodes"] or 0)))


def _place(row: Row, nodes: object) -> tuple[object, ...]:
    return row["callers"], row["system"], row["round"], nodes
