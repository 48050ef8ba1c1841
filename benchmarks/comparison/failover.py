"""Failover: from SIGKILL of the leader to the next write that is accepted, on a new cluster in every round.

The survivors ask for the write themselves, without pause (etcd's client: a new attempt every 20 ms, since one that was
forwarded to the dead leader hangs), so that no client's patience is measured. The timers' phase is left to chance: the
leader is killed at a moment drawn from half a second.
"""

import random
import statistics
import time

import trio

from .interleaving import Plan, Results, Visit, each_visit
from .machine import Meter
from .tables import Row, percentile

LOAD_CALLERS, LOAD_SECONDS = 4, 0.3
CALM_SECONDS, PHASE_SECONDS = 1.0, 0.5
PATIENCE_SECONDS = 20.0

COLUMNS = {
    "system": "{}",
    "median_ms": "{:,.0f}",
    "p95_ms": "{:,.0f}",
    "max_ms": "{:,.0f}",
    "others_percent": "{:.0f}",
    "trials": "{:d}",
}


async def measure(plan: Plan, results: Results) -> None:
    """One row for each round and system; a round is a trial."""

    async def visit_all(visit: Visit) -> None:
        cluster = visit.cluster
        await cluster.load(visit.leader, callers=LOAD_CALLERS, seconds=LOAD_SECONDS, command_bytes=plan.command_bytes)
        await trio.sleep(CALM_SECONDS + random.uniform(0, PHASE_SECONDS))
        meter = Meter(cluster.processes().values())
        began = time.perf_counter()
        await cluster.kill(visit.leader)
        await cluster.wait_for_write(without=visit.leader, within=PATIENCE_SECONDS)
        took = 1000 * (time.perf_counter() - began)
        visit.note({"failover_ms": round(took, 1), "others_percent": round(100 * meter.read().others_share, 1)})
        visit.say(f"{visit.leader} killed, the next write accepted after {took:,.0f} ms")

    await each_visit(plan, results, visit_all)


def summarise(rows: list[Row]) -> list[Row]:
    """One row for each system."""
    found: list[Row] = []
    for system in dict.fromkeys(row["system"] for row in rows):
        trials = [row for row in rows if row["system"] == system]
        times = [float(row["failover_ms"] or 0) for row in trials]
        found.append(
            {
                "system": system,
                "median_ms": statistics.median(times),
                "p95_ms": percentile(times, 0.95),
                "max_ms": max(times),
                "others_percent": statistics.median([float(row["others_percent"] or 0) for row in trials]),
                "trials": len(trials),
            }
        )
    return found
