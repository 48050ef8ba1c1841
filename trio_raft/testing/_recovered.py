"""A new life, compared with its disk, and its disk with what was durable before (E1, S1, S6).

House rule: the only place that looks at a whole log; it happens once in each life.
"""

from trio_raft._records import LogIndex
from trio_raft._snapshot_events import SnapshotIgnored
from trio_raft.testing._image import Image
from trio_raft.testing._watch import Watch


def check_recovered(watch: Watch, before: Image | None) -> None:
    """``before`` is the disk as it was last seen; None if there was none, or it was exchanged."""
    if before is not None:
        _check_disk(watch, before)
    state, image = watch.server.state, watch.image
    if (state.current_term, state.voted_for) != (image.term, image.voted_for):
        watch.fail(
            "Term and vote survive a restart (E1)",
            expected=f"what its disk holds: term {image.term}, vote for {image.voted_for or 'nobody'}",
            seen=f"term {state.current_term}, vote for {state.voted_for or 'nobody'}",
        )
    _check_log(watch)
    _check_snapshot(watch)
    _check_map(watch)


def _check_log(watch: Watch) -> None:
    """What the snapshot and the log on disk come to, as N1 says."""
    log, slots = watch.server.state.log, watch.slots
    if log.base_index > log.last_index or log.last_index != slots[-1].index:
        watch.fail(
            "The log survives a restart (S1, S6, N1)",
            expected=f"the entries on its disk, up to {slots[-1]}",
            seen=f"a log that begins at {log.first_index} and ends at {log.last_index}:{log.last_term}",
        )
        return
    terms = [slot.term for slot in slots[log.base_index :]]
    found = [log.term_at(LogIndex(index)) for index in range(log.base_index, log.last_index + 1)]
    if found != terms:
        watch.fail(
            "The log survives a restart (S1, S6, N1)",
            expected=f"the entries on its disk, up to {slots[-1]}, above {log.base_index} of terms {terms}",
            seen=f"a log that ends at {log.last_index}:{log.last_term}, with terms {found}",
        )
        return
    for index in range(log.memory_first, log.last_index + 1):
        entry = log.entry(LogIndex(index))
        if entry is None or entry.record != slots[index].record:
            watch.fail(
                "The log survives a restart (S1, S6)", expected=f"{slots[index]} as it was made", seen=f"{entry}"
            )


def _check_snapshot(watch: Watch) -> None:
    """Only a whole one counts; it is the newest; and what it covers is all that is known to be committed."""
    server, image = watch.server, watch.image
    newest = server.snapshots.newest
    found = (newest.point.index, newest.point.term) if newest is not None else (0, 0)
    if found != (image.snapshot.index, image.snapshot.term):
        watch.fail(
            "A start finds the newest snapshot that is whole (S7, N4)",
            expected=f"the snapshot up to {image.snapshot}, which is on its disk",
            seen=f"one up to {found[0]}:{found[1]}",
        )
    for name in image.damaged_snapshots:
        if not watch.explained(SnapshotIgnored(name, "damaged")):
            watch.fail(
                "What stands under a finished name is whole (S7)",
                expected="a snapshot that was synced before it got its name, on a disk that nobody tampered with",
                seen=f"{name} is not whole",
            )
    state = server.state
    if state.commit_index > max(image.snapshot.index, state.last_applied):
        watch.fail(
            "What is known to be committed at a start is what a snapshot covers (paper section 7)",
            expected=f"a commit index of {image.snapshot.index}",
            seen=f"{state.commit_index}",
        )


def _check_disk(watch: Watch, before: Image) -> None:
    """All that was durable still is, in the same order; one write more may have come through."""
    now, was = watch.image, before
    gone = max(now.first_write - was.first_write, 0)
    if now.first_write < was.first_write or now.history[: len(was.history) - gone] != was.history[gone:]:
        watch.fail(
            "What was durable survives a crash (S1, S4, S6)",
            expected=f"the writes {was.first_write} to {was.first_write + len(was.history) - 1} that were durable, but "
            f"for the oldest: {was.describe()}",
            seen=f"the writes {now.first_write} to {now.first_write + len(now.history) - 1}, not the same: "
            f"{now.describe()}",
        )
    if now.snapshot.index < was.snapshot.index and not now.damaged_snapshots:
        watch.fail(
            "A durable snapshot survives a crash (S7)",
            expected=f"the snapshot up to {was.snapshot}, or a newer one",
            seen=f"the newest on its disk goes up to {now.snapshot}",
        )


def _check_map(watch: Watch) -> None:
    saved, statement = watch.image.bootstrap, watch.server.first_start.statement()
    known = {watch.server.node_id: watch.image.incarnation} if saved is None else dict(saved.incarnations)
    if dict(statement.incarnations) != known or statement.done != (saved is not None and saved.done):
        watch.fail("The map of members survives a restart (O1)", expected=f"{saved or known}", seen=f"{statement}")
