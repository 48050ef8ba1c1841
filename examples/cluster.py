"""A Raft cluster to play with: real processes, real sockets and real disk syncs, on this machine.

Without options it shows a live view with a steady load of writes, and keys to kill, pause and restart
nodes. Each write has a key of its own and is checked: what a node acknowledged must be on every replica,
whatever happened to the nodes. With --script it does what you say and reports.
"""

import argparse
import importlib
import importlib.util
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

try:
    import attrs
    import trio

    importlib.import_module("trio_raft")  # the nodes need it: better to miss it here than in their logs
except (ImportError, AttributeError) as error:  # missing, or too old
    print(f"{sys.argv[0]}: {error}; run `make demo` once, then .venv/bin/python {sys.argv[0]} …", file=sys.stderr)
    sys.exit(2)

from cluster_demo.child import DidNotStart, NoAnswer
from cluster_demo.cluster import Cluster, Feed, FeedLine, OutOfPatience
from cluster_demo.keys import obey_keys, single_keys
from cluster_demo.script import LANGUAGE, ScriptError, parse, run_script, verify
from cluster_demo.verdict import Verdict, count_lost
from cluster_demo.writes import Failover, Outcome, Writes

PLAIN_FIGURES_SECONDS = 2.0
"""Between two lines of figures when the output is no terminal."""

LAST_CHECK_SECONDS = 5.0
"""Whoever quits the live view waits no longer than this for the comparison, which needs a majority."""

LINES_AFTER_LIVE = 10

SECONDS, RATE = 1800.0, 200.0
"""How long the steady load lasts, and its writes per second, unless the command line says otherwise."""

GOOD, BAD, WRONG_INPUT, OUT_OF_PATIENCE, INTERRUPTED = 0, 1, 2, 3, 130

EPILOG = f"""\
script: verbs separated by semicolons, for example "write 500; kill leader; write 500; restart; verify"

{LANGUAGE}

json, on the last line: acknowledged, unknown and refused writes; lost (acknowledged but absent), phantom
(present but never attempted, or refused, or applied twice), identical (all compared replicas); compared and
not_compared nodes; failover_ms, one for each kill or pause of a leader, until the next acknowledged write
(null if there was none); writes_per_second (while there was something to write), p50_ms, p99_ms, elapsed_s,
crashed, error, events. While no majority runs, no time counts for failover_ms.

data: the temporary directory, named trio_raft-…, goes away at the end. Only if this program itself dies of
SIGKILL does it stay, below the directory for temporary files; no node outlives it even then.

exit status: 0    nothing lost, no phantom, all compared replicas identical
             1    they are not, or a node ended by itself
             2    the arguments or the script are wrong
             3    something did not happen within --patience, or a node did not start
             130  interrupted
"""


@attrs.frozen(kw_only=True)
class Result:
    """How a run ended."""

    status: int
    verdict: Verdict | None = None
    error: str | None = None


def main() -> None:
    """Read the arguments, run, and end with the exit status that the help names."""
    arguments = read_arguments()
    try:
        with data_directory(arguments.directory) as directory:
            sys.exit(trio.run(run, arguments, directory))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


async def run(arguments: argparse.Namespace, directory: Path) -> int:
    """Start the nodes, carry out the script or the live view, report; then every child is dead."""
    live = can_show_live(arguments)
    feed = Feed(show=(lambda _line: None) if live else print_line)
    result = Result(status=INTERRUPTED, error="interrupted")
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with trio.open_nursery() as children:
            cluster = Cluster(
                children,
                feed,
                directory,
                size=arguments.nodes,
                heartbeat_timeout=arguments.heartbeat_timeout,
                patience=arguments.patience,
            )
            writes = Writes(cluster, writers=arguments.writers)
            writes.on_failover_ended = lambda failover: children.start_soon(report_failover, cluster, writes, failover)
            with trio.CancelScope() as work:
                children.start_soon(cancel_on_signal, signals, work)
                result = await start_and_work(arguments, cluster, writes, directory, live=live)
            children.cancel_scope.cancel()
    report(arguments, cluster, writes, result, live=live)
    return result.status


async def start_and_work(
    arguments: argparse.Namespace, cluster: Cluster, writes: Writes, directory: Path, *, live: bool
) -> Result:
    """The run itself, its errors turned into a result."""
    try:
        cluster.feed.say(f"starting {arguments.nodes} nodes, data in {directory}")
        await cluster.start()
        if arguments.script is not None:
            # The first leader needs every node once; a script that stops one may begin only after that.
            await cluster.need_leader("start")
            verdict = await run_script(arguments.script, cluster, writes)
        else:
            verdict = await play(arguments, cluster, writes, live=live)
    except (OutOfPatience, DidNotStart) as error:
        return Result(status=OUT_OF_PATIENCE, error=str(error))
    except ScriptError as error:
        return Result(status=WRONG_INPUT, error=str(error))
    crashed = any(child.crashes for child in cluster.children.values())
    return Result(status=GOOD if verdict.good and not crashed else BAD, verdict=verdict)


async def play(arguments: argparse.Namespace, cluster: Cluster, writes: Writes, *, live: bool) -> Verdict:
    """A steady load, a view and keys, until the user quits or the time is up; then compare what is there."""
    async with trio.open_nursery() as view:
        view.start_soon(show, cluster, writes, live)
        async with trio.open_nursery() as load:
            load.start_soon(partial(writes.write_steadily, per_second=arguments.rate))
            with trio.move_on_after(arguments.seconds):
                await wait_for_quit(cluster, live)
            writes.finish()
            cluster.patience = min(cluster.patience, LAST_CHECK_SECONDS)
            load.cancel_scope.deadline = trio.current_time() + cluster.patience
        view.cancel_scope.cancel()
    if live:
        go_on_in_plain_lines(cluster.feed)
    return await verify(cluster, writes)


async def wait_for_quit(cluster: Cluster, live: bool) -> None:
    """Obey keys until the one that quits; without a live view there are none."""
    if not live:
        await trio.sleep_forever()
    with single_keys():
        await obey_keys(cluster)


async def show(cluster: Cluster, writes: Writes, live: bool) -> None:
    """The live view, or a line of figures now and then."""
    if live:
        from cluster_demo.live import show_live  # noqa: PLC0415  # rich is optional

        await show_live(cluster, writes)
    while True:
        await trio.sleep(PLAIN_FIGURES_SECONDS)
        leader, p99 = cluster.leader(), writes.recent_percentile(0.99)
        cluster.feed.say(
            f"{writes.recent_rate():.0f} writes/s, p99 {milliseconds(p99) or '–'} ms, "
            f"leader {leader.name if leader else 'unknown'}"
        )


async def report_failover(cluster: Cluster, writes: Writes, failover: Failover) -> None:
    """Say how a failover went, and whether the new leader has everything that was ever acknowledged."""
    leader = failover.leader
    if leader is None or failover.milliseconds is None:
        raise AssertionError("only a failover that has ended is reported")
    happened = describe_failover(failover, leader.name)
    try:
        lost = await count_lost(cluster, writes.ledger, leader)
    except NoAnswer as error:
        cluster.feed.say(f"{happened}; acknowledged writes not checked: {error}")
    else:
        cluster.feed.say(f"{happened}, {lost} acknowledged writes lost")


def describe_failover(failover: Failover, leader: str) -> str:
    """In words: who was stopped, who leads, and how long that took."""
    same = leader == failover.stopped
    if failover.leader_went_on:
        leads = f"{'it' if same else leader} goes on as leader of term {failover.term}"
    else:
        leads = f"{leader} leader {'again, ' if same else ''}of term {failover.term}"
    since = " with a majority" if failover.lacked_majority else ""
    return f"{failover.stopped} {failover.how} → {leads} after {failover.leader_milliseconds:.0f} ms{since}"


async def cancel_on_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    """Cancel at the first Ctrl-C, SIGTERM or SIGHUP."""
    async for _ in signals:
        scope.cancel()


def report(arguments: argparse.Namespace, cluster: Cluster, writes: Writes, result: Result, *, live: bool) -> None:
    """The last words: the end of the feed after a live view, the error, the figures or the JSON object."""
    if live and cluster.feed.show is not print_line:
        go_on_in_plain_lines(cluster.feed)
    if result.error:
        print(f"{Path(sys.argv[0]).name}: {result.error}", file=sys.stderr, flush=True)
    summary = summarize(arguments, cluster, writes, result)
    if arguments.json:
        print(json.dumps(summary), flush=True)
    else:
        shown = [f"{name} {value}" for name, value in summary.items() if isinstance(value, int | float)]
        print(fit_to_terminal(shown), flush=True)


def summarize(arguments: argparse.Namespace, cluster: Cluster, writes: Writes, result: Result) -> dict[str, object]:
    """The JSON object; the help describes it."""
    ledger, verdict = writes.ledger, result.verdict
    return {
        "acknowledged": ledger.count(Outcome.ACKNOWLEDGED),
        "unknown": ledger.count(Outcome.UNKNOWN),
        "refused": ledger.count(Outcome.REFUSED),
        "lost": verdict.lost if verdict else None,
        "phantom": verdict.phantom if verdict else None,
        "identical": verdict.identical if verdict else None,
        "failover_ms": [rounded(failover.milliseconds) for failover in writes.failovers],
        "nodes": arguments.nodes,
        "compared": verdict.compared if verdict else [],
        "not_compared": verdict.not_compared if verdict else sorted(cluster.children),
        "writes_per_second": rounded(writes.writes_per_second()),
        "p50_ms": milliseconds(writes.percentile(0.50)),
        "p99_ms": milliseconds(writes.percentile(0.99)),
        "elapsed_s": rounded(cluster.feed.elapsed()),
        "crashed": [child.name for child in cluster.children.values() if child.crashes],
        "error": result.error,
        "events": [{"at_s": rounded(line.at), "text": line.text} for line in cluster.feed.lines],
    }


def fit_to_terminal(items: list[str]) -> str:
    """The items in one line; on a terminal in as many as it takes, none broken in two."""
    if not sys.stdout.isatty():
        return ", ".join(items)
    lines = [""]
    for item in items:
        if len(lines[-1]) + len(item) + 2 > shutil.get_terminal_size().columns:
            lines.append("")
        lines[-1] += f"{item}, "
    return "\n".join(line.rstrip() for line in lines).rstrip(",")


def go_on_in_plain_lines(feed: Feed) -> None:
    """After a live view, which leaves nothing on the screen: the end of the feed, and whatever follows."""
    for line in list(feed.lines)[-LINES_AFTER_LIVE:]:
        print_line(line)
    feed.show = print_line


def print_line(line: FeedLine) -> None:
    """One line of the feed, when there is no live view."""
    print(f"{line.at:8.2f} s  {line.text}", flush=True)


def milliseconds(seconds: float | None) -> float | None:
    """Seconds in milliseconds, rounded."""
    return None if seconds is None else rounded(seconds * 1000)


def rounded(value: float | None) -> float | None:
    """Two digits after the point are enough for every figure here."""
    return None if value is None else round(value, 2)


def can_show_live(arguments: argparse.Namespace) -> bool:
    """Whether there is a terminal to draw on and to read keys from, and something to draw with."""
    if arguments.script is not None or arguments.json:
        return False
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    if importlib.util.find_spec("rich") is None:
        print("The live view needs rich: pip install 'trio_raft[demo]'. Going on with plain lines.")
        return False
    return True


@contextmanager
def data_directory(wanted: Path | None) -> Iterator[Path]:
    """A temporary directory that goes away at the end, or the one that was asked for, which stays."""
    if wanted is None:
        with tempfile.TemporaryDirectory(prefix="trio_raft-") as temporary:
            yield Path(temporary)
    else:
        yield wanted


def read_arguments() -> argparse.Namespace:
    """What the command line says; a wrong word ends with exit status 2 and a message that names it."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=3, metavar="N", help="how many, 1 to 9 (default: 3)")
    parser.add_argument("--script", metavar="'...'", help="carry out these verbs and end; see below")
    parser.add_argument("--json", action="store_true", help="plain lines, and the last is one JSON object")
    parser.add_argument(
        "--directory", type=Path, help="keep logs and data in this new directory (default: a temporary one)"
    )
    parser.add_argument(
        "--seconds",
        type=positive,
        metavar="S",
        help=f"without --script: end after so long (default: {SECONDS:g}, since every key is kept to be checked)",
    )
    parser.add_argument(
        "--rate", type=positive, metavar="R", help=f"without --script: writes per second (default: {RATE:g})"
    )
    parser.add_argument("--writers", type=int, default=16, metavar="N", help="writes at a time (default: 16)")
    parser.add_argument(
        "--patience", type=positive, default=30.0, metavar="S", help="give up after so long (default: 30)"
    )
    parser.add_argument(
        "--heartbeat-timeout",
        type=positive,
        default=1.0,
        metavar="S",
        help="a follower that hears nothing for so long seeks a new leader (default: 1.0, the library's)",
    )
    arguments = parser.parse_args()
    if not 1 <= arguments.nodes <= 9:
        parser.error(f"argument --nodes: must be from 1 to 9, not {arguments.nodes}")
    if not 1 <= arguments.writers <= 1024:
        parser.error(f"argument --writers: must be from 1 to 1024, not {arguments.writers}")
    if arguments.script is not None:
        if arguments.seconds is not None:
            parser.error("argument --seconds: not with --script, which ends with its last verb; see sleep S")
        if arguments.rate is not None:
            parser.error("argument --rate: not with --script, which writes as fast as it can; see --writers")
        try:
            names = [f"n{number}" for number in range(1, arguments.nodes + 1)]
            arguments.script = parse(arguments.script, names=names)
        except ScriptError as error:
            parser.error(f"argument --script: {error}")
    arguments.seconds = SECONDS if arguments.seconds is None else arguments.seconds
    arguments.rate = RATE if arguments.rate is None else arguments.rate
    if arguments.directory is not None:
        try:
            prepare_directory(arguments.directory)
        except OSError as error:
            parser.error(f"argument --directory: {error}")
    return arguments


def prepare_directory(directory: Path) -> None:
    """Make the directory. Raises OSError, also if it holds anything: an earlier run's keys are phantoms."""
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise OSError(f"{directory} is not empty; name a new directory")


def positive(word: str) -> float:
    """An argument that must be a positive, finite number."""
    number = float(word)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number, not {word}")
    return number


if __name__ == "__main__":
    main()
