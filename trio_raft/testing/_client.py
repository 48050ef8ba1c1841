"""A client of a simulated cluster, as careful as one across a network has to be.

It asks the node that it believes to lead, follows hints, and tries another one when that is known to be safe: when no
node has taken the command.  Once one has, it waits, and if the leadership ends first the outcome is *unknown*: the
operation stays open in the history, and the caller gets the error.  To send the command again would be to risk
applying it twice.

House rule: an operation is complete in the history only with an answer that came all the way back; a node that is
paused or loses its power in between has not answered.
"""

from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import Any, Generic, TypeVar

import attrs
import trio

from trio_raft._environment import Clock
from trio_raft._errors import (
    IncarnationRefused,
    LeadershipLost,
    NoLeader,
    NotLeader,
    ProposalDropped,
    Rejected,
    StorageFull,
    error_text,
)
from trio_raft._node import Node
from trio_raft._tickets import Ticket
from trio_raft.testing._determinism import divide
from trio_raft.testing._failures import Unanswered
from trio_raft.testing._history import Call, History
from trio_raft.testing._member import Life, Member
from trio_raft.testing._settings import ClusterSettings

CommandT = TypeVar("CommandT")
ResultT = TypeVar("ResultT")
ValueT = TypeVar("ValueT")

PATIENCE_SECONDS = 30.0
"""Virtual seconds for which a call is patient unless told otherwise."""

PAUSE_SECONDS = 0.05
"""Virtual seconds before asking again when nobody is known to lead."""

NOT_TAKEN = (NotLeader, NoLeader, StorageFull, ProposalDropped, IncarnationRefused, trio.ClosedResourceError)
"""Errors of ``submit`` and ``read`` that say for certain: nothing happened."""


@attrs.define(eq=False)
class _Attempts:
    """What a call has met so far, for the error if it gets no answer."""

    sent: bool = False
    last_answer: str = "none"


class Client(Generic[CommandT, ResultT]):
    """Made by ``Cluster.client``.  One call at a time, like one connection of a user."""

    def __init__(
        self,
        name: str,
        members: Mapping[str, Member[CommandT, ResultT]],
        *,
        clock: Clock,
        history: History,
        acknowledged: Callable[[Ticket[Any]], object],
        settings: ClusterSettings,
    ) -> None:
        self.name = name
        self._members = members
        self._clock = clock
        self._history = history
        self._acknowledged = acknowledged
        self._latency = settings.client
        # A node that cannot say within so long whether it leads is not waited for.
        self._turn = settings.timeouts.election_timeout
        self._random = divide(settings.seed, "client", name)
        self._hint: str | None = None
        self._next = 0

    async def propose(
        self,
        command: CommandT,
        *,
        key: Hashable = None,
        action: Hashable = None,
        within: float = PATIENCE_SECONDS,
    ) -> ResultT:
        """Have a command applied and return the state machine's result, whichever node leads.

        Recorded in the history as ``action`` on ``key``; as the command itself, if that can be hashed, unless given.

        Raises ``Rejected`` if the machine refused it; LeadershipLost and Unanswered (after ``within`` virtual
        seconds) if the outcome is unknown, Unanswered with ``sent`` False if no node took it; TypeError and
        ValueError if the command does not encode.  Cancelled: the outcome is unknown.
        """
        call = self._begin(key, action if action is not None else command)
        attempts = _Attempts()
        with self._clock.move_on_after(within):
            member, life, ticket = await self._place(command, attempts, call)
            try:
                result = await ticket.wait()
            except Rejected as rejection:
                if await self._return(member, life, attempts):
                    self._complete(call, ticket, rejection)
                    raise
            except LeadershipLost:
                self._hint = None
                raise
            else:
                if await self._return(member, life, attempts):
                    self._complete(call, ticket, result)
                    return result
        self._hint = None
        if call is not None and not attempts.sent:
            call.fail()
        raise Unanswered(self.name, repr(command), seconds=within, sent=attempts.sent, last_answer=attempts.last_answer)

    async def read(
        self,
        function: Callable[[Any], ValueT],
        *,
        key: Hashable = None,
        action: Hashable = None,
        within: float = PATIENCE_SECONDS,
    ) -> ValueT:
        """``function(machine)`` on the leader's state machine, linearizable.  Recorded as ``action``, if given.

        Raises what the function raises, and Unanswered.  Cancelled: no effect.
        """
        call = self._begin(key, action)
        attempts = _Attempts()

        async def ask(node: Node[CommandT, ResultT]) -> ValueT:
            return await node.read(function)

        try:
            with self._clock.move_on_after(within):
                while True:
                    member, life, value = await self._ask(ask, attempts)
                    if await self._return(member, life, attempts):
                        if call is not None:
                            call.complete(value)
                            call = None
                        return value
        finally:
            if call is not None:
                call.fail()
        raise Unanswered(self.name, "a read", seconds=within, sent=False, last_answer=attempts.last_answer)

    # ------------------------------------------------------------------------------------ inside

    async def _place(
        self, command: CommandT, attempts: _Attempts, call: Call | None
    ) -> tuple[Member[CommandT, ResultT], Life[CommandT, ResultT], Ticket[ResultT]]:
        """Find a node that takes the command."""

        async def submit(node: Node[CommandT, ResultT]) -> Ticket[ResultT]:
            ticket = await node.submit(command)
            attempts.sent = True
            return ticket

        try:
            return await self._ask(submit, attempts)
        except (TypeError, ValueError):
            if call is not None:
                call.fail()
            raise

    async def _ask(
        self, question: Callable[[Node[CommandT, ResultT]], Awaitable[ValueT]], attempts: _Attempts
    ) -> tuple[Member[CommandT, ResultT], Life[CommandT, ResultT], ValueT]:
        """Ask one node after the other until one does not refuse."""
        while True:
            await self._travel()
            member = self._choose()
            life = member.life
            self._hint = None
            if life is None or life.node is None:
                attempts.last_answer = f"{member.id} is down"
            else:
                attempts.last_answer = f"{member.id} did not answer within {self._turn:g} s"
                try:
                    with self._clock.move_on_after(self._turn):
                        if await member.awake(life):
                            answer = await question(life.node)
                            self._hint = member.id
                            return member, life, answer
                except NOT_TAKEN as error:
                    attempts.last_answer = f"{member.id}: {error_text(error)}"
                    self._hint = error.leader_id if isinstance(error, NotLeader) else None
            if self._hint is None:
                await self._clock.sleep(PAUSE_SECONDS)

    def _choose(self) -> Member[CommandT, ResultT]:
        """The node that is said to lead, or else the next one in turn."""
        ids = list(self._members)
        if self._hint is None:
            self._hint = ids[self._next % len(ids)]
            self._next += 1
        return self._members[self._hint]

    async def _travel(self) -> None:
        await self._clock.sleep(self._latency.draw(self._random))

    async def _return(
        self, member: Member[CommandT, ResultT], life: Life[CommandT, ResultT], attempts: _Attempts
    ) -> bool:
        """The answer's way back: does it arrive?"""
        if not await member.awake(life):
            attempts.last_answer = f"{member.id} went down before it could answer"
            return False
        await self._travel()
        return True

    def _begin(self, key: Hashable, action: object) -> Call | None:
        if action is None or not _hashable(action):
            return None
        return self._history.begin(self.name, key, action)

    def _complete(self, call: Call | None, ticket: Ticket[ResultT], result: object) -> None:
        self._acknowledged(ticket)
        if call is not None:
            call.complete(result)


def _hashable(value: object) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True
