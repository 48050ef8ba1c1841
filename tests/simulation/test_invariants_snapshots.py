"""The invariants of snapshots: each is shown a made-up violation, and an install that is right is left alone."""

from collections.abc import Callable

import attrs
import pytest

from tests.simulation.stage import N1, N2, N3, Stage, set_stage
from tests.tasks.parts import make_config
from trio_raft._messages import InstallSnapshot, InstallSnapshotReply, SnapshotStatus
from trio_raft._records import LogIndex, Term
from trio_raft.abc import SavedState, SnapshotConfiguration, SnapshotMeta, SnapshotPoint, StoredSnapshot
from trio_raft.testing._watch_snapshots import INSTALLS_IN_A_ROW

POINT = SnapshotPoint(LogIndex(3), Term(1))
"""The last entry that is committed on the stage."""

SIZE = 100


def snapshot_up_to(index: int, term: int = 1) -> StoredSnapshot:
    configuration = SnapshotConfiguration(LogIndex(0), (N1, N2, N3), (), {})
    point = SnapshotPoint(LogIndex(index), Term(term))
    meta = SnapshotMeta(make_config(N1).cluster_id, point, configuration, 1)
    return StoredSnapshot(meta, SIZE, "ab", "the snapshot")


async def set_stage_with_commands() -> Stage:
    """n1 leads term 1; its no-op and two commands are committed, and n3 has nothing of them."""
    stage = await set_stage()
    stage.settle_in()
    for _ in range(2):
        stage[N1].submit_nowait(b"a command")
    stage.sync(N1)
    stage.replicate(N1, N2)
    return stage


def receive(stage: Stage, index: int = POINT.index) -> None:
    """A snapshot is durable at n3, to which the leader has offered it."""
    stage.disks[N3].snapshot = SnapshotPoint(LogIndex(index), Term(1))
    stage.invariants.watch_send(N1, offer(index), N3)


def offer(index: int) -> InstallSnapshot:
    return InstallSnapshot(Term(1), N1, "t", LogIndex(index), Term(1), "ab", SIZE, 0, b"")


def installed() -> InstallSnapshotReply:
    return InstallSnapshotReply(Term(1), SnapshotStatus.INSTALLED, SIZE)


def restore(stage: Stage, index: int, digest: str | None = None) -> None:
    state = SavedState(LogIndex(index), Term(1), 1, iter(()))
    stage.invariants._checks[N3].snapshots.restored(state, digest)


async def test_install_is_left_alone() -> None:
    """A snapshot that is durable, installed, marked, acknowledged and restored, breaks nothing (N8, S7)."""
    stage = await set_stage_with_commands()
    receive(stage)
    stage[N3].accept_leader(Term(1), N1)
    stage[N3].snapshots.install(snapshot_up_to(3))
    stage.sync(N3)
    stage.invariants.watch_send(N3, installed())
    restore(stage, 3)
    stage[N3].note_restored(LogIndex(3))
    stage[N1].matches[N3] = LogIndex(3)
    stage[N1].advance_commit()
    stage.invariants.sweep()
    assert stage[N3].state.log.base_index == 3
    assert stage.violation == ""


async def test_log_that_begins_with_a_later_segment_is_left_alone() -> None:
    """Of a log that was cut the disk may keep any part, as long as a snapshot covers the rest (S6, S7)."""
    stage = await set_stage_with_commands()
    stage.disks[N1].snapshot = POINT
    for entry in range(1, 4):
        stage.give(N1, stage.entry(N1, entry)) if entry > 1 else None
    stage[N1].note_applied(LogIndex(3))
    stage[N1].snapshots.note_taken(snapshot_up_to(3), 0.1)
    stage[N1].state.log.compact(LogIndex(2))
    stage[N1].journal.compact(LogIndex(2))
    stage.sync(N1)
    assert stage.violation == ""


# ---------------------------------------------------------------------------------------------- the violations

Deed = Callable[[Stage], object]


def cut_without_snapshot(stage: Stage) -> None:
    stage[N1].journal.compact(LogIndex(1))


def segments_gone_without_snapshot(stage: Stage) -> None:
    stage.disks[N1].cut_up_to = 2
    stage.sync(N1)


def snapshot_of_what_is_not_committed(stage: Stage) -> None:
    stage.disks[N1].snapshot = SnapshotPoint(LogIndex(4), Term(1))
    stage.sync(N1)


def snapshot_that_vanishes(stage: Stage) -> None:
    stage.disks[N1].snapshot = POINT
    stage.sync(N1)
    stage.disks[N1].snapshot = SnapshotPoint(LogIndex(2), Term(1))
    stage.sync(N1)


def taken_and_not_durable(stage: Stage) -> None:
    stage[N1].snapshots.note_taken(snapshot_up_to(3), 0.1)


def taken_with_a_later_configuration(stage: Stage) -> None:
    stage.disks[N1].snapshot = POINT
    taken = snapshot_up_to(3)
    configuration = attrs.evolve(taken.meta.configuration, index=LogIndex(4))
    stage[N1].snapshots.note_taken(attrs.evolve(taken, meta=attrs.evolve(taken.meta, configuration=configuration)), 0.1)


def install_of_what_is_not_whole(stage: Stage) -> None:
    receive(stage)
    stage.disks[N3].damaged_snapshots.append("snapshot-3")
    stage[N3].snapshots.install(snapshot_up_to(3))


def install_before_it_is_durable(stage: Stage) -> None:
    stage[N3].snapshots.install(snapshot_up_to(3))


def install_at_commit(stage: Stage) -> None:
    stage.disks[N2].snapshot = POINT
    stage[N2].journal.save_snapshot(SnapshotPoint(LogIndex(1), Term(1)), keep=True)


def install_keeps_what_is_not_there(stage: Stage) -> None:
    receive(stage)
    stage[N3].journal.save_snapshot(POINT, keep=True)


def install_changes_memory_alone(stage: Stage) -> None:
    receive(stage)
    stage[N3].journal.save_snapshot = lambda *_, **__: 0  # type: ignore[method-assign]
    stage[N3].snapshots.install(snapshot_up_to(3))


def installed_before_the_marker(stage: Stage) -> None:
    receive(stage)
    stage[N3].snapshots.install(snapshot_up_to(3))
    stage.invariants.watch_send(N3, installed())


def installed_without_an_offer(stage: Stage) -> None:
    stage.invariants.watch_send(N3, installed())


def restore_of_a_foreign_state(stage: Stage) -> None:
    receive(stage)
    stage[N3].snapshots.install(snapshot_up_to(3))
    restore(stage, 3, digest="of nobody's state")


def restore_backwards(stage: Stage) -> None:
    receive(stage)
    stage[N3].snapshots.install(snapshot_up_to(3))
    restore(stage, 3)
    restore(stage, 2)


def restore_skipped(stage: Stage) -> None:
    receive(stage)
    stage[N3].snapshots.install(snapshot_up_to(3))
    stage[N3].note_restored(LogIndex(3))


def base_of_another_term(stage: Stage) -> None:
    receive(stage)
    stage[N3].snapshots.install(snapshot_up_to(3))
    stage[N3].state.log.base_term = Term(0)
    stage.invariants.sweep()


def installs_for_ever(stage: Stage) -> None:
    for index in range(4, 5 + INSTALLS_IN_A_ROW):
        stage[N1].submit_nowait(b"a command")
        stage.sync(N1)
        stage.replicate(N1, N2)
        receive(stage, index)
        stage[N3].snapshots.install(snapshot_up_to(index))
        stage.sync(N3)
        restore(stage, index)
        stage[N3].note_restored(LogIndex(index))


DEEDS: list[tuple[Deed, str]] = [
    (cut_without_snapshot, "A snapshot is durable before the log is cut (S7, N8)"),
    (segments_gone_without_snapshot, "A snapshot is durable before the log is cut (S6, S7)"),
    (snapshot_of_what_is_not_committed, "A snapshot holds what is committed"),
    (snapshot_that_vanishes, "The newest snapshot only moves forward"),
    (taken_and_not_durable, "A snapshot is durable before it is counted on"),
    (taken_with_a_later_configuration, "A snapshot names the configuration at its last entry (N6)"),
    (install_of_what_is_not_whole, "What was received is whole, or it is not installed (N5)"),
    (install_before_it_is_durable, "A snapshot is durable before it is installed"),
    (install_at_commit, "A snapshot at or below the commit index changes nothing (N2)"),
    (install_keeps_what_is_not_there, "and nothing else does (N1)"),
    (install_changes_memory_alone, "Memory and journal change in one step (S5, N8)"),
    (installed_before_the_marker, "Nothing leaves before what it implies is durable (N8)"),
    (installed_without_an_offer, "INSTALLED answers an offer (N5)"),
    (restore_of_a_foreign_state, "A snapshot holds the state after its last entry"),
    (restore_backwards, "A restore moves forward, to what is committed (N3)"),
    (restore_skipped, "What counts as applied, the state machine was given or restored to"),
    (base_of_another_term, "The term of the log's base is known (R9)"),
    (installs_for_ever, "A follower that has installed a snapshot goes on from the log (N7)"),
]


@pytest.mark.parametrize(("deed", "rule"), DEEDS, ids=[deed.__name__ for deed, _ in DEEDS])
async def test_violation_is_found(deed: Deed, rule: str) -> None:
    """What breaks a rule of snapshots is found, and named (N1, N2, N3, N5, N6, N7, N8, R9, S7)."""
    stage = await set_stage_with_commands()
    stage[N3].accept_leader(Term(1), N1)
    stage.sync(N3)
    assert stage.violation == ""
    deed(stage)
    assert rule in stage.violation
