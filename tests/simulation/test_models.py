"""The models as tables: state, action, result, state afterwards."""

from collections.abc import Hashable
from typing import Any

import pytest

from trio_raft.testing._history import UNKNOWN, Operation
from trio_raft.testing._models import (
    Append,
    AppendList,
    CompareAndSwap,
    Delete,
    Get,
    KeyValue,
    Model,
    Put,
    Read,
    Register,
    Write,
)

REGISTER, KEY_VALUE, LIST = Register(), KeyValue(), AppendList()

STEPS: list[tuple[Model[Any, Any], Hashable, Hashable, object, Hashable]] = [
    (REGISTER, (1,), Read(), 1, (1,)),
    (REGISTER, (1,), Read(), 2, None),
    (REGISTER, (1,), Read(), None, None),
    (REGISTER, (None,), Read(), None, (None,)),
    (REGISTER, (1,), Read(), UNKNOWN, (1,)),
    (REGISTER, (1,), Write(2), None, (2,)),
    (REGISTER, (1,), Write(2), "whatever", (2,)),
    (REGISTER, (1,), Write(2), UNKNOWN, (2,)),
    (REGISTER, (1,), CompareAndSwap(1, 2), True, (2,)),
    (REGISTER, (1,), CompareAndSwap(1, 2), False, None),
    (REGISTER, (1,), CompareAndSwap(0, 2), False, (1,)),
    (REGISTER, (1,), CompareAndSwap(0, 2), True, None),
    (REGISTER, (1,), CompareAndSwap(1, 2), UNKNOWN, (2,)),
    (REGISTER, (1,), CompareAndSwap(0, 2), UNKNOWN, (1,)),
    (KEY_VALUE, (), Get(), None, ()),
    (KEY_VALUE, (), Get(), 1, None),
    (KEY_VALUE, (1,), Get(), 1, (1,)),
    (KEY_VALUE, (1,), Get(), None, None),
    (KEY_VALUE, (1,), Get(), UNKNOWN, (1,)),
    (KEY_VALUE, (), Put(1), None, (1,)),
    (KEY_VALUE, (1,), Delete(), UNKNOWN, ()),
    (KEY_VALUE, (), Delete(), None, ()),
    (KEY_VALUE, (), CompareAndSwap(None, 1), True, (1,)),
    (KEY_VALUE, (2,), CompareAndSwap(None, 1), False, (2,)),
    (KEY_VALUE, (2,), CompareAndSwap(None, 1), True, None),
    (KEY_VALUE, (2,), CompareAndSwap(2, 1), UNKNOWN, (1,)),
    (LIST, (), Append(1), None, (1,)),
    (LIST, (1,), Append(1), UNKNOWN, (1, 1)),
    (LIST, (1, 2), Read(), (1, 2), (1, 2)),
    (LIST, (1, 2), Read(), [1, 2], (1, 2)),
    (LIST, (1, 2), Read(), (2, 1), None),
    (LIST, (1, 2), Read(), (1,), None),
    (LIST, (1, 2), Read(), UNKNOWN, (1, 2)),
]


@pytest.mark.parametrize(("model", "state", "action", "result", "expected"), STEPS)
def test_step(model: Model[Any, Any], state: Hashable, action: Hashable, result: object, expected: Hashable) -> None:
    """Each action makes of each state what it should, and a result that it cannot have makes nothing."""
    assert model.step(state, action, result) == expected


@pytest.mark.parametrize(("model", "state", "action", "result", "expected"), STEPS)
def test_only_read_is_true(
    model: Model[Any, Any], state: Hashable, action: Hashable, result: object, expected: Hashable
) -> None:
    """What a model calls a read changes no state in which its result is possible."""
    if result is not UNKNOWN and model.only_read(action, result):
        assert expected in (None, state)


@pytest.mark.parametrize(("model", "state", "action", "result", "expected"), STEPS)
def test_observed_is_true(
    model: Model[Any, Any], state: Hashable, action: Hashable, result: object, expected: Hashable
) -> None:
    """A result that shows a state is possible in that state alone."""
    if result is not UNKNOWN and model.observed(action, result) is not None:
        assert (expected is not None) == (model.observed(action, result) == state)


@pytest.mark.parametrize(
    ("state", "later", "expected"),
    [((), (1,), True), ((1,), (1,), True), ((1,), (1, 2), True), ((2,), (1, 2), False), ((1, 2), (1,), False)],
)
def test_list_can_reach_longer_lists_only(state: tuple[int, ...], later: tuple[int, ...], expected: bool) -> None:
    """A list becomes only such lists as begin with it."""
    assert LIST.can_reach(state, later) is expected


def test_initial_states() -> None:
    """A register starts with None or the value given, a key absent, a list empty."""
    assert [Register().initial(), Register(3).initial(), KEY_VALUE.initial(), LIST.initial()] == [(None,), (3,), (), ()]


@pytest.mark.parametrize("model", [REGISTER, KEY_VALUE, LIST])
def test_step_refuses_a_foreign_action(model: Model[Any, Any]) -> None:
    """An action of another model is an error that names those it takes."""
    with pytest.raises(TypeError, match=r"does not know the action 'jump': it takes .* and "):
        model.step(model.initial(), "jump", None)


def test_key_is_that_of_the_history() -> None:
    """Unless a model says otherwise, operations are judged apart by the key they were recorded with."""
    assert REGISTER.key(Operation("a", "x", Read(), 1)) == "x"
