"""The log as the rules see it: which term stands at which index, and the entries that are still in memory.

Three things can be asked of an index, and they end at different places::

    index    1 .... base_index | first_index ....... | memory_first ....... last_index |
    term     unknown but last  | known               | known                           |
    entry    gone              | on disk only        | in memory                       |

The *base* is the place just below the first entry.  It is ``(0, 0)`` until the log is compacted (paper section
7).  From then on everything up to the base is covered by a snapshot, which may reach further: the entries
between the base and the snapshot's last are kept for followers that lag a little (N7).  The base is committed,
so it never moves down, and no rule looks below it.

Terms of *all* entries above the base stay known.  They never fall from one entry to the next, since a leader
only appends entries of its own term, so they are kept as runs, ``(first index, term)``: one item per election,
not one per entry, found by bisection.  The first run begins at the base, ``(base_index, base_term)``.  Index 0
with term 0 is thus an entry like any other to every rule, the one that all logs share (the induction base of
the Log Matching Property, paper 5.3).

Entries themselves are the *tail* (``tail.py``), which reaches as far down as memory allows.

House rule: an unknown term is never 0.  Whoever asks for the term of an index outside the log gets
``NotInLog``, because a made-up 0 at ``prev_log_index`` would compare as "very old" and be accepted as an
answer.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from trio_raft._records import Entry, LogIndex, Term
from trio_raft._rules.tail import NEWEST_UNPACKED, Tail

_NOWHERE = LogIndex(0)
_BEFORE_ALL_TERMS = Term(0)


class NotInLog(Exception):
    """The index lies above the last entry, or in the part that was compacted.

    Below, a follower that needs it needs a snapshot; above, the caller is wrong.
    """

    def __init__(self, index: LogIndex, *, base_index: LogIndex, last_index: LogIndex) -> None:
        super().__init__(f"index {index} is not in the log, which holds {base_index + 1} to {last_index}")
        self.index = index


class Log:
    """The entries above the base.  Its public fields are read freely and written only here."""

    __slots__ = (
        "_memory_bytes",
        "_run_firsts",
        "_run_terms",
        "_tail",
        "base_index",
        "base_term",
        "last_index",
        "last_term",
    )

    def __init__(self, *, memory_bytes: int, newest_unpacked: int = NEWEST_UNPACKED) -> None:
        """An empty log that keeps about ``memory_bytes`` of records in memory once they may leave it."""
        self.base_index = _NOWHERE
        self.base_term = _BEFORE_ALL_TERMS
        self.last_index = _NOWHERE
        self.last_term = _BEFORE_ALL_TERMS
        self._memory_bytes = memory_bytes
        self._run_firsts = [_NOWHERE]
        self._run_terms = [_BEFORE_ALL_TERMS]
        self._tail = Tail(LogIndex(1), newest_unpacked=newest_unpacked)

    @classmethod
    def recovered(
        cls,
        *,
        term_runs: Sequence[tuple[LogIndex, Term]],
        last_index: LogIndex,
        tail: Sequence[Entry],
        memory_bytes: int,
        base_index: LogIndex = _NOWHERE,
        base_term: Term = _BEFORE_ALL_TERMS,
    ) -> "Log":
        """The log that a store found: its base, the runs of all terms above it, and the newest entries.

        The entries of ``tail`` end at ``last_index``, which is ``base_index`` if there are none at all.  Raises
        AssertionError if the parts do not fit together: the store's mistake, not a damaged file, which the store
        has already refused.
        """
        log = cls(memory_bytes=memory_bytes)
        _check_runs(base_index, base_term, term_runs, last_index)
        # A run that goes on in the base's term is not a run of its own.
        runs = [(first, term) for first, term in term_runs if term != base_term]
        log.base_index, log.base_term = base_index, base_term
        log._run_firsts = [base_index, *(first for first, _ in runs)]
        log._run_terms = [base_term, *(term for _, term in runs)]
        log.last_index = last_index
        log.last_term = log._run_terms[-1]
        first = LogIndex(last_index - len(tail) + 1)
        if first <= base_index:
            raise AssertionError(f"{len(tail)} entries in a log that holds {base_index + 1} to {last_index}")
        for expected_index, entry in enumerate(tail, start=first):
            if entry.index != expected_index or entry.term != log.term_at(entry.index):
                raise AssertionError(f"{entry} does not fit at index {expected_index} of {term_runs}")
        log._tail = Tail(first)
        log._tail.extend(tail)
        log._tail.pack()
        return log

    # ------------------------------------------------------------------------------------------ questions

    @property
    def first_index(self) -> LogIndex:
        """The first index above the base; nothing stands there while the log is empty."""
        return LogIndex(self.base_index + 1)

    @property
    def memory_first(self) -> LogIndex:
        """The first index whose entry is in memory; ``last_index + 1`` if none is."""
        return self._tail.memory_first

    @property
    def memory_bytes_used(self) -> int:
        """Bytes of the records that are in memory."""
        return self._tail.size

    def term_at(self, index: LogIndex) -> Term:
        """The term of the entry there, the base included.  Raises NotInLog outside (R9)."""
        if not self.base_index <= index <= self.last_index:
            raise self._not_in_log(index)
        return self._run_terms[bisect_right(self._run_firsts, index) - 1]

    def matches(self, index: LogIndex, term: Term) -> bool:
        """Does this log hold (index, term)?

        By the Log Matching Property it then holds everything before it as the asker does.  What was compacted
        is committed, so every leader has the same there: a match without looking (R4).
        """
        if index < self.base_index:
            return True
        return index <= self.last_index and self.term_at(index) == term

    def first_of_term(self, index: LogIndex) -> LogIndex:
        """The first index, above the base, of the run of equal terms that holds ``index``."""
        if not self.base_index < index <= self.last_index:
            raise self._not_in_log(index)
        return max(self._run_firsts[bisect_right(self._run_firsts, index) - 1], self.first_index)

    def last_at_or_below_term(self, term: Term, *, not_above: LogIndex) -> LogIndex:
        """The largest index ≤ ``not_above`` whose term is ≤ ``term``; ``base_index`` if none is known."""
        run = bisect_right(self._run_terms, term)
        if run == 0:
            return self.base_index
        end = self._run_firsts[run] - 1 if run < len(self._run_firsts) else self.last_index
        return max(self.base_index, min(LogIndex(end), not_above))

    def entry(self, index: LogIndex) -> Entry | None:
        """The entry there, or None if it left memory.  Raises NotInLog outside the log."""
        if not self.base_index < index <= self.last_index:
            raise self._not_in_log(index)
        found = self._tail.get(index, index + 1)
        return found[0] if found else None

    def slice(
        self, first: LogIndex, *, max_entries: int, max_bytes: int, not_above: LogIndex | None = None
    ) -> list[Entry] | None:
        """Entries from ``first`` on, none above ``not_above``, as many as both bounds allow.

        At least one, even if it alone is larger than ``max_bytes``; none if ``first`` lies above the end;
        None if ``first`` left memory.  Raises NotInLog at or below the base.
        """
        if first <= self.base_index:
            raise self._not_in_log(first)
        end = self.last_index if not_above is None else min(not_above, self.last_index)
        if first > end:
            return []
        entries = self._tail.get(first, min(first + max_entries, end + 1))
        if entries is None:
            return None
        if sum([len(entry.record) for entry in entries]) <= max_bytes:
            return entries
        size = 0
        for count, entry in enumerate(entries):
            size += len(entry.record)
            if size > max_bytes:
                return entries[: max(count, 1)]
        return entries

    def end_of_term_at(self, index: LogIndex) -> LogIndex:
        """The last index of the run of equal terms that holds ``index``.  Raises NotInLog outside."""
        if not self.base_index <= index <= self.last_index:
            raise self._not_in_log(index)
        run = bisect_right(self._run_firsts, index)
        return LogIndex(self._run_firsts[run] - 1) if run < len(self._run_firsts) else self.last_index

    def records(self, first: LogIndex, last: LogIndex, *, max_bytes: int) -> list[bytes] | None:
        """The bare records of ``first`` … ``last``, as many as ``max_bytes`` allows, and at least one.

        None if ``first`` left memory.  Raises NotInLog outside.
        """
        if not self.base_index < first <= last <= self.last_index:
            raise self._not_in_log(first if first <= self.base_index else last)
        records = self._tail.records(first, last + 1)
        if records is None or sum(map(len, records)) <= max_bytes:
            return records
        sizes = list(accumulate(map(len, records)))
        return records[: max(bisect_right(sizes, max_bytes), 1)]

    # ------------------------------------------------------------------------------------------ changes

    def append(self, entry: Entry) -> None:
        """Add one entry at the end: the leader's hot path.

        Raises AssertionError unless the entry follows the last one without a gap and in no lower term.
        """
        index, term = entry.index, entry.term
        if index != self.last_index + 1 or term < self.last_term or not term:
            raise self._does_not_follow(entry)
        if term != self.last_term:
            self._run_firsts.append(index)
            self._run_terms.append(term)
            self.last_term = term
        self._tail.append(entry)
        self.last_index = index

    def extend(self, entries: Sequence[Entry]) -> None:
        """Add entries at the end, as a follower gets them.  Raises AssertionError as ``append`` does."""
        if not entries:
            return
        first, last = entries[0], entries[-1]
        if first.term == last.term == self.last_term and last.index - first.index + 1 == len(entries):
            # One term from end to end, and the caller has checked every entry of the message it came in (R9):
            # almost every batch, and worth not looking at each entry a second time.
            if first.index != self.last_index + 1:
                raise self._does_not_follow(first)
            self._tail.extend(entries)
            self.last_index = last.index
        else:
            for entry in entries:
                self.append(entry)

    def truncate_from(self, index: LogIndex) -> None:
        """Remove the entry at ``index`` and all above it.  Raises NotInLog if there is none."""
        if not self.base_index < index <= self.last_index:
            raise self._not_in_log(index)
        self._tail.truncate_from(index)
        while self._run_firsts[-1] >= index:
            self._run_firsts.pop()
            self._run_terms.pop()
        self.last_index = LogIndex(index - 1)
        self.last_term = self._run_terms[-1]

    def compact(self, up_to: LogIndex) -> None:
        """Let the entries up to there leave the log; the last of them becomes the base.

        The caller knows that a durable snapshot covers them (S7), and lets go of them, if they are many.  At or below
        the base it does nothing; raises NotInLog above the end.
        """
        if up_to > self.last_index:
            raise self._not_in_log(up_to)
        if up_to <= self.base_index:
            return
        run = bisect_right(self._run_firsts, up_to)
        self.base_index, self.base_term = up_to, self._run_terms[run - 1]
        self._run_firsts[:run] = [up_to]
        self._run_terms[:run] = [self.base_term]
        self._tail.cut_before(LogIndex(up_to + 1))

    def reset(self, index: LogIndex, term: Term) -> None:
        """Let a snapshot's last entry take the place of the whole log, which is empty above it (N1).

        The caller lets go of what was in memory.  Raises AssertionError unless that index lies above the base, in no
        lower term.
        """
        if index <= self.base_index or term < max(self.base_term, 1):
            raise AssertionError(f"index {index} of term {term} cannot become the base of {self}")
        self.base_index = self.last_index = index
        self.base_term = self.last_term = term
        self._run_firsts, self._run_terms = [index], [term]
        self._tail.discard_all(LogIndex(index + 1))

    def let_go(self) -> bool:
        """Free some of what gave way to a snapshot.  Is there more?"""
        return self._tail.let_go()

    def release(self, up_to: LogIndex) -> None:
        """Let entries ≤ ``up_to`` leave memory, oldest first, until the rest is within ``memory_bytes``.

        The caller knows which entries are on disk and not needed here any more.  Costs a constant for each
        entry that is packed, and for each that leaves.
        """
        self._tail.pack()
        if self._tail.size > self._memory_bytes:
            self._tail.release(up_to, memory_bytes=self._memory_bytes)

    def __repr__(self) -> str:
        runs = ", ".join(f"{first}:{term}" for first, term in zip(self._run_firsts, self._run_terms, strict=True))
        return f"Log(last_index={self.last_index}, memory_first={self.memory_first}, terms from {runs})"

    # ------------------------------------------------------------------------------------------ errors

    def _not_in_log(self, index: LogIndex) -> NotInLog:
        return NotInLog(index, base_index=self.base_index, last_index=self.last_index)

    def _does_not_follow(self, entry: Entry) -> AssertionError:
        return AssertionError(
            f"{entry} does not follow the last entry, index {self.last_index} of term {self.last_term}"
        )


def _check_runs(
    base_index: LogIndex, base_term: Term, term_runs: Sequence[tuple[LogIndex, Term]], last_index: LogIndex
) -> None:
    """The runs of a recovered log must begin just above its base, and grow; the first may go on in its term."""
    if base_index < 0 or (base_index == 0) != (base_term == 0):
        raise AssertionError(f"no log begins above index {base_index} of term {base_term}")
    firsts = [first for first, _ in term_runs]
    terms = [term for _, term in term_runs]
    if last_index < base_index or bool(firsts) != (last_index > base_index):
        raise AssertionError(f"term runs {term_runs} for the entries {base_index + 1} to {last_index}")
    if firsts and (firsts[0] != base_index + 1 or firsts[-1] > last_index):
        raise AssertionError(f"term runs {term_runs} do not cover the entries {base_index + 1} to {last_index}")
    for below, ascending in ((base_index, firsts), (max(base_term - 1, 0), terms)):
        if any(later <= earlier for earlier, later in zip([below, *ascending], ascending, strict=False)):
            raise AssertionError(f"indexes and terms of the runs {term_runs} above term {base_term} must grow")
