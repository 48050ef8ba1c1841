"""Commands per second that one task submits with ``submit_nowait``, with thousands in flight."""

from .interleaving import Plan, Results, Visit, each_visit, warm_up
from .machine import Meter
from .systems import EXTRA_SECONDS
from .tables import Row
from .writes import processor_figures

COLUMNS = {
    "in_flight": "{:d}",
    "system": "{}",
    "commands_per_second": "{:,.0f}",
    "leader_cpu_us_per_command": "{:.1f}",
    "cpu_us_per_command": "{:.1f}",
    "others_percent": "{:.0f}",
    "rounds": "{:d}",
}
KEYS = ("in_flight", "system")


async def measure(plan: Plan, results: Results) -> None:
    """One row for each round and number of commands in flight, which is what the callers count here."""

    async def visit_all(visit: Visit) -> None:
        await warm_up(visit.cluster, visit.leader, plan.command_bytes)
        for in_flight in plan.callers:
            meter = Meter(visit.cluster.processes().values())
            done = await visit.cluster.front_of(visit.leader).ask(
                do="submit",
                in_flight=in_flight,
                seconds=plan.seconds,
                command_bytes=plan.command_bytes,
                within=plan.seconds + EXTRA_SECONDS,
            )
            spent = meter.read()
            figures: Row = {
                "commands_per_second": round(done["writes"] / done["seconds"], 1),
                **processor_figures(spent, visit.cluster.processes()[visit.leader], done["writes"]),
            }
            visit.note(figures, in_flight=in_flight)
            visit.say(f"{in_flight} in flight, {figures['commands_per_second']:,.0f} commands/s")

    await each_visit(plan, results, visit_all)
