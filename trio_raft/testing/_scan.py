"""The durability scan: what a power cut in this moment would leave is read from every disk, and compared.

The logs must be the same, hold nothing else where something was committed, and hold every write of which a client was
told.  What a log does not hold any more its member's newest snapshot must: so that is restored into a new machine, and
this machine compared with another new one that was given the committed commands up to there, one by one.  What a client
was told of is among these.

House rule: nothing is taken from a node's memory, and nothing on the disks is changed.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import attrs

from trio_raft._apply import restore_machine
from trio_raft._errors import LogCorrupt, RaftError, SnapshotCorrupt, error_text
from trio_raft._messages import Incarnation, ServerId
from trio_raft._records import Entry
from trio_raft.abc import Recovered, SnapshotPoint, SnapshotStore, StoredSnapshot, StoreIdentity
from trio_raft.testing._cluster import Cluster
from trio_raft.testing._disk import SimDisk
from trio_raft.testing._failures import InvariantViolation
from trio_raft.testing._judge import flip_explains
from trio_raft.testing._member import Member
from trio_raft.testing._states import Replay, has_equality, same_state, shown

WHOLE_LOG = 1 << 40
"""More bytes than any log has: read all of it."""

TELL_WHEN_EQUAL = "; if the two mean the same, give the machine's class an `__eq__` that says so"

CHECK = "Every disk holds what is committed (S1, S6, S8)"

AnyCluster = Cluster[Any, Any]
AnyMember = Member[Any, Any]


@attrs.frozen(kw_only=True)
class Remains:
    """What a start after a power cut would find on one disk."""

    log: Recovered
    snapshot: StoredSnapshot | None
    """The newest whole one."""
    store: SnapshotStore
    """That holds it."""


def scan(cluster: AnyCluster, ids: Sequence[str]) -> None:
    """Compare what these members' disks would leave.  Raises InvariantViolation.

    A disk on which a bit was flipped that nobody has read since has nothing to say.
    """
    found = {node_id: _read_disk(cluster, cluster.members[node_id]) for node_id in ids}
    remains = {node_id: each for node_id, each in found.items() if each is not None}
    _compare_logs(cluster, {node_id: each.log for node_id, each in remains.items()})
    for node_id, each in remains.items():
        _check_base(cluster, node_id, each)
        _check_acknowledged(cluster, node_id, each)
    _check_states(cluster, remains)


def _read_disk(cluster: AnyCluster, member: AnyMember) -> Remains | None:
    try:
        return _start_on_copy(member)
    except RaftError as error:
        if isinstance(error, LogCorrupt | SnapshotCorrupt) and flip_explains(member, error):
            return None
        problem = f"a start on the disk of {member.id} would fail, and no flipped bit explains it: {error}"
        raise InvariantViolation(cluster.seed, problem, check=CHECK) from error


def _start_on_copy(member: AnyMember) -> Remains:
    """Raises whatever a start would."""
    disk: SimDisk = member.disk.snapshot()
    store, snapshots = member.store(disk), member.snapshot_store(disk)
    identity = StoreIdentity(member.cluster_id, ServerId(member.id), Incarnation("scan"))
    found = snapshots.open(identity)
    for damage in found.damaged:
        if not flip_explains(member, damage):
            raise damage
    newest = found.newest.point if found.newest is not None else None
    try:
        recovered: Recovered = store.open(identity, memory_bytes=WHOLE_LOG, snapshot=newest)
    except LogCorrupt:
        if found.damaged:
            # The log may be whole, and only lack what that one held.
            raise found.damaged[0] from None
        raise
    store.close()
    return Remains(log=recovered, snapshot=found.newest, store=snapshots)


# ------------------------------------------------------------------------------------ logs


def _compare_logs(cluster: AnyCluster, logs: Mapping[str, Recovered]) -> None:
    ends = {node_id: log.last_index for node_id, log in logs.items()}
    if len(dict.fromkeys(ends.values())) > 1:
        _fail(cluster, f"the logs on disk do not end alike: {ends}")
    entries: dict[int, tuple[str, Entry]] = {}
    for node_id, log in logs.items():
        for entry in log.tail:
            first_id, first = entries.setdefault(entry.index, (node_id, entry))
            if first.record != entry.record:
                _fail(cluster, f"the disks of {first_id} and {node_id} differ: {first}, {entry}")
    committed = cluster.invariants.past.committed
    for index, (node_id, entry) in entries.items():
        if index < len(committed) and committed[index].record != entry.record:
            _fail(cluster, f"the disk of {node_id} holds {entry}, and what was committed there is another entry")


def _check_base(cluster: AnyCluster, node_id: str, remains: Remains) -> None:
    """What the log does not hold the snapshot does; and both speak of what is committed."""
    base, snapshot = remains.log.base, remains.snapshot
    covered = snapshot.point if snapshot is not None else SnapshotPoint(remains.log.base.index, remains.log.base.term)
    if snapshot is None and base.index:
        _fail(cluster, f"the log on the disk of {node_id} begins above {base.index}, and there is no snapshot")
    if base.index > covered.index:
        _fail(cluster, f"the log on the disk of {node_id} begins above {base.index}, its snapshot ends at {covered}")
    for what, point in (("log begins behind", base), ("snapshot ends with", covered)):
        committed = cluster.invariants.committed_term(point.index)
        if committed != point.term:
            _fail(
                cluster,
                f"the disk of {node_id}: its {what} entry {point.index} of term {point.term}, but committed there is "
                f"{f'one of term {committed}' if committed is not None else 'nothing'}",
            )


def _check_acknowledged(cluster: AnyCluster, node_id: str, remains: Remains) -> None:
    terms: Mapping[int, int] = {entry.index: entry.term for entry in remains.log.tail}
    base = remains.log.base.index
    for index, term in cluster.acknowledged:
        # What a snapshot covers is what was committed there: `_check_base` and `_check_states` hold it to that.
        found = cluster.invariants.committed_term(index) if index <= base else terms.get(index)
        if found != term:
            _fail(
                cluster,
                f"a client was told that its write at {index} of term {term} succeeded, but the disk of {node_id} has "
                f"{f'an entry of term {found}' if found is not None else 'nothing'} there",
            )


# ------------------------------------------------------------------------------------ states


def _check_states(cluster: AnyCluster, remains: Mapping[str, Remains]) -> None:
    """Each newest snapshot holds the state that the committed commands up to its last entry lead to."""
    found = [(each.snapshot, node_id, each.store) for node_id, each in remains.items() if each.snapshot is not None]
    if not found:
        return
    committed = cluster.invariants.past.committed
    reference = cluster.make_machine()
    if reference.applied_index() is not None or any(reference is machine for machine in cluster.machines.values()):
        # Its state is on a disk of its own, or it serves already: a new one is not an empty one.
        return
    replay = Replay(reference, committed)
    for snapshot, node_id, store in sorted(found, key=lambda each: (each[0].point.index, each[1])):
        restored = cluster.make_machine()
        if type(restored) is not type(reference) or snapshot.meta.state_version > restored.state_version:
            continue
        try:
            restore_machine(restored, store, snapshot)
            expected = replay.advance(snapshot.point.index)
            held = same_state(restored, expected)
            states = "" if held else f"restored {shown(restored)}, replayed {shown(expected)}"
        except Exception as error:
            reason = str(error) if isinstance(error, RaftError) else error_text(error)
            _fail(cluster, f"the snapshot {snapshot.point} of {node_id} could not be compared: {reason}")
        if not held:
            _fail(
                cluster,
                f"the snapshot on the disk of {node_id}, up to {snapshot.point}, does not hold the state that the "
                f"committed commands up to there lead to: {states}{'' if has_equality(restored) else TELL_WHEN_EQUAL}",
            )


def _fail(cluster: AnyCluster, problem: str) -> NoReturn:
    raise InvariantViolation(cluster.seed, problem, check=CHECK)
