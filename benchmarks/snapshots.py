"""Snapshots and recovery in figures: starting, memory, catching up, installing, each beside its goal.

Real processes, sockets and disk syncs.  The sections, any of which may be named:

restart    a server with a million entries in its log starts; and with a snapshot instead
memory     a server with a million entries in its log, of which 64 MiB are kept in memory, is written to
catch-up   a follower that missed a million entries, or a gigabyte in large ones, is brought up from the log
install    a follower is sent a snapshot of a gigabyte: how fast, compared with a plain copy; and who has to wait

Whatever else runs on the machine is in the figures.  Those that are compared with the machine are measured in turns
with what they are compared with.
"""

import argparse
import importlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

try:
    import attrs
    import trio

    importlib.import_module("trio_raft")  # the nodes need it: better to miss it here than in their logs
except (ImportError, AttributeError) as error:  # missing, or too old
    print(f"{sys.argv[0]}: {error}; run `make demo` once, then .venv/bin/python {sys.argv[0]} …", file=sys.stderr)
    sys.exit(2)

import snapshots_sections
from comparison.children import BenchmarkFailed, progress
from comparison.machine import file_system
from comparison.program import cancel_on_signal, positive
from snapshots_crew import Figure, Plan, busy

SECTIONS: dict[str, Callable[[Plan], AsyncIterator[Figure]]] = {
    "restart": snapshots_sections.restart,
    "memory": snapshots_sections.memory,
    "catch-up": snapshots_sections.catch_up,
    "install": snapshots_sections.install,
}
ENTRIES, COMMAND_BYTES = 1_000_000, 100
LARGE_COMMAND_BYTES = 64 << 10
GIBIBYTE = 1 << 30
SECONDS = 20.0


async def measure(plan: Plan, names: list[str], found: list[Figure]) -> None:
    """The sections, in turn; figures go to ``found`` as they come.  Raises BenchmarkFailed."""
    progress(f"data in {plan.directory} ({file_system(plan.directory)}); {busy()}")
    for name in names:
        async for figure in SECTIONS[name](plan):
            progress(f"{name}: {in_words(figure)}")
            found.append(figure)
    progress(busy())


def in_words(figure: Figure) -> str:
    """One line for whoever waits."""
    goal = f" (goal: {figure.goal})" if figure.goal else ""
    return f"{figure.name}: {number(figure.value)} {figure.unit}{goal}"


def number(value: float) -> str:
    """Three digits or so."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def print_table(figures: list[Figure]) -> None:
    """A line for each figure, aligned, under its section."""
    verdicts = {True: "reached", False: "missed", None: ""}
    cells = [
        (figure.name, f"{number(figure.value)} {figure.unit}", figure.goal, verdicts[figure.met], figure.note)
        for figure in figures
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    section = ""
    for figure, line in zip(figures, cells, strict=True):
        if figure.section != section:
            section = figure.section
            print(section)
        padded = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        print("  " + "  ".join(padded).rstrip(), flush=True)


async def run(arguments: argparse.Namespace) -> int:
    """Measure until done or interrupted; returns the exit status."""
    found: list[Figure] = []
    status = 130
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_on_signal, signals, nursery.cancel_scope)
            with tempfile.TemporaryDirectory(
                prefix="snapshots-", dir=arguments.directory, ignore_cleanup_errors=True
            ) as directory:
                try:
                    await measure(plan_of(arguments, Path(directory)), arguments.sections, found)
                    status = 0
                except* (BenchmarkFailed, OSError) as errors:
                    progress(f"{Path(sys.argv[0]).name}: {first_of(errors)}")
                    status = 1
            nursery.cancel_scope.cancel()
    if found and arguments.json:
        print(json.dumps([attrs.asdict(figure) for figure in found]), flush=True)
    elif found:
        print_table(found)
    return status


def first_of(error: BaseException) -> BaseException:
    """What went wrong first; nurseries wrap it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def plan_of(arguments: argparse.Namespace, directory: Path) -> Plan:
    """The sizes that the command line asks for."""

    def scaled(size: int) -> int:
        return max(1, round(size * float(arguments.scale)))

    return Plan(
        directory=directory,
        entries=scaled(ENTRIES),
        command_bytes=COMMAND_BYTES,
        large_commands=scaled(GIBIBYTE // LARGE_COMMAND_BYTES),
        large_command_bytes=LARGE_COMMAND_BYTES,
        state_bytes=scaled(GIBIBYTE),
        seconds=min(SECONDS, SECONDS * arguments.scale),
        repeat=arguments.repeat,
    )


def read_arguments() -> argparse.Namespace:
    """What the command line says; a wrong word ends with exit status 2 and a message that names it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)} (default: all)")
    parser.add_argument(
        "--scale", type=positive, default=1.0, metavar="F", help="times a million entries and a gigabyte (default: 1)"
    )
    parser.add_argument("--repeat", type=times, default=3, metavar="N", help="measure each so often (default: 3)")
    parser.add_argument(
        "--directory",
        type=Path,
        help="measure the disk that holds this directory (default: the one for temporary files)",
    )
    parser.add_argument(
        "--json", action="store_true", help="the last line is one JSON list of figures, instead of a table"
    )
    arguments = parser.parse_args()
    unknown = [name for name in arguments.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"argument SECTION: {unknown[0]} is none of {', '.join(SECTIONS)}")
    arguments.sections = arguments.sections or list(SECTIONS)
    if arguments.directory is not None and not os.access(arguments.directory, os.W_OK | os.X_OK):
        parser.error(f"argument --directory: {arguments.directory} is no directory that can be written")
    return arguments


def times(word: str) -> int:
    """An argument that is a small positive number."""
    count = int(word)
    if not 1 <= count <= 100:
        raise argparse.ArgumentTypeError(f"must be a number from 1 to 100, not {word}")
    return count


if __name__ == "__main__":
    try:
        sys.exit(trio.run(run, read_arguments()))
    except KeyboardInterrupt:
        sys.exit(130)
