"""Large commands: megabytes per second, against processes that write, sync and send the same bytes without Raft."""

from .interleaving import Plan, Results, Visit, each_visit
from .tables import Row, add_ratios
from .writes import measure_load

SIZES = (64 << 10, 1 << 20)

COLUMNS = {
    "command_bytes": "{:,d}",
    "callers": "{:d}",
    "system": "{}",
    "megabytes_per_second": "{:,.1f}",
    "ratio": "{:.2f}",
    "p50_ms": "{:.1f}",
    "p99_ms": "{:.1f}",
    "leader_cpu_us_per_command": "{:,.0f}",
    "others_percent": "{:.0f}",
    "rounds": "{:d}",
}
KEYS = ("command_bytes", "callers", "system")


async def measure(plan: Plan, results: Results) -> None:
    """One row for each round, system, size and number of callers."""

    async def visit_all(visit: Visit) -> None:
        for size in SIZES:
            for callers in plan.callers:
                figures = await measure_load(
                    visit.cluster, visit.leader, callers=callers, seconds=plan.seconds, command_bytes=size
                )
                megabytes = round(float(figures["writes_per_second"] or 0) * size / 1e6, 2)
                visit.note({"megabytes_per_second": megabytes, **figures}, callers=callers)
                visit.say(f"{size} bytes, {callers} callers, {megabytes:,.1f} MB/s")

    await each_visit(plan, results, visit_all)


def finish(rows: list[Row], subject: str) -> list[Row]:
    """Ratios, and all systems side by side for each size."""
    add_ratios(rows, "megabytes_per_second", subject=subject, keys=KEYS[:2])
    return sorted(rows, key=lambda row: [int(row[key] or 0) for key in KEYS[:2]])
