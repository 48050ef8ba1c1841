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

from cluster_demo.arguments import read_arguments
from cluster_demo.child import DidNotStart, NoAnswer
from cluster_demo.cluster import Cluster, Feed, FeedLine, OutOfPatience
from cluster_demo.keys import obey_keys, single_keys
from cluster_demo.script import ScriptError, run_script, verify
from cluster_demo.verdict import Verdict, count_lost
from cluster_demo.writes import Failover, Outcome, Writes

PLAIN_FIGURES_SECONDS = 2.0
"""Between two lines of figures when the output is no terminal."""

LAST_CHECK_SECONDS = 5.0
"""Whoever quits the live view waits no longer than this for the comparison, which needs a majority."""

LINES_AFTER_LIVE = 10

GOOD, BAD, WRONG_INPUT, OUT_OF_PATIENCE, INTERRUPTED = 0, 1, 2, 3, 130


@attrs.frozen(kw_only=True)
class Result:
    """How a run ended."""

    status: int
    verdict: Verdict | None = None
    error: str | None = None


def main() -> None:
    """Read the arguments, run, and end with the exit status that the help names."""
    arguments = read_arguments(__doc__ or "")
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
                node_options=[
                    f"--heartbeat-timeout={arguments.heartbeat_timeout}",
                    f"--snapshot-threshold={arguments.snapshot_threshold}",
                    f"--trailing={arguments.trailing}",
                ],
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
    counts = [child.snapshots() for child in cluster.children.values()]
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
        "snapshots_taken": sum(taken for taken, _ in counts),
        "snapshots_installed": sum(installed for _, installed in counts),
        "first_index": verdict.first_index if verdict else {},
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


if __name__ == "__main__":
    main()
