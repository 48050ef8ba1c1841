"""A quiet cluster: what a node costs while nobody calls it."""

import trio

from .interleaving import Plan, Results, Visit, each_visit, warm_up
from .machine import Meter

CALM_SECONDS = 2.0
"""After the last write: what was put off is done by then."""

COLUMNS = {
    "system": "{}",
    "leader_core_percent": "{:.2f}",
    "busiest_follower_core_percent": "{:.2f}",
    "others_percent": "{:.0f}",
    "rounds": "{:d}",
}
KEYS = ("system",)


async def measure(plan: Plan, results: Results) -> None:
    """One row for each round and system; a core is one processor."""

    async def visit_all(visit: Visit) -> None:
        await warm_up(visit.cluster, visit.leader, plan.command_bytes)
        await trio.sleep(CALM_SECONDS)
        meter = Meter(visit.cluster.processes().values())
        await trio.sleep(plan.seconds)
        spent = meter.read()
        servers = {name: child.process.pid for name, child in visit.cluster.servers.items()}
        shares = {name: 100 * spent.by_process[process] / spent.seconds for name, process in servers.items()}
        leader = shares.pop(visit.leader)
        visit.note(
            {
                "leader_core_percent": round(leader, 3),
                "busiest_follower_core_percent": round(max(shares.values()), 3),
                "others_percent": round(100 * spent.others_share, 1),
            }
        )
        visit.say(f"leader {leader:.2f} % of a core")

    await each_visit(plan, results, visit_all)
