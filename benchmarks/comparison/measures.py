"""What can be measured, and with what unless the command line says otherwise."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

import attrs

from . import elections, failover, idle, nodes, sizes, steady, submits, writes
from .interleaving import Plan, Results
from .systems import PEER_SYSTEMS, RAW_BYTES, SKELETON, SUBJECT, System
from .tables import Row, medians


def _as_measured(rows: list[Row], _subject: str) -> list[Row]:
    return rows


def _all_rows(rows: list[Row]) -> list[Row]:
    """Where a median would hide the row that matters."""
    return rows


@attrs.frozen(kw_only=True)
class Measure:
    """One kind of comparison."""

    summary: str
    measure: Callable[[Plan, Results], Awaitable[None]]
    summarise: Callable[[list[Row]], list[Row]]
    """From the rows of all rounds to those of the table."""
    columns: Mapping[str, str]
    systems: Sequence[System]
    callers: Sequence[int] = (1,)
    rounds: int = 4
    seconds: float = 2.0
    minutes: float = 10.0
    finish: Callable[[list[Row], str], list[Row]] = _as_measured
    """Adds what one row says about another, given the name of the subject."""


MEASURES = {
    "writes": Measure(
        summary="writes per second, latency, processor time for each number of callers",
        measure=writes.measure,
        summarise=partial(medians, keys=writes.KEYS),
        columns=writes.COLUMNS,
        systems=(SUBJECT, SKELETON, *PEER_SYSTEMS),
        callers=(1, 16, 64, 256, 1024),
        finish=writes.finish,
    ),
    "submit": Measure(
        summary="commands per second of one task that calls submit_nowait, --callers of them in flight",
        measure=submits.measure,
        summarise=partial(medians, keys=submits.KEYS),
        columns=submits.COLUMNS,
        systems=(SUBJECT,),
        callers=(4096,),
    ),
    "sizes": Measure(
        summary="64 KiB and 1 MiB commands, against the same bytes without Raft",
        measure=sizes.measure,
        summarise=partial(medians, keys=sizes.KEYS),
        columns=sizes.COLUMNS,
        systems=(SUBJECT, RAW_BYTES),
        callers=(16,),
        finish=sizes.finish,
    ),
    "nodes": Measure(
        summary="processor time of the leader per command with 3, 5 and 7 nodes",
        measure=nodes.measure,
        summarise=partial(medians, keys=nodes.KEYS),
        columns=nodes.COLUMNS,
        systems=(SUBJECT, SKELETON),
        callers=(64,),
        finish=nodes.finish,
    ),
    "failover": Measure(
        summary="from SIGKILL of the leader to the next accepted write; each round is a trial",
        measure=failover.measure,
        summarise=failover.summarise,
        columns=failover.COLUMNS,
        systems=(SUBJECT, *PEER_SYSTEMS),
        rounds=10,
    ),
    "idle": Measure(
        summary="processor time of a quiet cluster",
        measure=idle.measure,
        summarise=partial(medians, keys=idle.KEYS),
        columns=idle.COLUMNS,
        systems=(SUBJECT, *PEER_SYSTEMS),
        rounds=1,
        seconds=10.0,
    ),
    "elections": Measure(
        summary="elections in --minutes of full load on all cores, when nothing fails",
        measure=elections.measure,
        summarise=_all_rows,
        columns=elections.COLUMNS,
        systems=(SUBJECT,),
        callers=(256,),
        rounds=1,
    ),
    "steady": Measure(
        summary="latency and memory minute by minute, --rate commands a second for --minutes",
        measure=steady.measure,
        summarise=_all_rows,
        columns=steady.COLUMNS,
        systems=(SUBJECT,),
        rounds=1,
        minutes=56.0,
        finish=steady.finish,
    ),
}
