"""Durable writes per second: three processes, real sockets, real disk syncs, callers beside the leader.

Each caller proposes a command, waits until it is committed, durable on a majority and applied, and proposes the next:
a closed loop. So C callers keep at most C commands in flight, and what a log write takes is shared by those that
travel together. ``compare.py`` measures the same side by side with other systems.

The columns: cpu_us_per_command is the processor time of all three processes per command, leader_cpu_us_per_command
that of the leader's process, its callers included; entries_per_sync is what one write and one sync of the leader's log
held.
"""

import argparse
import importlib
import json
import sys
from pathlib import Path

try:
    import trio

    importlib.import_module("trio_raft")  # the nodes need it: better to miss it here than in their logs
except (ImportError, AttributeError) as error:  # missing, or too old
    print(f"{sys.argv[0]}: {error}; run `make demo` once, then .venv/bin/python {sys.argv[0]} …", file=sys.stderr)
    sys.exit(2)

from comparison.children import progress
from comparison.interleaving import warm_up
from comparison.machine import file_system
from comparison.program import GOOD, INTERRUPTED, add_common_options, counts, positive, work_until_signal
from comparison.systems import SUBJECT
from comparison.tables import Row, print_table
from comparison.writes import measure_load

NODES = 3

COLUMNS = {
    "callers": "{:d}",
    "writes_per_second": "{:,.0f}",
    "p50_ms": "{:.2f}",
    "p99_ms": "{:.2f}",
    "cpu_us_per_command": "{:.1f}",
    "leader_cpu_us_per_command": "{:.1f}",
    "entries_per_sync": "{:.1f}",
}


async def run(arguments: argparse.Namespace) -> int:
    """Measure until done or interrupted; returns the exit status."""
    rows: list[Row] = []

    async def measure_all(directory: Path) -> None:
        async with SUBJECT.start(directory, NODES) as cluster:
            leader = await cluster.leader()
            progress(f"{leader} leads; data in {directory} ({file_system(directory)})")
            await warm_up(cluster, leader, arguments.command_bytes)
            for callers in arguments.callers:
                figures = await measure_load(
                    cluster,
                    leader,
                    callers=callers,
                    seconds=arguments.seconds,
                    command_bytes=arguments.command_bytes,
                )
                progress(f"{callers} callers: {figures['writes_per_second']:,.0f} writes/s")
                rows.append({"callers": callers, **figures})

    status = await work_until_signal(measure_all, prefix="throughput-", inside=arguments.directory)
    if status == GOOD and arguments.json:
        print(json.dumps(rows), flush=True)
    elif status == GOOD:
        print_table(rows, COLUMNS)
    return status


def read_arguments() -> argparse.Namespace:
    """What the command line says; a wrong word ends with exit status 2 and a message that names it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--callers",
        type=counts,
        default=[1, 64, 1024],
        metavar="C,C,...",
        help="how many callers, one row each (default: 1,64,1024)",
    )
    parser.add_argument("--seconds", type=positive, default=2.0, metavar="S", help="for each row (default: 2)")
    add_common_options(parser)
    parser.add_argument(
        "--json", action="store_true", help="the last line is one JSON list of rows, instead of a table"
    )
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(trio.run(run, read_arguments()))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
