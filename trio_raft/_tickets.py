"""The place where one proposal waits for its outcome.

A ticket is the only future in the package: everything else waits for state.  It is keyed by (index, term), so that
another leader's entry at the same index never resolves it.  Waking is one direct reschedule of the waiting task; an
``Event`` or a channel per command costs several times as much.
"""

from typing import Any, Generic, TypeVar

import attrs
import trio

from trio_raft._errors import LeadershipLost, twin_of
from trio_raft._records import LogIndex, Term

ResultT = TypeVar("ResultT")


@attrs.define(eq=False)
class Ticket(Generic[ResultT]):
    """A command in flight; ``await ticket.wait()`` gives its result, as often as you like."""

    index: LogIndex
    """Where in the log the command stands, if the leader of ``term`` gets it committed."""
    term: Term
    _settled: bool = False
    _result: ResultT | None = None
    _error: BaseException | None = None
    _waiting: trio.lowlevel.Task | None = None
    _waiting_too: trio.lowlevel.ParkingLot | None = None

    @trio.lowlevel.enable_ki_protection
    async def wait(self) -> ResultT:
        """The state machine's result, once the command is committed and applied on this server.

        Raises what the machine raised as ``Rejected``, or LeadershipLost if the leadership ended first: then the
        outcome is unknown.  Cancelled: the command goes its way, and waiting again is fine.
        """
        if self._settled:
            await trio.lowlevel.checkpoint()
        elif self._waiting is None:
            self.expect()
            await trio.lowlevel.wait_task_rescheduled(self.forget)
        else:
            if self._waiting_too is None:
                self._waiting_too = trio.lowlevel.ParkingLot()
            await self._waiting_too.park()
        return self.outcome()

    def expect(self) -> None:
        """This task waits from now on, and nobody else does: ``wait_task_rescheduled(ticket.forget)`` must follow.

        Both protected: Ctrl-C in between would leave a task here that does not wait, and waking that one is fatal.
        """
        self._waiting = trio.lowlevel.current_task()

    def forget(self, _: object) -> trio.lowlevel.Abort:
        """The waiting task is cancelled: rescheduling it a second time would end the apply task."""
        self._waiting = None
        return trio.lowlevel.Abort.SUCCEEDED

    def outcome(self) -> ResultT:
        """What ``wait`` returns or raises, once it is there."""
        if self._error is not None:
            raise twin_of(self._error)
        return self._result  # type: ignore[return-value]  # settled, without an error

    @property
    def settled(self) -> bool:
        """Is the outcome there?  Then ``wait`` returns or raises at once."""
        return self._settled

    def resolve(self, result: ResultT | None) -> None:
        """The apply task's: the command was applied with this result."""
        self._result = result
        self._settled = True
        if self._waiting is not None:
            # The usual case, once per command: not one call more than it takes.
            trio.lowlevel.reschedule(self._waiting)
            self._waiting = None
        if self._waiting_too is not None:
            self._waiting_too.unpark_all()

    def fail(self, error: BaseException) -> None:
        """The command was refused, or its outcome will not be known here.  A fresh exception for each ticket."""
        self._error = error
        self.resolve(None)


@trio.lowlevel.enable_ki_protection
def fail_all(tickets: dict[LogIndex, Ticket[Any]], term: Term, reason: str, *, cause: BaseException | None) -> None:
    """The leadership of ``term`` is over: the outcome of everything that waits is unknown.  Leaves nothing there."""
    failed = list(tickets.values())
    tickets.clear()
    for ticket in failed:
        error = LeadershipLost(term, reason)
        error.__cause__ = cause
        ticket.fail(error)
