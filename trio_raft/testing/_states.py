"""States of the user's machine, compared: what two captures of one moment say, and what the committed log amounts to.

Bytes alone do not tell: a set may be written in any order.  So captured states are restored, each into a new machine,
and the machines are compared: by their own ``__eq__`` if their class has one, otherwise by their attributes, and by
what they would write now.

House rule: machines that serve are not touched; those here are new ones, and forgotten afterwards.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from trio_raft._apply import command_type
from trio_raft._errors import Rejected, error_text
from trio_raft._records import EntryKind, LogIndex, Term, decode_entries
from trio_raft._values import ValueCodec
from trio_raft.abc import Committed, SavedState, StateMachine
from trio_raft.testing._past import CapturedState, Slot

AnyMachine = StateMachine[Any, Any]
MakeMachine = Callable[[], AnyMachine]


def has_equality(machine: AnyMachine) -> bool:
    """Does its class say itself when two states are the same?"""
    return type(machine).__eq__ is not object.__eq__


def same_state(one: AnyMachine, other: AnyMachine) -> bool:
    """Do these two hold the same state, as far as can be told?  Raises what the machine's own methods do."""
    if has_equality(one):
        return bool(one == other)
    if getattr(one, "__dict__", None) and vars(one) == vars(other):
        return True
    return b"".join(one.snapshot()) == b"".join(other.snapshot())


def difference(make_machine: MakeMachine, slot: Slot, one: CapturedState, other: CapturedState) -> str:
    """What is different about these captures of one state, after ``slot``; empty if they mean the same.

    Empty as well where no new machines can be had that read them.
    """
    pairs = [(make_machine(), captured) for captured in (one, other)]
    if pairs[0][0] is pairs[1][0] or any(type(machine) is not captured.machine for machine, captured in pairs):
        return ""
    for machine, captured in pairs:
        saved = SavedState(LogIndex(slot.index), Term(slot.term), machine.state_version, iter([captured.state]))
        try:
            machine.restore(saved)
        except Exception as error:
            return f"a state on which restore() raises {error_text(error)}"
    (first, _), (second, _) = pairs
    try:
        return "" if same_state(first, second) else f"{shown(first)} and {shown(second)}"
    except Exception as error:
        return f"states that could not be compared: {error_text(error)}"


def shown(machine: AnyMachine) -> str:
    """For a person: its attributes, if they are few."""
    text = repr(getattr(machine, "__dict__", machine))
    return text if len(text) <= 200 else f"{text[:200]}…"


class Replay:
    """A machine that is given the committed commands, and nothing else, from the first one on."""

    def __init__(self, machine: AnyMachine, committed: Sequence[Slot]) -> None:
        """``committed``: by index, the root included."""
        self.machine = machine
        self._committed = committed
        self._decode = ValueCodec[Any](command_type(machine)).decode
        self._reached = 0

    def advance(self, index: int) -> AnyMachine:
        """The machine after entry ``index``, which must not be below the last one asked for."""
        for slot in self._committed[self._reached + 1 : index + 1]:
            if slot.kind is EntryKind.COMMAND:
                [entry] = decode_entries(slot.record)
                with contextlib.suppress(Rejected):
                    self.machine.apply(Committed(entry.index, entry.term, self._decode(entry.data)))
        self._reached = index
        return self.machine
