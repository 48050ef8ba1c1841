"""The log of one server, watched: what is appended, what is removed, what is acknowledged.

House rule: an entry is looked at once when it is appended, and once when it is removed.
"""

from collections.abc import Callable

from trio_raft._messages import AppendEntries, AppendEntriesReply
from trio_raft._records import Entry
from trio_raft._rules.log import Log
from trio_raft._rules.state import Role
from trio_raft.testing._watch import Watch

PROMISES_REMEMBERED = 4096
"""Acknowledgements decided and perhaps not sent yet: far more than a server may have waiting for its disk."""


class LogChecks:
    """Leaders append, followers copy, and nothing that was committed is removed."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._server = watch.server
        self._state = watch.server.state
        self._past = watch.past
        self._id = watch.id
        self._fail = watch.fail
        self._note = watch.note

    def after_append(self, _: None, entry: Entry) -> None:
        state, last, won = self._state, self._watch.slots[-1], self._past.leaders.get(entry.term)
        leads = won is not None and (won.node_id, won.life) == (self._id, self._watch.life)
        if not leads or state.role is not Role.LEADER or entry.index != last.index + 1:
            self._fail(
                "A leader stamps its own term on the next index (R1, R5)",
                expected=f"entry {last.index + 1} of a term that this server won and leads",
                seen=f"{entry} appended by the {state.role.value} of term {state.current_term}",
            )
        self._push(entry, may_be_new=True)
        self._check_ends()

    def after_supersede(self, _: None, entries: list[Entry]) -> None:
        first = entries[0].index
        if self._state.role is not Role.FOLLOWER:
            self._fail(
                "Leader Append-Only (paper 5.3, R5)",
                expected="only a follower takes entries from another server",
                seen=f"the {self._state.role.value} of term {self._state.current_term} takes {entries[0]}",
            )
        if first <= self._watch.slots[-1].index:
            self._check_truncation(entries[0])
        del self._watch.slots[first:]
        for entry in entries:
            self._push(entry, may_be_new=False)
        self._watch.took_entries = True
        self._note(f"takes entries {entries[0].index}:{entries[0].term}..{entries[-1].index}:{entries[-1].term}")
        self._check_ends()
        self._watch.check_durable_index()

    def _check_truncation(self, entry: Entry) -> None:
        removed = self._watch.slots[entry.index]
        self._note(f"removes its entries from {removed} to {self._watch.slots[-1]}")
        if removed.term == entry.term:
            self._fail(
                "Equal entries are skipped; only a conflict of terms removes any (R4)",
                expected=f"entry {removed} stays, since the leader has the same",
                seen=f"entries {removed} to {self._watch.slots[-1]} removed",
            )
        committed = self._past.committed
        if entry.index <= self._watch.commit_index or (
            entry.index < len(committed) and committed[entry.index] is removed
        ):
            self._fail(
                "What is committed stays (State Machine Safety, paper 5.4.3, R4)",
                expected=f"entry {removed} stays: it is committed (commit index here {self._watch.commit_index})",
                seen=f"removed in favour of {entry}",
            )

    def _push(self, entry: Entry, *, may_be_new: bool) -> None:
        slot = self._past.add(self._id, entry, self._watch.slots[-1], may_be_new=may_be_new)
        if slot is not None:
            self._watch.slots.append(slot)

    def _check_ends(self) -> None:
        """Memory, bounded, ends where the journal was told, and the configuration in force is the last one there."""
        log, last = self._state.log, self._watch.slots[-1]
        if (log.last_index, log.last_term) != (last.index, last.term):
            self._fail(
                "Memory and journal change in one step (S5)",
                expected=f"a log that ends at {last}, as was queued for the disk",
                seen=f"{log.last_index}:{log.last_term} in memory",
            )
        self._watch.check_configuration()
        self._check_memory(log)

    def _check_memory(self, log: Log) -> None:
        limits, journal = self._server.config.limits, self._server.journal
        durable = self._watch.slots[min(journal.durable_index, len(self._watch.slots) - 1)]
        bound = limits.log_memory_bytes + self._watch.slots[-1].bytes_through - durable.bytes_through
        if log.memory_bytes_used > bound + limits.largest_journal_batch:
            self._fail(
                "Everything is bounded: the log in memory",
                expected=f"at most {bound} bytes, {limits.log_memory_bytes} beside what is not durable, and a batch",
                seen=f"{log.memory_bytes_used} bytes",
            )

    def around_answer_append(
        self, original: Callable[[AppendEntries], tuple[AppendEntriesReply, int]]
    ) -> Callable[[AppendEntries], tuple[AppendEntriesReply, int]]:
        def answer_append(request: AppendEntries) -> tuple[AppendEntriesReply, int]:
            commit_before = self._state.commit_index
            answer = original(request)
            self._watch.run(self._after_answer_append, request, answer[0], commit_before)
            return answer

        return answer_append

    def _after_answer_append(self, request: AppendEntries, reply: AppendEntriesReply, commit_before: int) -> None:
        verified = request.prev_log_index + len(request.entries)
        allowed = max(commit_before, min(request.leader_commit, verified))
        if self._state.commit_index > allowed:
            self._fail(
                "A follower commits what the request itself verified (R3)",
                expected=f"a commit index of at most {allowed}: the leader's is {request.leader_commit}, the request "
                f"ends at {verified}, it was {commit_before} before",
                seen=f"{self._state.commit_index}",
            )
        if not reply.success:
            return
        if reply.match_index > min(verified, self._watch.slots[-1].index):
            self._fail(
                "An acknowledgement vouches for what the request verified or brought (R3, S1)",
                expected=f"at most {verified}, and nothing beyond the own log, which ends at {self._watch.slots[-1]}",
                seen=f"match index {reply.match_index}",
            )
            return
        self._watch.promised[reply.term, reply.match_index] = self._watch.slots[reply.match_index]
        if len(self._watch.promised) > PROMISES_REMEMBERED:
            del self._watch.promised[next(iter(self._watch.promised))]
