"""What clients asked, what they were told, and in which order that happened.

A ``History`` is written while a test runs and judged afterwards (``_linearizability``).  There are three ways for a
call to end::

    call = history.begin("client 1", "x", Write(3))
    call.complete(result)      the client was told
    call.fail()                it is certain that nothing happened: the call is forgotten
    (neither)                  nobody knows: it may have taken effect, may do so later, or never

House rule: "before" means a smaller event number.  Each begin and each completion takes the next number of the
history; times in seconds are for the reader only, as two events of one virtual instant have the same time and still
happened one after the other.
"""

import enum
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, Final, overload

import attrs


class Unknown(enum.Enum):
    """The type of ``UNKNOWN``."""

    UNKNOWN = "unknown"

    def __repr__(self) -> str:
        return "unknown"


UNKNOWN: Final = Unknown.UNKNOWN
"""The result of an operation of which its client never heard again."""


LONGEST_VALUE = 120
"""Characters of an action or a result that are shown in full."""


@attrs.frozen
class Operation:
    """One call of a client.  It took effect, if at all, at one moment between its two events."""

    client: str
    key: Hashable
    """Of the object that it was about; operations on different keys are judged apart."""
    action: Hashable
    """What was asked, in the words of the model: ``Write(3)``."""
    invoked: int
    """Number of the event with which it began."""
    returned: int | None = None
    """Number of the event with which it was answered; None: it never was."""
    result: Any = UNKNOWN
    invoked_at: float = 0.0
    """Seconds on the history's clock."""
    returned_at: float | None = None

    def __str__(self) -> str:
        end = "?" if self.returned is None else self.returned
        said = f"{shortened(self.action)} on {self.key!r} -> {shortened(self.result)}"
        return f"{self.client}: {said} (events {self.invoked} to {end})"


class History:
    """The operations of all clients in the order in which they began; it grows with the run that it records.

    ``now`` gives the time for ``describe``, in seconds; without it the number of an event is its time.
    """

    def __init__(self, now: Callable[[], float] | None = None) -> None:
        self._now = now
        self._events = 0
        self._operations: dict[int, Operation] = {}
        """By the number of the first event, and so in order."""

    def begin(self, client: str, key: Hashable, action: Hashable) -> "Call":
        """A client is about to ask for ``action``.

        TypeError: key or action cannot be hashed; make the action an ``attrs.frozen`` class with hashable fields.
        """
        hash((key, action))
        number, time = self._next_event()
        self._operations[number] = Operation(client, key, action, number, invoked_at=time)
        return Call(self, number)

    def keys(self) -> list[Hashable]:
        """Every key, in the order of the first operations on them."""
        return list(dict.fromkeys(operation.key for operation in self))

    def of_key(self, key: Hashable) -> list[Operation]:
        """The operations on one key; ``check_linearizable`` takes them as it takes a history."""
        return [operation for operation in self if operation.key == key]

    def describe(self) -> str:
        """One line for each operation, in the order in which they began."""
        return describe(self)

    def __iter__(self) -> Iterator[Operation]:
        return iter(list(self._operations.values()))

    def __len__(self) -> int:
        return len(self._operations)

    @overload
    def __getitem__(self, place: int) -> Operation: ...
    @overload
    def __getitem__(self, place: slice) -> list[Operation]: ...
    def __getitem__(self, place: int | slice) -> Operation | list[Operation]:
        return list(self._operations.values())[place]

    # ------------------------------------------------------------------------------------ for Call alone

    def end(self, number: int, result: object) -> None:
        """The operation that began with this event was answered."""
        operation = self._open(number)
        returned, time = self._next_event()
        self._operations[number] = attrs.evolve(operation, returned=returned, returned_at=time, result=result)

    def forget(self, number: int) -> None:
        """The operation that began with this event did not happen."""
        self._open(number)
        del self._operations[number]

    def _open(self, number: int) -> Operation:
        operation = self._operations.get(number)
        if operation is None:
            raise RuntimeError(f"the call of event {number} has failed already: a call ends once")
        if operation.returned is not None:
            raise RuntimeError(f"this call has been completed already: {operation}. A call ends once")
        return operation

    def _next_event(self) -> tuple[int, float]:
        self._events += 1
        return self._events, float(self._events) if self._now is None else self._now()


@attrs.frozen(eq=False)
class Call:
    """An operation under way; from ``History.begin``.  Left alone, its outcome is unknown for ever.

    Ending it twice raises RuntimeError.
    """

    _history: History
    _number: int

    def complete(self, result: object = None) -> None:
        """The client was told this result.  A refusal that is part of the model, such as False, is a result."""
        self._history.end(self._number, result)

    def fail(self) -> None:
        """It is certain that the operation neither took effect nor ever will.

        Not for a timeout or a lost connection: those leave the outcome unknown.
        """
        self._history.forget(self._number)


def shortened(value: object) -> str:
    """The value's repr; of a long one both ends, as a list that only grows tells most by its last entries."""
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE // 2]} ... {text[-LONGEST_VALUE // 2 :]}"


def describe(operations: Iterable[Operation]) -> str:
    """One aligned line for each operation: when, who, on what, what and with which result."""
    rows = [
        (
            f"{operation.invoked_at:.6g}",
            "?" if operation.returned_at is None else f"{operation.returned_at:.6g}",
            operation.client,
            repr(operation.key),
            f"{shortened(operation.action)} -> {shortened(operation.result)}",
        )
        for operation in operations
    ]
    if not rows:
        return "(no operations)"
    begin, end, client, key = (max(len(row[column]) for row in rows) for column in range(4))
    return "\n".join(
        f"{row[0]:>{begin}} to {row[1]:>{end}}  {row[2]:<{client}}  {row[3]:<{key}}  {row[4]}" for row in rows
    )
