"""trio_raft side by side with other systems: durable writes on three processes, real sockets, real disk syncs.

Every system has its turn in every round, so that the machine's slow drifts hit all alike; the table shows medians over
the rounds. Each caller writes a command, waits until it is committed and applied, and writes the next: a closed loop.

The columns: ratio is how many times this system's figure trio_raft reached, within one round; entries_per_sync is what
one log write of the leader held (one transaction of boltdb, which syncs twice); cpu_us_per_command is the processor
time of all processes per command, leader_cpu_us_per_command that of the leader's, its callers included, except for
etcd, whose callers are a client of its own; others_percent is how much of the machine anything else used meanwhile.
Only figures of one run on a quiet machine compare.
"""

import argparse
import datetime
import importlib
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

try:
    import trio

    importlib.import_module("trio_raft")  # the nodes need it: better to miss it here than in their logs
except (ImportError, AttributeError) as error:  # missing, or too old
    print(f"{sys.argv[0]}: {error}; run `make demo` once, then .venv/bin/python {sys.argv[0]} …", file=sys.stderr)
    sys.exit(2)

from comparison.children import progress
from comparison.interleaving import Plan, Results
from comparison.machine import description
from comparison.measures import MEASURES, Measure
from comparison.plot import svg
from comparison.program import (
    BAD,
    GOOD,
    INTERRUPTED,
    WRONG_INPUT,
    add_common_options,
    count,
    counts,
    positive,
    work_until_signal,
)
from comparison.systems import PYSYNCOBJ, PYSYNCOBJ_UNBATCHED, SKELETON, SUBJECT, SYSTEMS, System, installed_versions
from comparison.tables import Row, print_table

QUIET_PERCENT = 5.0
"""Of the machine, used by others: above that the figures say more about them."""


def main() -> None:
    """Read the arguments, measure, and end with the exit status."""
    arguments = read_arguments()
    try:
        sys.exit(trio.run(run, arguments))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


async def run(arguments: argparse.Namespace) -> int:
    """Measure until done or interrupted, and report what there is; returns the exit status."""
    measure = MEASURES[arguments.measure]
    systems = installed(arguments.systems or measure.systems)
    if not systems:
        return WRONG_INPUT
    results = Results()
    machine = description(arguments.directory or Path(tempfile.gettempdir()))
    progress(f"{arguments.measure}: {', '.join(system.name for system in systems)}; {machine}")

    async def measure_all(directory: Path) -> None:
        plan = Plan(
            systems=systems,
            callers=arguments.callers or measure.callers,
            rounds=arguments.rounds or measure.rounds,
            seconds=arguments.seconds or measure.seconds,
            minutes=arguments.minutes or measure.minutes,
            rate=arguments.rate,
            command_bytes=arguments.command_bytes,
            directory=directory,
        )
        await measure.measure(plan, results)

    status = await work_until_signal(measure_all, prefix="compare-", inside=arguments.directory)
    if results.rows or results.failures:
        report(arguments, measure, systems, results, machine)
    return BAD if status == GOOD and results.failures else status


def installed(systems: Sequence[System]) -> list[System]:
    """The systems that can be measured here; says which cannot."""
    found = []
    for system in systems:
        why_not = system.missing()
        if why_not is None:
            found.append(system)
        else:
            progress(f"skipped: {why_not}")
    return found


def report(
    arguments: argparse.Namespace, measure: Measure, systems: Sequence[System], results: Results, machine: str
) -> None:
    """The table or the JSON line, and the picture if one was asked for."""
    measured = measure.finish(results.rows, SUBJECT.name)
    rows = measure.summarise(measured)
    date = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    versions = installed_versions()
    if arguments.plot is not None and rows:
        caption = f"{date}, {machine}; dashed: not durable, or not Raft"
        aside = (SKELETON.name, PYSYNCOBJ.name, PYSYNCOBJ_UNBATCHED.name)
        arguments.plot.write_text(svg(rows, subject=SUBJECT.name, aside=aside, caption=caption))
        progress(f"drawn: {arguments.plot}")
    if arguments.json:
        facts = {"date": date, "machine": machine, "versions": versions, "command": shlex.join(sys.argv)}
        print(json.dumps({**facts, "table": rows, "rounds": measured, "failures": results.failures}), flush=True)
        return
    print_table(rows, measure.columns)
    print(f"\n{date}, {machine}\n{shlex.join(sys.argv)}")
    for system in systems:
        remarks = [words for words in (versions.get(system.package), system.remark) if words]
        if remarks:
            print(f"{system.name}: {'; '.join(remarks)}")
    for failure in results.failures:
        print(f"failed: {failure}")
    say_how_quiet(measured)


def say_how_quiet(rows: Sequence[Row]) -> None:
    """A note if the machine had other things to do."""
    shares = [float(row["others_percent"] or 0) for row in rows if "others_percent" in row]
    if shares and max(shares) > QUIET_PERCENT:
        print(
            f"The machine was not quiet: others used up to {max(shares):.0f} % of it "
            f"during a measurement. These figures are no reference."
        )


def read_arguments() -> argparse.Namespace:
    """What the command line says; a wrong word ends with exit status 2 and a message that names it."""
    epilog = "\n".join(
        [
            "what can be measured:",
            *(f"  {name:10} {measure.summary}" for name, measure in MEASURES.items()),
            "\nsystems:",
            *(f"  {name:20} {system.remark}".rstrip() for name, system in SYSTEMS.items()),
            "\nPeers are installed by benchmarks/peers/install.sh; one that is missing is said and skipped.",
        ]
    )
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("measure", nargs="?", choices=MEASURES, default="writes", help="default: writes")
    parser.add_argument(
        "--systems", type=systems_named, metavar="NAME,...", help="which (default: all that it makes sense for)"
    )
    parser.add_argument("--callers", type=counts, metavar="C,C,...", help="writes: 1,16,64,256,1024 unless given")
    parser.add_argument("--rounds", type=count, metavar="N", help="rounds, or trials (default: 4, failover 10)")
    parser.add_argument("--seconds", type=positive, metavar="S", help="for each measurement (default: 2, idle 10)")
    parser.add_argument("--minutes", type=positive, metavar="M", help="of elections (default: 10) and steady (56)")
    parser.add_argument("--rate", type=count, default=3000, metavar="R", help="of steady, a second (default: 3000)")
    add_common_options(parser)
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="writes only: draw the table too")
    parser.add_argument(
        "--json", action="store_true", help="the last line is one JSON object with all figures, instead of a table"
    )
    arguments = parser.parse_args()
    if arguments.plot is not None and (arguments.measure != "writes" or not os.access(arguments.plot.parent, os.W_OK)):
        parser.error("argument --plot: draws writes, into a directory that can be written")
    return arguments


def systems_named(words: str) -> list[System]:
    """An argument that is a list of systems."""
    names = words.split(",")
    unknown = [name for name in names if name not in SYSTEMS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(SYSTEMS)}")
    return [SYSTEMS[name] for name in names]


if __name__ == "__main__":
    main()
