"""The store in memory keeps to the contract where the protocol above rests on it."""

import pytest

from trio_raft._errors import DirectoryMismatch
from trio_raft._messages import Incarnation, ServerId
from trio_raft._records import Entry, EntryKind, LogIndex, Term, make_entry
from trio_raft._storage.memory import MemoryLogStore
from trio_raft.abc import Append, Recovered, SaveBootstrap, SaveVote, StoreIdentity

N1 = ServerId("n1")


def identity(node_id: str = "n1", incarnation: str = "aa") -> StoreIdentity:
    return StoreIdentity("demo", ServerId(node_id), Incarnation(incarnation))


def entry(index: int, term: int, data: bytes = b"command") -> Entry:
    return make_entry(index=LogIndex(index), term=Term(term), kind=EntryKind.COMMAND, data=data)


def append(*entries: Entry) -> Append:
    return Append(list(entries), entries[-1].index, sum(len(each.record) for each in entries))


def open_store(store: MemoryLogStore, *, memory_bytes: int = 1 << 20) -> Recovered:
    return store.open(identity(), memory_bytes=memory_bytes)


def store_items(store: MemoryLogStore, *items: Append | SaveVote | SaveBootstrap) -> None:
    plan = store.plan(items)
    assert plan is not None
    store.execute(plan)
    store.done(plan)


def test_open_finds_what_was_executed() -> None:
    """An open after a crash finds the vote, the bootstrap map and the entries that were executed (S1)."""
    store = MemoryLogStore()
    open_store(store)
    bootstrap = SaveBootstrap({N1: Incarnation("aa")}, done=True)
    store_items(store, SaveVote(Term(2), N1), bootstrap, append(entry(1, 1), entry(2, 2)))
    found = open_store(store)
    assert (found.term, found.voted_for, found.bootstrap) == (2, "n1", bootstrap)
    assert found.last_index == 2
    assert found.term_runs == ((1, 1), (2, 2))
    assert found.tail == (entry(1, 1), entry(2, 2))


def test_open_loses_a_plan_that_was_never_executed() -> None:
    """Planned is not durable: a plan that nobody executed is gone after the next open (S1)."""
    store = MemoryLogStore()
    open_store(store)
    plan = store.plan([append(entry(1, 1))])
    assert plan is not None
    assert open_store(store).last_index == 0
    with pytest.raises(AssertionError, match="opened anew"):
        store.execute(plan)


def test_append_removes_what_stands_at_and_above() -> None:
    """The first entry of an Append removes everything at and above its index (S6)."""
    store = MemoryLogStore()
    open_store(store)
    store_items(store, append(entry(1, 1), entry(2, 1), entry(3, 1)))
    store_items(store, append(entry(2, 4)))
    found = open_store(store)
    assert found.tail == (entry(1, 1), entry(2, 4))
    assert found.term_runs == ((1, 1), (2, 4))


def test_append_refuses_a_gap() -> None:
    """An entry that leaves a gap behind the last one is refused."""
    store = MemoryLogStore()
    open_store(store)
    plan = store.plan([append(entry(2, 1))])
    assert plan is not None
    with pytest.raises(AssertionError, match="does not continue"):
        store.execute(plan)


def test_open_keeps_the_tail_within_its_bound() -> None:
    """Recovery hands back the newest entries that fit the bound, ending at the last."""
    store = MemoryLogStore()
    open_store(store)
    store_items(store, append(*(entry(index, 1) for index in range(1, 11))))
    size = len(entry(1, 1).record)
    found = open_store(store, memory_bytes=3 * size + 1)
    assert [each.index for each in found.tail] == [8, 9, 10]


def test_read_returns_at_least_one_entry_and_no_more_than_asked() -> None:
    """A read returns the first entry whatever its size, then as many as the bound allows."""
    store = MemoryLogStore()
    open_store(store)
    store_items(store, append(*(entry(index, 1) for index in range(1, 6))))
    size = len(entry(1, 1).record)
    for max_bytes, count in ((0, 1), (size, 2), (2 * size - 1, 2), (10 * size, 4)):
        plan = store.plan_read(LogIndex(1), LogIndex(4), max_bytes=max_bytes)
        assert len(store.execute_read(plan)) == count


def test_open_refuses_another_node() -> None:
    """A store that was made for one node does not open for another."""
    store = MemoryLogStore()
    assert open_store(store).incarnation == "aa"
    with pytest.raises(DirectoryMismatch, match="node_id"):
        store.open(identity("n2"), memory_bytes=0)
    assert store.open(identity(incarnation="bb"), memory_bytes=0).incarnation == "aa"
