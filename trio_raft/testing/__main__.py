"""``python -m trio_raft.testing``: run many seeds, repeat one, or show that deliberate faults are caught.

    run --seeds 0:200          the swarm; exit status 0 only if every seed passed
    replay 17                  one seed again, with every line of its trace
    mutants                    each deliberate fault, until a seed catches it: the kit must be able to fail

House rule: standard output has the result, standard error the progress.  Exit status: 0 all is well, 1 a seed failed or
a mutant survived or nothing was run, 2 the command makes no sense, 130 it was interrupted, 141 nobody reads on.
"""

import argparse
import json
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TextIO

import trio

from trio_raft._errors import leaves
from trio_raft.testing._chances import warnings
from trio_raft.testing._hunting import Hunt, Hunts
from trio_raft.testing._mutants import MUTANTS
from trio_raft.testing._run import CLOCK, Done, Job, cores, run_all, work
from trio_raft.testing._seed import run_seed
from trio_raft.testing._summary import Summary, failure_text
from trio_raft.testing._swarm import FAULTS, PROFILES, SECONDS, Wishes, draw_plan

DEFAULT_SEEDS = range(200)
MUTANT_SEEDS = range(500)
"""At most; a hunt ends with the first catch.  The rarest needs a long log that was cut off, and then two leaders gone:
about one seed in a hundred and thirty has that."""
ENDLESS_SEEDS = range(1 << 31)
"""With ``--minutes`` alone."""

PROGRESS_SECONDS = 0.5
QUIET_PROGRESS_SECONDS = 30.0
"""Where standard error is no terminal."""


Command = Callable[[argparse.Namespace], int]


class UsageError(Exception):
    """The command makes no sense; the text says why."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        command: Command = options.command
        return command(options)
    except UsageError as error:
        _say(sys.stderr, f"error: {error}")
        return 2
    except BaseException as error:
        # In the middle of a simulation, or of many, they come in groups.
        found = leaves(error)
        if all(isinstance(leaf, KeyboardInterrupt) for leaf in found):
            _say(sys.stderr, "interrupted")
            return 130
        if all(isinstance(leaf, BrokenPipeError) for leaf in found):
            # Whoever reads the output has seen enough: end as the system ends a program that does not ask.
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            signal.raise_signal(signal.SIGPIPE)
        raise


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trio_raft.testing",
        description="Simulate clusters under every kind of fault, in virtual time, from seeds.",
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    run = commands.add_parser("run", help="run many seeds on all cores")
    run.set_defaults(command=_run)
    run.add_argument("--seeds", type=_seeds, metavar="FIRST:END", help="from FIRST up to, without, END; default 0:200")
    run.add_argument("--minutes", type=float, help="after so many real minutes start no other seed")
    run.add_argument("--json", action="store_true", help="print one JSON object in place of the text")
    replay = commands.add_parser("replay", help="run one seed here, and print every line of its trace")
    replay.set_defaults(command=_replay)
    replay.add_argument("seed", type=_seed)
    replay.add_argument("--mutant", metavar="NAME", help="with this deliberate fault")
    replay.add_argument("--last", type=int, metavar="LINES", help="print only so many lines of the trace")
    mutants = commands.add_parser(
        "mutants", help="run seeds against each deliberate fault until a check of its rule fails"
    )
    mutants.set_defaults(command=_mutants)
    mutants.add_argument("names", nargs="*", metavar="NAME", help="only these; default: all")
    mutants.add_argument("--seeds", type=_seeds, default=MUTANT_SEEDS, metavar="FIRST:END", help="default 0:500")
    mutants.add_argument("--json", action="store_true", help="print one JSON object in place of the table")
    for command in (run, mutants):
        command.add_argument("--processes", type=int, default=cores(), help="default: one for each core")
    for command in (run, replay, mutants):
        command.add_argument("--seconds", type=float, default=SECONDS, help="virtual seconds of trouble; default 20")
        command.add_argument("--profile", choices=PROFILES, default="swarm", help=_choices(PROFILES))
        command.add_argument("--size", type=int, help="members, in place of a drawn number")
        command.add_argument("--faults", metavar="KIND,…", help=_faults_help())
        command.add_argument("--ruined", type=int, help="members whose disks may be wiped or damaged for good")
        command.add_argument("--snapshots", choices=("on", "off"), help="in every run, or in none; default: drawn")
    # Without a help text it is not listed: only the other commands start it.
    commands.add_parser("work", description="Run what comes from standard input.").set_defaults(command=_work)
    return parser


def _faults_help() -> str:
    known = ", ".join(fault.replace(" ", "-") for fault in FAULTS)
    return f"only these, or none; crash,old-copy is the same as 'crash,old copy' in quotes. Known: {known}"


def _choices(choices: dict[str, str]) -> str:
    return "; ".join(f"{name}: {meaning}" for name, meaning in choices.items())


def _seed(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"a seed is a whole number from 0 on, not {text!r}")
    return int(text)


def _seeds(text: str) -> range:
    first, colon, end = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError(f"a range of seeds is FIRST:END, for example 0:200, not {text!r}")
    seeds = range(_seed(first), _seed(end))
    if not seeds:
        raise argparse.ArgumentTypeError(f"there is no seed in {text}: END must be greater than FIRST")
    return seeds


def _wishes(options: argparse.Namespace, seed: int) -> Wishes:
    """What the options ask for, once it is clear that it can be met."""
    faults: tuple[str, ...] | None = None
    if options.faults is not None:
        named = (word.strip() for word in options.faults.split(","))
        # No name has a hyphen of its own.
        faults = tuple(word.replace("-", " ") for word in named if word not in ("", "none"))
    wishes = Wishes(
        seconds=options.seconds,
        profile=options.profile,
        size=options.size,
        faults=faults,
        ruined=options.ruined,
        snapshots=None if options.snapshots is None else options.snapshots == "on",
    )
    try:
        draw_plan(seed, wishes)
    except ValueError as error:
        raise UsageError(str(error)) from error
    for warning in warnings(wishes, seed):
        _say(sys.stderr, f"warning: {warning}")
    return wishes


# ------------------------------------------------------------------------------------ commands


def _run(options: argparse.Namespace) -> int:
    seeds: range = options.seeds or (DEFAULT_SEEDS if options.minutes is None else ENDLESS_SEEDS)
    if options.minutes is not None and not options.minutes > 0:
        raise UsageError(f"--minutes {options.minutes:g}: must be positive")
    processes = _processes(options, len(seeds))
    wishes = _wishes(options, seeds.start)
    summary = Summary(
        wishes=wishes,
        warnings=warnings(wishes, seeds.start),
        wanted=None if seeds is ENDLESS_SEEDS else len(seeds),
        processes=processes,
    )
    end = float("inf") if options.minutes is None else CLOCK.stopwatch() + 60 * options.minutes
    began = CLOCK.stopwatch()

    def chains() -> Iterator[list[Job]]:
        # A run without a single seed would prove nothing, however short its time.
        for seed in seeds:
            if seed != seeds.start and CLOCK.stopwatch() >= end:
                return
            yield [Job(seed=seed, wishes=summary.wishes)]

    def note(_: Job, done: Done) -> bool:
        summary.note(done)
        if not done.report.ok and not options.json:
            _say(sys.stderr, f"\r{failure_text(done.report, summary.wishes)}\n")
        return True

    async def run_jobs() -> None:
        await run_all(chains(), processes=processes, note=note)

    summary.interrupted = trio.run(_run_interruptibly, run_jobs, lambda: summary.progress(CLOCK.stopwatch() - began))
    real_seconds = CLOCK.stopwatch() - began
    _say(sys.stdout, json.dumps(summary.plain(real_seconds)) if options.json else summary.text(real_seconds))
    return 130 if summary.interrupted else 0 if summary.passed else 1


def _replay(options: argparse.Namespace) -> int:
    wishes = _wishes(options, options.seed)
    if options.mutant is not None and options.mutant not in MUTANTS:
        raise UsageError(f"there is no mutant {options.mutant!r}. Known: {', '.join(MUTANTS)}")
    if options.last is not None and options.last < 0:
        raise UsageError(f"--last {options.last}: must not be negative")
    report = run_seed(options.seed, wishes=wishes, mutant=options.mutant, trace=True)
    lines = report.trace if options.last is None else report.trace[max(len(report.trace) - options.last, 0) :]
    for line in lines:
        _say(sys.stdout, line)
    _say(sys.stdout, f"\n{report.virtual_seconds:.1f} virtual seconds; trace hash {report.trace_hash}")
    _say(sys.stdout, "passed" if report.ok else failure_text(report, wishes, options.mutant))
    return 0 if report.ok else 1


def _work(_: argparse.Namespace) -> int:
    work(sys.stdin, sys.stdout)
    return 0


def _mutants(options: argparse.Namespace) -> int:
    unknown = [name for name in options.names if name not in MUTANTS]
    if unknown:
        raise UsageError(f"there is no mutant {', '.join(unknown)}. Known: {', '.join(MUTANTS)}")

    def show(hunt: Hunt) -> None:
        if not options.json:
            _say(sys.stdout, hunt.line())

    wishes = _wishes(options, options.seeds.start)
    hunts = Hunts(options.names or list(MUTANTS), options.seeds, wishes, on_caught=show)
    processes = _processes(options, len(hunts.hunts))

    async def run_jobs() -> None:
        await run_all(hunts.chains(), processes=processes, note=hunts.note)

    interrupted = trio.run(_run_interruptibly, run_jobs, hunts.progress)
    if options.json:
        _say(
            sys.stdout,
            json.dumps({**hunts.plain(interrupted=interrupted), "warnings": warnings(wishes, options.seeds.start)}),
        )
    else:
        _say(sys.stdout, hunts.end_of_table(interrupted=interrupted))
    return 130 if interrupted else 0 if hunts.proved else 1


# ------------------------------------------------------------------------------------ what they share


def _processes(options: argparse.Namespace, most: int) -> int:
    wanted: int = options.processes
    if wanted < 1:
        raise UsageError(f"--processes {wanted}: must be at least 1")
    return min(wanted, most)


async def _run_interruptibly(run_jobs: Callable[[], Awaitable[None]], progress: Callable[[], str]) -> bool:
    """Run to the end, or to Ctrl-C: then everything under way is given up, and this returns True."""
    interrupted = False
    async with trio.open_nursery() as nursery:

        async def watch_signals(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            nonlocal interrupted
            with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                task_status.started()
                async for _ in signals:
                    interrupted = True
                    nursery.cancel_scope.cancel()

        await nursery.start(watch_signals)
        nursery.start_soon(_show_progress, progress)
        await run_jobs()
        nursery.cancel_scope.cancel()
    if sys.stderr.isatty():
        _say(sys.stderr, f"\r{progress()}")
    return interrupted


async def _show_progress(progress: Callable[[], str]) -> None:
    terminal = sys.stderr.isatty()
    while True:
        if terminal:
            sys.stderr.write(f"\r{progress()}")
            sys.stderr.flush()
        else:
            _say(sys.stderr, progress())
        await CLOCK.sleep(PROGRESS_SECONDS if terminal else QUIET_PROGRESS_SECONDS)


def _say(stream: TextIO, line: str) -> None:
    stream.write(line + "\n")
    stream.flush()


if __name__ == "__main__":
    sys.exit(main())
