"""Compares what was acknowledged with what the replicas hold.

* lost: acknowledged, but absent from a replica;
* phantom: present without reason: never attempted, refused, under another value, or applied twice;
* identical: the replicas hold exactly the same, log indices included.

``judge`` is a pure function of the ledger and the dumps; ``collect_dumps`` gets those from the nodes that
run.
"""

from collections.abc import Mapping

import attrs
import trio

from .child import Child, NoAnswer
from .cluster import Cluster
from .writes import Ledger, Outcome

EXAMPLES = 5
"""So many lost and phantom keys are named; all are counted."""

RETRY_SECONDS = 0.05
"""Between two attempts to find all replicas at the same place."""


@attrs.frozen
class Dump:
    """Everything that one replica held when it had applied the log up to ``applied``."""

    applied: int
    entries: Mapping[str, tuple[str, tuple[int, ...]]]
    """Key → its value, and the log indices at which it was applied."""
    first_index: int = 1
    """Of its log: what was before that, it has from a snapshot."""


@attrs.frozen(kw_only=True)
class Verdict:
    """What a comparison found."""

    compared: list[str]
    not_compared: list[str]
    """Nodes that were stopped or paused."""
    first_index: dict[str, int]
    """Where the log of each compared node begins."""
    lost: int
    phantom: int
    identical: bool
    unknown_applied: int
    """Attempts of unknown outcome that did get into the log. That is allowed."""
    examples: list[str]
    """The first lost and phantom keys, in words."""

    @property
    def good(self) -> bool:
        """Nothing lost, no phantom, all the same."""
        return self.lost == 0 and self.phantom == 0 and self.identical


def judge(ledger: Ledger, dumps: Mapping[str, Dump], *, not_compared: list[str]) -> Verdict:
    """Compare the replicas with the ledger and with each other. No attempt may be open any more."""
    acknowledged = {ledger.key(number) for number in ledger.numbers(Outcome.ACKNOWLEDGED)}
    lost: dict[str, str] = {}
    phantom: dict[str, str] = {}
    for name, dump in dumps.items():
        for key in sorted(acknowledged - dump.entries.keys()):
            lost.setdefault(key, f"{key} was acknowledged, but {name} does not have it")
        for key, (value, indices) in dump.entries.items():
            problem = _why_phantom(ledger, key, value, indices)
            if problem:
                phantom.setdefault(key, f"{key} on {name}: {problem}")
    contents = [dump.entries for dump in dumps.values()]
    present = {key for entries in contents for key in entries}
    return Verdict(
        compared=sorted(dumps),
        not_compared=not_compared,
        first_index={name: dump.first_index for name, dump in dumps.items()},
        lost=len(lost),
        phantom=len(phantom),
        identical=bool(contents) and all(entries == contents[0] for entries in contents),
        unknown_applied=sum(ledger.outcome_of(key) is Outcome.UNKNOWN for key in present),
        examples=[*lost.values()][:EXAMPLES] + [*phantom.values()][:EXAMPLES],
    )


async def collect_dumps(cluster: Cluster) -> dict[str, Dump]:
    """Dumps of all running nodes, taken at one and the same log index. Raises OutOfPatience."""
    problem = "no leader"
    with trio.move_on_after(cluster.patience):
        while True:
            leader = await cluster.wait_leader()
            try:
                dumps = await _dump_all(cluster, leader)
            except NoAnswer as error:
                problem = str(error)
            else:
                if len({dump.applied for dump in dumps.values()}) == 1:
                    return dumps
                places = ", ".join(f"{name} at {dump.applied}" for name, dump in dumps.items())
                problem = f"the replicas are not at the same place: {places}"
            await trio.sleep(RETRY_SECONDS)
    raise cluster.out_of_patience(f"verify: no comparison ({problem})")


async def count_lost(cluster: Cluster, ledger: Ledger, leader: Child) -> int:
    """How many of the writes acknowledged so far this leader does not have. Raises NoAnswer."""
    acknowledged = [ledger.key(number) for number in ledger.numbers(Outcome.ACKNOWLEDGED)]
    await _ask(leader, "barrier", patience=cluster.patience)
    dump = await _dump(leader, patience=cluster.patience)
    return sum(key not in dump.entries for key in acknowledged)


async def _dump_all(cluster: Cluster, leader: Child) -> dict[str, Dump]:
    """Let every running node reach what the leader has committed, then dump them all. Raises NoAnswer."""
    reached = await _ask(leader, "barrier", patience=cluster.patience)
    running = cluster.running()
    dumps: dict[str, Dump] = {}
    problems: list[NoAnswer] = []

    async def catch_up_and_dump(child: Child) -> None:
        try:
            await _ask(child, "wait_applied", index=reached["applied"], patience=cluster.patience)
            dumps[child.name] = await _dump(child, patience=cluster.patience)
        except NoAnswer as error:
            problems.append(error)

    async with trio.open_nursery() as nursery:
        for child in running:
            nursery.start_soon(catch_up_and_dump, child)
    if problems:
        raise problems[0]
    return dict(sorted(dumps.items()))


async def _dump(child: Child, *, patience: float) -> Dump:
    answer, rows = await child.ask({"do": "dump"}, patience=patience)
    if "applied" not in answer:
        raise NoAnswer(f"{child.name}: {answer.get('error')}")
    entries = {key: (value, tuple(indices)) for key, value, indices in rows}
    return Dump(answer["applied"], entries, answer["first_index"])


async def _ask(child: Child, what: str, *, patience: float, **details: object) -> dict[str, int]:
    answer, _ = await child.ask({"do": what, **details}, patience=patience)
    if "error" in answer:
        raise NoAnswer(f"{child.name}: {answer['error']}")
    return answer


def _why_phantom(ledger: Ledger, key: str, value: str, indices: tuple[int, ...]) -> str:
    """What is wrong with a key that a replica holds; empty if nothing is."""
    outcome = ledger.outcome_of(key)
    if outcome is None:
        return "it was never attempted"
    if outcome is Outcome.REFUSED:
        return "the node had said that it never entered the log"
    if value != ledger.value(key):
        return f"it holds {value!r}, which was never written"
    if len(indices) != 1:
        return f"it was applied {len(indices)} times, at {', '.join(map(str, indices))}"
    return ""
