"""What one server believes to be durable, committed and applied, watched.

House rule: durable is what the disk holds, never what the server says of it.
"""

from trio_raft._records import EntryKind
from trio_raft._rules.state import Role
from trio_raft.abc import Committed
from trio_raft.testing._past import ROOT, Slot
from trio_raft.testing._watch import Watch


class CommitChecks:
    """Commit follows durability on a majority, and apply follows both."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._server = watch.server
        self._state = watch.server.state
        self._past = watch.past
        self._id = watch.id
        self._fail = watch.fail
        self._note = watch.note
        self._servers = watch.servers
        self._matches: dict[str, int] = {}
        """Match indexes of this leadership that were looked at."""
        self._matches_term = 0

    def after_note_durable(self, _: None, __: object) -> None:
        self._watch.check_durable_index()
        self._note(
            f"has made durable: position {self._server.journal.durable_position}, log {self._watch.image.slots[-1]}"
        )

    def before_advance_commit(self) -> None:
        """Does every follower hold what this leader counts on?"""
        if self._matches_term != self._state.current_term:
            self._matches, self._matches_term = {}, self._state.current_term
        for follower, match in self._server.matches.items():
            if self._matches.get(follower, 0) == match or follower == self._id:
                continue
            self._matches[follower] = match
            watched = self._servers.get(follower)
            slot = self._watch.slots[match] if match < len(self._watch.slots) else None
            if watched is not None:
                watched.refresh()
            if slot is None or watched is None or not watched.held(slot):
                self._fail(
                    "The match index is what the follower has durably (R6, S1)",
                    expected=f"entry {slot or match} is or was durable on {follower}, as the leader counts",
                    seen=f"its log on disk ends at {watched.durable_end if watched else 'nothing'}",
                )

    def after_commit_or_disk_moved(self, _: None) -> None:
        new, old = self._state.commit_index, self._watch.commit_index
        if new == old:
            return
        if not old < new < len(self._watch.slots):
            self._fail(
                "The commit index never falls, nor passes the log (paper Figure 2)",
                expected=f"between {old} and {self._watch.slots[-1].index}",
                seen=f"{new}",
            )
            return
        self._watch.commit_index = new
        self._note(f"commits up to {self._watch.slots[new]}")
        committed = self._past.committed
        for slot in self._watch.slots[old + 1 : min(new + 1, len(committed))]:
            if committed[slot.index] is not slot:
                self._fail(
                    "Committed entries are the same everywhere (State Machine Safety, paper 5.4.3, R2, R3)",
                    expected=f"entry {committed[slot.index]}, which was committed first",
                    seen=f"entry {slot} is committed here",
                )
                return
        if new >= len(committed):
            self._first_commit(self._watch.slots[len(committed) : new + 1])

    def _first_commit(self, slots: list[Slot]) -> None:
        state, top = self._state, slots[-1]
        if state.role is not Role.LEADER or top.term != state.current_term:
            self._fail(
                "A leader commits first, by an entry of its own term (paper 5.4.2, R2, R3)",
                expected=f"a leader of term {top.term}, or an entry that is committed already",
                seen=f"the {state.role.value} of term {state.current_term} commits entry {top}",
            )
        for watched in self._servers.values():
            watched.refresh()
        holders = [server for server, watched in self._servers.items() if watched.holds(top)]
        if not state.configuration.is_quorum(holders):
            disks = ", ".join(f"{server}: {watched.durable_end}" for server, watched in self._servers.items())
            self._fail(
                "What is committed is durable on a majority (S1, R2)",
                expected=f"entry {top} on the disks of a majority of {self._watch.names()}",
                seen=f"on {', '.join(holders) or 'none'}; where the logs on disk end: {disks}",
            )
        self._past.note_commit(slots, term=state.current_term)

    # ------------------------------------------------------------------------------------ applying

    def given(self, entry: Committed[object]) -> None:
        """The state machine is about to be given this command."""
        slot = self._watch.slots[entry.index] if 0 < entry.index < len(self._watch.slots) else ROOT
        skipped = [
            each
            for each in self._watch.slots[self._watch.last_given + 1 : entry.index]
            if each.kind is EntryKind.COMMAND
        ]
        self._watch.image.refresh()
        committed = self._past.committed
        if (
            slot.term != entry.term
            or entry.index <= self._watch.last_given
            or skipped
            or entry.index > self._watch.commit_index
            or committed[slot.index] is not slot
            or not self._watch.image.holds(slot)
        ):
            last = self._watch.last_given
            self._fail(
                "Committed and durable commands are applied, each once and in order (paper 5.3, S11, X4)",
                expected=f"the command after index {last}, committed (commit index {self._watch.commit_index}), and "
                f"durable (the log on disk ends at {self._watch.image.slots[-1]})",
                seen=f"entry {entry.index}:{entry.term}, where the log has {slot}"
                + (f"; skipped: {', '.join(map(str, skipped))}" if skipped else ""),
            )
        self._watch.last_given = entry.index
        self._check_command(slot, entry.command)

    def _check_command(self, slot: Slot, command: object) -> None:
        if slot.command is None:
            slot.command = command, repr(command)
            return
        first, text = slot.command
        # Either will do: sets that are equal may be written differently, and two objects of a class without equality
        # are never equal, whatever they mean.
        comparable = type(command).__eq__ is not object.__eq__
        if comparable and first != command and text != repr(command):
            self._fail(
                "State Machine Safety (paper 5.4.3)",
                expected=f"at index {slot.index} the command that was applied first: {text}",
                seen=f"{command!r}",
            )

    def after_note_applied(self, _: None, index: int) -> None:
        durable = self._server.journal.durable_index
        if not self._watch.last_applied <= index <= min(self._state.commit_index, durable):
            self._fail(
                "Applied up to what is committed and durable here (S11)",
                expected=f"from {self._watch.last_applied} to {min(self._state.commit_index, durable)}: committed "
                f"{self._state.commit_index}, durable {durable}",
                seen=f"{index}",
            )
        missing = [
            each for each in self._watch.slots[self._watch.last_given + 1 : index + 1] if each.kind is EntryKind.COMMAND
        ]
        if missing:
            self._fail(
                "What counts as applied, the state machine was given or restored to (S8, N3, X4)",
                expected=f"no command between {self._watch.last_given} and {index}",
                seen=f"the state machine never saw {', '.join(map(str, missing[:10]))}",
            )
        self._watch.last_applied = index
        self._note(f"has applied up to {index}")
