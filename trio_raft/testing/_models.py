"""What an object would do if one client at a time used it: the measure of a history.

A model is a state machine without servers.  It says in which state the object starts, and what an operation makes of
a state, given the result that a client saw.  Write your own in a few lines::

    class Counter(Model[int, Increment | Read]):
        def initial(self):
            return 0

        def step(self, state, action, result):
            after = state + 1 if isinstance(action, Increment) else state
            return after if result in (UNKNOWN, after) else None

House rule: a model is pure.  ``step`` may be asked anything, in any order, about states that never were.

Here: ``Register``, ``KeyValue`` and ``AppendList``, one object per key of the history, and the actions they know.
What writes answer is not judged: only what reads and compare-and-swaps answer says something about the state.
"""

import abc
from collections.abc import Hashable
from typing import Any, Generic, TypeVar

import attrs

from trio_raft.testing._history import UNKNOWN, Operation

StateT = TypeVar("StateT")
ActionT = TypeVar("ActionT")


class Model(abc.ABC, Generic[StateT, ActionT]):
    """An object as its clients should see it.  ``initial`` and ``step`` are needed; the rest may make it faster.

    A state is hashable, is never changed, and is not None.
    """

    @abc.abstractmethod
    def initial(self) -> StateT:
        """The state before the first operation."""

    @abc.abstractmethod
    def step(self, state: StateT, action: ActionT, result: Any) -> StateT | None:
        """The state after ``action``, or None if it cannot have this result in this state.

        ``result`` is ``UNKNOWN`` where the client heard nothing: then any result will do.
        """

    def key(self, operation: Operation) -> Hashable:
        """The object that an operation is about; each is judged by itself.

        The key of the history.  Return a constant if your operations reach across keys.
        """
        return operation.key

    def only_read(self, action: ActionT, result: Any) -> bool:  # noqa: ARG002 (for subclasses)
        """Does the action, given this result, leave every state as it is in which it is possible?  False if in doubt.

        True of reads, and of a compare-and-swap that was refused.
        """
        return False

    def observed(self, action: ActionT, result: Any) -> StateT | None:  # noqa: ARG002 (for subclasses)
        """The state in which ``action`` must have found the object to have this result, if there is only one."""
        return None

    def can_reach(self, state: StateT, later: StateT) -> bool:  # noqa: ARG002 (for subclasses)
        """Is there any way from one state to the other?  True if in doubt.

        ``check_linearizable`` gives up a state at once if what was observed next is out of its reach.  For a list that
        only grows, this is the difference between trying all orders of its entries and knowing the one.
        """
        return True


# ---------------------------------------------------------------------------------------------- register


@attrs.frozen
class Read:
    """Result: the value of the register, or all entries of the list."""


@attrs.frozen
class Write:
    """Its result is not judged."""

    value: Hashable


@attrs.frozen
class CompareAndSwap:
    """Result: True if the value was ``expected``, and now is ``new``; False if it was another one, and still is."""

    expected: Hashable
    new: Hashable


class Register(Model[tuple[Hashable], Read | Write | CompareAndSwap]):
    """One value, ``None`` at first or as given.  Knows ``Read``, ``Write`` and ``CompareAndSwap``."""

    def __init__(self, initial: Hashable = None) -> None:
        self._initial = initial

    def initial(self) -> tuple[Hashable]:
        return (self._initial,)  # in a tuple, as the value may be None and a state may not

    def step(
        self, state: tuple[Hashable], action: Read | Write | CompareAndSwap, result: Any
    ) -> tuple[Hashable] | None:
        match action:
            case Read():
                return state if result is UNKNOWN or result == state[0] else None
            case Write(value):
                return (value,)
            case CompareAndSwap(expected, new):
                swapped = state[0] == expected
                return _after_swap((new,) if swapped else state, swapped, result)
        raise _not_known(self, action, "Read, Write and CompareAndSwap")

    def only_read(self, action: Read | Write | CompareAndSwap, result: Any) -> bool:
        return isinstance(action, Read) or (isinstance(action, CompareAndSwap) and not result)


# --------------------------------------------------------------------------------------------- key-value


@attrs.frozen
class Get:
    """Result: the value of the key, None if there is none."""


@attrs.frozen
class Put:
    """Its result is not judged."""

    value: Hashable


@attrs.frozen
class Delete:
    """Its result is not judged."""


class KeyValue(Model[tuple[Hashable, ...], Get | Put | Delete | CompareAndSwap]):
    """A map, each key by itself; absent at first.  Knows ``Get``, ``Put``, ``Delete`` and ``CompareAndSwap``.

    To a compare-and-swap an absent key has the value None.
    """

    def initial(self) -> tuple[Hashable, ...]:
        return ()

    def step(
        self, state: tuple[Hashable, ...], action: Get | Put | Delete | CompareAndSwap, result: Any
    ) -> tuple[Hashable, ...] | None:
        found = state[0] if state else None
        match action:
            case Get():
                return state if result is UNKNOWN or result == found else None
            case Put(value):
                return (value,)
            case Delete():
                return ()
            case CompareAndSwap(expected, new):
                swapped = found == expected
                return _after_swap((new,) if swapped else state, swapped, result)
        raise _not_known(self, action, "Get, Put, Delete and CompareAndSwap")

    def only_read(self, action: Get | Put | Delete | CompareAndSwap, result: Any) -> bool:
        return isinstance(action, Get) or (isinstance(action, CompareAndSwap) and not result)


# ------------------------------------------------------------------------------------------- append list


@attrs.frozen
class Append:
    """Its result is not judged."""

    value: Hashable


class AppendList(Model[tuple[Hashable, ...], Read | Append]):
    """A list that only grows, empty at first.  Knows ``Read``, which returns every entry, and ``Append``.

    It finds lost, doubled and reordered writes with fewer reads than a register, since one read shows them all.
    """

    def initial(self) -> tuple[Hashable, ...]:
        return ()

    def step(self, state: tuple[Hashable, ...], action: Read | Append, result: Any) -> tuple[Hashable, ...] | None:
        match action:
            case Read():
                return state if result is UNKNOWN or tuple(result) == state else None
            case Append(value):
                return (*state, value)
        raise _not_known(self, action, "Read and Append")

    def only_read(self, action: Read | Append, result: Any) -> bool:  # noqa: ARG002 (a read is one whatever it returns)
        return isinstance(action, Read)

    def observed(self, action: Read | Append, result: Any) -> tuple[Hashable, ...] | None:
        return tuple(result) if isinstance(action, Read) else None

    def can_reach(self, state: tuple[Hashable, ...], later: tuple[Hashable, ...]) -> bool:
        return later[: len(state)] == state


# ------------------------------------------------------------------------------------------------ helpers


def _after_swap(state: StateT, swapped: bool, result: Any) -> StateT | None:
    return state if result is UNKNOWN or result == swapped else None


def _not_known(model: Model[Any, Any], action: object, known: str) -> TypeError:
    return TypeError(f"{type(model).__name__} does not know the action {action!r}: it takes {known}")
