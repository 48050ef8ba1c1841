"""The record of what clients asked and were told."""

import pytest

from trio_raft.testing._history import UNKNOWN, History, Operation
from trio_raft.testing._models import Append, Read, Write


def test_complete_records_both_events_and_the_result() -> None:
    """A completed call has the numbers of its two events, counted over all clients, and its result."""
    history = History()
    write = history.begin("a", "x", Write(1))
    read = history.begin("b", "x", Read())
    read.complete(0)
    write.complete()
    assert list(history) == [
        Operation("a", "x", Write(1), 1, 4, None, 1.0, 4.0),
        Operation("b", "x", Read(), 2, 3, 0, 2.0, 3.0),
    ]


def test_events_of_one_instant_keep_their_order() -> None:
    """Events at the same time are ordered by their numbers."""
    history = History(lambda: 0.5)
    history.begin("a", "x", Write(1)).complete()
    history.begin("a", "x", Read()).complete(1)
    write, read = history
    assert write.returned_at == read.invoked_at == 0.5
    assert write.returned is not None
    assert write.returned < read.invoked


def test_fail_forgets_the_operation() -> None:
    """A call that certainly did not happen leaves no operation, and its event number is not used again."""
    history = History()
    history.begin("a", "x", Write(1)).fail()
    history.begin("a", "x", Write(2))
    assert [(operation.action, operation.invoked) for operation in history] == [(Write(2), 2)]


def test_call_left_alone_is_unknown() -> None:
    """A call that never ends is open to the end, with the result UNKNOWN."""
    history = History()
    history.begin("a", "x", Write(1))
    assert (history[0].returned, history[0].result) == (None, UNKNOWN)
    assert str(history[0]) == "a: Write(value=1) on 'x' -> unknown (events 1 to ?)"


def test_call_ends_once() -> None:
    """A second end of a call is an error that says how it ended, and changes nothing."""
    history = History()
    completed = history.begin("a", "x", Write(1))
    completed.complete(7)
    with pytest.raises(RuntimeError, match=r"completed already: a: Write.* A call ends once"):
        completed.complete(8)
    with pytest.raises(RuntimeError, match="completed already"):
        completed.fail()
    assert history[0].result == 7
    failed = history.begin("a", "x", Write(1))
    failed.fail()
    with pytest.raises(RuntimeError, match="failed already"):
        failed.complete()
    assert len(history) == 1


def test_begin_refuses_what_cannot_be_hashed() -> None:
    """An action that cannot be hashed is refused before it is recorded."""
    history = History()
    with pytest.raises(TypeError, match="unhashable"):
        history.begin("a", "x", Append([1]))  # type: ignore[arg-type]
    assert len(history) == 0


def test_slices_and_keys() -> None:
    """A history is a sequence of operations in the order of their beginnings, whole or by key."""
    history = History()
    for number, key in enumerate("yxy"):
        history.begin("a", key, Write(number)).complete()
    assert history.keys() == ["y", "x"]
    assert [operation.action for operation in history.of_key("y")] == [Write(0), Write(2)]
    assert [operation.action for operation in history[1:]] == [Write(1), Write(2)]
    assert history[-1].action == Write(2)


def test_iteration_is_of_one_moment() -> None:
    """Operations that begin while the history is read are not among those read."""
    history = History()
    history.begin("a", "x", Read()).complete()
    for _ in history:
        history.begin("a", "x", Read())
    assert len(history) == 2


def test_describe_is_aligned() -> None:
    """One line for each operation: its time, client, key, action and result."""
    times = iter([0.25, 0.5, 10.0])
    history = History(lambda: next(times))
    history.begin("client 10", "x", Write(1))
    history.begin("b", "long", Read()).complete(2)
    assert history.describe().splitlines() == [
        "0.25 to  ?  client 10  'x'     Write(value=1) -> unknown",
        " 0.5 to 10  b          'long'  Read() -> 2",
    ]


def test_long_values_show_both_ends() -> None:
    """A value too long for a line shows how it begins and how it ends."""
    history = History()
    history.begin("a", "x", Read()).complete(tuple(range(1000, 2000)))
    for text in (str(history[0]), history.describe()):
        assert "-> (1000, 1001, " in text
        assert " ... " in text
        assert "1998, 1999)" in text
        assert len(text) < 200


def test_describe_empty() -> None:
    """An empty history says so."""
    assert History().describe() == "(no operations)"
