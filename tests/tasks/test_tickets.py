"""Tickets: one outcome, as many waits as one likes, and no trace of a waiter that was cancelled."""

import traceback

import pytest
import trio
from trio.testing import MockClock

from tests.tasks.parts import settle
from trio_raft._errors import LeadershipLost, Rejected
from trio_raft._records import LogIndex, Term
from trio_raft._tickets import Ticket


def make_ticket() -> Ticket[int]:
    return Ticket[int](LogIndex(7), Term(3))


async def wait_into(ticket: Ticket[int], outcomes: list[object]) -> None:
    try:
        outcomes.append(await ticket.wait())
    except Exception as error:
        outcomes.append(error)


async def test_wait_before_and_after_the_outcome(nursery: trio.Nursery) -> None:
    """A result reaches whoever waits, and whoever waits later, as often as it is asked for."""
    ticket, outcomes = make_ticket(), list[object]()
    nursery.start_soon(wait_into, ticket, outcomes)
    await settle()
    assert (outcomes, ticket.settled) == ([], False)
    ticket.resolve(42)
    await settle()
    assert outcomes == [42]
    assert [await ticket.wait(), await ticket.wait(), ticket.settled] == [42, 42, True]


async def test_wait_by_several_tasks(nursery: trio.Nursery) -> None:
    """Any number of tasks may wait on one ticket; all of them get the outcome."""
    ticket, outcomes = make_ticket(), list[object]()
    for _ in range(5):
        nursery.start_soon(wait_into, ticket, outcomes)
    await settle()
    ticket.resolve(1)
    await settle()
    assert outcomes == [1] * 5


async def test_wait_result_may_be_none() -> None:
    """None is a result like any other."""
    ticket = Ticket[None](LogIndex(1), Term(1))
    ticket.resolve(None)
    assert await ticket.wait() is None  # type: ignore[func-returns-value]


async def test_wait_is_a_checkpoint_when_settled() -> None:
    """A settled ticket still lets others run, and notices a cancel."""
    ticket = make_ticket()
    ticket.resolve(1)
    with trio.testing.assert_checkpoints():
        await ticket.wait()
    with trio.CancelScope() as scope:
        scope.cancel()
        await ticket.wait()
    assert scope.cancelled_caught


async def test_wait_failure_is_raised_each_time(nursery: trio.Nursery) -> None:
    """A failure is raised at every wait, each time with a traceback of its own length."""
    ticket, outcomes = make_ticket(), list[object]()
    nursery.start_soon(wait_into, ticket, outcomes)
    await settle()
    lost = LeadershipLost(3, "the test says so")
    ticket.fail(lost)
    lengths = []
    for _ in range(3):
        with pytest.raises(LeadershipLost) as caught:
            await ticket.wait()
        lengths.append(len(traceback.extract_tb(caught.value.__traceback__)))
    await settle()
    assert [str(outcome) for outcome in outcomes] == [str(lost)]
    assert len(set(lengths)) == 1


async def test_wait_rejected_reaches_every_waiter() -> None:
    """A refusal by the machine reaches every task that waits, in a group without repeats of one another."""
    ticket = make_ticket()
    with pytest.RaisesGroup(Rejected, Rejected, Rejected) as caught:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ticket.wait)
            await settle()
            ticket.fail(Rejected("no"))
            nursery.cancel_scope.shield = True
    assert len({id(error) for error in caught.value.exceptions}) == 3


@pytest.mark.parametrize("others", [0, 1, 2])
async def test_wait_cancelled(others: int, nursery: trio.Nursery) -> None:
    """Whoever cancels a wait is forgotten; the outcome reaches the rest, and waiting again is fine."""
    ticket, outcomes = make_ticket(), list[object]()
    scope = trio.CancelScope()

    async def cancelled_wait() -> None:
        with scope:
            await ticket.wait()

    nursery.start_soon(cancelled_wait)
    await settle()
    for _ in range(others):
        nursery.start_soon(wait_into, ticket, outcomes)
    await settle()
    scope.cancel()
    await settle()
    assert scope.cancelled_caught
    nursery.start_soon(wait_into, ticket, outcomes)
    await settle()
    ticket.resolve(5)
    await settle()
    assert outcomes == [5] * (others + 1)
    assert await ticket.wait() == 5


async def test_wait_cancelled_in_the_turn_of_the_outcome() -> None:
    """A cancel that comes after the outcome, before the waiter ran, loses nothing and breaks nothing."""
    ticket, outcomes = make_ticket(), list[object]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_into, ticket, outcomes)
        await settle()
        ticket.resolve(9)
        nursery.cancel_scope.cancel()
    assert outcomes == [9]


async def test_wait_woken_directly(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    """An outcome wakes its waiter in the next turn of the loop, without time passing."""
    ticket, outcomes = make_ticket(), list[object]()
    nursery.start_soon(wait_into, ticket, outcomes)
    await trio.sleep(3)
    ticket.resolve(1)
    await trio.lowlevel.checkpoint()
    await trio.lowlevel.checkpoint()
    assert (outcomes, trio.current_time()) == ([1], 3)
