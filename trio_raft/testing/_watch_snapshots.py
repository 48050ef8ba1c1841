"""The snapshots of one server, watched: what is taken, installed, restored, and what of the log is cut for it.

What holds at any time: the log begins at or below the newest snapshot, and at or below what was applied, but for a
restore that is due; neither snapshot nor applied is above commit, nor that above the last entry.

House rule: that a snapshot is there is what the disk says; that its state is the right one is what the machines say
that were given the same commands.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from trio_raft._records import EntryKind
from trio_raft._snapshot_events import SnapshotIgnored
from trio_raft.abc import SavedState, SnapshotPoint, StoredSnapshot
from trio_raft.testing._past import CapturedState, Slot
from trio_raft.testing._watch import Watch

INSTALLS_IN_A_ROW = 4
"""A follower that has installed so many in one term, and taken nothing from the log in between, is not caught up by
them: the log is cut away from under it each time (N7)."""


class SnapshotChecks:
    """Durable first, then cut; and never a state that nobody had."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._server = watch.server
        self._state = watch.server.state
        self._past = watch.past
        self._fail = watch.fail
        self._note = watch.note
        self._installs = (0, 0)
        """Installs in a row: in this term, so many."""

    # ------------------------------------------------------------------------------------ installing

    def after_save_snapshot(self, _: int, point: SnapshotPoint, *, keep: bool) -> None:
        """A snapshot from a leader takes the place of the log in memory, and will on disk."""
        watch = self._watch
        slot = self._past.covered(watch.id, point.index, point.term)
        if slot is None:
            return
        if point.index <= watch.commit_index:
            self._fail(
                "A snapshot at or below the commit index changes nothing (N2)",
                expected=f"no install of {slot}: the commit index is {watch.commit_index}",
                seen=f"the log ends at {self._state.log.last_index} now",
            )
        if keep != watch.holds(slot):
            stands = watch.slots[slot.index] if slot.index < len(watch.slots) else "nothing"
            self._fail(
                "An equal entry at a snapshot's last index keeps what follows it, and nothing else does (N1)",
                expected=f"the log {'stays' if watch.holds(slot) else 'goes'}: it has {stands} where the snapshot has "
                f"{slot}",
                seen=f"it {'stays' if keep else 'goes'}",
            )
        if not keep:
            watch.slots = self._past.committed[: slot.index + 1]
        watch.commit_index = max(watch.commit_index, slot.index)
        self._note(f"installs the snapshot up to {slot}, {'keeping' if keep else 'discarding'} its log")
        self._check_whole()
        self._check_durable(slot.index, "it is installed")
        self._count_installs(slot)

    def _check_whole(self) -> None:
        """A transfer is checked before its bytes have a name."""
        self._watch.image.refresh()
        for name in self._watch.image.damaged_snapshots:
            if not self._watch.explained(SnapshotIgnored(name, "damaged")):
                self._fail(
                    "What was received is whole, or it is not installed (N5)",
                    expected="bytes of one snapshot under each finished name",
                    seen=f"{name} is not whole",
                )

    def _count_installs(self, slot: Slot) -> None:
        term, count = self._installs
        in_a_row = term == self._state.current_term and not self._watch.took_entries
        count = count + 1 if in_a_row else 1
        self._watch.took_entries = False
        self._installs = self._state.current_term, count
        if count > INSTALLS_IN_A_ROW:
            self._fail(
                "A follower that has installed a snapshot goes on from the log (N7)",
                expected=f"at most {INSTALLS_IN_A_ROW} installs in one term without an entry in between",
                seen=f"{count}, the last up to {slot}",
            )

    def after_install(self, _: None, snapshot: StoredSnapshot) -> None:
        """Whatever became of it: memory is as the disk was told."""
        state, last = self._state, self._watch.slots[-1]
        log = state.log
        terms = [log.term_at(index) for index in range(log.base_index, log.last_index + 1)]  # type: ignore[arg-type]
        if terms != [slot.term for slot in self._watch.slots[log.base_index :]] or log.last_index != last.index:
            self._fail(
                "Memory and journal change in one step (S5, N8)",
                expected=f"a log that ends at {last}, after the snapshot up to {snapshot.point.index} was installed",
                seen=f"{log}",
            )
        if state.commit_index != self._watch.commit_index:
            self._fail(
                "What a snapshot covers is committed, and no more (paper section 7, N8)",
                expected=f"a commit index of {self._watch.commit_index}",
                seen=f"{state.commit_index}",
            )
        self._watch.check_configuration()
        self._watch.check_durable_index()
        self.check_chain()

    # ------------------------------------------------------------------------------------ taking, cutting

    def after_note_taken(self, _: None, snapshot: StoredSnapshot, __: float) -> None:
        """A snapshot of its own is there."""
        point = snapshot.point
        slot = self._past.covered(self._watch.id, point.index, point.term)
        if slot is not None:
            self._note(f"has taken a snapshot up to {slot}")
            if snapshot.meta.configuration.index != slot.configuration_index:
                self._fail(
                    "A snapshot names the configuration at its last entry (N6)",
                    expected=f"for {slot} that of index {slot.configuration_index}, whatever the log holds behind it",
                    seen=f"{snapshot.meta.configuration}",
                )
            self._check_durable(slot.index, "it is counted on")
            self.check_chain()

    def after_compact(self, _: int, up_to: int) -> None:
        """The log in memory was cut, and that on disk will be."""
        self._note(f"cuts its log up to {up_to}")
        self._check_durable(up_to, "the log is cut")
        self.check_chain()

    def _check_durable(self, index: int, before: str) -> None:
        self._watch.image.refresh()
        if self._watch.image.snapshot.index < index:
            self._fail(
                f"A snapshot is durable before {before} (S7, N8)",
                expected=f"on its disk a whole snapshot up to {index}",
                seen=f"the newest one goes up to {self._watch.image.snapshot}",
            )

    def check_chain(self) -> None:
        """Base of the log ≤ snapshot and applied ≤ commit ≤ last."""
        watch, state, snapshots = self._watch, self._state, self._server.snapshots
        log = state.log
        newest: int = snapshots.newest.point.index if snapshots.newest else 0
        reached: int = snapshots.restore_index if snapshots.restore_due else state.last_applied
        if not log.base_index <= min(newest, reached) or not (
            max(newest, state.last_applied) <= state.commit_index <= log.last_index
        ):
            self._fail(
                "The log begins below snapshot and applied; both are committed, and that is in the log (S7, S11)",
                expected="base ≤ snapshot, applied ≤ commit ≤ last; applied may be behind while a restore is due",
                seen=f"base {log.base_index}, snapshot {newest}, applied {state.last_applied}, to be restored up to "
                f"{snapshots.restore_index}, commit {state.commit_index}, last {log.last_index}",
            )
        if log.base_index > log.last_index or log.base_term != watch.slots[log.base_index].term:
            self._fail(
                "The term of the log's base is known (R9)",
                expected=f"{watch.slots[min(log.base_index, len(watch.slots) - 1)]}",
                seen=f"{log.base_index}:{log.base_term}",
            )

    # ------------------------------------------------------------------------------------ the state itself

    def capture(self, machine: type, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """A state machine of this class gives its state: remember it, once all pieces were taken."""
        command = self._last_command(self._watch.last_given)
        self._note(f"captures its state, as of the command at {command}")
        return self._remember(machine, pieces, command)

    def _remember(self, machine: type, pieces: Iterable[bytes], command: int) -> Iterator[bytes]:
        digest, kept = hashlib.sha256(), list[bytes]()
        for piece in pieces:
            if isinstance(piece, bytes):
                digest.update(piece)
                kept.append(piece)
            yield piece
        captured = CapturedState(machine, b"".join(kept))
        first = self._past.note_captured(command, digest.hexdigest(), captured)
        if first is not None:
            self._watch.run(self._compare, command, first, captured)

    def _compare(self, command: int, first: CapturedState, captured: CapturedState) -> None:
        slot = self._past.committed[command]
        difference = self._watch.difference(slot, first, captured)
        if difference:
            self._fail(
                "The same commands lead to the same state (State Machine Safety, paper 5.4.3)",
                expected=f"after the command at {slot} the state that another member had then; if the two mean the "
                f"same, give the machine's class an __eq__ that says so",
                seen=difference,
            )

    def restored(self, state: SavedState, digest: str | None) -> None:
        """The state machine was given a whole state; ``digest`` of its pieces, if it took all."""
        watch = self._watch
        self._note(f"is restored to {state.index}:{state.term}")
        slot = self._past.covered(watch.id, state.index, state.term)
        if slot is None:
            return
        if slot.index <= watch.last_given or slot.index > watch.commit_index:
            self._fail(
                "A restore moves forward, to what is committed (N3)",
                expected=f"an index above {watch.last_given} and up to {watch.commit_index}",
                seen=f"a restore to {slot}",
            )
        command = self._last_command(slot.index)
        if digest is not None and digest not in self._past.captured.get(command, {}):
            known = ", ".join(str(index) for index, digests in self._past.captured.items() if digest in digests)
            self._fail(
                "A snapshot holds the state after its last entry (State Machine Safety, paper 5.4.3, S8)",
                expected=f"for {slot}, a state that some server had when the command at {command} was its last",
                seen=f"a state that was captured {f'after {known}' if known else 'nowhere'}",
            )
        watch.last_given = slot.index

    def _last_command(self, index: int) -> int:
        """The last command up to there."""
        slot: Slot | None = self._past.committed[index]
        while slot is not None and slot.index and slot.kind is not EntryKind.COMMAND:
            slot = slot.previous
        return slot.index if slot is not None else 0


@attrs.define
class Hashed:
    """The pieces of a state on their way into a machine."""

    pieces: Iterator[bytes]
    _hash: Any = attrs.field(factory=hashlib.sha256)
    digest: str | None = None
    """Known once all of them were taken."""

    def __iter__(self) -> Iterator[bytes]:
        for piece in self.pieces:
            self._hash.update(piece)
            yield piece
        self.digest = self._hash.hexdigest()
