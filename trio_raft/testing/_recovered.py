"""A new life, compared with its disk, and its disk with what was durable before (E1, S1, S6).

House rule: the only place that looks at a whole log; it happens once in each life.
"""

from trio_raft._records import LogIndex
from trio_raft.testing._past import Image
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
    log = state.log
    terms = [slot.term for slot in watch.slots[1:]]
    found = [log.term_at(LogIndex(index)) for index in range(1, log.last_index + 1)]
    if found != terms:
        watch.fail(
            "The log survives a restart (S1, S6)",
            expected=f"the entries on its disk, up to {watch.slots[-1]}",
            seen=f"a log that ends at {log.last_index}:{log.last_term}, or has other terms: {found}",
        )
        return
    for index in range(log.memory_first, log.last_index + 1):
        entry = log.entry(LogIndex(index))
        if entry is None or entry.record != watch.slots[index].record:
            watch.fail(
                "The log survives a restart (S1, S6)", expected=f"{watch.slots[index]} as it was made", seen=f"{entry}"
            )
    _check_map(watch)


def _check_disk(watch: Watch, before: Image) -> None:
    """All that was durable still is, in the same order; one write more may have come through."""
    count = len(before.history)
    if watch.image.history[:count] != before.history:
        watch.fail(
            "What was durable survives a crash (S1, S4, S6)",
            expected=f"the {count} writes that were durable, the log up to {before.slots[-1]}",
            seen=f"{len(watch.image.history)} writes, not the same at the start; the log ends at "
            f"{watch.image.slots[-1]}",
        )


def _check_map(watch: Watch) -> None:
    saved, statement = watch.image.bootstrap, watch.server.first_start.statement()
    known = {watch.server.node_id: watch.image.incarnation} if saved is None else dict(saved.incarnations)
    if dict(statement.incarnations) != known or statement.done != (saved is not None and saved.done):
        watch.fail("The map of members survives a restart (O1)", expected=f"{saved or known}", seen=f"{statement}")
