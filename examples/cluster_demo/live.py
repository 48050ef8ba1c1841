"""The live view: one screen, drawn from what the nodes say about themselves.

It only looks: nothing here changes the cluster.
"""

import trio
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .child import Child, Condition, Receiving
from .cluster import Cluster
from .keys import KEYS, why_no_majority
from .writes import Outcome, Writes

FRAME_SECONDS = 0.1

BAR_WIDTH = 30
"""Characters."""

COLORS = {"leader": "bold green", "candidate": "yellow", "paused": "bold yellow", "stopped": "bold red"}


async def show_live(cluster: Cluster, writes: Writes) -> None:
    """Draw until cancelled."""
    console = Console()
    # Drawn by hand: rich's own refresh would need a thread.
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(_screen(console, cluster, writes), refresh=True)
            await trio.sleep(FRAME_SECONDS)


def _screen(console: Console, cluster: Cluster, writes: Writes) -> RenderableType:
    top: list[RenderableType] = [
        Text(f"trio_raft: {len(cluster.children)} nodes, real processes, sockets and disks", style="bold"),
        _nodes(cluster),
        _bars(cluster),
        _figures(writes),
        Text(why_no_majority(cluster), style="bold red"),
    ]
    keys = Columns([Text.assemble((key, "reverse"), f" {meaning}") for key, meaning in KEYS.items()], padding=(0, 2))
    taken = sum(len(console.render_lines(part)) for part in [*top, keys])
    return Group(*top, _feed(console, cluster, console.height - taken), keys)


def _nodes(cluster: Cluster) -> Table:
    table = Table(expand=True, box=None, header_style="dim", pad_edge=False, collapse_padding=True)
    table.add_column("node")
    table.add_column("is")
    for heading in ("term", "commit", "applied", "lag", "snapshot", "in log", "contact"):
        table.add_column(heading, justify="right")
    for child in cluster.children.values():
        table.add_row(*_row(cluster, child))
    return table


def _row(cluster: Cluster, child: Child) -> list[RenderableType]:
    leader = cluster.leader()
    if child.condition is not Condition.RUNNING or child.status is None:
        what = child.condition.value
    else:
        what = child.status.role
    cells: list[RenderableType] = [Text(child.name, style="bold"), Text(what, style=COLORS.get(what, ""))]
    status = child.status
    lag = leader.status.lags.get(child.name, 0) if leader and leader.status else None
    shown_lag = "–" if lag is None else f"{lag:,}"
    if status is None:
        return [*cells, "–", "–", "–", shown_lag, "–", "–", "–"]
    return [
        *cells,
        str(status.term),
        f"{status.commit_index:,}",
        f"{status.last_applied:,}",
        shown_lag,
        f"{status.snapshot_index:,}" if status.snapshot_index else "–",
        f"{status.last_index - status.first_index + 1:,}",
        _contact(leader, child),
    ]


def _bars(cluster: Cluster) -> Table:
    """How far those have come that are being brought up, by a snapshot or by entries."""
    table = Table.grid(padding=(0, 1))
    for child in cluster.running():
        status = child.status
        if status is None:
            continue
        if status.receiving is not None:
            bar = ProgressBar(status.receiving.total, status.receiving.done, width=BAR_WIDTH)
            table.add_row(child.name, f"snapshot {status.receiving.index:,}", bar, _transfer(status.receiving))
        elif status.restoring:
            table.add_row(child.name, f"snapshot {status.snapshot_index:,}", "", "is being restored")
        elif (target := cluster.catching_up.get(child.name, 0)) > status.last_applied:
            bar = ProgressBar(target, status.last_applied, width=BAR_WIDTH)
            table.add_row(child.name, f"entry {target:,}", bar, f"{100 * status.last_applied // target} %")
    return table


def _transfer(receiving: Receiving) -> str:
    left = "" if receiving.seconds_left is None else f", {receiving.seconds_left:.0f} s left"
    percent = 100 * receiving.done // receiving.total
    return f"{percent} %, {receiving.bytes_per_second / 1e6:.1f} MB/s{left}"


def _contact(leader: Child | None, child: Child) -> str:
    """How long ago the leader last had an answer from this node; a node that is silent shows for how long."""
    if child is leader:
        return "leads"
    silent = trio.current_time() - child.heard_at
    age = leader.status.contact_ages.get(child.name) if leader and leader.status else None
    if child.condition is Condition.PAUSED or age is None:
        return f"silent {silent:.1f} s"
    return f"{age * 1000:.0f} ms" if age < 1 else f"{age:.1f} s"


def _figures(writes: Writes) -> Text:
    p50, p99 = (writes.recent_percentile(fraction) for fraction in (0.5, 0.99))
    return Text.assemble(
        (f"{writes.recent_rate():,.0f}", "bold"),
        " writes/s   p50 ",
        (_milliseconds(p50), "bold"),
        "   p99 ",
        (_milliseconds(p99), "bold"),
        f"   acknowledged {writes.ledger.count(Outcome.ACKNOWLEDGED):,}",
        f"   unknown {writes.ledger.count(Outcome.UNKNOWN):,}",
    )


def _feed(console: Console, cluster: Cluster, height: int) -> Text:
    """As many of the newest lines as fit, the newest last."""
    shown: list[Text] = []
    for line in reversed(cluster.feed.lines):
        wrapped = Text(f"{line.at:5.1f} {line.text}").wrap(console, console.width)
        if len(shown) + len(wrapped) > height:
            break
        shown[:0] = wrapped
    shown += [Text()] * (height - len(shown))
    return Text("\n").join(shown)


def _milliseconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds * 1000:.1f} ms"
